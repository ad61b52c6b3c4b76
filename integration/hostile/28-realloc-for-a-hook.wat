;; Row 28, an allocator that gives out what lies beyond the memory, for the argument of a hook: the hook is not entered,
;; and the host writes nothing there.
;; body: 10
;; answer: 500 trap
(component
  (@include "imports")
  (core module $Store
    (memory (export "memory") 3)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0xffff0000)))
  (@include "host")
  (core module $Guest
    (func (export "request-body") (param i32 i32) (result i32) (i32.const 0))
    (func (export "request-end") (param i32 i32) (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-body"))
