;; Row 12, a memory of one page more than the filter may have: the load is refused, with the limit.
;; refused: memory
(component
  (@include "imports")
  (core module $Store
    (memory (export "memory") 257)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable)))
  (@include "host")
  (core module $Guest (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
