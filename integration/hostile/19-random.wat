;; Row 19, four thousand million random bytes at once: the wish traps, before there is room for them.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "random-bytes" (func $random-bytes (param i32 i32)))
    (func (export "request-head") (result i32)
      (call $random-bytes (i32.const -1) (i32.const 16))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
