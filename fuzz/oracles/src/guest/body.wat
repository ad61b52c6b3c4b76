;; Does with each piece of a body what its first byte says; `body.rs` has the list, and the model.
(component
TYPES
(core module $Guest
  (import "store" "memory" (memory 1))
  ;; What the end is told, as the last `e` piece said.
  (global $end-at (mut i32) (i32.const 0))
  (global $end-length (mut i32) (i32.const 0))
  (global $has-computed (mut i32) (i32.const 0))

  ;; Some milliseconds, once: long enough to be parked.
  (func $compute
    (local $left i32)
    (if (global.get $has-computed) (then (return)))
    (global.set $has-computed (i32.const 1))
    (local.set $left (i32.const 20000000))
    (loop $again
      (i32.store8 (i32.const 8) (local.get $left))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left))))

  ;; The verdict is at 64, what its lists hold from 1024 on.
  (func $tell (param $at i32) (param $value i32) (i32.store offset=64 (local.get $at) (local.get $value)))
  (func $begin
    (memory.fill (i32.const 64) (i32.const 0) (i32.const 32)))
  (func $bytes (param $at i32) (param $from i32) (param $length i32)
    (call $tell (local.get $at) (local.get $from))
    (call $tell (i32.add (local.get $at) (i32.const 4)) (local.get $length)))
  ;; A reply of the status in the first two bytes, with the rest as its body.
  (func $reply (param $case i32) (param $from i32) (param $length i32)
    (if (i32.lt_u (local.get $length) (i32.const 2)) (then (unreachable)))
    (call $tell (i32.const 0) (local.get $case))
    (call $tell (i32.const 4) (i32.load16_u (local.get $from)))
    (call $bytes (i32.const 16)
      (i32.add (local.get $from) (i32.const 2)) (i32.sub (local.get $length) (i32.const 2))))
  ;; The bytes themselves are the verdict.
  (func $raw (param $from i32) (param $length i32)
    (memory.copy (i32.const 64) (local.get $from)
      (select (local.get $length) (i32.const 24) (i32.lt_u (local.get $length) (i32.const 24)))))

  (func $piece (param $index i32) (param $from i32) (param $length i32)
    (i32.store offset=1024 (i32.mul (local.get $index) (i32.const 8)) (local.get $from))
    (i32.store offset=1028 (i32.mul (local.get $index) (i32.const 8)) (local.get $length)))
  ;; The first byte is a width, of which three bits count: 0 puts an empty piece before and behind the rest, others cut it
  ;; into pieces, 255 of that width at most and one of what is left.
  (func $pieces (param $from i32) (param $length i32)
    (local $width i32) (local $index i32)
    (call $tell (i32.const 0) (i32.const 3))
    (call $bytes (i32.const 4) (i32.const 1024) (i32.const 0))
    (if (i32.eqz (local.get $length)) (then (return)))
    (local.set $width (i32.and (i32.load8_u (local.get $from)) (i32.const 7)))
    (local.set $from (i32.add (local.get $from) (i32.const 1)))
    (local.set $length (i32.sub (local.get $length) (i32.const 1)))
    (if (i32.eqz (local.get $width)) (then
      (call $piece (i32.const 0) (i32.const 0) (i32.const 0))
      (call $piece (i32.const 1) (local.get $from) (local.get $length))
      (call $piece (i32.const 2) (i32.const 0) (i32.const 0))
      (call $tell (i32.const 8) (i32.const 3))
      (return)))
    (loop $again
      (if (i32.and
            (i32.gt_u (local.get $length) (local.get $width))
            (i32.lt_u (local.get $index) (i32.const 255)))
        (then
          (call $piece (local.get $index) (local.get $from) (local.get $width))
          (local.set $from (i32.add (local.get $from) (local.get $width)))
          (local.set $length (i32.sub (local.get $length) (local.get $width)))
          (local.set $index (i32.add (local.get $index) (i32.const 1)))
          (br $again))))
    (call $piece (local.get $index) (local.get $from) (local.get $length))
    (call $tell (i32.const 8) (i32.add (local.get $index) (i32.const 1))))

  (func $body (export "body") (param $from i32) (param $length i32) (result i32)
    (local $act i32)
    (call $begin)
    (if (i32.eqz (local.get $length)) (then (return (i32.const 64))))
    (local.set $act (i32.load8_u (local.get $from)))
    (local.set $from (i32.add (local.get $from) (i32.const 1)))
    (local.set $length (i32.sub (local.get $length) (i32.const 1)))
    (if (i32.eq (local.get $act) (i32.const 0x63 (;c;))) (then (call $compute)))
    (if (i32.eq (local.get $act) (i32.const 0x64 (;d;))) (then (call $tell (i32.const 0) (i32.const 1))))
    (if (i32.eq (local.get $act) (i32.const 0x72 (;r;))) (then
      (call $tell (i32.const 0) (i32.const 2))
      (call $bytes (i32.const 4) (local.get $from) (local.get $length))))
    (if (i32.eq (local.get $act) (i32.const 0x70 (;p;))) (then (call $pieces (local.get $from) (local.get $length))))
    (if (i32.eq (local.get $act) (i32.const 0x79 (;y;))) (then
      (call $reply (i32.const 4) (local.get $from) (local.get $length))))
    (if (i32.eq (local.get $act) (i32.const 0x74 (;t;))) (then (unreachable)))
    (if (i32.eq (local.get $act) (i32.const 0x78 (;x;))) (then (call $raw (local.get $from) (local.get $length))))
    (if (i32.eq (local.get $act) (i32.const 0x65 (;e;))) (then
      (global.set $end-at (local.get $from))
      (global.set $end-length (local.get $length))
      (call $tell (i32.const 0) (i32.const 1))))
    (i32.const 64))

  ;; One trailer: the first byte, of which four bits count, is the length of its name.
  (func $trailer (param $from i32) (param $length i32)
    (local $name i32)
    (if (i32.eqz (local.get $length)) (then (return)))
    (local.set $name (i32.and (i32.load8_u (local.get $from)) (i32.const 15)))
    (local.set $from (i32.add (local.get $from) (i32.const 1)))
    (local.set $length (i32.sub (local.get $length) (i32.const 1)))
    (if (i32.gt_u (local.get $name) (local.get $length)) (then (local.set $name (local.get $length))))
    (call $piece (i32.const 0) (local.get $from) (local.get $name))
    (call $piece (i32.const 1)
      (i32.add (local.get $from) (local.get $name)) (i32.sub (local.get $length) (local.get $name)))
    (call $bytes (i32.const 16) (i32.const 1024) (i32.const 1)))

  (func $end (export "end") (param i32 i32) (result i32)
    (local $act i32) (local $from i32) (local $length i32)
    (call $begin)
    (if (i32.eqz (global.get $end-length)) (then (return (i32.const 64))))
    (local.set $act (i32.load8_u (global.get $end-at)))
    (local.set $from (i32.add (global.get $end-at) (i32.const 1)))
    (local.set $length (i32.sub (global.get $end-length) (i32.const 1)))
    (if (i32.or
          (i32.eq (local.get $act) (i32.const 0x66 (;f;)))
          (i32.eq (local.get $act) (i32.const 0x77 (;w;))))
      (then
        (call $tell (i32.const 0) (i32.const 1))
        (call $bytes (i32.const 4) (local.get $from) (local.get $length))
        (call $tell (i32.const 12) (i32.eq (local.get $act) (i32.const 0x77)))))
    (if (i32.eq (local.get $act) (i32.const 0x68 (;h;))) (then
      (call $tell (i32.const 0) (i32.const 1))
      (call $tell (i32.const 12) (i32.const 1))
      (call $trailer (local.get $from) (local.get $length))))
    (if (i32.eq (local.get $act) (i32.const 0x79 (;y;))) (then
      (call $reply (i32.const 2) (local.get $from) (local.get $length))))
    (if (i32.eq (local.get $act) (i32.const 0x74 (;t;))) (then (unreachable)))
    (if (i32.eq (local.get $act) (i32.const 0x78 (;x;))) (then (call $raw (local.get $from) (local.get $length))))
    (i32.const 64)))

(core instance $guest (instantiate $Guest (with "store" (instance $store))))
(func $on-body (param "chunk" (list u8)) (result $body-verdict)
  (canon lift (core func $guest "body") (memory $memory) (realloc $realloc)))
(func $on-end (param "trailers" (list $field)) (result $end-verdict)
  (canon lift (core func $guest "end") (memory $memory) (realloc $realloc)))
(instance $request-body
  (export "header" (type $field)) (export "body-verdict" (type $body-verdict))
  (export "end-verdict" (type $end-verdict))
  (export "on-request-body" (func $on-body)) (export "on-request-end" (func $on-end)))
(export "tamis:filter/request-body@0.1.0" (instance $request-body))
(instance $response-body
  (export "header" (type $field)) (export "body-verdict" (type $body-verdict))
  (export "end-verdict" (type $end-verdict))
  (export "on-response-body" (func $on-body)) (export "on-response-end" (func $on-end)))
(export "tamis:filter/response-body@0.1.0" (instance $response-body)))
