//! One HTTP/1 message, read strictly: what a recipient that trusts nobody would make of the bytes.
//!
//! Pure but for [`Reader::read`]. A proxy that emits anything ambiguous (two lengths, a bare LF, a space before a
//! colon) fails here, in the test that looked at something else. Bytes are kept as Latin-1 text, one `char` a byte, so
//! that nothing is lost and expectations can be written as strings.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::socket::{Found, Socket};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line, without its CRLF.
    pub start: String,
    pub fields: Vec<Field>,
    /// Without its framing.
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub value: String,
}

/// What the message is, as far as its framing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    /// No body follows, whatever its fields say.
    ResponseToHead,
}

/// A message that did not come, or did not come whole.
#[derive(Debug)]
pub struct Broken {
    pub cause: Cause,
    /// All bytes of it that did come.
    pub bytes: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Cause {
    Fin,
    Reset,
    Late,
    Malformed(String),
}

impl Message {
    pub fn method(&self) -> &str {
        self.start_part(0)
    }

    /// The request target as it stood in the request line.
    pub fn target(&self) -> &str {
        self.start_part(1)
    }

    /// The status code of a response.
    pub fn status(&self) -> u16 {
        self.start_part(1)
            .parse()
            .unwrap_or_else(|_| panic!("no status in `{}`", self.start))
    }

    /// All values of that name, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let same = |field: &&Field| field.name.eq_ignore_ascii_case(name);
        self.fields
            .iter()
            .filter(same)
            .map(|field| field.value.as_str())
            .collect()
    }

    /// The value of a field that occurs at most once; panics when there are more.
    pub fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "{name} occurs more than once: {values:?}");
        values.first().copied()
    }

    /// The comma-separated members of all fields of that name.
    pub fn list(&self, name: &str) -> Vec<String> {
        let values = self.values(name).join(",");
        values
            .split(',')
            .map(|member| member.trim().to_owned())
            .filter(|member| !member.is_empty())
            .collect()
    }

    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// Whether the sender said that this is the connection's last message.
    pub fn closes(&self) -> bool {
        self.list("connection")
            .iter()
            .any(|option| option.eq_ignore_ascii_case("close"))
    }

    /// Start line, sorted fields with lower-case names, an empty line and the body if there is one. Two messages with
    /// equal forms mean the same; `without` names (lower case) fields that the comparison is not about.
    pub fn canonical(&self, without: &[&str]) -> String {
        let line = |field: &Field| format!("{}: {}", field.name.to_ascii_lowercase(), field.value);
        let unwanted = |line: &String| without.iter().any(|name| line.starts_with(&format!("{name}:")));
        let mut lines: Vec<String> = self.fields.iter().map(line).filter(|line| !unwanted(line)).collect();
        lines.sort();
        lines.insert(0, self.start.clone());
        if !self.body.is_empty() {
            lines.push(String::new());
            lines.push(self.text());
        }
        lines.extend(self.trailers.iter().map(|field| format!("trailer {}", line(field))));
        lines.join("\n")
    }

    fn start_part(&self, index: usize) -> &str {
        self.start
            .split(' ')
            .nth(index)
            .unwrap_or_else(|| panic!("no part {index} in `{}`", self.start))
    }
}

