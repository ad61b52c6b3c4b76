;; Row 51, a reply whose own response hook replies too, twice in one chain: hooks run once each and in reverse, and the
;; last word stands.
;; chain: 2
;; got: last
;; answer: 403
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (data (i32.const 1024) "firstlast")
    ;; `reply` of either hook: status, no field, the text.
    (data (i32.const 1040) "\01\00\00\00\00\00\00\00\c8\00\00\00\00\00\00\00\00\00\00\00\00\04\00\00\05\00\00\00")
    (data (i32.const 1072) "\01\00\00\00\93\01\00\00\00\00\00\00\00\00\00\00\05\04\00\00\04\00\00\00")
    (func (export "request-head") (result i32) (i32.const 1040))
    (func (export "response-head") (result i32) (i32.const 1072)))
  (@include "guest")
  (@include "request-head")
  (@include "response-head"))
