;; Row 14, a guest that calls the proxy it runs in: the call is known by its `Via` field, and answered with 508.
;; also: /again 508 loop
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "call")
    (data (i32.const 1024) "own")
    (func (export "request-head") (result i32)
      (call $call (i32.const 1024) (i32.const 3) (i32.const 6) (i32.const -1))
      ;; It is an answer, and no answer but 508.
      (if (i32.or (i32.load8_u (i32.const 16)) (i32.ne (i32.load16_u (i32.const 20)) (i32.const 508)))
        (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
