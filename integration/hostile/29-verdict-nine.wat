;; Row 29, a verdict of which there is no such case: it traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (data (i32.const 1024) "\09")
    (func (export "request-head") (result i32)
      (i32.const 1024)))
  (@include "guest")
  (@include "request-head"))
