;; Row 55, the wish to hold a body of any length: at the limit of the filter the client gets 413.
;; settings: limits: { body_bytes: 64KiB }
;; body: 100000
;; answer: 413 body_too_large
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    ;; `read-body`, as much as there is, `refuse` what is more.
    (data (i32.const 1024) "\02\00\00\00\00\00\00\00\ff\ff\ff\ff\ff\ff\ff\ff\00\00\00\00\00\00\00\00")
    (func (export "request-head") (result i32) (i32.const 1024))
    (func (export "held-body") (param i32 i32 i32) (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-head")
  (@include "held-body"))
