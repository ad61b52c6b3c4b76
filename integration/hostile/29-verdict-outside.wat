;; Row 29, a verdict that lies beyond the memory: it traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    
    (func (export "request-head") (result i32)
      (i32.const 0xfffffff0)))
  (@include "guest")
  (@include "request-head"))
