;; Row 4, every worker is in a guest that loops: the clock that ends them is a thread of its own. The proxy of the pack
;; has one worker.
;; settings: limits: { cpu: 30ms, wall: 5s }
;; at-once: 8
;; times: 16
;; answer: 500 cpu
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32)
      (loop $again (br $again))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
