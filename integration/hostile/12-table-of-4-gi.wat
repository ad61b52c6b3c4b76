;; Row 12, a table of 4 Gi entries from the start: the load is refused, with the limit.
;; refused: table
(component
  (@include "imports")
  (core module $Store
    (memory (export "memory") 1)
    (table 0xffffffff funcref)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable)))
  (@include "host")
  (core module $Guest (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
