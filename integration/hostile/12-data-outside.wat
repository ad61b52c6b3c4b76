;; Row 12, data that does not fit into the memory: the load is refused.
;; refused: does not start
;; refused: out of bounds
(component
  (@include "imports")
  (core module $Store
    (memory (export "memory") 1)
    (data (i32.const 65535) "two")
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable)))
  (@include "host")
  (core module $Guest (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
