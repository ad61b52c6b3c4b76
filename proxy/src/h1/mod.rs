//! HTTP/1.1 towards an upstream: requests to bytes, bytes to responses (RFC 9112).
//!
//! Data plane; pure: it reads and writes memory, and knows no socket, no clock and no configuration. Invariant: how the
//! bytes of a response are cut into pieces never changes what comes of them, and whatever leaves a doubt about where a
//! response ends is a [`Fault`], after which nothing more of the connection can be trusted.

mod body;
mod request;
mod response;

use std::fmt;

pub use body::{Decoder, Piece};
pub use request::{Encoder, RequestLines};
pub use response::{Framing, Head, MAX_HEAD, Parsed, ends_a_head, parse};

/// Fields of one head or trailer section; hyper's bound for clients' too.
pub const MAX_FIELDS: usize = 100;

/// Why bytes are not a response that may be relayed; the upstream's doing in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not the grammar of a head or of a trailer section.
    Syntax(httparse::Error),
    /// A line that ends in LF alone, or an empty one before the status line (RFC 9112 2.2 allows refusing both).
    LineEnd,
    /// A status below 100.
    Status,
    /// A head over [`MAX_HEAD`].
    HeadTooLarge,
    /// 101, which nobody asked for in this way (RFC 9110 15.2.2).
    Upgrade,
    /// More interim responses than anybody has a use for.
    Interims,
    /// Content-Length is not one number (RFC 9112 6.3).
    Length,
    /// Content-Length beside Transfer-Encoding: an attempt to smuggle another response (RFC 9112 6.3).
    LengthWithCoding,
    /// A transfer coding other than `chunked` alone, which TE did not ask for (RFC 9112 6.1), or any in HTTP/1.0.
    Coding,
    /// Not the grammar of a chunk (RFC 9112 7.1).
    Chunk,
    /// More chunk extensions in one body than the bound (RFC 9112 7.1.1).
    ExtensionsTooLarge,
    /// A trailer section over its bound.
    TrailersTooLarge,
    /// The connection ended before the body did (RFC 9112 8).
    CutShort,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Fault::Syntax(error) => return write!(formatter, "malformed fields or status line: {error}"),
            Fault::LineEnd => "a line ends in LF alone, or an empty line comes first",
            Fault::Status => "a status below 100",
            Fault::HeadTooLarge => "a head that is too large",
            Fault::Upgrade => "an upgrade that nobody asked for",
            Fault::Interims => "too many interim responses",
            Fault::Length => "a content-length that is not one number",
            Fault::LengthWithCoding => "a length beside a transfer coding",
            Fault::Coding => "a transfer coding other than chunked",
            Fault::Chunk => "a malformed chunk",
            Fault::ExtensionsTooLarge => "too many bytes of chunk extensions",
            Fault::TrailersTooLarge => "a trailer section that is too large",
            Fault::CutShort => "the connection ended before the body",
        })
    }
}

impl std::error::Error for Fault {}

impl From<httparse::Error> for Fault {
    fn from(error: httparse::Error) -> Self {
        Fault::Syntax(error)
    }
}
