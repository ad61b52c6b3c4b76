//! A response's body: bytes to pieces, by the framing of its head.
//!
//! Data plane; pure. Pieces are split off the input, not copied; only trailers are gathered, within a bound.

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Fault, Framing, MAX_FIELDS};

/// Chunk extensions of one body, which mean nothing to us. A signature for every chunk fits some two hundred times;
/// hyper has the same bound for clients.
const MAX_EXTENSION_BYTES: u32 = 16 << 10;

/// A trailer section carries a checksum or a status; the same bound as for clients.
const MAX_TRAILER_BYTES: usize = 8 << 10;

/// A u64 in hexadecimal; more digits could only be leading zeros or an overflow.
const MAX_SIZE_DIGITS: u8 = 16;

/// Follows one body. Lifetime: the response.
#[derive(Debug)]
pub enum Decoder {
    /// So many bytes are still to come.
    Sized(u64),
    Chunked(Chunks),
    UntilClose,
    Ended,
}

/// What the decoder found.
#[derive(Debug)]
pub enum Piece {
    Data(Bytes),
    /// The last piece, when there are any.
    Trailers(HeaderMap),
    /// The body is over; what is left of the input does not belong to it.
    End,
    /// All of the input was taken, and the body is not over.
    More,
}

#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
    extension_bytes: u32,
    /// Gathered until its end is there.
    trailers: Vec<u8>,
}

/// What comes next; a size is that of the chunk whose line is being read.
#[derive(Clone, Copy, Debug)]
enum State {
    Size { size: u64, digits: u8 },
    Space(u64),
    Extension(u64),
    SizeLineFeed(u64),
    Data(u64),
    DataReturn,
    DataLineFeed,
    Trailers,
    Ended,
}

impl Default for State {
    fn default() -> Self {
        State::Size { size: 0, digits: 0 }
    }
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Sized(0) => Self::Ended,
            Framing::Sized(length) => Self::Sized(length),
            Framing::Chunked => Self::Chunked(Chunks::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Takes the next piece off the front of `input`. Data is never empty.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Piece, Fault> {
        match self {
            Self::Ended => Ok(Piece::End),
            Self::Chunked(chunks) => {
                let piece = chunks.decode(input)?;
                if matches!(piece, Piece::End | Piece::Trailers(_)) {
                    *self = Self::Ended;
                }
                Ok(piece)
            }
            _ if input.is_empty() => Ok(Piece::More),
            Self::UntilClose => Ok(Piece::Data(std::mem::take(input))),
            Self::Sized(left) => {
                let data = split(input, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Ended;
                }
                Ok(Piece::Data(data))
            }
        }
    }

    /// The connection has ended after the last input.
    pub fn close(&mut self) -> Result<(), Fault> {
        match self {
            Self::UntilClose | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
            Self::Sized(_) | Self::Chunked(_) => Err(Fault::CutShort),
        }
    }

    /// How many bytes are still to come, when that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Sized(left) => Some(*left),
            Self::Ended => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }
}

impl Chunks {
    fn decode(&mut self, input: &mut Bytes) -> Result<Piece, Fault> {
        loop {
            if let State::Data(left) = self.state
                && !input.is_empty()
            {
                let data = split(input, left);
                self.state = match left - data.len() as u64 {
                    0 => State::DataReturn,
                    left => State::Data(left),
                };
                return Ok(Piece::Data(data));
            }
            let Some(byte) = input.first().copied() else {
                return Ok(Piece::More);
            };
            input.advance(1);
            self.state = self.step(byte)?;
            if let State::Ended = self.state {
                return self.end();
            }
        }
    }

