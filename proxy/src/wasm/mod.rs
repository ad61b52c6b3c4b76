//! Filters and services as WebAssembly components: the only place that names wasmtime.
//!
//! `engine` is the process's compiler and allocator, `compiler` makes an `artifact`, one compiled component, and keeps
//! its code in the `cache`, `filter` is an artifact with its configuration and limits, `instance` a live guest, `stint`
//! what it computes between two waits, `question` what it can be asked, `pool` a worker's guests at rest, `host` what a
//! guest can call, `outbound` its requests to others, `wasi` what is left of a system, `bindings` the shapes that cross
//! the border. `http` is all about components that serve.

mod artifact;
mod bindings;
mod cache;
mod compiler;
mod engine;
mod filter;
mod host;
pub mod http;
mod instance;
mod names;
mod outbound;
mod pool;
mod question;
mod stint;
mod wasi;

pub use artifact::{Artifact, Digest};
pub use cache::Cache;
pub use compiler::{Compiler, Counts as CompilerCounts, Settings as CompilerSettings};
pub use engine::{Engine, Reservation};
pub use filter::{Access, Filter, Grant, Limits, Settings, ungranted};
pub use instance::{Change, GuestMetric, HookTime, Instance, Loan, Outcome, StartError, ticks};
pub use pool::{Lease, Pool, Pools, Usage, start_apart};
pub use question::{
    OnBody, OnCompletion, OnConnection, OnEnd, OnHeldBody, OnRequestHead, OnResponseHead, OnTick, Question,
};
