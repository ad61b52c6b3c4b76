;; A guest's memory, and an allocator that is well-behaved: it hands out the space from 64 KiB on again and again.
;; Below lies what the guest makes of it; the first 16 bytes stay zero, so that 0 is the address of every `proceed`,
;; `keep` and `ok`.
(core module $Store
  (memory (export "memory") 6)
  (global $next (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (if (i32.gt_u (i32.add (global.get $next) (local.get $size)) (i32.const 393216))
      (then (global.set $next (i32.const 65536))))
    (global.get $next)
    (global.set $next
      (i32.and (i32.add (i32.add (global.get $next) (local.get $size)) (i32.const 15)) (i32.const -16)))))
