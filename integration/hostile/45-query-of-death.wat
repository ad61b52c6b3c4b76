;; Row 45, every exchange traps: after some of them the filter is left alone, and new guests are not started for
;; nothing.
;; settings: breaker: { failures: 5, within: 60s, backoff: 60s, max_backoff: 60s }
;; times: 300
;; metric: tamis_filter_breaker_openings_total
;; answer: 500 trap | 503 breaker
(component
  (@include "begin")
  (core module $Guest
    (import "store" "memory" (memory 1))
    (func (export "request-head") (result i32) (unreachable)))
  (@include "guest")
  (@include "request-head"))
