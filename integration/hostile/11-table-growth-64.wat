;; Row 11, the same with a table of 64-bit indices, whose size in bytes is beyond any number of the host.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (table $table i64 1 funcref)
    (func (export "request-head") (result i32)
      (if (i64.ne (table.grow $table (ref.null func) (i64.const -1)) (i64.const -1)) (then (unreachable)))
      (if (i64.ne (table.grow $table (ref.null func) (i64.const 0x1fffffffffffffff)) (i64.const -1))
        (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
