;; Row 37, a thousand names of metrics: those over the limit are dropped and counted.
;; settings: limits: { cpu: 90ms }
;; metric: tamis_filter_metrics_dropped_total
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "count" (func $count (param i32 i32 i32 i32 i64)))
    (global $number (mut i32) (i32.const 0))
    (func (export "request-head") (result i32)
      (local $left i32)
      (local.set $left (i32.const 60))
      (loop $again
        ;; Three letters, counted up from one exchange to the next.
        (i32.store8 (i32.const 1024) (i32.add (i32.const 0x61) (i32.and (global.get $number) (i32.const 15))))
        (i32.store8 (i32.const 1025)
          (i32.add (i32.const 0x61) (i32.and (i32.shr_u (global.get $number) (i32.const 4)) (i32.const 15))))
        (i32.store8 (i32.const 1026)
          (i32.add (i32.const 0x61) (i32.and (i32.shr_u (global.get $number) (i32.const 8)) (i32.const 15))))
        (call $count (i32.const 1024) (i32.const 3) (i32.const 0) (i32.const 0) (i64.const 1))
        (global.set $number (i32.add (global.get $number) (i32.const 1)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
