//! A response's head: bytes to status, fields and framing.
//!
//! Data plane; pure. Invariant: only a head whose body can end in one place is a [`Head`] (RFC 9112 6.3); what leaves a
//! doubt is a [`Fault`]. Fields are slices of the bytes that came in; nothing is copied.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::{Fault, MAX_FIELDS};

/// The head of a response; more is the upstream's fault. As generous as the default for clients (64 KiB).
pub const MAX_HEAD: usize = 64 << 10;

/// Room for what the proxy adds to nearly every response (Via), so that the map need not grow.
const ADDED_FIELDS: usize = 1;

/// Room at least: hyper reads the client's next request into the map of the response before it, to which the proxy adds four
/// fields and filters theirs. A map grows by moving all that is in it.
const USUAL_REQUEST: usize = 12;

/// What a response says before its body.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The connection can serve another request after this response (RFC 9112 9.3). Never after one of HTTP/1.0.
    pub persistent: bool,
}

/// Where a response ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Sized(u64),
    Chunked,
    UntilClose,
}

#[derive(Debug)]
pub enum Parsed {
    /// The head is not complete.
    Partial,
    /// A whole head before the final one (RFC 9110 15.2).
    Interim,
    Final(Head),
    /// 101: behind the head the bytes are another protocol's (RFC 9110 15.2.2).
    Switching(Head),
}

/// Takes one whole head off the front of `input`, as an answer to a request with this method.
pub fn parse(input: &mut Bytes, method: &Method) -> Result<Parsed, Fault> {
    if matches!(input.first(), Some(b'\r' | b'\n')) {
        return Err(Fault::LineEnd);
    }
    let bytes = input.clone();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, &bytes, &mut fields)?;
    let httparse::Status::Complete(length) = parsed else {
        return if input.len() > MAX_HEAD {
            Err(Fault::HeadTooLarge)
        } else {
            Ok(Parsed::Partial)
        };
    };
    if length > MAX_HEAD {
        return Err(Fault::HeadTooLarge);
    }
    refuse_bare_line_feeds(&bytes[..length], response.headers)?;
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| Fault::Status)?;
    input.advance(length);
    match status {
        StatusCode::SWITCHING_PROTOCOLS => {}
        status if status.is_informational() => return Ok(Parsed::Interim),
        _ => {}
    }
    let room = (response.headers.len() + ADDED_FIELDS).max(USUAL_REQUEST);
    let mut headers = HeaderMap::with_capacity(room);
    let mut facts = Facts::new(response.version == Some(1));
    for field in &*response.headers {
        let name = name_of(field.name)?;
        if facts.note(&name, field.value)? == Whose::Connections {
            continue;
        }
        let value =
            HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| httparse::Error::HeaderValue)?;
        headers.append(name, value);
    }
    if let Lengths::Repeated(length) = facts.lengths {
        // RFC 9112 6.3: a length that is said twice is passed on once, or not at all.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let framing = facts.framing(status, method)?;
    let head = Head {
        status,
        headers,
        persistent: facts.is_current && !facts.closes && framing != Framing::UntilClose,
        framing,
    };
    Ok(match status {
        // RFC 9110 7.8: there is no such thing in HTTP/1.0.
        StatusCode::SWITCHING_PROTOCOLS if !facts.is_current => return Err(Fault::Upgrade),
        StatusCode::SWITCHING_PROTOCOLS => Parsed::Switching(head),
        _ => Parsed::Final(head),
    })
}

