;; Row 29, a place for a result beyond the memory: the call traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "headers" (func $headers (param i32)))
    (func (export "request-head") (result i32)
      (call $headers (i32.const 0xfffffff0))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
