;; Row 21, a string of the guest that is no UTF-8: it traps, and nothing of it is written.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-header" (func $set-header (param i32 i32 i32 i32 i32)))
    (data (i32.const 1024) "x-\e9\ff")
    (func (export "request-head") (result i32)
      (call $set-header (i32.const 1024) (i32.const 4) (i32.const 1024) (i32.const 1) (i32.const 16))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
