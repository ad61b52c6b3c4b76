//! What is asked of a guest, and what comes of it.

/// What comes of a path.
pub enum Answer {
    Found(Vec<u8>),
    Nothing,
    /// The host's word.
    Refused(String),
}

/// What follows the question mark, as it is written.
pub struct Query<'a>(pub &'a str);

impl Query<'_> {
    /// Empty without one.
    pub fn text(&self, name: &str) -> &str {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
        values.next().unwrap_or_default()
    }

    /// 0 without one.
    pub fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or(0)
    }
}
