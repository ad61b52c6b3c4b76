;; Inside a module, as the last of its imports: an outbound call by GET, and a place for its target. What comes of it is
;; put at 16: whether it is an error, and from 20 on which one, or the answer.
(import "host" "send" (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
(data (i32.const 48) "GET")
(data (i32.const 56) "/again")
(func $call (param $cluster i32) (param $length i32) (param $target-length i32) (param $timeout-ms i32)
  (call $send
    (local.get $cluster) (local.get $length) (i32.const 48) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 56) (local.get $target-length) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 1) (local.get $timeout-ms) (i32.const 16)))
