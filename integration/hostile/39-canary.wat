;; Row 39, memory, tables and globals of who was there before: a new guest finds nothing but zeroes, and marks all that
;; it can before it goes.
;; settings: instance_reuse: 1, limits: { memory: 2MiB, cpu: 90ms }
;; times: 30
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (table $table 1000 funcref)
    (elem declare func $it)
    (func $it)
    (func (export "request-head") (result i32)
      (local $at i32)
      (loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (local.set $at (i32.const 65536))
      (loop $look
        (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (unreachable)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $look (i32.lt_u (local.get $at) (i32.const 0x200000))))
      (local.set $at (i32.const 0))
      (loop $look
        (if (i32.eqz (ref.is_null (table.get $table (local.get $at)))) (then (unreachable)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $look (i32.lt_u (local.get $at) (i32.const 1000))))
      (memory.fill (i32.const 1024) (i32.const 170) (i32.const 0x1ffc00))
      (table.fill $table (i32.const 0) (ref.func $it) (i32.const 1000))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
