;; Row 43, a trap at the end of a request body that the upstream is reading: its connection is closed and not used
;; again, and the upstream never takes the request for whole.
;; body: 10
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-body") (param i32 i32) (result i32) (i32.const 0))
    (func (export "request-end") (param i32 i32) (result i32) (unreachable)))
  (@include "guest")
  (@include "request-body"))
