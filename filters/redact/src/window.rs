//! What a detector sees: the bytes from where a match would begin, as far as they have come.

/// More of the body must come before it is known what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct More;

/// Whether more of the body can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Open,
    Closed,
}

/// The rest of a body from one byte on.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    pub bytes: &'a [u8],
    pub end: End,
}

impl Window<'_> {
    /// The byte at that place; none behind the body's end.
    pub fn at(&self, index: usize) -> Result<Option<u8>, More> {
        match (self.bytes.get(index), self.end) {
            (Some(byte), _) => Ok(Some(*byte)),
            (None, End::Closed) => Ok(None),
            (None, End::Open) => Err(More),
        }
    }
}
