;; Row 29, a verdict at an odd address: it traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    
    (func (export "request-head") (result i32)
      (i32.const 1025)))
  (@include "guest")
  (@include "request-head"))
