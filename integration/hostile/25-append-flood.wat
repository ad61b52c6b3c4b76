;; Row 25, one field after the other: from some number on the guest is told that it is too large, and what it takes away
;; again the upstream never sees.
;; settings: limits: { cpu: 90ms }
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "append-header" (func $append-header (param i32 i32 i32 i32 i32)))
    (import "host" "remove-header" (func $remove-header (param i32 i32 i32)))
    (data (i32.const 1024) "x-bomb")
    (func (export "request-head") (result i32)
      (local $count i32)
      (loop $again
        (call $append-header (i32.const 1024) (i32.const 6) (i32.const 1024) (i32.const 6) (i32.const 16))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br_if $again (i32.eqz (i32.load8_u (i32.const 16)))))
      (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0201)) (then (unreachable)))
      (if (i32.gt_u (local.get $count) (i32.const 256)) (then (unreachable)))
      (call $remove-header (i32.const 1024) (i32.const 6) (i32.const 16))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
