;; Inside a module, as the last of its imports: opens an answer that does not end, of the cluster `endless`. At 16 is
;; whether it is an error.
(import "host" "open" (func $open-call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
(data (i32.const 48) "GET")
(data (i32.const 56) "/")
(data (i32.const 64) "endless")
(func $open
  (call $open-call
    (i32.const 64) (i32.const 7) (i32.const 48) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 56) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 16))
  (if (i32.load8_u (i32.const 16)) (then (unreachable))))
