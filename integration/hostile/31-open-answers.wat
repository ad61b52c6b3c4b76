;; Row 31, answers that are opened and never read: they end with the hook, and so do their connections.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "open")
    (func (export "request-head") (result i32)
      (call $open) (call $open) (call $open) (call $open)
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
