;; Row 46, edits of what has been sent: of the request once it is upstream, of the response once it is with the client.
;; The guest is told that it is too late, and the first word stands.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-header" (func $set-header (param i32 i32 i32 i32 i32)))
    (import "host" "set-path" (func $set-path (param i32 i32 i32)))
    (import "host" "set-status" (func $set-status (param i32 i32)))
    (import "host" "set-response-header" (func $set-response-header (param i32 i32 i32 i32 i32)))
    (data (i32.const 1024) "/x-late")
    (func $late (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0301)) (then (unreachable))))
    (func (export "response-head") (result i32)
      (call $set-header (i32.const 1025) (i32.const 6) (i32.const 1025) (i32.const 6) (i32.const 16)) (call $late)
      (call $set-path (i32.const 1024) (i32.const 7) (i32.const 16)) (call $late)
      (i32.const 0))
    (func (export "response-body") (param i32 i32) (result i32)
      (call $set-status (i32.const 404) (i32.const 16)) (call $late)
      (call $set-response-header (i32.const 1025) (i32.const 6) (i32.const 1025) (i32.const 6) (i32.const 16))
      (call $late)
      (i32.const 0))
    (func (export "response-end") (param i32 i32) (result i32) (i32.const 0)))
  (@include "guest")
  (@include "response-head")
  (@include "response-body"))
