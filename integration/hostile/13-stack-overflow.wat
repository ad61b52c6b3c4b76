;; Row 13, recursion without an end: it traps at the end of the guest's own stack.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func $recurse (param i32) (result i32)
      (i32.add (local.get 0) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
    (func (export "request-head") (result i32)
      (call $recurse (i32.const 1))))
  (@include "guest")
  (@include "request-head"))
