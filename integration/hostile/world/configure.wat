(func $configure (param "config" string) (result (result (error string)))
  (canon lift (core func $guest "configure") (memory $memory) (realloc $realloc)))
(instance $configure-hook (export "configure" (func $configure)))
(export "tamis:filter/configure@0.1.0" (instance $configure-hook))
