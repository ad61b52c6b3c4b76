;; Row 24, bodies of another length than their messages said: both go on whole, with the framing of the host.
;; body: 10
;; seen: longer than it was before
;; got: longer than it was before
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (data (i32.const 1024) "longer than it was before")
    ;; `replace`, with the text.
    (data (i32.const 1056) "\02\00\00\00\00\04\00\00\19\00\00\00")
    (func (export "request-body") (param i32 i32) (result i32) (i32.const 1056))
    (func (export "request-end") (param i32 i32) (result i32) (i32.const 0))
    (func (export "response-body") (param i32 i32) (result i32) (i32.const 1056))
    (func (export "response-end") (param i32 i32) (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-body")
  (@include "response-body"))