/// Whether a head may end in `bytes`, of which the first `seen` were looked at before: what saves parsing a head anew
/// for each byte that a slow upstream sends.
pub fn ends_a_head(bytes: &[u8], seen: usize) -> bool {
    let fresh = &bytes[seen.saturating_sub(3)..];
    memchr::memchr_iter(b'\n', fresh).any(|at| matches!(fresh[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// RFC 9112 2.2 allows LF for CRLF; who takes it differs from who does not about where a head ends. The parser takes
/// both, but shows where each value ends.
fn refuse_bare_line_feeds(head: &[u8], fields: &[httparse::Header<'_>]) -> Result<(), Fault> {
    let status_line = memchr::memchr(b'\n', head).unwrap_or_default();
    let whole = head[..status_line].ends_with(b"\r") && head.ends_with(b"\r\n\r\n");
    let is_ended_well = |field: &httparse::Header<'_>| {
        let end = field.value.as_ptr_range().end as usize - head.as_ptr() as usize;
        match head.get(end..) {
            Some([b'\r', b'\n', ..]) => true,
            Some(behind) => {
                let blanks = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                behind[blanks..].starts_with(b"\r\n")
            }
            None => false,
        }
    };
    if whole && fields.iter().all(is_ended_well) {
        Ok(())
    } else {
        Err(Fault::LineEnd)
    }
}

/// The name of a field. Those that nearly every response has are told by their usual spelling first: `HeaderName`
/// hashes and folds each byte, which took 3 % of a small request.
fn name_of(name: &str) -> Result<HeaderName, Fault> {
    Ok(match name {
        "Date" => header::DATE,
        "ETag" => header::ETAG,
        "Vary" => header::VARY,
        "Server" => header::SERVER,
        "Connection" => header::CONNECTION,
        "Content-Type" => header::CONTENT_TYPE,
        "Cache-Control" => header::CACHE_CONTROL,
        "Last-Modified" => header::LAST_MODIFIED,
        "Content-Length" => header::CONTENT_LENGTH,
        "Transfer-Encoding" => header::TRANSFER_ENCODING,
        other => HeaderName::from_bytes(other.as_bytes()).map_err(|_| httparse::Error::HeaderName)?,
    })
}

/// What the fields say about the message and its connection.
struct Facts {
    /// HTTP/1.1, not 1.0.
    is_current: bool,
    lengths: Lengths,
    is_chunked: bool,
    closes: bool,
}

#[derive(Clone, Copy)]
enum Lengths {
    None,
    One(u64),
    /// More than once, always the same.
    Repeated(u64),
}

/// Whom a field is for.
#[derive(PartialEq, Eq)]
enum Whose {
    Messages,
    /// It says how the connection goes on and nothing else, so it ends here (RFC 9110 7.6.1).
    Connections,
}

impl Facts {
    fn new(is_current: bool) -> Self {
        Self {
            is_current,
            lengths: Lengths::None,
            is_chunked: false,
            closes: false,
        }
    }

    #[inline]
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<Whose, Fault> {
        if *name == header::CONTENT_LENGTH {
            self.note_lengths(value)?;
        } else if *name == header::CONNECTION {
            if value == b"keep-alive" {
                return Ok(Whose::Connections);
            }
            self.closes |= members(value).any(|option| option.eq_ignore_ascii_case(b"close"));
        } else if *name == header::TRANSFER_ENCODING {
            // RFC 9112 6.1: only what TE asked for, never twice, and nothing at all in HTTP/1.0.
            if self.is_chunked || !self.is_current || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::Coding);
            }
            self.is_chunked = true;
        }
        Ok(Whose::Messages)
    }

    fn note_lengths(&mut self, value: &[u8]) -> Result<(), Fault> {
        for member in members(value) {
            let length = number(member).ok_or(Fault::Length)?;
            self.lengths = match self.lengths {
                Lengths::None => Lengths::One(length),
                Lengths::One(before) | Lengths::Repeated(before) if before == length => Lengths::Repeated(length),
                _ => return Err(Fault::Length),
            };
        }
        Ok(())
    }

    fn framing(&self, status: StatusCode, method: &Method) -> Result<Framing, Fault> {
        match (self.lengths, self.is_chunked) {
            (Lengths::One(_) | Lengths::Repeated(_), true) => Err(Fault::LengthWithCoding),
            _ if *method == Method::HEAD
                || status == StatusCode::NO_CONTENT
                || status == StatusCode::NOT_MODIFIED
                || status.is_informational() =>
            {
                Ok(Framing::Sized(0))
            }
            (Lengths::None, true) => Ok(Framing::Chunked),
            (Lengths::None, false) => Ok(Framing::UntilClose),
            (Lengths::One(length) | Lengths::Repeated(length), false) => Ok(Framing::Sized(length)),
        }
    }
}

fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Digits alone: no sign, no space, not empty, within 64 bits.
fn number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let value = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(value)
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head as far as it decides anything, with what is left behind it.
    fn outcome(bytes: &[u8], method: &Method) -> String {
        let mut input = Bytes::copy_from_slice(bytes);
        let parsed = match parse(&mut input, method) {
            Ok(Parsed::Final(head)) => format!(
                "{} {:?} persistent {}",
                head.status.as_u16(),
                head.framing,
                head.persistent
            ),
            Ok(Parsed::Switching(head)) => format!("Switching {} {:?}", head.status.as_u16(), head.framing),
            Ok(other) => format!("{other:?}"),
            Err(Fault::Syntax(_)) => "Syntax".to_owned(),
            Err(fault) => format!("{fault:?}"),
        };
        format!("{parsed} {:?}", String::from_utf8_lossy(&input))
    }

    #[test]
    fn framings() {
        let (get, head) = (Method::GET, Method::HEAD);
        let cases: &[(&Method, &str, &str, &str)] = &[
            (&get, "1.1 200 OK", "content-length: 5", "200 Sized(5) persistent true"),
            (&get, "1.1 200", "content-length: 5", "200 Sized(5) persistent true"),
            (&get, "1.1 200 ", "content-length: 005", "200 Sized(5) persistent true"),
            (&get, "1.0 200 OK", "content-length: 5", "200 Sized(5) persistent false"),
            (
                &get,
                "1.0 200 OK",
                "content-length: 5\r\nconnection: keep-alive",
                "200 Sized(5) persistent false",
            ),
            (
                &get,
                "1.1 200 OK",
                "content-length: 5\r\nconnection: a, Close",
                "200 Sized(5) persistent false",
            ),
            (
                &get,
                "1.1 200 OK",
                "content-length: 5\r\nconnection: close\r\nconnection: keep-alive",
                "200 Sized(5) persistent false",
            ),
            (
                &get,
                "1.1 200 OK",
                "transfer-encoding: Chunked",
                "200 Chunked persistent true",
            ),
            (&get, "1.1 200 OK", "x: y", "200 UntilClose persistent false"),
            (
                &get,
                "1.1 200 OK",
                "content-length: 5, 5\r\ncontent-length: 5",
                "200 Sized(5) persistent true",
            ),
            (&head, "1.1 200 OK", "content-length: 5", "200 Sized(0) persistent true"),
            (
                &head,
                "1.1 200 OK",
                "transfer-encoding: chunked",
                "200 Sized(0) persistent true",
            ),
            (&head, "1.1 200 OK", "x: y", "200 Sized(0) persistent true"),
            (&get, "1.1 204 No", "content-length: 5", "204 Sized(0) persistent true"),
            (&get, "1.1 304 No", "content-length: 5", "304 Sized(0) persistent true"),
            (&get, "1.1 100 Go", "content-length: 5", "Interim"),
            (&get, "1.1 103 Hints", "link: x", "Interim"),
            (&get, "1.1 101 Up", "upgrade: x", "Switching 101 Sized(0)"),
            (&get, "1.1 101 Up", "content-length: 5", "Switching 101 Sized(0)"),
            (&get, "1.0 101 Up", "upgrade: x", "Upgrade"),
            (
                &get,
                "1.1 200 OK",
                "content-length: 5\r\ntransfer-encoding: chunked",
                "LengthWithCoding",
            ),
            (
                &head,
                "1.1 200 OK",
                "content-length: 5\r\ntransfer-encoding: chunked",
                "LengthWithCoding",
            ),
            (
                &get,
                "1.1 200 OK",
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
                "Coding",
            ),
            (&get, "1.1 200 OK", "transfer-encoding: gzip, chunked", "Coding"),
            (&get, "1.1 200 OK", "transfer-encoding: identity", "Coding"),
            (&get, "1.0 200 OK", "transfer-encoding: chunked", "Coding"),
            (&get, "1.1 200 OK", "content-length: 5\r\ncontent-length: 6", "Length"),
            (&get, "1.1 200 OK", "content-length: 5, 6", "Length"),
            (&get, "1.1 200 OK", "content-length: ", "Length"),
            (&get, "1.1 200 OK", "content-length: +5", "Length"),
            (&get, "1.1 200 OK", "content-length: 5 5", "Length"),
            (&get, "1.1 200 OK", "content-length: 18446744073709551616", "Length"),
            (&get, "1.1 099 No", "content-length: 5", "Status"),
            (&get, "2.0 200 OK", "content-length: 5", "Syntax"),
            (&get, "1.1 2000 OK", "content-length: 5", "Syntax"),
            (&get, "1.1 200 O\u{1}", "content-length: 5", "Syntax"),
            (&get, "1.1 200 OK", "x : y", "Syntax"),
            (&get, "1.1 200 OK", "x y: z", "Syntax"),
            (&get, "1.1 200 OK", "x: y\r\n z", "Syntax"),
            (&get, "1.1 200 OK", "x: y\rz", "Syntax"),
            (&get, "1.1 200 OK", "x: y\0z", "Syntax"),
            (&get, "1.1 200 OK", ": y", "Syntax"),
            (&get, "1.1 200 OK", "x", "Syntax"),
            (&get, "1.1 200 OK", "x: y\nz: 1", "LineEnd"),
            (&get, "1.1 200 OK\nx: y", "z: 1", "LineEnd"),
        ];
        for (method, start, fields, expected) in cases {
            let bytes = format!("HTTP/{start}\r\n{fields}\r\n\r\nrest");
            let got = outcome(bytes.as_bytes(), method);
            assert!(got.starts_with(expected), "{bytes:?}: {got}");
            if expected.contains("persistent") || *expected == "Interim" {
                assert!(got.ends_with(" \"rest\""), "{bytes:?}: {got}");
            }
        }
        assert!(outcome(b"\r\nHTTP/1.1 200 OK\r\n\r\n", &get).starts_with("LineEnd"));
        assert!(outcome(b"<html>\r\n\r\n", &get).starts_with("Syntax"));
    }

    #[test]
    fn a_repeated_length_is_said_once() {
        let mut input = Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\ncontent-length: 5\r\n\r\n");
        let Ok(Parsed::Final(head)) = parse(&mut input, &Method::GET) else {
            panic!("a head")
        };
        let lengths: Vec<_> = head.headers.get_all("content-length").iter().collect();
        assert_eq!(lengths, ["5"]);
    }

    #[test]
    fn the_usual_names_are_themselves() {
        let usual = [
            "Date",
            "ETag",
            "Vary",
            "Server",
            "Connection",
            "Content-Type",
            "Cache-Control",
            "Last-Modified",
            "Content-Length",
            "Transfer-Encoding",
            "X-Other",
        ];
        for name in usual {
            assert_eq!(
                name_of(name),
                Ok(HeaderName::from_bytes(name.as_bytes()).unwrap()),
                "{name}"
            );
        }
    }

    #[test]
    fn what_the_connection_says_of_itself_ends_here() {
        let fields = |connection: &str| {
            let bytes = format!("HTTP/1.1 200 OK\r\nConnection: {connection}\r\nContent-Length: 0\r\n\r\n");
            let Ok(Parsed::Final(head)) = parse(&mut Bytes::from(bytes), &Method::GET) else {
                panic!("a head")
            };
            head.headers.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(fields("keep-alive"), ["content-length"]);
        // What else is nominated goes with the rest of what belongs to one hop.
        assert_eq!(fields("keep-alive, x-a"), ["connection", "content-length"]);
    }

    #[test]
    fn heads_are_bounded() {
        let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(count));
        assert!(outcome(fields(MAX_FIELDS).as_bytes(), &Method::GET).starts_with("200"));
        assert!(outcome(fields(MAX_FIELDS + 1).as_bytes(), &Method::GET).starts_with("Syntax"));
        let long = |bytes: usize| format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(bytes));
        assert!(outcome(long(MAX_HEAD).as_bytes(), &Method::GET).starts_with("HeadTooLarge"));
        let whole = format!("{}\r\n\r\n", long(MAX_HEAD));
        assert!(outcome(whole.as_bytes(), &Method::GET).starts_with("HeadTooLarge"));
        assert!(outcome(long(MAX_HEAD - 20).as_bytes(), &Method::GET).starts_with("Partial"));
    }

    /// No prefix of a good head is anything but partial, and the end is seen wherever the bytes are cut.
    #[test]
    fn prefixes_are_partial() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: \xe9 b\t\r\nEmpty:\r\n\r\n";
        for cut in 0..whole.len() {
            let got = outcome(&whole[..cut], &Method::GET);
            assert!(got.starts_with("Partial"), "{cut}: {got}");
            assert!(!ends_a_head(&whole[..cut], 0), "{cut}");
            assert!(ends_a_head(whole, cut), "{cut}");
        }
        let mut input = Bytes::from_static(whole);
        let Ok(Parsed::Final(head)) = parse(&mut input, &Method::GET) else {
            panic!("a head")
        };
        assert_eq!(head.headers["x-a"].as_bytes(), b"\xe9 b");
        assert_eq!(head.headers["empty"], "");
        assert!(
            head.headers["x-a"].as_bytes().as_ptr_range().start > whole.as_ptr(),
            "a slice, not a copy"
        );
        assert!(head.headers["x-a"].as_bytes().as_ptr_range().end < whole.as_ptr_range().end);
    }

    proptest! {
        /// No input makes it panic, and what was not taken is left as it was.
        #[test]
        fn anything_has_an_outcome(bytes in "(HTTP/1\\.[01] [0-9]{2,4}[ -~]{0,5}\r?\n)?([A-Za-z-]{1,3}:[ \t]{0,2}[ -~\t]{0,9}\r?\n){0,4}\r?\n?") {
            let mut input = Bytes::copy_from_slice(bytes.as_bytes());
            let parsed = parse(&mut input, &Method::GET);
            prop_assert!(bytes.as_bytes().ends_with(&input));
            let taken = &bytes[..bytes.len() - input.len()];
            match parsed {
                Ok(Parsed::Partial) => prop_assert_eq!(taken, ""),
                Ok(_) => prop_assert!(!taken.replace("\r\n", "").contains('\n'), "a bare line feed in {:?}", taken),
                Err(_) => {}
            }
        }

        /// Neither the blanks around a value nor an empty one make a head another.
        #[test]
        fn good_heads_are_taken(fields in proptest::collection::vec(("[A-Za-z-]{1,12}", "[ \t]{0,2}", "([!-~]([ -~]{0,9}[!-~])?)?", "[ \t]{0,2}"), 0..6)) {
            let lines: String = fields.iter().map(|(name, before, value, behind)| format!("X-{name}:{before}{value}{behind}\r\n")).collect();
            let mut input = Bytes::from(format!("HTTP/1.1 200 OK\r\n{lines}\r\nrest"));
            let Ok(Parsed::Final(head)) = parse(&mut input, &Method::GET) else {
                panic!("refused: {lines:?}")
            };
            prop_assert_eq!(&input[..], b"rest");
            prop_assert_eq!(head.headers.len(), fields.len());
            for (name, _, value, _) in &fields {
                let mut values = head.headers.get_all(format!("x-{name}")).iter();
                prop_assert!(values.any(|found| found == value.as_str()));
            }
        }
    }
}
