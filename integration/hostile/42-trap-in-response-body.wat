;; Row 42, a trap at the end of a response body, of which all else has gone out: the connection is cut, and nobody takes
;; the response for whole.
;; answer: cut trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "response-body") (param i32 i32) (result i32) (i32.const 0))
    (func (export "response-end") (param i32 i32) (result i32) (unreachable)))
  (@include "guest")
  (@include "response-body"))
