;; Row 40, a thousand keys, and a value that is more than an eighth of the table: the oldest make room, the value is
;; refused.
;; settings: limits: { key_value_keys: 100, cpu: 90ms }
;; metric: tamis_filter_table_evictions_total
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i32 i64 i32)))
    (func (export "request-head") (result i32)
      (local $number i32)
      (loop $again
        ;; Three letters for the number.
        (i32.store8 (i32.const 1024) (i32.add (i32.const 0x61) (i32.and (local.get $number) (i32.const 15))))
        (i32.store8 (i32.const 1025)
          (i32.add (i32.const 0x61) (i32.and (i32.shr_u (local.get $number) (i32.const 4)) (i32.const 15))))
        (i32.store8 (i32.const 1026)
          (i32.add (i32.const 0x61) (i32.and (i32.shr_u (local.get $number) (i32.const 8)) (i32.const 15))))
        (call $set
          (i32.const 1024) (i32.const 3) (i32.const 1024) (i32.const 3) (i32.const 0) (i64.const 0) (i32.const 16))
        (if (i32.load8_u (i32.const 16)) (then (unreachable)))
        (local.set $number (i32.add (local.get $number) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $number) (i32.const 1000))))
      ;; 3 MiB of a table of 16.
      (if (i32.lt_u (memory.size) (i32.const 48)) (then (drop (memory.grow (i32.const 48)))))
      (call $set
        (i32.const 1024) (i32.const 3) (i32.const 0) (i32.const 0x300000) (i32.const 0) (i64.const 0) (i32.const 16))
      (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0001)) (then (unreachable)))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
