;; Row 30, a handle of another type: dropping it as what it is not traps.
;; grants: wasi
;; answer: 500 trap
(component
  (@include "begin")
  (import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $stream (type $outer-stream)) (export "output-stream" (type $output-stream (eq $outer-stream)))
    (export "get-stdout" (func (result (own $output-stream))))))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $drop-stream (canon resource.drop $stream))
  (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (core func $drop-pollable (canon resource.drop $pollable))
  (core module $Guest
    (import "streams" "get" (func $get (result i32)))
    (import "streams" "drop" (func $drop (param i32)))
    (func (export "request-head") (result i32)
      (call $drop (call $get))
      (i32.const 0)))
  (core instance $guest (instantiate $Guest (with "streams" (instance
    (export "get" (func $get-stdout)) (export "drop" (func $drop-pollable))))))
  (@include "request-head"))
