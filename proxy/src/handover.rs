//! A new process takes the place of a running one, and no connection is refused or cut for it.
//!
//! Control plane. The running process, the [predecessor], starts the new one, its [successor], as its child and hands
//! it every listening socket over a [channel] that only the two have. The successor loads its configuration, says that
//! it is prepared, and waits; it accepts nothing before it is told to. Until it says that it serves, the predecessor
//! goes on as if nothing were, and whatever fails meanwhile ends the successor alone. Then the predecessor lets go of
//! the sockets and drains: what has begun ends where it began, and both ends of every queue were the kernel's all the
//! time.
//!
//! ```text
//! predecessor                         successor
//!        starts  ────────────────────▶
//!                ◀──── Hello ─────────  it is a Tamis that knows how
//!                ───── Sockets ... ──▶  (once for each listener, with the descriptors)
//!                ───── All ──────────▶
//!                ◀──── Taken ... ─────  configuration loaded, filters started
//!                ◀──── Prepared ──────
//!                ───── Serve ────────▶
//!                ◀──── Serving ───────  every worker accepts
//!        drains
//! ```
//!
//! pingora-core has a transfer of its own, which is not used: it meets at a named socket that everybody may write to
//! and asks nobody who they are, takes 32 descriptors, panics where it fails, and knows no way back.
//!
//! [`control`] is how `tamis upgrade` asks for it; [`client`] is that command. What is handed over are listening
//! sockets and the state folder's lock: connections, counts, and the tables of filters stay where they are and end with
//! it.

pub mod channel;
pub mod client;
pub mod control;
pub mod predecessor;
pub mod successor;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use predecessor::Predecessor;
pub use successor::{Heritage, Order, Upgrader};

/// Tells a process that its standard input is a [`channel`], and the protocol's version.
const VARIABLE: &str = "TAMIS_HANDOVER";
/// A successor of another version refuses; it is raised when a message changes its meaning.
const PROTOCOL: u32 = 1;

/// How long a successor has to be prepared, unless told otherwise: compiling large components takes seconds each.
pub const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// What the predecessor says.
#[derive(Debug, Serialize, Deserialize)]
enum Offer {
    /// With so many of a place's sockets; a place may come in several pieces.
    Sockets { place: Place },
    /// With one descriptor: the lock of the state folder.
    Lock,
    /// With one descriptor: the socket of [`control`].
    Control,
    /// That was all.
    All,
    /// Accept from now on.
    Serve,
}

/// What the successor says.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Hello {
        protocol: u32,
        version: String,
    },
    /// It listens there from now on.
    Taken {
        place: Place,
    },
    Prepared,
    Serving,
    /// Why it ends instead.
    Refused {
        message: String,
    },
}

/// Whose sockets, in words that both processes understand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Place {
    /// By name and address as the configuration has them; see [`socket_key`](crate::assemble::socket_key).
    Listener {
        name: String,
        address: String,
    },
    Admin {
        address: String,
    },
}
