;; Row 26, a string that ends far beyond the memory: it traps, and nothing is set aside for it.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (func (export "request-head") (result i32)
      (call $write (i32.const 1) (i32.const 0) (i32.const 0x7fffffff))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
