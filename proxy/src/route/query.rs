//! A request's query as parameters, decoded the way a form is (`%xx` and `+`).
//!
//! Data plane; per look-up. Invariant: sorted and without duplicates, so that a look-up costs a binary search and a
//! client that repeats a parameter ten thousand times is served like one that sends it once. It must not know of
//! routes. What it decodes is compared and forgotten; upstream gets the query as sent.

use std::borrow::Cow;

/// Names and values, sorted.
pub(super) struct Parameters<'a>(Vec<(Text<'a>, Text<'a>)>);

/// Borrowed from the query unless something had to be decoded; decoded bytes need not be UTF-8.
type Text<'a> = Cow<'a, [u8]>;

impl<'a> Parameters<'a> {
    /// Split at `&`, then at the first `=`; empty pieces are skipped. At most half as many as the query has bytes, which
    /// the listener bounds.
    pub(super) fn parse(query: &'a str) -> Parameters<'a> {
        let pieces = query.split('&').filter(|piece| !piece.is_empty());
        let mut parameters: Vec<_> = pieces.map(parameter).collect();
        parameters.sort_unstable();
        parameters.dedup();
        Parameters(parameters)
    }

    pub(super) fn contains(&self, name: &[u8], value: &[u8]) -> bool {
        self.0
            .binary_search_by(|(n, v)| (n.as_ref(), v.as_ref()).cmp(&(name, value)))
            .is_ok()
    }

    /// All values of one name.
    pub(super) fn values(&self, name: &[u8]) -> impl Iterator<Item = &[u8]> {
        let start = self.0.partition_point(|(other, _)| other.as_ref() < name);
        self.0[start..]
            .iter()
            .take_while(move |(other, _)| other.as_ref() == name)
            .map(|(_, value)| value.as_ref())
    }

    /// Each name once, with all its values.
    pub(super) fn by_name(&self) -> impl Iterator<Item = (&[u8], impl Iterator<Item = &[u8]>)> {
        let same_name = self.0.chunk_by(|a, b| a.0 == b.0);
        same_name.map(|group| (group[0].0.as_ref(), group.iter().map(|(_, value)| value.as_ref())))
    }
}

fn parameter(piece: &str) -> (Text<'_>, Text<'_>) {
    let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
    (decode(name.as_bytes()), decode(value.as_bytes()))
}

fn decode(text: &[u8]) -> Text<'_> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, behind)) = decode_first(rest) {
        decoded.push(byte);
        rest = behind;
    }
    Cow::Owned(decoded)
}

/// A `%` without two hexadecimal digits behind it stands for itself.
fn decode_first(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            Some((16 * hex(*high) + hex(*low), rest))
        }
        [b'+', rest @ ..] => Some((b' ', rest)),
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
