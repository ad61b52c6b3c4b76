;; Row 29, an option that is neither there nor not: the call traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i32 i64 i32)))
    (func (export "request-head") (result i32)
      (call $set
        (i32.const 1024) (i32.const 4) (i32.const 1024) (i32.const 4) (i32.const 2) (i64.const 0) (i32.const 16))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
