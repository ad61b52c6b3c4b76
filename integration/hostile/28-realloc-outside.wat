;; Row 28, an allocator that gives out what lies beyond the memory: the call traps, and the host writes nothing there.
;; answer: 500 trap
(component
  (@include "imports")
  (core module $Store
    (memory (export "memory") 3)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (i32.const 0xffff0000)))
  (@include "host")
  (core module $Guest
    (import "host" "headers" (func $headers (param i32)))
    (func (export "request-head") (result i32)
      (call $headers (i32.const 131072))
      (i32.const 131088)))
  (@include "guest")
  (@include "request-head"))
