//! The time; needs the grant `clock`. (`std::time` has no clock in a filter and panics.)

use crate::host::clock;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub fn now_ms() -> u64 {
    clock::now_ms()
}

/// Milliseconds since some fixed point; never goes back.
pub fn monotonic_ms() -> u64 {
    clock::monotonic_ms()
}
