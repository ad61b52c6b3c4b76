//! Any bytes as what an upstream sends: the codec reads them as a second reader does, however they are cut.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, Method};
use tamis::h1::{self, Decoder, Encoder, Fault, Framing, Head, Parsed, Piece};

/// Every place to cut a head at is tried, and each costs a parse: this bounds the square.
const MAX_HEAD_BYTES: usize = 2 << 10;

/// The first byte says what the rest is: `H` the answer to HEAD, `G` to GET, `c` chunks, `s` a body of seven bytes, `u`
/// one until the end of the connection. Chunks are preceded by the length of the parts in which they come.
pub fn codec(script: &[u8]) {
    match script {
        [b'H', head @ ..] => check_head(head, &Method::HEAD),
        [b'G', head @ ..] => check_head(head, &Method::GET),
        [b'c', step, chunks @ ..] => check_body(Framing::Chunked, chunks, *step),
        [b's', step, bytes @ ..] => check_body(Framing::Sized(7), bytes, *step),
        [b'u', step, bytes @ ..] => check_body(Framing::UntilClose, bytes, *step),
        _ => {}
    }
}

/// What came of parsing, and what was left behind it.
type Outcome = (Result<Parsed, Fault>, Bytes);

fn parse(bytes: &[u8], method: &Method) -> Outcome {
    let mut input = Bytes::copy_from_slice(bytes);
    (h1::parse(&mut input, method), input)
}

fn check_head(bytes: &[u8], method: &Method) {
    let (parsed, rest) = parse(bytes, method);
    assert!(bytes.ends_with(&rest), "what is not taken is as it was");
    let taken = &bytes[..bytes.len() - rest.len()];
    match &parsed {
        Ok(Parsed::Final(head)) => {
            check_lines(taken);
            check_fields(taken, head);
            check_framing(taken, head, method);
        }
        Ok(Parsed::Interim | Parsed::Switching(_)) => check_lines(taken),
        Ok(Parsed::Partial) => assert_eq!(taken, b"", "a part of a head is left where it is"),
        Err(_) => {}
    }
    if bytes.len() <= MAX_HEAD_BYTES {
        check_prefixes(bytes, method, &parsed, taken.len());
    }
}

/// RFC 9112 2.2 and 5.2: no bare CR or LF, no NUL, no folding in what was accepted.
fn check_lines(head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"), "{}", head.escape_ascii());
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\n' => assert_eq!(head.get(at.wrapping_sub(1)), Some(&b'\r'), "{}", head.escape_ascii()),
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "{}", head.escape_ascii()),
            0 => panic!("NUL: {}", head.escape_ascii()),
            b' ' | b'\t' => assert_ne!(head.get(at.wrapping_sub(1)), Some(&b'\n'), "{}", head.escape_ascii()),
            _ => {}
        }
    }
}

/// The same fields as `httparse` alone sees, but for what belongs to the connection and lengths that are said twice.
fn check_fields(taken: &[u8], head: &Head) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut fields);
    let status = response.parse(taken).expect("what h1 takes, its parser takes");
    assert_eq!(status, httparse::Status::Complete(taken.len()));
    assert_eq!(response.code, Some(head.status.as_u16()));
    let mut expected = HeaderMap::new();
    for field in &*response.headers {
        let name = http::HeaderName::from_bytes(field.name.as_bytes()).expect("a token");
        let is_dropped = name == CONNECTION && field.value == b"keep-alive";
        if !is_dropped && name != CONTENT_LENGTH {
            expected.append(name, http::HeaderValue::from_bytes(field.value).expect("a value"));
        }
    }
    let mut found = head.headers.clone();
    let lengths: Vec<_> = found.get_all(CONTENT_LENGTH).iter().cloned().collect();
    assert!(lengths.len() <= 1, "a length is said once: {lengths:?}");
    found.remove(CONTENT_LENGTH);
    assert_eq!(found, expected);
}

/// RFC 9112 6.3, read anew from the bytes.
fn check_framing(taken: &[u8], head: &Head, method: &Method) {
    let text = taken.to_ascii_lowercase();
    let says = |name: &str| text.windows(name.len()).any(|window| window == name.as_bytes());
    let is_bare = *method == Method::HEAD || matches!(head.status.as_u16(), 204 | 304);
    match head.framing {
        Framing::Chunked => assert!(says("\r\ntransfer-encoding:") && !says("\r\ncontent-length:") && !is_bare),
        Framing::Sized(length) if !is_bare => {
            let said = head.headers.get(CONTENT_LENGTH).expect("a length has a field");
            let said: u64 = said.to_str().expect("digits").trim().parse().expect("a number");
            assert_eq!(said, length);
            assert!(!says("\r\ntransfer-encoding:"));
        }
        Framing::Sized(length) => assert_eq!(length, 0),
        Framing::UntilClose => {
            assert!(!says("\r\ntransfer-encoding:") && !says("\r\ncontent-length:") && !is_bare);
            assert!(!head.persistent, "a connection that has to end");
        }
    }
    if head.persistent {
        assert!(taken.starts_with(b"HTTP/1.1 "), "{}", taken.escape_ascii());
    }
}

