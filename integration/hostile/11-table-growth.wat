;; Row 11, a table that grows to the end of the address space: the answer is no, as a result.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (table $table 1 funcref)
    (func (export "request-head") (result i32)
      (if (i32.ne (table.grow $table (ref.null func) (i32.const -1)) (i32.const -1)) (then (unreachable)))
      (if (i32.ne (table.grow $table (ref.null func) (i32.const 0x7fffffff)) (i32.const -1)) (then (unreachable)))
      (if (i32.ne (table.grow $table (ref.null func) (i32.const 16384)) (i32.const -1)) (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
