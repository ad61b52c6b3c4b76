;; Row 3, a loop that gives its worker back each time around, in a call that ends after two milliseconds: it ends at its
;; limit of wall time.
;; settings: limits: { wall: 200ms, outbound_calls: 1000 }
;; answer: 500 wall
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "call")
    (data (i32.const 1024) "hole")
    (func (export "request-head") (result i32)
      (loop $again
        (call $call (i32.const 1024) (i32.const 4) (i32.const 1) (i32.const 2))
        (br $again))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
