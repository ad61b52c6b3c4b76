//! gRPC over HTTP: how its calls are told from others, how failures are said in it, and where its messages end.
//!
//! Data plane; pure. A call's status stands behind its messages, in the trailers, so a failure that is told in the way of
//! HTTP is none to a client of gRPC: what this proxy itself answers to a call is said as a status
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Invariant: a status is written only where the
//! messages so far are whole. It knows no socket, no engine and no configuration.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::filter::Reply;
use crate::reply::Kind;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A message's flag and its length.
const PREFIX_BYTES: usize = 5;
/// The protocol's bound on the digits of a timeout.
const MAX_TIMEOUT_DIGITS: usize = 8;

/// A status code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u8);

impl Status {
    pub const CANCELLED: Self = Self(1);
    pub const UNKNOWN: Self = Self(2);
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    pub const PERMISSION_DENIED: Self = Self(7);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const UNIMPLEMENTED: Self = Self(12);
    pub const INTERNAL: Self = Self(13);
    pub const UNAVAILABLE: Self = Self(14);
    pub const UNAUTHENTICATED: Self = Self(16);

    const WORDS: [&str; 17] = [
        "ok",
        "cancelled",
        "unknown",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "already_exists",
        "permission_denied",
        "resource_exhausted",
        "failed_precondition",
        "aborted",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
        "unauthenticated",
    ];

    pub fn code(self) -> u8 {
        self.0
    }

    /// A word for metrics.
    pub fn as_str(self) -> &'static str {
        Self::WORDS[usize::from(self.0).min(Self::WORDS.len() - 1)]
    }

    /// What a head, or a trailer section, says; one that is no status is unknown.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let digits = fields.get(&GRPC_STATUS)?.to_str().ok();
        let code = digits.and_then(|digits| digits.parse().ok());
        Some(match code {
            Some(code) if usize::from(code) < Self::WORDS.len() => Self(code),
            _ => Self::UNKNOWN,
        })
    }

    /// What a status of HTTP means: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>, and two
    /// things that a proxy knows better: that time was over, and that something was too large.
    pub fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            413 | 414 | 431 => Self::RESOURCE_EXHAUSTED,
            429 | 502 | 503 => Self::UNAVAILABLE,
            504 => Self::DEADLINE_EXCEEDED,
            _ => Self::UNKNOWN,
        }
    }

    /// What a failure means.
    pub fn of_failure(kind: Kind) -> Self {
        match kind {
            Kind::ResetBy(code) => Self::of_reset(code),
            // What came back was no answer: trying again is of no use.
            Kind::Protocol | Kind::NoStatus => Self::INTERNAL,
            kind if kind.status() == StatusCode::INTERNAL_SERVER_ERROR => Self::INTERNAL,
            kind => Self::of_http(kind.status()),
        }
    }

    /// What a reset of an HTTP/2 stream means, by its code (PROTOCOL-HTTP2, "Errors").
    fn of_reset(code: u32) -> Self {
        match code {
            7 => Self::UNAVAILABLE,
            8 => Self::CANCELLED,
            11 => Self::RESOURCE_EXHAUSTED,
            12 => Self::PERMISSION_DENIED,
            _ => Self::INTERNAL,
        }
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from(u16::from(self.0))
    }

    /// Trailers that say it.
    pub fn trailers(self, message: &'static str) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(GRPC_STATUS.clone(), self.value());
        trailers.insert(GRPC_MESSAGE.clone(), HeaderValue::from_static(message));
        trailers
    }
}

/// What a message is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Its status is in the trailers.
    Http2,
    /// gRPC-Web, whose status is in the body.
    Web,
}

/// Whether these are the fields of a message of gRPC.
pub fn wire(headers: &HeaderMap) -> Option<Wire> {
    let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let prefix = b"application/grpc";
    let (begin, rest) = kind.split_at_checked(prefix.len())?;
    if !begin.eq_ignore_ascii_case(prefix) {
        return None;
    }
    match rest {
        [] | [b'+' | b';' | b' ', ..] => Some(Wire::Http2),
        [b'-', ..] => Some(Wire::Web),
        _ => None,
    }
}

