;; Row 28, an allocator that calls the host, which waits for it: the call traps, because a guest may not leave then.
;; answer: 500 trap
(component
  (@include "imports")
  (core module $Store
    (type $set-path (func (param i32 i32 i32)))
    (memory (export "memory") 3)
    (table $table (export "table") 1 funcref)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (call_indirect $table (type $set-path) (i32.const 0) (i32.const 1) (i32.const 16) (i32.const 0))
      (i32.const 65536)))
  (@include "host")
  (core module $Guest
    (import "host" "set-path" (func $set-path (param i32 i32 i32)))
    (import "host" "headers" (func $headers (param i32)))
    (import "store" "table" (table $table 1 funcref))
    (elem (table $table) (i32.const 0) func $set-path)
    (func (export "request-head") (result i32)
      (call $headers (i32.const 131072))
      (i32.const 131088)))
  (@include "guest")
  (@include "request-head"))
