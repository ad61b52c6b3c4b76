;; Row 47, a question about the exchange when there is none: it traps, here in `configure`, so that the load is refused.
;; refused: `configure` failed
;; refused: there is no exchange
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "path" (func $path (param i32)))
    (func (export "configure") (param i32 i32) (result i32)
      (call $path (i32.const 16))
      (i32.const 0))
    (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "configure")
  (@include "request-head"))
