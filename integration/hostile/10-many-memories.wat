;; Row 10, more memories than a component may have: the load is refused, with the limit.
;; refused: memories
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32) (i32.const 0)))
  (core module $One (memory 1))
  (core instance (instantiate $One))
  (core instance (instantiate $One))
  (core instance (instantiate $One))
  (core instance (instantiate $One))
  (@include "guest")
  (@include "request-head"))
