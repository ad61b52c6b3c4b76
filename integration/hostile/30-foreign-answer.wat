;; Row 30, the number of an answer that this guest never had: an error, as a result.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "read" (func $read (param i32 i32)))
    (func (export "request-head") (result i32)
      (call $read (i32.const 12345) (i32.const 16))
      ;; `broken`
      (if (i32.ne (i32.load8_u (i32.const 16)) (i32.const 1)) (then (unreachable)))
      (if (i32.ne (i32.load8_u (i32.const 20)) (i32.const 6)) (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
