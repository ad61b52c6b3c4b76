;; Row 32, numbers that are no final status: the guest is told that each is invalid, and the response keeps its own.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-status" (func $set-status (param i32 i32)))
    (func $refused (param $status i32)
      (call $set-status (local.get $status) (i32.const 16))
      (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0001)) (then (unreachable))))
    (func (export "response-head") (result i32)
      (call $refused (i32.const 0)) (call $refused (i32.const 99)) (call $refused (i32.const 100))
      (call $refused (i32.const 101)) (call $refused (i32.const 103)) (call $refused (i32.const 199))
      (call $refused (i32.const 600)) (call $refused (i32.const 65535))
      (i32.const 0)))
  (@include "guest")
  (@include "response-head"))
