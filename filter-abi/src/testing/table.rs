//! The table of `key_value` in memory.

use std::collections::BTreeMap;

use crate::key_value::StoreError;

/// The proxy's default for `limits.key_value_bytes`.
const BYTES: usize = 16 << 20;

/// Values with their ends, and claims. Time is the proxy's, in milliseconds that never go back.
#[derive(Debug, Default)]
pub(super) struct Table {
    values: BTreeMap<String, Value>,
    claims: BTreeMap<String, Claimer>,
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    /// When it is gone; none for never.
    end_ms: Option<u64>,
}

/// Who is to make a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimer {
    /// The hook that is running.
    Hook,
    /// Another instance, as the test says.
    Elsewhere,
}

impl Table {
    pub(super) fn get(&mut self, key: &str, now_ms: u64) -> Option<Vec<u8>> {
        let value = self.values.get(key)?;
        if value.end_ms.is_some_and(|end_ms| end_ms <= now_ms) {
            self.values.remove(key);
            return None;
        }
        Some(value.bytes.clone())
    }

    pub(super) fn set(&mut self, key: &str, value: &[u8], ttl_ms: Option<u64>, now_ms: u64) -> Result<(), StoreError> {
        if key.len() + value.len() > BYTES / 8 {
            return Err(StoreError::TooLarge);
        }
        let value = Value {
            bytes: value.to_vec(),
            end_ms: ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms)),
        };
        self.values.insert(key.to_owned(), value);
        self.claims.remove(key);
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &str, now_ms: u64) -> bool {
        self.get(key, now_ms).is_some() && self.values.remove(key).is_some()
    }

    pub(super) fn compare_and_swap(
        &mut self,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        if self.get(key, now_ms).as_deref() != expected {
            return Ok(false);
        }
        self.set(key, value, ttl_ms, now_ms)?;
        Ok(true)
    }

    pub(super) fn add(&mut self, key: &str, by: i64, ttl_ms: Option<u64>, now_ms: u64) -> Result<i64, StoreError> {
        let present = self.get(key, now_ms).and_then(|value| value.try_into().ok());
        let Some(present) = present.map(i64::from_le_bytes) else {
            self.set(key, &by.to_le_bytes(), ttl_ms, now_ms)?;
            return Ok(by);
        };
        let sum = present.saturating_add(by);
        if let Some(value) = self.values.get_mut(key) {
            value.bytes = sum.to_le_bytes().to_vec();
        }
        Ok(sum)
    }

    /// Whether there was no other claim.
    pub(super) fn claim(&mut self, key: &str, claimer: Claimer) -> bool {
        if self.claims.contains_key(key) {
            return false;
        }
        self.claims.insert(key.to_owned(), claimer);
        true
    }

    /// Ends the hook's claim of that key.
    pub(super) fn release(&mut self, key: &str) {
        if self.claims.get(key) == Some(&Claimer::Hook) {
            self.claims.remove(key);
        }
    }

    /// Ends the hook's claims.
    pub(super) fn release_all(&mut self) {
        self.claims.retain(|_, claimer| *claimer == Claimer::Elsewhere);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_when_their_time_has_come() {
        let mut table = Table::default();
        table.set("k", b"v", Some(10), 5).expect("it is small");
        table.set("for ever", b"v", None, 5).expect("it is small");
        assert_eq!(table.get("k", 14).as_deref(), Some(&b"v"[..]));
        assert_eq!(table.get("k", 15), None);
        assert!(!table.delete("k", 15));
        assert!(table.delete("for ever", u64::MAX));
    }

    #[test]
    fn counters_keep_their_time_and_stop_at_the_ends_of_their_range() {
        let mut table = Table::default();
        assert_eq!(table.add("n", 2, Some(10), 0), Ok(2));
        assert_eq!(table.add("n", i64::MAX, Some(10), 9), Ok(i64::MAX));
        assert_eq!(table.add("n", 1, Some(10), 10), Ok(1), "the counter has begun anew");
        table.set("n", b"other", None, 10).expect("it is small");
        assert_eq!(table.add("n", -1, None, 10), Ok(-1));
    }

    #[test]
    fn a_swap_needs_the_expected_value() {
        let mut table = Table::default();
        let cases = [
            (Some("a"), "b", false),
            (None, "a", true),
            (None, "b", false),
            (Some("a"), "b", true),
        ];
        for (expected, value, swapped) in cases {
            let expected = expected.map(str::as_bytes);
            let done = table.compare_and_swap("k", expected, value.as_bytes(), None, 0);
            assert_eq!(done, Ok(swapped), "{expected:?}");
        }
        let large = vec![0; BYTES / 8];
        assert_eq!(
            table.compare_and_swap("k", Some(b"b"), &large, None, 0),
            Err(StoreError::TooLarge)
        );
        assert_eq!(table.get("k", 0).as_deref(), Some(&b"b"[..]));
    }
}
