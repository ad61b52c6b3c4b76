;; Row 15, more exchanges than instances, of a guest that waits: the others wait for as long as they may, and no longer.
;; settings: limits: { instances: 1, wait: 50ms }
;; at-once: 8
;; times: 16
;; answer: 200 | 503 no_instance
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "call")
    (data (i32.const 1024) "hole")
    (func (export "request-head") (result i32)
      (call $call (i32.const 1024) (i32.const 4) (i32.const 1) (i32.const 150))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
