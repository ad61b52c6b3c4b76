;; Row 41, a trap before any output: 500, and the connection of the client goes on.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32) (unreachable)))
  (@include "guest")
  (@include "request-head"))
