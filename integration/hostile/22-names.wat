;; Row 22, what is not the name of a field: empty, with a space or a colon, pseudo-headers, beyond ASCII: the guest is
;; told that each is invalid.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-header" (func $set-header (param i32 i32 i32 i32 i32)))
    ;; Length and name, length and value; 255 ends them.
    (data (i32.const 1024)
      "\00\011" "\01 \011" "\06x evil\011" "\07x-evil:\011" "\07x-evil \011" "\05:path\011" "\0a:authority\011"
      "\04x-\c3\a9\011" "\05x-(a)\011" "\02\09a\011" "\ff")
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
