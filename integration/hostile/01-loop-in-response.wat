;; Row 1, an infinite loop before the response: what the upstream has said goes no further.
;; answer: 500 cpu
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "response-head") (result i32)
      (loop $again (br $again))
      (unreachable)))
  (@include "guest")
  (@include "response-head"))
