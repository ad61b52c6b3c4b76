//! A request as bytes: its head in one pass, and the framing of its body.
//!
//! Data plane; pure. Invariant: the framing fields are written here and nowhere else, from what the body is, so they
//! cannot contradict it.

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

/// What a field takes in the average head, with its separators.
const USUAL_FIELD: usize = 48;

/// A request's head before it has a framing.
pub struct RequestLines<'a> {
    pub method: &'a Method,
    pub target: &'a PathAndQuery,
    pub headers: &'a HeaderMap,
    /// What this proxy says of itself, behind all other Via fields (RFC 9110 7.6.3).
    pub via: &'a HeaderValue,
}

/// How the rest of a request's body is framed.
#[derive(Debug, PartialEq, Eq)]
pub enum Encoder {
    /// So many bytes are still to come.
    Sized(u64),
    /// Chunks, and then those trailers that the head announced.
    Chunked { announced: Vec<HeaderName> },
    /// Nothing follows.
    Ended,
}

impl Encoder {
    /// Writes a head and goes on with its body: of `length` bytes, or of unknown length.
    pub fn begin(lines: &RequestLines<'_>, length: Option<u64>, into: &mut Vec<u8>) -> Self {
        let target = lines.target.as_str();
        into.reserve(target.len() + (lines.headers.len() + 2) * USUAL_FIELD);
        into.extend_from_slice(lines.method.as_str().as_bytes());
        into.push(b' ');
        into.extend_from_slice(target.as_bytes());
        into.extend_from_slice(b" HTTP/1.1\r\n");
        let mut declared = false;
        for (name, value) in lines.headers {
            if *name == header::CONTENT_LENGTH {
                declared = true;
            } else if *name != header::TRANSFER_ENCODING {
                write_field(name.as_str(), value.as_bytes(), into);
            }
        }
        write_field("via", lines.via.as_bytes(), into);
        let encoder = match length {
            // A method that usually has a body says that this one is empty (RFC 9110 8.6), if the client did.
            Some(0) if !declared => Self::Ended,
            Some(length) => {
                write_field("content-length", HeaderValue::from(length).as_bytes(), into);
                if length == 0 { Self::Ended } else { Self::Sized(length) }
            }
            None => {
                write_field("transfer-encoding", b"chunked", into);
                Self::Chunked {
                    announced: announced(lines.headers),
                }
            }
        };
        into.extend_from_slice(b"\r\n");
        encoder
    }

    pub fn is_ended(&self) -> bool {
        *self == Self::Ended
    }

    /// Writes what stands before a piece of `length` bytes, and returns what stands behind it. `None` when the body may
    /// not have so many.
    pub fn frame(&mut self, length: usize, into: &mut Vec<u8>) -> Option<&'static [u8]> {
        match self {
            Self::Sized(left) => {
                *left = left.checked_sub(length as u64)?;
                if *left == 0 {
                    *self = Self::Ended;
                }
                Some(b"")
            }
            Self::Chunked { .. } => {
                write_size(length, into);
                Some(b"\r\n")
            }
            Self::Ended => None,
        }
    }

    /// Writes the body's end, with the trailers that were announced; `None` when there should have been more of it.
    pub fn end(&mut self, trailers: Option<&HeaderMap>, into: &mut Vec<u8>) -> Option<()> {
        if let Self::Chunked { announced } = self {
            into.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.into_iter().flatten() {
                if announced.contains(name) {
                    write_field(name.as_str(), value.as_bytes(), into);
                }
            }
            into.extend_from_slice(b"\r\n");
            *self = Self::Ended;
        }
        self.is_ended().then_some(())
    }
}

/// The names in the Trailer field (RFC 9110 6.6.2). Others are dropped, as the next hop may not expect them.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::TRAILER).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

