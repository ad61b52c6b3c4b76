;; Row 29, a string that says to be UTF-16, by the highest bit of its length, and is too long: the call traps.
;; answer: 500 trap
(component
  (@include "begin")
  (core func $encoded (canon lower (func $log "write") (memory $memory) string-encoding=latin1+utf16))
  (core module $Guest
    (import "host" "write" (func $write (param i32 i32 i32)))
    (func (export "request-head") (result i32)
      (call $write (i32.const 1) (i32.const 1024) (i32.const -2))
      (i32.const 0)))
  (core instance $guest (instantiate $Guest (with "host" (instance (export "write" (func $encoded))))))
  (@include "request-head"))
