;; Row 44, a trap while answers of other hosts are open: their connections end with the guest.
;; answer: 500 trap
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (@include "open")
    (func (export "request-head") (result i32)
      (call $open) (call $open) (call $open)
      (unreachable)))
  (@include "guest")
  (@include "request-head"))
