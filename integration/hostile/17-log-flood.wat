;; Row 17, two thousand log lines in one hook: those over the rate are dropped and counted, and nobody waits.
;; settings: limits: { log_lines: 10, cpu: 90ms }
;; metric: tamis_filter_log_dropped_total
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (data (i32.const 1024) "flood")
    (func (export "request-head") (result i32)
      (local $left i32)
      (local.set $left (i32.const 2000))
      (loop $again
        (call $write (i32.const 1) (i32.const 1024) (i32.const 5))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
