;; Row 8, many guests at once that each compute for some milliseconds, which they may: their neighbour on another route
;; keeps its share.
;; settings: limits: { cpu: 90ms, wall: 20s, wait: 20s, instances: 2 }
;; at-once: 8
;; times: 64
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32)
      (local $left i32)
      (local.set $left (i32.const 5000000))
      (loop $again
        (i32.store (i32.const 64) (local.get $left))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
