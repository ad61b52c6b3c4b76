;; Row 6, the same with a table of the size that a filter may have.
;; answer: 500 cpu
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (table $table 16384 funcref)
    (elem declare func $it)
    (func $it)
    (func (export "request-head") (result i32)
      (loop $again
        (table.fill $table (i32.const 0) (ref.func $it) (i32.const 16384))
        (br $again))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
