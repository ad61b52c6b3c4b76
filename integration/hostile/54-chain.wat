;; Row 54, twenty filters that each set and remove a hundred fields: the cost is that of four thousand edits.
;; settings: limits: { cpu: 90ms }
;; chain: 20
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-header" (func $set-header (param i32 i32 i32 i32 i32)))
    (import "host" "remove-header" (func $remove-header (param i32 i32 i32)))
    (data (i32.const 1024) "x-a")
    (func (export "request-head") (result i32)
      (local $left i32)
      (local.set $left (i32.const 100))
      (loop $again
        (call $set-header (i32.const 1024) (i32.const 3) (i32.const 1024) (i32.const 3) (i32.const 16))
        (call $remove-header (i32.const 1024) (i32.const 3) (i32.const 16))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
