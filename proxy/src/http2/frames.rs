//! The frame scanner: what `h2` does not tell about a peer's HTTP/2 bytes. Data plane; pure.
//!
//! It is fed every chunk on its way to `h2` and reads the heads of frames (RFC 9113 4.1), no payload. Invariant: `h2`
//! alone frames. What the scanner says can end a connection, and never changes what `h2` makes of it.

/// The preface, before the first frame (RFC 9113 3.4).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Follows one connection's bytes. Lifetime: the connection.
#[derive(Debug, Default)]
pub struct FrameScanner {
    /// Bytes of the preface that have come.
    preface: usize,
    head: [u8; HEAD_BYTES],
    /// Bytes of the present frame's head that have come.
    filled: usize,
    /// Bytes of its payload that are still to come.
    payload: usize,
    state: State,
    has_settings: bool,
    /// A server's head that ends no stream may be the last of an answer, or one of any number before that (1xx), which
    /// `h2` keeps until they are asked for.
    counts_heads: bool,
    /// Frames, or blocks of them, that have come whole.
    whole: u64,
}

/// What the present frame belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Body,
    Control,
    /// A header block that ends with this frame.
    LastOfBlock,
    /// One that does not.
    Block,
}

/// Where the peer's bytes stand, for deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first SETTINGS frame, with which everybody has to begin, is not there.
    Opening,
    /// Between frames, or in the middle of a body.
    Steady,
    /// In the middle of a header block, or of a frame that is no body; which one, by its number.
    Unfinished(u64),
}

impl FrameScanner {
    /// Of a server's bytes, which have no preface.
    pub fn of_server() -> Self {
        Self {
            preface: PREFACE_BYTES,
            counts_heads: true,
            ..Self::default()
        }
    }

    /// Takes the next bytes of the connection; how many frames among those that begin in them carry nothing, or are counted
    /// like those.
    pub fn feed(&mut self, mut bytes: &[u8]) -> u32 {
        if self.preface < PREFACE_BYTES {
            let taken = bytes.len().min(PREFACE_BYTES - self.preface);
            self.preface += taken;
            bytes = &bytes[taken..];
        }
        let mut empty = 0;
        while !bytes.is_empty() {
            if self.filled < HEAD_BYTES {
                bytes = self.fill_head(bytes);
                if self.filled == HEAD_BYTES {
                    empty += u32::from(self.begin_frame());
                }
            } else {
                let taken = bytes.len().min(self.payload);
                self.payload -= taken;
                bytes = &bytes[taken..];
            }
            if self.filled == HEAD_BYTES && self.payload == 0 {
                self.end_frame();
            }
        }
        empty
    }

    pub fn position(&self) -> Position {
        match self.state {
            _ if !self.has_settings => Position::Opening,
            State::Block => Position::Unfinished(self.whole),
            State::Body if self.filled == 0 || self.filled == HEAD_BYTES => Position::Steady,
            _ if self.filled == 0 => Position::Steady,
            _ => Position::Unfinished(self.whole),
        }
    }

    fn fill_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let taken = bytes.len().min(HEAD_BYTES - self.filled);
        self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        &bytes[taken..]
    }

    /// Whether the frame carries nothing.
    fn begin_frame(&mut self) -> bool {
        let [a, b, c, kind, flags, ..] = self.head;
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let ends_block = flags & END_HEADERS != 0;
        self.state = match kind {
            DATA => State::Body,
            HEADERS | CONTINUATION if ends_block => State::LastOfBlock,
            HEADERS | CONTINUATION => State::Block,
            _ => State::Control,
        };
        match kind {
            DATA => self.payload == 0 && flags & END_STREAM == 0,
            HEADERS => self.counts_heads && flags & END_STREAM == 0,
            _ => true,
        }
    }

    fn end_frame(&mut self) {
        self.has_settings |= self.head[3] == SETTINGS;
        self.filled = 0;
        if self.state != State::Block {
            self.state = State::Body;
            self.whole += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = (payload as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEAD_BYTES + payload, 7);
        bytes
    }

    fn opened() -> FrameScanner {
        let mut scanner = FrameScanner::default();
        assert_eq!(scanner.position(), Position::Opening);
        assert_eq!(scanner.feed(PREFACE), 0);
        assert_eq!(scanner.position(), Position::Opening);
        assert_eq!(scanner.feed(&frame(SETTINGS, 0, 12)), 1);
        assert_eq!(scanner.position(), Position::Steady);
        scanner
    }

    #[test]
    fn frames_that_carry_nothing() {
        let cases = [
            (frame(DATA, 0, 0), 1),
            (frame(DATA, END_STREAM, 0), 0),
            (frame(DATA, 0, 1), 0),
            (frame(HEADERS, END_HEADERS, 3), 0),
            (frame(CONTINUATION, END_HEADERS, 3), 1),
            (frame(PING, 0, 8), 1),
            (frame(SETTINGS, 0, 0), 1),
            (frame(0xbb, 0, 30), 1),
        ];
        for (bytes, empty) in &cases {
            assert_eq!(opened().feed(bytes), *empty, "{bytes:?}");
        }
        let all: Vec<u8> = cases.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        assert_eq!(opened().feed(&all), 5);
    }

    #[test]
    fn heads_of_a_server_that_end_nothing_are_counted() {
        let mut scanner = FrameScanner::of_server();
        assert_eq!(scanner.feed(&frame(HEADERS, END_HEADERS, 3)), 1);
        assert_eq!(scanner.feed(&frame(HEADERS, END_HEADERS | END_STREAM, 3)), 0);
    }

    #[test]
    fn a_block_is_unfinished_until_its_last_byte() {
        let mut scanner = opened();
        for (bytes, position) in [
            (frame(HEADERS, 0, 5), Position::Unfinished(1)),
            (frame(CONTINUATION, 0, 0), Position::Unfinished(1)),
            (frame(CONTINUATION, END_HEADERS, 4), Position::Steady),
        ] {
            for part in bytes.chunks(1) {
                scanner.feed(part);
            }
            assert_eq!(scanner.position(), position, "{bytes:?}");
        }
        scanner.feed(&frame(DATA, 0, 100)[..50]);
        assert_eq!(scanner.position(), Position::Steady, "a body has its own deadline");
        scanner.feed(&frame(DATA, 0, 59)[9..]);
        scanner.feed(&frame(PING, 0, 8)[..16]);
        assert_eq!(scanner.position(), Position::Unfinished(3));
    }

    proptest! {
        #[test]
        fn splits_change_nothing(
            frames in proptest::collection::vec((0u8..12, any::<u8>(), 0usize..40), 0..12),
            sizes in proptest::collection::vec(1usize..30, 1..40),
        ) {
            let mut bytes = PREFACE.to_vec();
            frames.iter().for_each(|(kind, flags, payload)| bytes.extend(frame(*kind, *flags, *payload)));
            let mut whole = FrameScanner::default();
            let expected = whole.feed(&bytes);
            let (mut pieces, mut counted, mut rest) = (FrameScanner::default(), 0, &bytes[..]);
            for size in sizes.into_iter().cycle() {
                let (piece, left) = rest.split_at(size.min(rest.len()));
                counted += pieces.feed(piece);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(counted, expected);
            prop_assert_eq!(pieces.position(), whole.position());
        }
    }
}
