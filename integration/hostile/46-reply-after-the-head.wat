;; Row 46, a reply after the head of another response has gone out: the connection is cut.
;; answer: cut filter_cut
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    ;; `reply`: status 403, no field, no body.
    (data (i32.const 1024) "\02\00\00\00\93\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
    (func (export "response-body") (param i32 i32) (result i32) (i32.const 0))
    (func (export "response-end") (param i32 i32) (result i32) (i32.const 1024)))
  (@include "guest")
  (@include "response-body"))
