;; Row 10, more tables than a component may have: the load is refused, with the limit.
;; refused: tables
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32) (i32.const 0)))
  (core module $One (table 1 funcref) (table 1 funcref) (table 1 funcref))
  (core instance (instantiate $One))
  (core instance (instantiate $One))
  (core instance (instantiate $One))
  (@include "guest")
  (@include "request-head"))
