//! The answer that a filter gives in the upstream's place.

use serde::Serialize;

use crate::Header;

/// An answer that the filter gives in the upstream's place. By `into()` it is the verdict of any hook that may reply.
///
/// The proxy holds its headers to the same rules as [`Request::set_header`](crate::Request::set_header), and writes the
/// `content-length` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status, 200 to 599.
    pub status: u16,
    /// The header fields, in the order in which they are sent.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A reply without header fields or body. The status is 200 to 599.
    pub fn new(status: u16) -> Self {
        Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header field, also when there is one of that name.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Header::new(name, value));
        self
    }

    /// Sets the body, without a content-type.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a text, and the content-type.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Self {
        self.header("content-type", "text/plain; charset=utf-8")
            .body(text.into())
    }

    /// Sets the body to a value as JSON, and the content-type.
    ///
    /// # Panics
    ///
    /// If the value's own `Serialize` fails, or it is a map whose keys are not strings.
    #[must_use]
    pub fn json(self, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("a reply's value can be written as JSON");
        self.header("content-type", "application/json").body(body)
    }
}
