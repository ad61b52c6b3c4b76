;; Row 34, paths that would split the request, lead elsewhere or are none: the guest is told that each is invalid, or
;; too large; none of them goes upstream.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-path" (func $set-path (param i32 i32 i32)))
    (data (i32.const 1024)
      "\00" "\04evil" "\07../evil" "\14http://evil.example/" "\0f/a\0d\0ax-inject: 1" "\04/a b" "\04/a#b" "\06/a%00b"
      "\04/a\00b" "\03/\c3\a9" "\04/a?b" "\ff")
    (func $refused (param $at i32) (param $length i32) (param $how i32)
      (call $set-path (local.get $at) (local.get $length) (i32.const 16))
      (if (i32.ne (i32.load16_u (i32.const 16)) (local.get $how)) (then (unreachable))))
    (func (export "request-head") (result i32)
      (local $at i32)
      (local.set $at (i32.const 1024))
      (loop $each
        (call $refused (i32.add (local.get $at) (i32.const 1)) (i32.load8_u (local.get $at)) (i32.const 0x0001))
        (local.set $at (i32.add (i32.add (local.get $at) (i32.const 1)) (i32.load8_u (local.get $at))))
        (br_if $each (i32.ne (i32.load8_u (local.get $at)) (i32.const 255))))
      ;; 40 KB of slashes and letters.
      (memory.fill (i32.const 65536) (i32.const 0x61) (i32.const 40000))
      (i32.store8 (i32.const 65536) (i32.const 0x2f))
      (call $refused (i32.const 65536) (i32.const 40000) (i32.const 0x0201))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