    /// One byte of what stands around data (RFC 9112 7.1).
    fn step(&mut self, byte: u8) -> Result<State, Fault> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < MAX_SIZE_DIGITS => {
                State::Size {
                    size: size << 4 | u64::from((byte as char).to_digit(16).unwrap_or_default()),
                    digits: digits + 1,
                }
            }
            (State::Size { digits: 0, .. }, _) => return Err(Fault::Chunk),
            (State::Size { size, .. } | State::Space(size) | State::Extension(size), b'\r') => {
                State::SizeLineFeed(size)
            }
            // Bad white space that recipients are asked to take (RFC 9112 7.1.1).
            (State::Size { size, .. } | State::Space(size), b' ' | b'\t') => self.extend(State::Space(size))?,
            (State::Size { size, .. } | State::Space(size), b';') => self.extend(State::Extension(size))?,
            (State::Extension(_), b'\n') => return Err(Fault::Chunk),
            (State::Extension(size), _) => self.extend(State::Extension(size))?,
            (State::SizeLineFeed(0), b'\n') => State::Trailers,
            (State::SizeLineFeed(size), b'\n') => State::Data(size),
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::default(),
            (State::Trailers, byte) => self.step_trailers(byte)?,
            _ => return Err(Fault::Chunk),
        })
    }

    fn extend(&mut self, next: State) -> Result<State, Fault> {
        self.extension_bytes += 1;
        if self.extension_bytes > MAX_EXTENSION_BYTES {
            return Err(Fault::ExtensionsTooLarge);
        }
        Ok(next)
    }

    fn step_trailers(&mut self, byte: u8) -> Result<State, Fault> {
        if byte == b'\n' && self.trailers.last() != Some(&b'\r') {
            return Err(Fault::LineEnd);
        }
        if self.trailers.len() == MAX_TRAILER_BYTES {
            return Err(Fault::TrailersTooLarge);
        }
        self.trailers.push(byte);
        // The section ends with its first empty line.
        let ended = self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n");
        Ok(if ended { State::Ended } else { State::Trailers })
    }

    fn end(&mut self) -> Result<Piece, Fault> {
        if self.trailers.len() <= 2 {
            return Ok(Piece::End);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let httparse::Status::Complete((_, fields)) = httparse::parse_headers(&self.trailers, &mut fields)? else {
            return Err(Fault::Chunk);
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
            let value = HeaderValue::from_bytes(field.value).map_err(|_| httparse::Error::HeaderValue)?;
            trailers.append(name, value);
        }
        Ok(Piece::Trailers(trailers))
    }
}

