//! Requests and responses in memory.

use crate::{Header, HeaderValue, Reply, header};

/// A request in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port.
    pub authority: String,
    /// Without the query.
    pub path: String,
    /// Without the question mark.
    pub query: Option<String>,
    /// The header fields, in order.
    pub headers: Vec<Header>,
    /// The pieces of the body, as they come; none for a request without a body.
    pub pieces: Vec<Vec<u8>>,
    /// The trailers.
    pub trailers: Vec<Header>,
    /// Whether the filter has let the body pass.
    pub body_passed: bool,
}

impl Request {
    /// The first value of that name.
    ///
    /// # Panics
    ///
    /// When it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        header::first(&self.headers, name).map(text)
    }

    /// The body, in one piece.
    pub fn body(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

/// A response in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// The header fields, in order.
    pub headers: Vec<Header>,
    /// The pieces of the body, as they come; none for a response without a body.
    pub pieces: Vec<Vec<u8>>,
    /// The trailers.
    pub trailers: Vec<Header>,
    /// Whether the filter has let the body pass.
    pub body_passed: bool,
}

impl Response {
    /// The first value of that name.
    ///
    /// # Panics
    ///
    /// When it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        header::first(&self.headers, name).map(text)
    }

    /// The body, in one piece.
    pub fn body(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        Response {
            status: reply.status,
            headers: reply.headers,
            pieces: if reply.body.is_empty() {
                vec![]
            } else {
                vec![reply.body]
            },
            ..Response::default()
        }
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().expect("a header that a test reads as text is UTF-8")
}

/// Edits of a list of header fields.
pub(super) mod fields {
    use crate::Header;

    pub(in crate::testing) fn values(headers: &[Header], name: &str) -> Vec<Vec<u8>> {
        let named = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.as_bytes().to_vec()).collect()
    }

    pub(in crate::testing) fn set(headers: &mut Vec<Header>, name: &str, value: &[u8]) {
        remove(headers, name);
        append(headers, name, value);
    }

    /// In lower case and without blanks around the value, as the proxy keeps them.
    pub(in crate::testing) fn append(headers: &mut Vec<Header>, name: &str, mut value: &[u8]) {
        while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
            value = rest;
        }
        headers.push(Header::new(&name.to_ascii_lowercase(), value));
    }

    pub(in crate::testing) fn remove(headers: &mut Vec<Header>, name: &str) {
        headers.retain(|header| !header.name.eq_ignore_ascii_case(name));
    }
}
