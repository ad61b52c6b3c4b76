;; Row 29, a verdict whose inner enum has no such case: it traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    ;; `read-body`, 16 bytes.
    (data (i32.const 1024) "\02\00\00\00\00\00\00\00\10\00\00\00\00\00\00\00\09\00\00\00\00\00\00\00")
    (func (export "request-head") (result i32)
      (i32.const 1024)))
  (@include "guest")
  (@include "request-head"))
