;; Row 9, a guest that cannot do without the memory that it does not get: the record says that memory was the cause.
;; answer: 500 memory
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32)
      (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
