(func $on-held-body (param "body" (list u8)) (param "complete" bool) (result $held-verdict)
  (canon lift (core func $guest "held-body") (memory $memory) (realloc $realloc)))
(instance $held-body-hook (export "held-verdict" (type $held-verdict)) (export "on-held-body" (func $on-held-body)))
(export "tamis:filter/held-body@0.1.0" (instance $held-body-hook))
