;; Row 30, a handle that nobody gave out: dropping it traps.
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
  (core module $Guest
    (import "streams" "get" (func $get (result i32)))
    (import "streams" "drop" (func $drop (param i32)))
    (func (export "request-head") (result i32)
      (call $drop (i32.const 12345))
      (i32.const 0)))
  (core instance $guest (instantiate $Guest (with "streams" (instance
    (export "get" (func $get-stdout)) (export "drop" (func $drop-stream))))))
  (@include "request-head"))
