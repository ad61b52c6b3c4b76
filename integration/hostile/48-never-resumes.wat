;; Row 48, a hook that holds a body and does not come back, because it waits for what never comes: it ends at its limit
;; of wall time.
;; settings: limits: { wall: 200ms }
;; body: 10
;; answer: 500 wall
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "call")
    (data (i32.const 1024) "hole")
    (func (export "request-body") (param i32 i32) (result i32)
      (loop $again
        (call $call (i32.const 1024) (i32.const 4) (i32.const 1) (i32.const -1))
        (br $again))
      (unreachable))
    (func (export "request-end") (param i32 i32) (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-body"))
