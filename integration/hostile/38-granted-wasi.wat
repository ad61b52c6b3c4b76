;; Row 38, the environment, arguments and folders of the process, with the grant of WASI: there are none.
;; grants: wasi
;; answer: 200
(component
  (@include "begin")
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))
    (export "get-arguments" (func (result (list string))))))
  (import "wasi:filesystem/types@0.2.0" (instance $files (export "descriptor" (type (sub resource)))))
  (alias export $files "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $descriptor (type $outer-descriptor)) (export "descriptor" (type $own (eq $outer-descriptor)))
    (export "get-directories" (func (result (list (tuple (own $own) string)))))))
  (core func $variables
    (canon lower (func $environment "get-environment") (memory $memory) (realloc $realloc)))
  (core func $arguments (canon lower (func $environment "get-arguments") (memory $memory) (realloc $realloc)))
  (core func $folders (canon lower (func $preopens "get-directories") (memory $memory) (realloc $realloc)))
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "wasi" "variables" (func $variables (param i32)))
    (import "wasi" "arguments" (func $arguments (param i32)))
    (import "wasi" "folders" (func $folders (param i32)))
    (func $none (if (i32.load (i32.const 20)) (then (unreachable))))
    (func (export "request-head") (result i32)
      (call $variables (i32.const 16)) (call $none)
      (call $arguments (i32.const 16)) (call $none)
      (call $folders (i32.const 16)) (call $none)
      (i32.const 0)))
  (core instance $guest (instantiate $Guest (with "store" (instance $store)) (with "wasi" (instance
    (export "variables" (func $variables)) (export "arguments" (func $arguments))
    (export "folders" (func $folders))))))
  (@include "request-head"))
