;; Row 16, a guest that keeps 64 KiB of each exchange: it is replaced before it is at its limit, and the proxy does not
;; grow.
;; settings: instance_reuse: 100
;; times: 500
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32)
      (local $page i32)
      (local.set $page (memory.grow (i32.const 1)))
      (if (i32.eq (local.get $page) (i32.const -1)) (then (unreachable)))
      (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 170) (i32.const 65536))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
