;; A proxy-wasm 0.2.1 filter for Envoy that does what `touch.wasm` does for Tamis: read the request's `authorization`,
;; then set `x-filter: 1`. Written by hand, so that Envoy is charged for its host calls and not for a guest's runtime.
(module
  (import "env" "proxy_get_header_map_value"
    (func $header_value
      (param $map i32) (param $name i32) (param $name_length i32) (param $value_out i32) (param $length_out i32)
      (result i32)))
  (import "env" "proxy_replace_header_map_value"
    (func $replace_header
      (param $map i32) (param $name i32) (param $name_length i32) (param $value i32) (param $value_length i32)
      (result i32)))

  (memory (export "memory") 2)
  (global $request_headers i32 (i32.const 0))
  (global $action_continue i32 (i32.const 0))
  ;; Where the host writes the address and the length of the value that was read.
  (global $value_out i32 (i32.const 256))
  (global $length_out i32 (i32.const 260))
  ;; The second page is scratch for the one value alive at a time: longer ones do not occur in a request head.
  (global $scratch i32 (i32.const 65536))
  (data (i32.const 0) "authorization")
  (data (i32.const 32) "x-filter")
  (data (i32.const 48) "1")

  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $length i32) (result i32)
    (global.get $scratch))
  (func (export "proxy_on_vm_start") (param $context i32) (param $length i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_configure") (param $context i32) (param $length i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_context_create") (param $context i32) (param $parent i32))
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    (drop (call $header_value
      (global.get $request_headers) (i32.const 0) (i32.const 13) (global.get $value_out) (global.get $length_out)))
    (drop (call $replace_header
      (global.get $request_headers) (i32.const 32) (i32.const 8) (i32.const 48) (i32.const 1)))
    (global.get $action_continue))
  (func (export "proxy_on_done") (param $context i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_delete") (param $context i32)))
