;; Row 21, a value that is no UTF-8, as the pack sends with every request: the guest sees its bytes, and the upstream
;; gets them unchanged.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "header" (func $header (param i32 i32 i32)))
    (data (i32.const 1024) "x-bytes")
    (func (export "request-head") (result i32)
      (call $header (i32.const 1024) (i32.const 7) (i32.const 16))
      (if (i32.ne (i32.load8_u (i32.const 16)) (i32.const 1)) (then (unreachable)))
      (if (i32.ne (i32.load (i32.const 24)) (i32.const 3)) (then (unreachable)))
      (if (i32.ne (i32.load16_u (i32.load (i32.const 20))) (i32.const 0xffe9)) (then (unreachable)))
      (if (i32.ne (i32.load8_u offset=2 (i32.load (i32.const 20))) (i32.const 0x80)) (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
