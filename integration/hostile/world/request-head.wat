(func $on-request-head (result $request-verdict) (canon lift (core func $guest "request-head") (memory $memory)))
(instance $request-head-hook
  (export "request-verdict" (type $request-verdict)) (export "on-request-head" (func $on-request-head)))
(export "tamis:filter/request-head@0.1.0" (instance $request-head-hook))
