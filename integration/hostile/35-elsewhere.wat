;; Row 35, a choice of hosts that nobody granted: no cluster by that name for the request, none for a call.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-cluster" (func $set-cluster (param i32 i32 i32)))
    (import "host" "set-authority" (func $set-authority (param i32 i32 i32)))
    (@include "call")
    (data (i32.const 1024) "169.254.169.254:80")
    (data (i32.const 1056) "calm")
    (data (i32.const 1072) "evil@169.254.169.254/x")
    (func (export "request-head") (result i32)
      (call $set-cluster (i32.const 1024) (i32.const 18) (i32.const 16))
      (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0001)) (then (unreachable)))
      ;; A cluster of the configuration, but not of this route, and not granted.
      (call $set-cluster (i32.const 1056) (i32.const 4) (i32.const 16))
      (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0001)) (then (unreachable)))
      (call $call (i32.const 1056) (i32.const 4) (i32.const 1) (i32.const -1))
      (if (i32.ne (i32.load8_u (i32.const 16)) (i32.const 1)) (then (unreachable)))
      (if (i32.load8_u (i32.const 20)) (then (unreachable)))
      (call $call (i32.const 1024) (i32.const 18) (i32.const 1) (i32.const -1))
      (if (i32.ne (i32.load8_u (i32.const 16)) (i32.const 1)) (then (unreachable)))
      (if (i32.load8_u (i32.const 20)) (then (unreachable)))
      (call $set-authority (i32.const 1072) (i32.const 22) (i32.const 16))
      (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0001)) (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