fn split(input: &mut Bytes, most: u64) -> Bytes {
    let length = usize::try_from(most).map_or(input.len(), |most| most.min(input.len()));
    input.split_to(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What came of a body: its data, its trailers, how it ended, and what is left behind it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Outcome {
        data: Vec<u8>,
        trailers: Vec<String>,
        end: Result<bool, Fault>,
        rest: Vec<u8>,
    }

    fn outcome_of<'a>(framing: Framing, parts: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut decoder = Decoder::new(framing);
        let (mut data, mut trailers, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = Ok(false);
        for part in parts {
            let mut input = Bytes::copy_from_slice(part);
            while end == Ok(false) {
                match decoder.decode(&mut input) {
                    Ok(Piece::Data(bytes)) => {
                        assert!(!bytes.is_empty());
                        data.extend_from_slice(&bytes);
                    }
                    Ok(Piece::Trailers(map)) => {
                        trailers.extend(map.iter().map(|(name, value)| format!("{name}: {value:?}")));
                    }
                    Ok(Piece::End) => end = Ok(true),
                    Ok(Piece::More) => break,
                    Err(fault) => end = Err(fault),
                }
            }
            if end == Ok(true) {
                rest.extend_from_slice(&input);
            }
        }
        if end == Ok(false) && decoder.close().is_ok() {
            end = Ok(true);
        }
        Outcome {
            data,
            trailers,
            end,
            rest,
        }
    }

    /// Whole, cut in two at every place, and byte by byte: always the same.
    fn outcome(framing: Framing, input: &[u8]) -> Outcome {
        let whole = outcome_of(framing, [input]);
        for cut in 0..=input.len() {
            let (a, b) = input.split_at(cut);
            assert_eq!(
                outcome_of(framing, [a, b]),
                whole,
                "cut at {cut} of {}",
                input.escape_ascii()
            );
        }
        assert_eq!(outcome_of(framing, input.chunks(1)), whole, "{}", input.escape_ascii());
        whole
    }

    #[test]
    fn chunks() {
        let cases: &[(&str, &str, Result<bool, Fault>, &str)] = &[
            ("5\r\nhello\r\n0\r\n\r\n", "hello", Ok(true), ""),
            ("5\r\nhello\r\n0\r\n\r\nHTTP", "hello", Ok(true), "HTTP"),
            ("2\r\nhe\r\n3\r\nllo\r\n000\r\n\r\n", "hello", Ok(true), ""),
            (
                "0a;a=b;c=\"d\"\r\n0123456789\r\n0;x\r\n\r\n",
                "0123456789",
                Ok(true),
                "",
            ),
            ("A \t;x\r\n0123456789\r\n0 \r\n\r\n", "0123456789", Ok(true), ""),
            ("5\r\nhello\r\n", "hello", Ok(false), ""),
            ("5\r\nhel", "hel", Ok(false), ""),
            ("5\r\nhello\r\n0\r\n", "hello", Ok(false), ""),
            ("", "", Ok(false), ""),
            ("\r\n", "", Err(Fault::Chunk), ""),
            ("x\r\n", "", Err(Fault::Chunk), ""),
            ("+5\r\nhello\r\n", "", Err(Fault::Chunk), ""),
            ("0x5\r\nhello\r\n", "", Err(Fault::Chunk), ""),
            (" 5\r\nhello\r\n", "", Err(Fault::Chunk), ""),
            ("5 5\r\nhello\r\n", "", Err(Fault::Chunk), ""),
            ("5\nhello\r\n", "", Err(Fault::Chunk), ""),
            ("5;a\nhello\r\n", "", Err(Fault::Chunk), ""),
            ("5;a\rb\r\nhello\r\n", "", Err(Fault::Chunk), ""),
            ("5\r\nhelloX\r\n", "hello", Err(Fault::Chunk), ""),
            ("5\r\nhello\n0\r\n", "hello", Err(Fault::Chunk), ""),
            ("5\r\nhello\rX", "hello", Err(Fault::Chunk), ""),
            ("ffffffffffffffff\r\nhello", "hello", Ok(false), ""),
            ("10000000000000000\r\nhello", "", Err(Fault::Chunk), ""),
            ("0\r\nx: y\n\r\n", "", Err(Fault::LineEnd), ""),
            ("0\r\n\n", "", Err(Fault::LineEnd), ""),
            (
                "0\r\nx : y\r\n\r\n",
                "",
                Err(Fault::Syntax(httparse::Error::HeaderName)),
                "",
            ),
        ];
        for (input, data, end, rest) in cases {
            let expected = Outcome {
                data: data.as_bytes().to_vec(),
                trailers: Vec::new(),
                end: *end,
                rest: rest.as_bytes().to_vec(),
            };
            assert_eq!(outcome(Framing::Chunked, input.as_bytes()), expected, "{input:?}");
        }
    }

    #[test]
    fn trailers() {
        let got = outcome(
            Framing::Chunked,
            b"1\r\na\r\n0\r\nX-Sum: 1\r\nx-b:\r\nX-Sum: 2\r\n\r\nrest",
        );
        assert_eq!(got.trailers, ["x-sum: \"1\"", "x-sum: \"2\"", "x-b: \"\""]);
        assert_eq!(
            (got.data, got.end, got.rest),
            (b"a".to_vec(), Ok(true), b"rest".to_vec())
        );
    }

    #[test]
    fn bounds() {
        let end = |input: String| outcome_of(Framing::Chunked, [input.as_bytes()]).end;
        let extension = |bytes: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(bytes));
        let most = MAX_EXTENSION_BYTES as usize - 1;
        assert_eq!(end(extension(most)), Ok(true));
        assert_eq!(end(extension(most + 1)), Err(Fault::ExtensionsTooLarge));
        // Counted over the body, or a million small ones would pass.
        assert_eq!(end("1;ext\r\na\r\n".repeat(5000)), Err(Fault::ExtensionsTooLarge));
        let trailer = |bytes: usize| format!("0\r\nx: {}\r\n\r\n", "y".repeat(bytes));
        assert_eq!(end(trailer(MAX_TRAILER_BYTES - 7)), Ok(true));
        assert_eq!(end(trailer(MAX_TRAILER_BYTES - 6)), Err(Fault::TrailersTooLarge));
        let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(end(many), Err(Fault::Syntax(httparse::Error::TooManyHeaders)));
    }

    #[test]
    fn lengths() {
        let sized = |length, input: &str| {
            let got = outcome(Framing::Sized(length), input.as_bytes());
            (
                String::from_utf8(got.data).unwrap(),
                got.end,
                String::from_utf8(got.rest).unwrap(),
            )
        };
        assert_eq!(sized(5, "hello"), ("hello".into(), Ok(true), "".into()));
        assert_eq!(sized(5, "helloHTTP"), ("hello".into(), Ok(true), "HTTP".into()));
        assert_eq!(sized(5, "hell"), ("hell".into(), Ok(false), "".into()));
        assert_eq!(sized(0, "HTTP"), ("".into(), Ok(true), "HTTP".into()));
        assert_eq!(sized(u64::MAX, "hello"), ("hello".into(), Ok(false), "".into()));
        let got = outcome(Framing::UntilClose, b"hello");
        assert_eq!((got.data, got.end), (b"hello".to_vec(), Ok(true)));
    }

    proptest! {
        /// What chunks say comes out, wherever they are cut.
        #[test]
        fn chunks_come_out_whole(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\nrest");
            let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            let parts = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            let got = outcome_of(Framing::Chunked, parts);
            prop_assert_eq!(got, Outcome { data: chunks.concat(), trailers: vec![], end: Ok(true), rest: b"rest".to_vec() });
        }

        /// Any input has one outcome, however it is cut.
        #[test]
        fn cuts_change_nothing(input in "([0-9a-fA-F;: \t\r\nxX]|\r\n|1\r\na\r\n|0\r\n){0,12}") {
            outcome(Framing::Chunked, input.as_bytes());
        }
    }
}
