//! A strict reader of heads, which shares no code with the proxy's.
//!
//! It takes what RFC 9112 demands of a sender and nothing of what it allows a recipient: CRLF alone ends a line, one
//! space stands behind a colon, no value has blanks around it, no line is folded.

/// A head's first line and fields, and how many bytes they are.
#[derive(Debug, PartialEq, Eq)]
pub struct Lines<'a> {
    pub first: &'a [u8],
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    pub length: usize,
}

/// Panics where the bytes are no such head.
pub fn read(bytes: &[u8]) -> Lines<'_> {
    let (first, mut at) = line(bytes, 0);
    let mut fields = Vec::new();
    loop {
        let (text, next) = line(bytes, at);
        at = next;
        if text.is_empty() {
            return Lines {
                first,
                fields,
                length: at,
            };
        }
        fields.push(field(text));
    }
}

fn line(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let length = bytes[at..]
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .unwrap_or_else(|| panic!("no end: {}", bytes.escape_ascii()));
    let text = &bytes[at..at + length];
    let is_sound = |byte: &u8| !matches!(byte, b'\r' | b'\n' | 0);
    assert!(
        text.iter().all(is_sound),
        "a control character: {}",
        text.escape_ascii()
    );
    (text, at + length + 2)
}

fn field(text: &[u8]) -> (&[u8], &[u8]) {
    let colon = text.iter().position(|byte| *byte == b':').unwrap_or_default();
    let (name, rest) = text.split_at(colon);
    // RFC 9110 5.6.2.
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    assert!(
        !name.is_empty() && name.iter().all(is_token),
        "no name: {}",
        text.escape_ascii()
    );
    let value = rest
        .strip_prefix(b": ")
        .unwrap_or_else(|| panic!("no space behind the colon: {}", text.escape_ascii()));
    // RFC 9110 5.5.
    let is_sound = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    assert!(value.iter().all(is_sound), "no value: {}", text.escape_ascii());
    assert_eq!(
        value.trim_ascii(),
        value,
        "blanks around a value: {}",
        text.escape_ascii()
    );
    (name, value)
}
