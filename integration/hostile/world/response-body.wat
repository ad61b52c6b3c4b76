(func $on-response-body (param "chunk" (list u8)) (result $body-verdict)
  (canon lift (core func $guest "response-body") (memory $memory) (realloc $realloc)))
(func $on-response-end (param "trailers" (list $field)) (result $end-verdict)
  (canon lift (core func $guest "response-end") (memory $memory) (realloc $realloc)))
(instance $response-body-hook
  (export "field" (type $field)) (export "body-verdict" (type $body-verdict))
  (export "end-verdict" (type $end-verdict)) (export "on-response-body" (func $on-response-body))
  (export "on-response-end" (func $on-response-end)))
(export "tamis:filter/response-body@0.1.0" (instance $response-body-hook))
