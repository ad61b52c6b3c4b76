//! Filters as WebAssembly components: the only place that names wasmtime.
//!
//! `engine` is the process's compiler and allocator, `artifact` one compiled component, `filter` an artifact with its
//! configuration and limits, `instance` a live guest, `pool` a worker's guests at rest, `host` what a guest can call,
//! `bindings` the shapes that cross the border.

mod artifact;
mod bindings;
mod engine;
mod filter;
mod host;
mod instance;
mod pool;

pub use artifact::{Artifact, Digest};
pub use engine::{Engine, Reservation};
pub use filter::{Capability, Filter, Limits};
pub use instance::GuestMetric;
pub use pool::{Lease, Pool, Pools};
