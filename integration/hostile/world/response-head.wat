(func $on-response-head (result $verdict) (canon lift (core func $guest "response-head") (memory $memory)))
(instance $response-head-hook (export "verdict" (type $verdict)) (export "on-response-head" (func $on-response-head)))
(export "tamis:filter/response-head@0.1.0" (instance $response-head-hook))