/// However much of it has come, a head is partial until it is whole, and then the same; what is refused early is refused
/// whole, too.
fn check_prefixes(bytes: &[u8], method: &Method, whole: &Result<Parsed, Fault>, length: usize) {
    for cut in 0..bytes.len() {
        let (parsed, _) = parse(&bytes[..cut], method);
        match (parsed, whole) {
            (Ok(Parsed::Partial), Ok(Parsed::Final(_) | Parsed::Switching(_) | Parsed::Interim)) => {
                assert!(cut < length, "whole at {cut}")
            }
            (Ok(Parsed::Partial), _) => {}
            (Ok(part), Ok(whole)) => {
                assert!(cut >= length, "whole at {cut} of {length}");
                assert_eq!(format!("{part:?}"), format!("{whole:?}"));
            }
            (Ok(part), Err(fault)) => panic!("{part:?} at {cut}, and then {fault:?}"),
            (Err(_), Err(_)) => {}
            (Err(fault), Ok(whole)) => panic!("{fault:?} at {cut}, and then {whole:?}"),
        }
        assert!(
            cut < length || length == 0 || h1::ends_a_head(&bytes[..cut], length - 1),
            "the end of a head is not seen at {cut}"
        );
    }
}

/// Data, trailers, how it ended, and what is behind it.
#[derive(Debug, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: Result<bool, Fault>,
    rest: Vec<u8>,
}

fn decode<'a>(framing: Framing, parts: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::new(framing);
    let mut decoded = Decoded {
        data: Vec::new(),
        trailers: None,
        end: Ok(false),
        rest: Vec::new(),
    };
    for part in parts {
        let mut input = Bytes::copy_from_slice(part);
        while decoded.end == Ok(false) {
            match decoder.decode(&mut input) {
                Ok(Piece::Data(bytes)) => {
                    assert!(!bytes.is_empty(), "no piece is empty");
                    decoded.data.extend_from_slice(&bytes);
                }
                Ok(Piece::Trailers(trailers)) => decoded.trailers = Some(trailers),
                Ok(Piece::End) => decoded.end = Ok(true),
                Ok(Piece::More) => {
                    assert!(input.is_empty(), "all of the input is taken");
                    break;
                }
                Err(fault) => decoded.end = Err(fault),
            }
        }
        if decoded.end == Ok(true) {
            decoded.rest.extend_from_slice(&input);
        }
    }
    if decoded.end == Ok(false) && decoder.close().is_ok() {
        decoded.end = Ok(true);
    }
    decoded
}

fn check_body(framing: Framing, bytes: &[u8], step: u8) {
    let whole = decode(framing, std::iter::once(bytes));
    assert_eq!(
        decode(framing, bytes.chunks(usize::from(step).max(1))),
        whole,
        "in parts"
    );
    assert_eq!(decode(framing, bytes.chunks(1)), whole, "byte by byte");
    match framing {
        Framing::Chunked if whole.end == Ok(true) => {
            assert_eq!(second_opinion(bytes), whole.data);
            let pieces = whole.data.chunks(usize::from(step).max(1));
            assert_eq!(decode(framing, std::iter::once(&encoded(pieces)[..])).data, whole.data);
        }
        Framing::Chunked => {}
        Framing::Sized(length) => {
            let length = bytes.len().min(length as usize);
            assert_eq!(whole.data, &bytes[..length]);
        }
        Framing::UntilClose => assert_eq!(whole.data, bytes),
    }
}

/// The chunks' data, by `httparse`'s reading of their sizes.
fn second_opinion(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(bytes) else {
            panic!("no size: {}", bytes.escape_ascii());
        };
        if size == 0 {
            return data;
        }
        let size = usize::try_from(size).expect("it is all there");
        data.extend_from_slice(&bytes[line..line + size]);
        bytes = bytes[line + size..].strip_prefix(b"\r\n").expect("a chunk has an end");
    }
}

fn encoded<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut encoder = Encoder::Chunked { announced: Vec::new() };
    let mut bytes = Vec::new();
    for piece in pieces {
        let tail = encoder.frame(piece.len(), &mut bytes).expect("chunks have no bound");
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(tail);
    }
    encoder.end(None, &mut bytes).expect("chunks can always end");
    bytes
}
