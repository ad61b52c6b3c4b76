;; Row 29, a string in UTF-16 whose length in bytes is beyond 32 bits: the call traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core func $encoded (canon lower (func $log "write") (memory $memory) string-encoding=utf16))
  (core module $Guest
    (import "host" "write" (func $write (param i32 i32 i32)))
    (func (export "request-head") (result i32)
      (call $write (i32.const 1) (i32.const 1024) (i32.const -1))
      (i32.const 0)))
  (core instance $guest (instantiate $Guest (with "host" (instance (export "write" (func $encoded))))))
  (@include "request-head"))
