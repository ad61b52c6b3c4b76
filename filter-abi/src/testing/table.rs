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