/// How long the client waits, if it says so: digits and a unit, from hours to nanoseconds.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(&GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > MAX_TIMEOUT_DIGITS {
        return None;
    }
    let count = std::str::from_utf8(digits).ok()?;
    let count: u64 = count
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| count.parse().ok())??;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Says a failure as a call's whole answer.
pub fn failure(kind: Kind, request_id: &HeaderValue) -> Reply {
    let status = kind.status();
    let phrase = status.canonical_reason().unwrap_or("Error").to_ascii_lowercase();
    let id = String::from_utf8_lossy(request_id.as_bytes());
    answer(
        Status::of_failure(kind),
        &format!("{} {phrase}, request id: {id}", status.as_u16()),
    )
}

/// Makes an answer that was meant for HTTP one to a call, unless it has a status already. Its fields stay.
pub fn translate(reply: &mut Reply) {
    if reply.headers.contains_key(&GRPC_STATUS) {
        return;
    }
    let phrase = reply.status.canonical_reason().unwrap_or("Error").to_ascii_lowercase();
    let said = answer(
        Status::of_http(reply.status),
        &format!("{} {phrase}", reply.status.as_u16()),
    );
    reply.status = said.status;
    reply.body = said.body;
    reply.headers.remove(header::CONTENT_ENCODING);
    reply.headers.extend(said.headers);
}

/// A head alone.
fn answer(status: Status, message: &str) -> Reply {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS.clone(), status.value());
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)) {
        headers.insert(GRPC_MESSAGE.clone(), message);
    }
    Reply {
        status: StatusCode::OK,
        headers,
        body: Bytes::new(),
    }
}

/// As `grpc-message` wants it.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A call on its way: where its response stands. Lives as long as its exchange.
#[derive(Debug, Default)]
pub struct Call {
    pub status: Option<Status>,
    /// Whether the response takes trailers, so that a status can be put behind it.
    takes_status: bool,
    lacked_status: bool,
    messages: Messages,
}

impl Call {
    /// The response has this head, and `client` says whether trailers reach the client.
    pub fn begin_response(&mut self, headers: &HeaderMap, client: Trailers) {
        self.status = Status::of(headers);
        self.takes_status = self.status.is_none()
            && client == Trailers::Reach
            && wire(headers) == Some(Wire::Http2)
            && !headers.contains_key(header::CONTENT_LENGTH);
    }

    pub fn take_data(&mut self, bytes: &[u8]) {
        if self.takes_status {
            self.messages.feed(bytes);
        }
    }

    /// Trailers that say no status get one.
    pub fn take_trailers(&mut self, trailers: &mut HeaderMap) {
        self.status = Status::of(trailers).or(self.status);
        if self.owes_status() {
            let failure = Kind::NoStatus;
            let status = Status::of_failure(failure);
            self.status = Some(status);
            self.lacked_status = true;
            trailers.extend(status.trailers(failure.reason()));
        }
    }

    /// Whether the upstream has forgotten it in its trailers.
    pub fn lacked_status(&self) -> bool {
        self.lacked_status
    }

    /// Whether the response may not end like this: its status is missing.
    pub fn owes_status(&self) -> bool {
        self.takes_status && self.status.is_none()
    }

    /// Puts a status behind the response, if what there is of it is whole.
    pub fn end(&mut self, status: Status, message: &'static str) -> Option<HeaderMap> {
        if !self.owes_status() || !self.messages.are_whole() {
            return None;
        }
        self.status = Some(status);
        Some(status.trailers(message))
    }
}

/// Whether trailers reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailers {
    Reach,
    Lost,
}

/// Follows the messages of a body, of which it keeps nothing.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the present prefix that have come.
    filled: usize,
    /// Bytes of the present message that are still to come.
    left: usize,
}

