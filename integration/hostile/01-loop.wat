;; Row 1, an infinite loop in a hook: it ends at its limit of processor time, and its exchange alone fails.
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
