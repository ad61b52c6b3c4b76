;; Row 23, the fields that frame a message or belong to its connection, and `host`: the guest is told that each is
;; forbidden, and the upstream sees none of them.
;; answer: 200
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (import "host" "set-header" (func $set-header (param i32 i32 i32 i32 i32)))
    ;; Length and name, length and value; 255 ends them.
    (data (i32.const 1024)
      "\0econtent-length\011" "\0eContent-Length\010" "\11transfer-encoding\07chunked" "\0aconnection\05close"
      "\0akeep-alive\09timeout=5" "\10proxy-connection\05close" "\02te\08trailers" "\07trailer\03x-a"
      "\07upgrade\09websocket" "\04host\0cevil.example" "\04HOST\0cevil.example" "\ff")
    (func $behind (param $at i32) (result i32)
      (i32.add (i32.add (local.get $at) (i32.const 1)) (i32.load8_u (local.get $at))))
    (func (export "request-head") (result i32)
      (local $name i32) (local $value i32)
      (local.set $name (i32.const 1024))
      (loop $each
        (local.set $value (call $behind (local.get $name)))
        (call $set-header
          (i32.add (local.get $name) (i32.const 1)) (i32.load8_u (local.get $name))
          (i32.add (local.get $value) (i32.const 1)) (i32.load8_u (local.get $value)) (i32.const 16))
        ;; An error, and which.
        (if (i32.ne (i32.load16_u (i32.const 16)) (i32.const 0x0101)) (then (unreachable)))
        (local.set $name (call $behind (local.get $value)))
        (br_if $each (i32.ne (i32.load8_u (local.get $name)) (i32.const 255))))
      (i32.const 0)))
  (@include "guest")
  (@include "request-head"))
