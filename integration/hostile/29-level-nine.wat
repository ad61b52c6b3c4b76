;; Row 29, an argument of which there is no such case: the call traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (func (export "request-head") (result i32)
      (call $write (i32.const 9) (i32.const 1024) (i32.const 4))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
