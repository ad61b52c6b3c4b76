;; Row 28, an allocator that loops before a hook is entered: it ends at the limit of processor time.
;; body: 10
;; answer: 500 cpu
(component
  (@include "imports")
  (core module $Store
    (memory (export "memory") 3)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (loop $again (br $again)) (unreachable)))
  (@include "host")
  (core module $Guest
    (func (export "request-body") (param i32 i32) (result i32) (i32.const 0))
    (func (export "request-end") (param i32 i32) (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-body"))
