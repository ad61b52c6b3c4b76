(func $on-request-body (param "chunk" (list u8)) (result $body-verdict)
  (canon lift (core func $guest "request-body") (memory $memory) (realloc $realloc)))
(func $on-request-end (param "trailers" (list $field)) (result $end-verdict)
  (canon lift (core func $guest "request-end") (memory $memory) (realloc $realloc)))
(instance $request-body-hook
  (export "field" (type $field)) (export "body-verdict" (type $body-verdict))
  (export "end-verdict" (type $end-verdict)) (export "on-request-body" (func $on-request-body))
  (export "on-request-end" (func $on-request-end)))
(export "tamis:filter/request-body@0.1.0" (instance $request-body-hook))
