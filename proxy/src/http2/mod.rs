//! A client's connection that speaks HTTP/2 (RFC 9113): many exchanges at once.
//!
//! Data plane; the only place that names the `h2` crate, which frames, compresses and controls the flow. A [`session`]
//! is one connection: it hands each stream to a [`stream`], a task of its own that carries one exchange, and ends the
//! connection at a drain, at a deadline, or when a client asks for more than it gives. What `h2` does not bound is
//! bounded here, on the way through the [`end`] of the wire: [`frames`] sees the heads of frames, [`budget`] keeps
//! account. Invariant: a stream that has ended, however it ended, has no exchange any more.

mod budget;
mod end;
mod frames;
mod incoming;
mod session;
mod stream;

pub use incoming::Incoming;
pub use session::{Parting, serve};
