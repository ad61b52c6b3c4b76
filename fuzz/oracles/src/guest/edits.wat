;; Asks to see the body, and makes the edits that it says; `edits.rs` has the list. Each is a byte and two parts, each of
;; a length in four bytes and so many bytes. With `>` the hook ends; the response's goes on behind it.
(component
TYPES
(import "tamis:filter/request@0.1.0" (instance $request
  (alias outer 1 $edit-error (type $outer))
  (export "edit-error" (type $edit-error (eq $outer)))
  (type $edited (result (error $edit-error)))
  (export "set-method" (func (param "method" string) (result $edited)))
  (export "set-authority" (func (param "authority" string) (result $edited)))
  (export "set-path" (func (param "path" string) (result $edited)))
  (export "set-query" (func (param "query" (option string)) (result $edited)))
  (export "set-header" (func (param "name" string) (param "value" (list u8)) (result $edited)))
  (export "append-header" (func (param "name" string) (param "value" (list u8)) (result $edited)))
  (export "remove-header" (func (param "name" string) (result $edited)))))
(import "tamis:filter/response@0.1.0" (instance $response
  (alias outer 1 $edit-error (type $outer))
  (export "edit-error" (type $edit-error (eq $outer)))
  (type $edited (result (error $edit-error)))
  (export "set-status" (func (param "status" u16) (result $edited)))
  (export "set-header" (func (param "name" string) (param "value" (list u8)) (result $edited)))
  (export "append-header" (func (param "name" string) (param "value" (list u8)) (result $edited)))
  (export "remove-header" (func (param "name" string) (result $edited)))))
(import "tamis:filter/exchange@0.1.0" (instance $exchange
  (alias outer 1 $edit-error (type $outer))
  (export "edit-error" (type $edit-error (eq $outer)))
  (type $edited (result (error $edit-error)))
  (export "set-attribute" (func (param "name" string) (param "value" string) (result $edited)))))
(core func $set-method (canon lower (func $request "set-method") (memory $memory) (realloc $realloc)))
(core func $set-authority (canon lower (func $request "set-authority") (memory $memory) (realloc $realloc)))
(core func $set-path (canon lower (func $request "set-path") (memory $memory) (realloc $realloc)))
(core func $set-query (canon lower (func $request "set-query") (memory $memory) (realloc $realloc)))
(core func $set (canon lower (func $request "set-header") (memory $memory) (realloc $realloc)))
(core func $append (canon lower (func $request "append-header") (memory $memory) (realloc $realloc)))
(core func $remove (canon lower (func $request "remove-header") (memory $memory) (realloc $realloc)))
(core func $set-status (canon lower (func $response "set-status") (memory $memory) (realloc $realloc)))
(core func $set-response (canon lower (func $response "set-header") (memory $memory) (realloc $realloc)))
(core func $append-response (canon lower (func $response "append-header") (memory $memory) (realloc $realloc)))
(core func $remove-response (canon lower (func $response "remove-header") (memory $memory) (realloc $realloc)))
(core func $set-attribute (canon lower (func $exchange "set-attribute") (memory $memory) (realloc $realloc)))

(core module $Guest
  (import "store" "memory" (memory 1))
  (import "host" "set-method" (func $set-method (param i32 i32 i32)))
  (import "host" "set-authority" (func $set-authority (param i32 i32 i32)))
  (import "host" "set-path" (func $set-path (param i32 i32 i32)))
  (import "host" "set-query" (func $set-query (param i32 i32 i32 i32)))
  (import "host" "set" (func $set (param i32 i32 i32 i32 i32)))
  (import "host" "append" (func $append (param i32 i32 i32 i32 i32)))
  (import "host" "remove" (func $remove (param i32 i32 i32)))
  (import "host" "set-status" (func $set-status (param i32 i32)))
  (import "host" "set-response" (func $set-response (param i32 i32 i32 i32 i32)))
  (import "host" "append-response" (func $append-response (param i32 i32 i32 i32 i32)))
  (import "host" "remove-response" (func $remove-response (param i32 i32 i32)))
  (import "host" "set-attribute" (func $set-attribute (param i32 i32 i32 i32 i32)))
  ;; What is left of the script, and the length of the last part.
  (global $at (mut i32) (i32.const 0))
  (global $end (mut i32) (i32.const 0))
  (global $length (mut i32) (i32.const 0))
  ;; The verdict `read-body`, of up to a mebibyte; zeroes for `proceed`.
  (data (i32.const 64) "\02\00\00\00\00\00\00\00\00\00\10\00\00\00\00\00")

  (func $part (result i32)
    (local $from i32)
    (global.set $length (i32.load (global.get $at)))
    (local.set $from (i32.add (global.get $at) (i32.const 4)))
    (global.set $at (i32.add (local.get $from) (global.get $length)))
    (local.get $from))

  (func $run
    (local $act i32) (local $a i32) (local $al i32) (local $b i32) (local $bl i32)
    (loop $next
      (if (i32.ge_u (global.get $at) (global.get $end)) (then (return)))
      (local.set $act (i32.load8_u (global.get $at)))
      (global.set $at (i32.add (global.get $at) (i32.const 1)))
      (local.set $a (call $part))
      (local.set $al (global.get $length))
      (local.set $b (call $part))
      (local.set $bl (global.get $length))
      (if (i32.eq (local.get $act) (i32.const 0x3e (;>;))) (then (return)))
      ;; Results are written to 16, and not looked at.
      (if (i32.eq (local.get $act) (i32.const 0x6d (;m;))) (then
        (call $set-method (local.get $a) (local.get $al) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x68 (;h;))) (then
        (call $set-authority (local.get $a) (local.get $al) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x70 (;p;))) (then
        (call $set-path (local.get $a) (local.get $al) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x71 (;q;))) (then
        (call $set-query (i32.const 1) (local.get $a) (local.get $al) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x51 (;Q;))) (then
        (call $set-query (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x73 (;s;))) (then
        (call $set (local.get $a) (local.get $al) (local.get $b) (local.get $bl) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x61 (;a;))) (then
        (call $append (local.get $a) (local.get $al) (local.get $b) (local.get $bl) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x72 (;r;))) (then
        (call $remove (local.get $a) (local.get $al) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x74 (;t;))) (then
        (call $set-status (i32.load16_u (local.get $a)) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x53 (;S;))) (then
        (call $set-response (local.get $a) (local.get $al) (local.get $b) (local.get $bl) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x41 (;A;))) (then
        (call $append-response (local.get $a) (local.get $al) (local.get $b) (local.get $bl) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x52 (;R;))) (then
        (call $remove-response (local.get $a) (local.get $al) (i32.const 16))))
      (if (i32.eq (local.get $act) (i32.const 0x6e (;n;))) (then
        (call $set-attribute (local.get $a) (local.get $al) (local.get $b) (local.get $bl) (i32.const 16))))
      (br $next)))

  (func (export "request-head") (result i32) (i32.const 64))
  (func (export "held-body") (param $from i32) (param $length i32) (param i32) (result i32)
    (global.set $at (local.get $from))
    (global.set $end (i32.add (local.get $from) (local.get $length)))
    (call $run)
    (i32.const 128))
  (func (export "response-head") (result i32)
    (call $run)
    (i32.const 128)))

(core instance $guest (instantiate $Guest (with "store" (instance $store)) (with "host" (instance
  (export "set-method" (func $set-method)) (export "set-authority" (func $set-authority))
  (export "set-path" (func $set-path)) (export "set-query" (func $set-query))
  (export "set" (func $set)) (export "append" (func $append)) (export "remove" (func $remove))
  (export "set-status" (func $set-status)) (export "set-response" (func $set-response))
  (export "append-response" (func $append-response)) (export "remove-response" (func $remove-response))
  (export "set-attribute" (func $set-attribute))))))
(func $on-request-head (result $request-verdict)
  (canon lift (core func $guest "request-head") (memory $memory) (realloc $realloc)))
(instance $request-head
  (export "request-verdict" (type $request-verdict)) (export "on-request-head" (func $on-request-head)))
(export "tamis:filter/request-head@0.1.0" (instance $request-head))
(func $on-held-body (param "body" (list u8)) (param "complete" bool) (result $held-verdict)
  (canon lift (core func $guest "held-body") (memory $memory) (realloc $realloc)))
(instance $held-body
  (export "held-verdict" (type $held-verdict)) (export "on-held-body" (func $on-held-body)))
(export "tamis:filter/held-body@0.1.0" (instance $held-body))
(func $on-response-head (result $verdict)
  (canon lift (core func $guest "response-head") (memory $memory) (realloc $realloc)))
(instance $response-head
  (export "verdict" (type $verdict)) (export "on-response-head" (func $on-response-head)))
(export "tamis:filter/response-head@0.1.0" (instance $response-head)))
