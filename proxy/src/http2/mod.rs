//! HTTP/2 (RFC 9113): many exchanges at once on one connection, of a client or to an upstream.
//!
//! Data plane; the only place that names the `h2` crate, which frames, compresses and controls the flow. Towards clients a
//! [`session`] is one connection: it hands each stream to a [`stream`], a task of its own that carries one exchange, and
//! ends the connection at a drain, at a deadline, or when a client asks for more than it gives. Towards upstreams a
//! [`client`] is one connection, moved by a task of its own, and a [`call`] is one request over it, which moves only while
//! its exchange polls it. What `h2` does not bound is bounded here, on the way through the [`end`] of the wire: [`frames`]
//! sees the heads of frames, [`budget`] keeps account. A stream that carries another protocol is a [`duplex`]. Invariant: a stream that has ended, however it ended, has no
//! exchange any more; an exchange that has ended has no stream.

mod budget;
mod call;
mod client;
mod duplex;
mod ear;
mod end;
mod frames;
mod incoming;
mod probe;
mod session;
mod stream;

pub use call::{Call, Fault, Receiving};
pub use client::{Client, Driver, Offer, Slot, Terms, Told, open};
pub use duplex::Duplex;
pub use incoming::Incoming;
pub use probe::{Answered, ask};
pub use session::{Parting, serve};
