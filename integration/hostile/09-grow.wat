;; Row 9, memory that grows until the host says no: it says so at the limit, as a result and not as a trap, and what was
;; touched is given back.
;; settings: instance_reuse: 1, limits: { memory: 8MiB, cpu: 90ms }
;; times: 30
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32)
      (local $at i32)
      (loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (if (i32.ne (memory.size) (i32.const 128)) (then (unreachable)))
      (local.set $at (i32.const 0x7ff000))
      (loop $touch
        (i32.store8 (local.get $at) (i32.const 1))
        (local.set $at (i32.sub (local.get $at) (i32.const 4096)))
        (br_if $touch (i32.gt_u (local.get $at) (i32.const 65536))))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
