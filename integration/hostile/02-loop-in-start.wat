;; Row 2, a loop in a start function: the load is refused, and what was loaded before stays.
;; refused: does not start | did not start within 5s
;; refused: over the limit of processor time | did not start within 5s
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func $start (loop $again (br $again)))
    (start $start)
    (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
