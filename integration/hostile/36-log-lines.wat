;; Row 36, a log line with ends of lines, NUL and a command to the terminal in it, and a record of its own making: it is
;; one line, and the rest is escaped.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (data (i32.const 1024)
      "one\0atwo\0d\0a{\"level\":\"ERROR\",\"fields\":{\"message\":\"forged\"}}\1b[31mred\00\c2\9b31m")
    (func (export "request-head") (result i32)
      (call $write (i32.const 3) (i32.const 1024) (i32.const 69))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
