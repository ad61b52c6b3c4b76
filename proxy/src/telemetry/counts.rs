//! Counts by a key of which there are only a few: status codes, kinds of failure.
//!
//! Data plane. A short vector searched from the front beats any map at this size.

/// Status codes that one series tells apart. Real services use fewer than ten; an upstream that makes codes up must not
/// make series up.
const MAX_CODES: usize = 24;

/// Stands for every code beyond [`MAX_CODES`]; no status code is zero.
pub const OTHER_CODES: u16 = 0;

#[derive(Clone, Debug)]
pub struct Counts<K>(Vec<(K, u64)>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Copy + PartialEq> Counts<K> {
    /// Keys must come from a closed set, as a `&'static str` or an enum does.
    #[inline]
    pub fn add(&mut self, key: K, by: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += by,
            None => self.0.push((key, by)),
        }
    }

    pub fn absorb(&mut self, other: &Self) {
        for (key, count) in other.iter() {
            self.add(key, count);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        self.0.iter().copied()
    }
}

impl Counts<u16> {
    #[inline]
    pub fn add_code(&mut self, code: u16) {
        let known = self.0.len() < MAX_CODES || self.0.iter().any(|(known, _)| *known == code);
        self.add(if known { code } else { OTHER_CODES }, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_beyond_the_bound_share_one_count() {
        let mut codes = Counts::default();
        for code in 100..1000 {
            codes.add_code(code);
        }
        codes.add_code(100);
        let counted: Vec<_> = codes.iter().collect();
        assert_eq!(counted.len(), MAX_CODES + 1);
        assert_eq!(counted.first(), Some(&(100, 2)));
        assert_eq!(counted.last(), Some(&(OTHER_CODES, 900 - MAX_CODES as u64)));
    }

    #[test]
    fn equal_keys_add_up_when_merged() {
        let (mut one, mut two) = (Counts::default(), Counts::default());
        one.add("reset", 1);
        two.add("reset", 2);
        two.add("timeout", 1);
        one.absorb(&two);
        assert_eq!(one.iter().collect::<Vec<_>>(), [("reset", 3), ("timeout", 1)]);
    }
}
