;; Row 33, a reply that says it is one byte long, and is two: refused, because the length is the host's to say.
;; answer: 500 bad_reply
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (data (i32.const 1024) "content-length1")
    ;; The list of its one field.
    (data (i32.const 1040) "\00\04\00\00\0e\00\00\00\0e\04\00\00\01\00\00\00")
    ;; `reply`: status 200, one field, two bytes.
    (data (i32.const 1056)
      "\01\00\00\00\00\00\00\00\c8\00\00\00\10\04\00\00\01\00\00\00\00\04\00\00\02\00\00\00")
    (func (export "request-head") (result i32) (i32.const 1056)))
  (@include "guest")
  (@include "request-head"))
