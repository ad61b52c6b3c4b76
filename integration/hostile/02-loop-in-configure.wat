;; Row 2, a loop in `configure`: the load is refused, and what was loaded before stays.
;; refused: `configure` failed | did not start within 5s
;; refused: over the limit of processor time | did not start within 5s
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "configure") (param i32 i32) (result i32)
      (loop $again (br $again))
      (unreachable))
    (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "configure")
  (@include "request-head"))
