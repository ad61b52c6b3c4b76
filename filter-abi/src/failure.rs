//! What goes wrong in a hook: an edit that the proxy refused, and the failure that ends the exchange.

use std::error::Error;
use std::fmt;
use std::panic::Location;

/// Why the proxy refused to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditError {
    /// Not a field name, or a value with CR, LF, NUL or another control character (RFC 9110 section 5.5); not a cluster
    /// that the route names.
    Invalid,
    /// A framing or hop-by-hop field, which only the proxy writes.
    Forbidden,
    /// Over the filter's `limits.header_bytes`, or the head's own limit; for attributes, over 32 or over 4 KiB.
    TooLarge,
    /// This hook cannot change that: the request is already sent, or the response is not there yet.
    TooLate,
}

impl fmt::Display for EditError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            EditError::Invalid => "edit refused: not a valid name or value",
            EditError::Forbidden => "edit refused: only the proxy writes framing and hop-by-hop fields",
            EditError::TooLarge => "edit refused: too large",
            EditError::TooLate => "edit refused: too late in this hook",
        })
    }
}

impl Error for EditError {}

/// The hook cannot do its work: the exchange fails, as the filter's `on_failure` says.
///
/// Made from any error by `?`, and from a text by [`Failure::new`]. The text goes to the proxy's log with the place in
/// the source where it happened, never to the client.
pub struct Failure {
    message: String,
    place: &'static Location<'static>,
}

impl Failure {
    /// A failure with a text for the log.
    #[track_caller]
    pub fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            place: Location::caller(),
        }
    }
}

impl<E: Error> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        Failure::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.message)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
