//! Components that speak `wasi:http`: they stand where servers do, or in chains.
//!
//! `service` is a component made ready, with what it may use (`grants`) and take; `instance` a live guest, `running` who
//! moves it, `state` what the host keeps for it, `pool` a worker's guests, `call` one request to one of them and its
//! response, `calls` its own requests to others, `attribution` for whom it makes them, `key_value` what it remembers,
//! `folders` what it reads, `pipe` how a body gets from its exchange to the guest, `codes` the table from error codes to
//! statuses. A `middleware` is a service in a chain: `session` is an exchange's part in it, `onward` what it passes on,
//! `lent` the bodies that it is handed.
//! A guest's store may go from thread to thread, so it holds nothing of its worker: what crosses is a value, or a pipe.

mod attribution;
mod call;
mod calls;
mod codes;
mod folders;
mod grants;
mod instance;
mod key_value;
mod lent;
mod middleware;
mod onward;
mod pipe;
mod pool;
mod running;
mod service;
mod session;
mod state;

pub use call::{Call, Receiving};
pub use folders::Folders;
pub use grants::{Grant, Kind, Nature, nature, ungranted};
pub use middleware::{Middleware, Terms};
pub use pool::{Place, Pool, Pools, Unplaced, Usage};
pub use service::{Instances, Limits, Role, Service, Settings};
pub use session::{Answered, Movers, Passing, Returned, Session, Word, adopt};
