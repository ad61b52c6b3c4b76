;; Row 20, CR, LF, NUL and other control characters in values and names: the guest is told that each is invalid, and the
;; request goes on without them.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-header" (func $set-header (param i32 i32 i32 i32 i32)))
    ;; Length and name, length and value; 255 ends them.
    (data (i32.const 1024)
      "\06x-evil\10a\0d\0ax-injected: 1" "\06x-evil\03a\0db" "\06x-evil\03a\0ab" "\06x-evil\03a\00b" "\06x-evil\03a\1bb"
      "\06x-evil\03a\7fb" "\0fx-e\0d\0ax-injected\011" "\07x-evil\0a\011" "\07x-evil\00\011" "\ff")
    (func $behind (param $at i32) (result i32)
      (i32.add (i32.add (local.get $at) (i32.const 1)) (i32.load8_u (local.get $at))))
    (func (export "request-head") (result i32)
      (local $name i32) (local $value i32)
      (local.set $name (i32.const 1024))
      (loop $each
        (local.set $value (call $behind (local.get $name)))
        (call $set-header
          (i32.add (local.get $name) (i32.const 1)) (i32.load8_u (local.get $name))
          (i32.add (local.get $value) (i32.const 1)) (i32.load8_u (local.get $value)) (i32.const 16))
        ;; An error, and which.
        (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0001)) (then (unreachable)))
        (local.set $name (call $behind (local.get $value)))
        (br_if $each (i32.ne (i32.load8_u (local.get $name)) (i32.const 255))))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
