//! The short name of a listener, route or filter, held in place.
//!
//! Both planes. Names are at most 64 bytes (the configuration refuses longer ones), so an exchange can carry them by
//! copy: a reference count shared by all workers would be a cache line that every request writes.

use std::fmt;

/// Bytes at most; the configuration's own bound.
pub const MAX_BYTES: usize = 64;

/// A copy of a configured name; `Copy`, never allocates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; MAX_BYTES],
    length: u8,
}

impl Name {
    /// Keeps the first 64 bytes' worth of whole characters.
    pub fn new(text: &str) -> Self {
        let length = text.floor_char_boundary(MAX_BYTES);
        let mut bytes = [0; MAX_BYTES];
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self {
            bytes,
            length: length as u8,
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_short_names_and_cuts_long_ones_between_characters() {
        assert_eq!(Name::new("api").as_str(), "api");
        let long = "é".repeat(40);
        assert_eq!(Name::new(&long).as_str(), "é".repeat(32));
    }
}