/// Bytes that came and belong to no message yet.
#[derive(Debug, Default)]
pub struct Reader {
    pub buffer: Vec<u8>,
    /// Where in the buffer the head's end is looked for.
    known: usize,
    /// Gets every byte as it comes, when somebody wants to know afterwards.
    tap: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Reader {
    /// A reader that also appends all that it reads to `tap`.
    pub fn tapped(tap: Arc<Mutex<Vec<u8>>>) -> Self {
        Self {
            tap: Some(tap),
            ..Self::default()
        }
    }

    /// Reads one whole message; bytes behind it stay in the buffer.
    pub fn read(&mut self, socket: &mut Socket, kind: Kind, deadline: Instant) -> Result<Message, Broken> {
        let end = self.read_head(socket, deadline)?;
        let mut message = match parse_head(&self.buffer[..end]) {
            Ok(message) => message,
            Err(fault) => return Err(self.broken(Cause::Malformed(fault))),
        };
        match framing(&message, kind) {
            Ok(Framing::Empty) => self.buffer.drain(..end).for_each(drop),
            Ok(Framing::Sized(size)) => {
                self.fill(socket, end + size, deadline)?;
                message.body = self.buffer[end..end + size].to_vec();
                self.buffer.drain(..end + size);
            }
            Ok(Framing::Chunked) => self.read_chunks(socket, end, &mut message, deadline)?,
            Ok(Framing::UntilClose) => self.read_rest(socket, end, &mut message, deadline)?,
            Err(fault) => return Err(self.broken(Cause::Malformed(fault))),
        }
        Ok(message)
    }

    /// Reads a head and leaves what follows in the buffer.
    pub fn read_head_alone(&mut self, socket: &mut Socket, deadline: Instant) -> Result<Message, Broken> {
        let end = self.read_head(socket, deadline)?;
        match parse_head(&self.buffer[..end]) {
            Ok(message) => {
                self.buffer.drain(..end);
                Ok(message)
            }
            Err(fault) => Err(self.broken(Cause::Malformed(fault))),
        }
    }

    /// Reads up to and with the empty line; gives the head's length.
    pub fn read_head(&mut self, socket: &mut Socket, deadline: Instant) -> Result<usize, Broken> {
        self.known = 0;
        loop {
            let from = self.known.saturating_sub(3);
            if let Some(found) = find(&self.buffer[from..], b"\r\n\r\n") {
                return Ok(from + found + 4);
            }
            self.known = self.buffer.len();
            self.more(socket, deadline)?;
        }
    }

    /// Reads until the buffer holds `size` bytes.
    pub fn fill(&mut self, socket: &mut Socket, size: usize, deadline: Instant) -> Result<(), Broken> {
        while self.buffer.len() < size {
            self.more(socket, deadline)?;
        }
        Ok(())
    }

    fn read_chunks(
        &mut self,
        socket: &mut Socket,
        head: usize,
        message: &mut Message,
        deadline: Instant,
    ) -> Result<(), Broken> {
        let mut at = head;
        loop {
            match next_chunk(&self.buffer[at..]) {
                Ok(Chunk::Data { start, size, end }) => {
                    message
                        .body
                        .extend_from_slice(&self.buffer[at + start..at + start + size]);
                    at += end;
                }
                Ok(Chunk::Last { trailers, end }) => {
                    message.trailers = trailers;
                    self.buffer.drain(..at + end);
                    return Ok(());
                }
                Ok(Chunk::Unfinished) => self.more(socket, deadline)?,
                Err(fault) => return Err(self.broken(Cause::Malformed(fault))),
            }
        }
    }

    fn read_rest(
        &mut self,
        socket: &mut Socket,
        head: usize,
        message: &mut Message,
        deadline: Instant,
    ) -> Result<(), Broken> {
        loop {
            match self.more(socket, deadline) {
                Ok(()) => (),
                Err(Broken {
                    cause: Cause::Fin,
                    bytes,
                }) => {
                    message.body = bytes[head..].to_vec();
                    return Ok(());
                }
                Err(broken) => return Err(broken),
            }
        }
    }

    fn more(&mut self, socket: &mut Socket, deadline: Instant) -> Result<(), Broken> {
        match socket.read_some(&mut self.buffer, deadline) {
            Found::Bytes(count) => {
                if let Some(tap) = &self.tap {
                    let fresh = &self.buffer[self.buffer.len() - count..];
                    tap.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend_from_slice(fresh);
                }
                Ok(())
            }
            Found::Fin => Err(self.broken(Cause::Fin)),
            Found::Reset => Err(self.broken(Cause::Reset)),
            Found::Nothing => Err(self.broken(Cause::Late)),
        }
    }

    fn broken(&mut self, cause: Cause) -> Broken {
        Broken {
            cause,
            bytes: std::mem::take(&mut self.buffer),
        }
    }
}

/// Each byte as the character of the same number.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

enum Framing {
    Empty,
    Sized(usize),
    Chunked,
    UntilClose,
}

enum Chunk {
    Data { start: usize, size: usize, end: usize },
    Last { trailers: Vec<Field>, end: usize },
    Unfinished,
}

/// `head` ends with the empty line.
fn parse_head(head: &[u8]) -> Result<Message, String> {
    let text = latin1(&head[..head.len() - 4]);
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    if start.contains(|byte: char| byte.is_ascii_control()) {
        return Err(format!("control character in `{}`", start.escape_debug()));
    }
    let fields = lines.map(parse_field).collect::<Result<_, _>>()?;
    Ok(Message {
        start,
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
    })
}

fn parse_field(line: &str) -> Result<Field, String> {
    let shown = || format!("`{}`", line.escape_debug());
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {}", shown()))?;
    // RFC 9110 5.6.2: a field name is a token.
    let token = |byte: char| byte.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.chars().all(token) {
        return Err(format!("no field name in {}", shown()));
    }
    if value.contains(|byte: char| byte.is_ascii_control() && byte != '\t') {
        return Err(format!("control character in {}", shown()));
    }
    Ok(Field {
        name: name.to_owned(),
        value: value.trim_matches([' ', '\t']).to_owned(),
    })
}

fn framing(message: &Message, kind: Kind) -> Result<Framing, String> {
    let coding = message.values("transfer-encoding");
    let length = message.values("content-length");
    if coding.len() + length.len() > 1 {
        return Err(format!("more than one framing field: {coding:?} {length:?}"));
    }
    let bodiless = kind != Kind::Request && matches!(message.status(), 100..=199 | 204 | 304);
    if bodiless && message.status() != 304 && coding.len() + length.len() > 0 {
        return Err(format!("framing in `{}`", message.start));
    }
    if bodiless || kind == Kind::ResponseToHead {
        return Ok(Framing::Empty);
    }
    match (coding.first(), length.first()) {
        (Some(&"chunked"), _) => Ok(Framing::Chunked),
        (Some(coding), _) => Err(format!("transfer-encoding `{coding}`")),
        (None, Some(length)) if is_number(length) => Ok(Framing::Sized(length.parse().expect("digits are a number"))),
        (None, Some(length)) => Err(format!("content-length `{length}`")),
        (None, None) if kind == Kind::Request => Ok(Framing::Empty),
        (None, None) => Ok(Framing::UntilClose),
    }
}

fn is_number(text: &str) -> bool {
    (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn next_chunk(bytes: &[u8]) -> Result<Chunk, String> {
    let Some(line) = find(bytes, b"\r\n") else {
        return if bytes.len() > 64 {
            Err("a chunk-size line without end".into())
        } else {
            Ok(Chunk::Unfinished)
        };
    };
    let digits = latin1(&bytes[..line]);
    if digits.is_empty() || digits.len() > 15 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(format!("chunk size `{}`", digits.escape_debug()));
    }
    let size = usize::from_str_radix(&digits, 16).expect("15 hexadecimal digits are a number");
    let start = line + 2;
    if size == 0 {
        return last_chunk(bytes, start);
    }
    let end = start + size + 2;
    match bytes.get(start + size..end) {
        Some(b"\r\n") => Ok(Chunk::Data { start, size, end }),
        Some(_) => Err("a chunk longer than its size".into()),
        None => Ok(Chunk::Unfinished),
    }
}

fn last_chunk(bytes: &[u8], start: usize) -> Result<Chunk, String> {
    let mut trailers = Vec::new();
    let mut at = start;
    while let Some(length) = find(&bytes[at..], b"\r\n") {
        if length == 0 {
            return Ok(Chunk::Last { trailers, end: at + 2 });
        }
        trailers.push(parse_field(&latin1(&bytes[at..at + length]))?);
        at += length + 2;
    }
    Ok(Chunk::Unfinished)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(2048)];
        write!(
            formatter,
            "{:?} after {} bytes: {}",
            self.cause,
            self.bytes.len(),
            shown.escape_ascii()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_a_strict_reader_refuses() {
        for (name, head) in [
            ("space before colon", "GET / HTTP/1.1\r\na : b\r\n\r\n"),
            ("bare CR", "GET / HTTP/1.1\r\na: b\rc\r\n\r\n"),
            ("bare LF", "GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n"),
            ("fold", "GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n"),
            ("no name", "GET / HTTP/1.1\r\n: b\r\n\r\n"),
        ] {
            assert!(parse_head(head.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn chunks_byte_by_byte() {
        let whole = b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
        assert!(matches!(
            next_chunk(whole),
            Ok(Chunk::Data {
                start: 3,
                size: 5,
                end: 10
            })
        ));
        for end in 0..10 {
            assert!(matches!(next_chunk(&whole[..end]), Ok(Chunk::Unfinished)), "{end}");
        }
        let Ok(Chunk::Last { trailers, end: 15 }) = next_chunk(&whole[10..]) else {
            panic!("no last chunk")
        };
        assert_eq!(
            trailers,
            [Field {
                name: "x-sum".into(),
                value: "1".into()
            }]
        );
        assert!(next_chunk(b"5\r\nhelloX").is_ok(), "one byte more is not yet a fault");
        assert!(next_chunk(b"5\r\nhelloXY").is_err());
        assert!(next_chunk(b"+5\r\nhello\r\n").is_err());
    }

    #[test]
    fn framing_that_could_be_read_two_ways_is_refused() {
        for fields in [
            "content-length: 1\r\ncontent-length: 1",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "content-length: +1",
        ] {
            let message = parse_head(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes()).expect("a sound head");
            assert!(framing(&message, Kind::Response).is_err(), "{fields}");
        }
    }
}
