;; Row 50, a client that leaves while its guest waits: what half ran is not used again, and nothing goes upstream.
;; leaves-at: it says so
;; times: 8
;; answer: 499 client_closed
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (@include "call")
    (data (i32.const 1024) "hole")
    (data (i32.const 1032) "it says so")
    (global $begun (mut i32) (i32.const 0))
    (func (export "request-head") (result i32)
      (if (global.get $begun) (then (unreachable)))
      (global.set $begun (i32.const 1))
      (call $write (i32.const 1) (i32.const 1032) (i32.const 10))
      (call $call (i32.const 1024) (i32.const 4) (i32.const 1) (i32.const -1))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
