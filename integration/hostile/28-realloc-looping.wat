;; Row 28, an allocator that loops: it ends at the limit of processor time, like any other code of the guest.
;; answer: 500 cpu
(component
  (@include "imports")
  (core module $Store
    (memory (export "memory") 3)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (loop $again (br $again)) (unreachable)))
  (@include "host")
  (core module $Guest
    (import "host" "headers" (func $headers (param i32)))
    (func (export "request-head") (result i32)
      (call $headers (i32.const 131072))
      (i32.const 131088)))
  (@include "guest")
  (@include "request-head"))