impl Messages {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = bytes.len().min(self.left);
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            let taken = bytes.len().min(PREFIX_BYTES - self.filled);
            self.prefix[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.filled = 0;
            }
        }
    }

    fn are_whole(&self) -> bool {
        self.filled == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (kind, expected) in [
            ("application/grpc", Some(Wire::Http2)),
            ("application/grpc+proto", Some(Wire::Http2)),
            ("Application/GRPC;x", Some(Wire::Http2)),
            ("application/grpc-web+proto", Some(Wire::Web)),
            ("application/grpcs", None),
            ("application/grp", None),
            ("text/plain", None),
        ] {
            assert_eq!(wire(&field("content-type", kind)), expected, "{kind}");
        }
    }

    #[test]
    fn timeouts() {
        let seconds = |count| Some(Duration::from_secs(count));
        for (text, expected) in [
            ("1H", seconds(3_600)),
            ("2M", seconds(120)),
            ("3S", seconds(3)),
            ("00000004S", seconds(4)),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0S", seconds(0)),
            ("100000000S", None),
            ("+1S", None),
            ("-1S", None),
            ("1", None),
            ("S", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(timeout(&field("grpc-timeout", text)), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_with_a_status_stays_as_it_is() {
        let mut reply = Reply {
            status: StatusCode::OK,
            headers: field("grpc-status", "9"),
            body: Bytes::from_static(b"x"),
        };
        translate(&mut reply);
        assert_eq!((reply.headers.len(), &*reply.body), (1, &b"x"[..]));
        assert_eq!(
            Status::of(&reply.headers).map(Status::as_str),
            Some("failed_precondition")
        );
    }

    #[test]
    fn an_answer_without_one_gets_one() {
        let mut reply = Reply {
            status: StatusCode::FORBIDDEN,
            headers: field("content-type", "text/html"),
            body: Bytes::from_static(b"<p>no"),
        };
        reply.headers.extend(field("x-why", "not you"));
        translate(&mut reply);
        assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
        assert_eq!(reply.headers["content-type"], "application/grpc");
        assert_eq!(reply.headers["grpc-status"], "7");
        assert_eq!(reply.headers["grpc-message"], "403 forbidden");
        assert_eq!(reply.headers["x-why"], "not you");
    }

    #[test]
    fn what_is_no_status_is_unknown() {
        for text in ["17", "255", "256", "-1", "x", ""] {
            assert_eq!(Status::of(&field("grpc-status", text)), Some(Status::UNKNOWN), "{text}");
        }
        assert_eq!(Status::of(&field("grpc-status", "16")), Some(Status::UNAUTHENTICATED));
        assert_eq!(percent_encoded("a%\n\u{e9}"), "a%25%0A%C3%A9");
    }

    #[test]
    fn a_status_is_put_behind_whole_messages_alone() {
        let mut call = Call::default();
        call.begin_response(&field("content-type", "application/grpc"), Trailers::Reach);
        assert!(call.owes_status());
        call.take_data(b"\0\0\0\0\x02a");
        assert_eq!(call.end(Status::INTERNAL, "cut"), None);
        call.take_data(b"b");
        let trailers = call.end(Status::INTERNAL, "cut").expect("the message is whole");
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"13".parse().unwrap(), &"cut".parse().unwrap())
        );
        assert!(!call.owes_status());
        for (headers, client) in [
            (field("grpc-status", "0"), Trailers::Reach),
            (field("content-type", "application/grpc"), Trailers::Lost),
            (field("content-type", "application/grpc-web"), Trailers::Reach),
        ] {
            let mut call = Call::default();
            call.begin_response(&headers, client);
            assert!(!call.owes_status(), "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            sizes in proptest::collection::vec(0usize..40, 0..8),
            cut in 0usize..300,
            pieces in proptest::collection::vec(1usize..30, 1..20),
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for size in sizes {
                bytes.push(0);
                bytes.extend((size as u32).to_be_bytes());
                bytes.resize(bytes.len() + size, 7);
                ends.push(bytes.len());
            }
            bytes.truncate(cut);
            let mut messages = Messages::default();
            let mut rest = &bytes[..];
            for piece in pieces.into_iter().cycle() {
                let (piece, left) = rest.split_at(piece.min(rest.len()));
                messages.feed(piece);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(messages.are_whole(), ends.contains(&bytes.len()));
        }
    }
}
