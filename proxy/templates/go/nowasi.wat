;; Stands in for what Go's runtime imports of WASI, which no filter may. Time is a counter and randomness a fixed
;; sequence: they are for the runtime's own use (timers, hash seeds); a filter has the contract's clock and random.
;; What is written to stdout and stderr is dropped.
(module
  (import "env" "memory" (memory 0))
  (global $time (mut i64) (i64.const 1000000000))
  (global $random (mut i64) (i64.const 0x2545F4914F6CDD1D))

  (func (export "sched_yield") (result i32) i32.const 0)
  (func (export "proc_exit") (param i32) unreachable)

  (func $none (param $count i32) (param $size i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    i32.const 0)
  (export "args_sizes_get" (func $none))
  (export "environ_sizes_get" (func $none))
  (func $ok (param i32 i32) (result i32) i32.const 0)
  (export "args_get" (func $ok))
  (export "environ_get" (func $ok))

  (func (export "clock_time_get") (param i32 i64) (param $out i32) (result i32)
    (global.set $time (i64.add (global.get $time) (i64.const 1000)))
    (i64.store (local.get $out) (global.get $time))
    i32.const 0)

  ;; xorshift64, a byte at a time.
  (func (export "random_get") (param $at i32) (param $left i32) (result i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 13))))
        (global.set $random (i64.xor (global.get $random) (i64.shr_u (global.get $random) (i64.const 7))))
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 17))))
        (i32.store8 (local.get $at) (i32.wrap_i64 (global.get $random)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
    i32.const 0)

  ;; Says that all was written: the sum of the pieces' lengths.
  (func (export "fd_write") (param i32) (param $piece i32) (param $left i32) (param $out i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $piece))))
        (local.set $piece (i32.add (local.get $piece) (i32.const 8)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $out) (local.get $sum))
    i32.const 0)

  ;; 52 is `nosys`, 8 is `badf`: there are no files.
  (func (export "poll_oneoff") (param i32 i32 i32 i32) (result i32) i32.const 52)
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32) i32.const 8)
  (func (export "fd_close") (param i32) (result i32) i32.const 8)
  (func $no_file (param i32 i32) (result i32) i32.const 8)
  (export "fd_fdstat_get" (func $no_file))
  (export "fd_fdstat_set_flags" (func $no_file))
  (export "fd_prestat_get" (func $no_file))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) i32.const 8)

  ;; A clock that asks the host must not while the host waits for memory, and is told so by this; ours never asks.
  (func (export "adapter_monotonic_clock_set_paused") (param i32)))
