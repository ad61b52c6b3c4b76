;; Row 27, all fields of the request copied into the guest, again and again: it ends at the limit of processor time.
;; answer: 500 cpu
(component
  (@include "imports")
  ;; Its allocator gives out the same place each time, so that it never ends by itself.
  (core module $Store
    (memory (export "memory") 3)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536)))
  (@include "host")
  (core module $Guest
    (import "host" "headers" (func $headers (param i32)))
    (func (export "request-head") (result i32)
      (loop $again
        (call $headers (i32.const 16))
        (br $again))
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
