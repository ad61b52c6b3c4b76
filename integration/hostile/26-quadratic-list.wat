;; Row 26, a list of 65,536 fields that are all the same 256 KiB, 16 GiB together: it traps at the limit of what one
;; call may copy.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    ;; `reply`: status 200, the fields, no body.
    (data (i32.const 1024) "\01\00\00\00\00\00\00\00\c8\00\00\00\00\00\06\00\00\00\01\00\00\00\00\00\00\00\00\00")
    (func (export "request-head") (result i32)
      (local $at i32)
      (drop (memory.grow (i32.const 16)))
      (local.set $at (i32.const 0x60000))
      (loop $each
        (i32.store (local.get $at) (i32.const 0x10000))
        (i32.store offset=4 (local.get $at) (i32.const 0x40000))
        (i32.store offset=8 (local.get $at) (i32.const 0x10000))
        (i32.store offset=12 (local.get $at) (i32.const 0x40000))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $each (i32.lt_u (local.get $at) (i32.const 0x160000))))
      (i32.const 1024)))
  (@include "guest")
  (@include "request-head"))
