;; Row 38, the environment of the process, without a grant: the load is refused.
;; refused: wasi:cli/environment@0.2.0
;; refused: grants
(component
  (@include "begin")
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))
    (export "get-arguments" (func (result (list string))))))
  (core module $Guest (func (export "request-head") (result i32) (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
