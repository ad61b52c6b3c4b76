//! The harness of the whole-proxy tests: a proxy process, scripted upstreams, raw clients, hostile guests.
//!
//! Everything here speaks bytes over sockets to a `tamis` binary that it does not link, so a test says what a client or
//! an upstream can observe and nothing else. Plain threads and blocking sockets: a scripted peer must be able to stop
//! anywhere. Every wait ends at [`DEADLINE`]; nothing sleeps to "let it settle".

use std::time::Duration;

pub mod apache;
pub mod client;
pub mod dns;
pub mod folder;
pub mod gate;
pub mod http2;
pub mod log;
pub mod message;
pub mod metrics;
pub mod nginx;
pub mod origin;
pub mod pack;
pub mod proxy;
pub mod socket;
pub mod upstream;
pub mod wait;
pub mod wasmtime;
pub mod wat;

pub use client::Client;
pub use folder::Folder;
pub use gate::Gate;
pub use message::Message;
pub use proxy::Proxy;
pub use upstream::{Step, Upstream};
pub use wait::{wait_for, wait_until};

/// The end of every wait. Far above what a busy machine of two cores needs, far below what a test runner tolerates.
pub const DEADLINE: Duration = Duration::from_secs(20);
