;; Row 6, bulk operations over all the memory there is, for ever: each of them is short, and together they end at the
;; limit of processor time.
;; answer: 500 cpu
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32)
      (drop (memory.grow (i32.const 250)))
      (loop $again
        (memory.fill (i32.const 0) (i32.const 170) (i32.const 0x1000000))
        (memory.copy (i32.const 0) (i32.const 0x800000) (i32.const 0x800000))
        (br $again))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
