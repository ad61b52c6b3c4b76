;; Row 49, a trap right after a call that waited: the exchange ends at once.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "call")
    (data (i32.const 1024) "side")
    (func (export "request-head") (result i32)
      (call $call (i32.const 1024) (i32.const 4) (i32.const 1) (i32.const -1))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