fn write_field(name: &str, value: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

/// A chunk's size line (RFC 9112 7.1).
fn write_size(size: usize, into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4);
    let line = (0..digits).rev().map(|digit| DIGITS[(size >> (4 * digit)) & 15]);
    into.extend(line);
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    fn begin(method: Method, fields: &[(&'static str, &'static str)], length: Option<u64>) -> (Encoder, String) {
        let mut bytes = Vec::new();
        let lines = RequestLines {
            method: &method,
            target: &PathAndQuery::from_static("/a?b"),
            headers: &map(fields),
            via: &HeaderValue::from_static("1.1 p"),
        };
        let encoder = Encoder::begin(&lines, length, &mut bytes);
        (encoder, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn heads() {
        type Case<'a> = (
            Method,
            &'a [(&'static str, &'static str)],
            Option<u64>,
            Encoder,
            &'a str,
        );
        let chunked = || Encoder::Chunked { announced: Vec::new() };
        let cases: &[Case] = &[
            (
                Method::GET,
                &[("host", "h")],
                Some(0),
                Encoder::Ended,
                "host: h\r\nvia: 1.1 p\r\n",
            ),
            (
                Method::POST,
                &[("content-length", "0")],
                Some(0),
                Encoder::Ended,
                "via: 1.1 p\r\ncontent-length: 0\r\n",
            ),
            // Whatever the fields claim: there is no body, there is one, there is one of unknown length.
            (
                Method::POST,
                &[("content-length", "5"), ("transfer-encoding", "chunked")],
                Some(0),
                Encoder::Ended,
                "via: 1.1 p\r\ncontent-length: 0\r\n",
            ),
            (
                Method::PUT,
                &[("transfer-encoding", "chunked")],
                Some(5),
                Encoder::Sized(5),
                "via: 1.1 p\r\ncontent-length: 5\r\n",
            ),
            (
                Method::GET,
                &[("content-length", "5"), ("via", "1.0 q")],
                None,
                chunked(),
                "via: 1.0 q\r\nvia: 1.1 p\r\ntransfer-encoding: chunked\r\n",
            ),
        ];
        for (method, fields, length, encoder, expected) in cases {
            let expected = format!("{method} /a?b HTTP/1.1\r\n{expected}\r\n");
            let (got, bytes) = begin(method.clone(), fields, *length);
            assert_eq!((&got, bytes), (encoder, expected), "{fields:?}, {length:?}");
        }
    }

    #[test]
    fn values_of_one_name_stay_in_order() {
        let mut headers = HeaderMap::new();
        for value in ["1", "2", "3"] {
            headers.append("x-a", HeaderValue::from_static(value));
            headers.append("x-b", HeaderValue::from_static(value));
        }
        let mut bytes = Vec::new();
        let lines = RequestLines {
            method: &Method::GET,
            target: &PathAndQuery::from_static("*"),
            headers: &headers,
            via: &HeaderValue::from_static("1.1 p"),
        };
        Encoder::begin(&lines, Some(0), &mut bytes);
        let expected =
            "GET * HTTP/1.1\r\nx-a: 1\r\nx-a: 2\r\nx-a: 3\r\nx-b: 1\r\nx-b: 2\r\nx-b: 3\r\nvia: 1.1 p\r\n\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_sized_body_has_its_size() {
        let mut encoder = Encoder::Sized(5);
        let mut bytes = Vec::new();
        assert_eq!(encoder.frame(3, &mut bytes), Some(&b""[..]));
        assert_eq!(encoder.end(None, &mut bytes), None, "two are missing");
        assert_eq!(encoder.frame(3, &mut bytes), None, "one too many");
        assert_eq!(encoder.frame(2, &mut bytes), Some(&b""[..]));
        assert_eq!(encoder.end(None, &mut bytes), Some(()));
        assert_eq!(encoder.frame(1, &mut bytes), None, "behind the end");
        assert_eq!(bytes, b"", "lengths have no marks");
    }

    #[test]
    fn trailers_are_those_announced() {
        let (mut encoder, _) = begin(Method::POST, &[("trailer", "x-sum , ,\"x"), ("trailer", "x-b")], None);
        let trailers = map(&[("x-sum", "1"), ("x-c", "2"), ("x-b", "")]);
        let mut bytes = Vec::new();
        encoder.frame(11, &mut bytes);
        encoder.end(Some(&trailers), &mut bytes);
        assert_eq!(String::from_utf8(bytes).unwrap(), "B\r\n0\r\nx-sum: 1\r\nx-b: \r\n\r\n");
        assert!(encoder.is_ended());
    }

    proptest! {
        #[test]
        fn sizes_are_hexadecimal(size in 1usize..) {
            let mut bytes = Vec::new();
            write_size(size, &mut bytes);
            prop_assert_eq!(bytes, format!("{size:X}\r\n").into_bytes());
        }
    }
}
