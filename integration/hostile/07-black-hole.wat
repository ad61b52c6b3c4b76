;; Row 7, a call to a host that does not answer: it ends with the hook, at its limit of wall time.
;; settings: limits: { wall: 200ms }
;; answer: 500 wall
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "call")
    (data (i32.const 1024) "hole")
    (func (export "request-head") (result i32)
      ;; Again, should the call be the first to run out of the time that both have.
      (loop $again
        (call $call (i32.const 1024) (i32.const 4) (i32.const 1) (i32.const -1))
        (br $again))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
