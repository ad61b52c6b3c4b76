//! Components that speak `wasi:http`: they stand where servers do.
//!
//! `service` is a component made ready, with what it may use (`grants`) and take; `instance` a live guest in a task of its
//! own, `state` what the host keeps for it, `pool` a worker's guests, `call` one request to one of them and its response, `calls` its own requests to others, `attribution`
//! for whom it makes them, `key_value` what it remembers, `folders` what it reads,
//! `pipe` how a request's body gets from its exchange to the guest, `codes` the table from error codes to statuses.
//! A guest's store may go from thread to thread, so it holds nothing of its worker: what crosses is a value, or a pipe.

mod attribution;
mod call;
mod calls;
mod codes;
mod folders;
mod grants;
mod instance;
mod key_value;
mod pipe;
mod pool;
mod service;
mod state;

pub use call::{Call, Receiving};
pub use folders::Folders;
pub use grants::{Grant, Kind, ungranted};
pub use pool::{Place, Pool, Unplaced, Usage};
pub use service::{Instances, Limits, Service, Settings};
