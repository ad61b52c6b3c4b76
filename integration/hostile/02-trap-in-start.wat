;; Row 2, a start function that traps: the load is refused, and what was loaded before stays.
;; refused: does not start
;; refused: unreachable
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func $start (unreachable))
    (start $start)
    (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
