//! One header field, as a filter sees it: a name, and a value that is bytes first and text when it happens to be.

use std::fmt;
use std::ops::Deref;
use std::str::Utf8Error;

use crate::EditError;

/// A header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name; compared without regard to case.
    pub name: String,
    /// The value.
    pub value: HeaderValue,
}

impl Header {
    /// A header field of that name and value, unchecked.
    pub fn new(name: &str, value: impl AsRef<[u8]>) -> Self {
        Header {
            name: name.to_owned(),
            value: value.as_ref().to_vec().into(),
        }
    }
}

/// The first value of that name.
pub(crate) fn first<'a>(headers: &'a [Header], name: &str) -> Option<&'a HeaderValue> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    Some(&header.value)
}

/// Whether a filter may write this field: what [`Request::set_header`](crate::Request::set_header) checks, for use in
/// [`configure`](crate::Filter::configure). An empty value is a good one.
///
/// # Errors
///
/// `Invalid` or `Forbidden`.
pub fn check_header(name: &str, value: impl AsRef<[u8]>) -> Result<(), EditError> {
    // RFC 9110 section 5.5: HTAB is the only control character in a field's value.
    let valid_value = value
        .as_ref()
        .iter()
        .all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if name.is_empty() || !name.bytes().all(is_token) || !valid_value {
        return Err(EditError::Invalid);
    }
    match is_forbidden(name) {
        true => Err(EditError::Forbidden),
        false => Ok(()),
    }
}

/// Also with `_` for `-`, which some upstreams take for the same name.
fn is_forbidden(name: &str) -> bool {
    let is_same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a, b) == (b'_', b'-');
    let is_twin = |known: &&str| name.len() == known.len() && name.bytes().zip(known.bytes()).all(is_same);
    HOST_OWNED.iter().any(is_twin) || (name.contains('_') && NO_TWIN.iter().any(is_twin))
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The framing and hop-by-hop fields, and `host`, for which there is `set_authority`.
const HOST_OWNED: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// May be written, but not with `_` for `-`.
const NO_TWIN: [&str; 7] = [
    "http2-settings",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// A header field's value. Compares with `str` and bytes: `value == "gzip"`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderValue(Vec<u8>);

impl HeaderValue {
    /// The value as text.
    ///
    /// # Errors
    ///
    /// The value is not UTF-8, which HTTP allows.
    pub fn to_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0)
    }

    /// The value as it was on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for HeaderValue {
    fn from(bytes: Vec<u8>) -> Self {
        HeaderValue(bytes)
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        HeaderValue(text.into())
    }
}

impl Deref for HeaderValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for HeaderValue {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for HeaderValue {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for HeaderValue {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl PartialEq<String> for HeaderValue {
    fn eq(&self, other: &String) -> bool {
        *self == **other
    }
}

impl PartialEq<[u8]> for HeaderValue {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.0.escape_ascii())
    }
}
