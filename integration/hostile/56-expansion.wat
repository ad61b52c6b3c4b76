;; Row 56, a body that becomes a million times what it was, as a bomb in a compressed one would: it ends at the limit of
;; what one call may copy.
;; answer: cut trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    ;; `pieces`, a thousand times the same 256 KiB.
    (data (i32.const 1024) "\03\00\00\00\00\00\05\00\e8\03\00\00")
    (global $count (mut i32) (i32.const 0))
    ;; The ninth piece, so that some have gone out.
    (func (export "response-body") (param i32 i32) (result i32)
      (local $at i32)
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (if (i32.lt_u (global.get $count) (i32.const 9)) (then (return (i32.const 0))))
      (local.set $at (i32.const 0x50000))
      (loop $each
        (i32.store (local.get $at) (i32.const 0x10000))
        (i32.store offset=4 (local.get $at) (i32.const 0x40000))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $each (i32.lt_u (local.get $at) (i32.const 0x51f40))))
      (i32.const 1024))
    (func (export "response-end") (param i32 i32) (result i32) (i32.const 0)))
  (@include "guest")
  (@include "response-body"))
