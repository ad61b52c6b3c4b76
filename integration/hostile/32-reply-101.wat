;; Row 32, a reply with status 101: refused, because a reply is final.
;; answer: 500 bad_reply
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    ;; `reply`: status 101, no field, no body.
    (data (i32.const 1024) "\01\00\00\00\00\00\00\00\65\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
    (func (export "request-head") (result i32) (i32.const 1024)))
  (@include "guest")
  (@include "request-head"))
