;; Row 25, a reply with forty thousand fields, more than any table of them takes: refused, and 500.
;; answer: 500 bad_reply
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (data (i32.const 1024) "x-a1")
    ;; `reply`: status 200, the fields, no body.
    (data (i32.const 1032) "\01\00\00\00\00\00\00\00\c8\00\00\00\00\00\06\00\40\9c\00\00\00\00\00\00\00\00\00\00")
    (func (export "request-head") (result i32)
      (local $at i32) (local $left i32)
      (drop (memory.grow (i32.const 10)))
      (local.set $at (i32.const 0x60000))
      (local.set $left (i32.const 40000))
      (loop $each
        (i32.store (local.get $at) (i32.const 1024))
        (i32.store offset=4 (local.get $at) (i32.const 3))
        (i32.store offset=8 (local.get $at) (i32.const 1027))
        (i32.store offset=12 (local.get $at) (i32.const 1))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $each (local.get $left)))
      (i32.const 1032)))
  (@include "guest")
  (@include "request-head"))
