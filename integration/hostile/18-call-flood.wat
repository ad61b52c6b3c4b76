;; Row 18, a hundred calls in one exchange: the first eight are answered, the others refused.
;; settings: limits: { cpu: 90ms }
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "call")
    (data (i32.const 1024) "side")
    (func (export "request-head") (result i32)
      (local $count i32) (local $refused i32)
      (loop $again
        (call $call (i32.const 1024) (i32.const 4) (i32.const 1) (i32.const -1))
        ;; Refused with `too-many`, from the ninth on.
        (local.set $refused (i32.and (i32.load8_u (i32.const 16)) (i32.eq (i32.load8_u (i32.const 20)) (i32.const 2))))
        (if (i32.ne (local.get $refused) (i32.ge_u (local.get $count) (i32.const 8))) (then (unreachable)))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $count) (i32.const 100))))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
