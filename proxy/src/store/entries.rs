//! One shard's values: found by key, dropped by age.
//!
//! Data plane; under its shard's lock. Invariant: after each operation the entries keep within their [`Limits`]. What has
//! expired is never given out, and makes room before anything else does. No operation costs more than the logarithm of
//! the number of entries, but for dropping others, each of which was put here once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::recency::Recency;
use super::{Stats, StoreError};

/// What an entry takes beside its key and value: its slot and link, its place by key and by deadline, with the room that
/// these keep to grow, and what the allocator adds to key and value. Measured: 175 to 326 bytes.
pub(super) const ENTRY_OVERHEAD: usize = 336;

/// Expired entries that each `put` drops, whether or not there is room: more than it adds, so that what nobody asks for
/// does not pile up.
const EXPIRED_PER_PUT: usize = 2;

/// What is listed at once: some 50 us under the lock, and no more to copy than one read of a body, but for one long key.
const PAGE_KEYS: usize = 1_000;
const PAGE_BYTES: usize = 64 << 10;

/// The least room to grow, in entries.
const SPARE: usize = 32;

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub bytes: usize,
    pub keys: usize,
    /// Key and value of one entry, in bytes.
    pub entry: usize,
}

pub(super) struct Entries {
    limits: Limits,
    /// Without holes: the last one moves to where one is removed.
    slots: Vec<Slot>,
    /// Positions in `slots`.
    by_key: HashMap<Arc<str>, usize>,
    by_use: Recency,
    /// Keys of those that expire.
    by_deadline: BTreeSet<(Instant, Arc<str>)>,
    bytes: usize,
    hits: u64,
    misses: u64,
    evictions: u64,
}

struct Slot {
    key: Arc<str>,
    value: Bytes,
    /// From then on it has expired.
    deadline: Option<Instant>,
}

impl Slot {
    fn cost(&self) -> usize {
        cost(&self.key, self.value.len())
    }
}

fn cost(key: &str, value: usize) -> usize {
    key.len().saturating_add(value).saturating_add(ENTRY_OVERHEAD)
}

impl Entries {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            by_key: HashMap::new(),
            by_use: Recency::new(),
            by_deadline: BTreeSet::new(),
            bytes: 0,
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }

    /// Uses the entry, and counts a hit or a miss.
    pub(super) fn get(&mut self, key: &str, now: Instant) -> Option<Bytes> {
        let Some(at) = self.find(key, now) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        self.by_use.touch(at);
        Some(self.slots[at].value.clone())
    }

    /// The value and when it expires.
    pub(super) fn peek(&mut self, key: &str, now: Instant) -> Option<(&Bytes, Option<Instant>)> {
        let at = self.find(key, now)?;
        let slot = &self.slots[at];
        Some((&slot.value, slot.deadline))
    }

    /// Keys of entries before this position, from the last one on, at most a page; and the position to go on before. In
    /// this order, because the last entry moves to where one is removed: whoever removes what was listed leaves the
    /// others where they are.
    pub(super) fn keys_below(&self, position: usize, now: Instant) -> (Vec<Arc<str>>, usize) {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        let end = position.min(self.slots.len());
        let start = end.saturating_sub(PAGE_KEYS);
        for at in (start..end).rev() {
            let slot = &self.slots[at];
            if slot.deadline.is_none_or(|deadline| now < deadline) {
                bytes += slot.key.len();
                keys.push(Arc::clone(&slot.key));
            }
            if bytes >= PAGE_BYTES {
                return (keys, at);
            }
        }
        (keys, start)
    }

    /// Whether an entry of that size can be put here.
    pub(super) fn check(&self, key: &str, value: usize) -> Result<(), StoreError> {
        let fits = key.len().saturating_add(value) <= self.limits.entry && cost(key, value) <= self.limits.bytes;
        if fits { Ok(()) } else { Err(StoreError::TooLarge) }
    }

    /// Keeps a value that was checked, as the one that was used last; gives back what it replaces.
    pub(super) fn put(&mut self, key: &str, value: Bytes, deadline: Option<Instant>, now: Instant) -> Option<Bytes> {
        let replaced = match self.by_key.get(key) {
            Some(&at) => Some(self.replace(at, value, deadline)),
            None => {
                self.insert(key, value, deadline);
                None
            }
        };
        for _ in 0..EXPIRED_PER_PUT {
            self.drop_expired(now);
        }
        while self.is_over(self.limits) && self.drop_one(now) {}
        replaced
    }

    /// Whether there was a value.
    pub(super) fn remove(&mut self, key: &str, now: Instant) -> bool {
        let found = self.find(key, now);
        found.map(|at| self.remove_at(at)).is_some()
    }

    /// Drops at most so many entries for a value that was checked and is to be put here; whether it has room then. What
    /// it will replace is used, so that it is not among those.
    pub(super) fn make_room(&mut self, key: &str, value: usize, at_most: usize, now: Instant) -> bool {
        let present = self.by_key.get(key).copied();
        present.inspect(|at| self.by_use.touch(*at));
        for _ in 0..at_most {
            let replaced = self.by_key.get(key).map_or(0, |at| self.slots[*at].cost());
            let needed = self.bytes - replaced + cost(key, value);
            if needed <= self.limits.bytes || !self.drop_one(now) {
                return true;
            }
        }
        false
    }

    /// Drops at most so many entries that are too many for the new limits; whether these hold from now on. Until then
    /// nothing grows.
    pub(super) fn resize(&mut self, limits: Limits, at_most: usize, now: Instant) -> bool {
        for _ in 0..at_most {
            if !self.is_over(limits) {
                break;
            }
            self.drop_one(now);
        }
        if self.is_over(limits) {
            self.limits.bytes = self.limits.bytes.min(self.bytes);
            self.limits.keys = self.limits.keys.min(self.slots.len());
            return false;
        }
        self.limits = limits;
        true
    }

    pub(super) fn add_to(&self, stats: &mut Stats) {
        stats.keys += self.slots.len();
        stats.bytes += self.bytes;
        stats.hits += self.hits;
        stats.misses += self.misses;
        stats.evictions += self.evictions;
    }

    /// The position of a value that has not expired.
    fn find(&mut self, key: &str, now: Instant) -> Option<usize> {
        let at = *self.by_key.get(key)?;
        if self.slots[at].deadline.is_none_or(|deadline| now < deadline) {
            return Some(at);
        }
        self.remove_at(at);
        None
    }

    fn insert(&mut self, key: &str, value: Bytes, deadline: Option<Instant>) {
        let at = self.slots.len();
        let key: Arc<str> = key.into();
        self.by_key.insert(Arc::clone(&key), at);
        if at == self.slots.capacity() {
            // Less than a vector would take by itself: it counts in `ENTRY_OVERHEAD`.
            self.slots.reserve_exact(with_spare(at) - at);
            self.by_use.reserve_exact(with_spare(at) - at);
        }
        self.by_use.push();
        self.by_deadline
            .extend(deadline.map(|deadline| (deadline, Arc::clone(&key))));
        self.slots.push(Slot { key, value, deadline });
        self.bytes += self.slots[at].cost();
    }

    fn replace(&mut self, at: usize, value: Bytes, deadline: Option<Instant>) -> Bytes {
        self.by_use.touch(at);
        let slot = &mut self.slots[at];
        self.bytes -= slot.cost();
        let replaced = std::mem::replace(&mut slot.value, value);
        self.bytes += slot.cost();
        // A counter keeps its deadline, most of all.
        if slot.deadline != deadline {
            if let Some(before) = slot.deadline {
                self.by_deadline.remove(&(before, Arc::clone(&slot.key)));
            }
            self.by_deadline
                .extend(deadline.map(|deadline| (deadline, Arc::clone(&slot.key))));
            slot.deadline = deadline;
        }
        replaced
    }

    fn is_over(&self, limits: Limits) -> bool {
        self.bytes > limits.bytes || self.slots.len() > limits.keys
    }

    /// Makes room by one entry; whether there was one.
    fn drop_one(&mut self, now: Instant) -> bool {
        self.drop_expired(now) || self.evict()
    }

    fn drop_expired(&mut self, now: Instant) -> bool {
        let first = self.by_deadline.first();
        let expired = first.filter(|(deadline, _)| *deadline <= now);
        let at = expired.and_then(|(_, key)| self.by_key.get(key).copied());
        at.map(|at| self.remove_at(at)).is_some()
    }

    fn evict(&mut self) -> bool {
        let oldest = self.by_use.oldest();
        self.evictions += u64::from(oldest.is_some());
        oldest.map(|at| self.remove_at(at)).is_some()
    }

    fn remove_at(&mut self, at: usize) {
        let removed = self.slots.swap_remove(at);
        self.by_use.swap_remove(at);
        self.by_key.remove(&removed.key);
        if let Some(moved) = self.slots.get(at)
            && let Some(position) = self.by_key.get_mut(&moved.key)
        {
            *position = at;
        }
        self.bytes -= removed.cost();
        if let Some(deadline) = removed.deadline {
            self.by_deadline.remove(&(deadline, removed.key));
        }
        self.give_back();
    }

    /// Gives room back when much is empty: what many small entries needed must not stay beside a few large ones.
    fn give_back(&mut self) {
        let count = self.slots.len();
        if self.slots.capacity() > count + count / 2 + 2 * SPARE {
            self.slots.shrink_to(with_spare(count));
            self.by_use.shrink_to(with_spare(count));
        }
        // A power of two: it may have to be twice as large as what it is asked for.
        if self.by_key.capacity() > count * 3 + 2 * SPARE {
            self.by_key.shrink_to(with_spare(count));
        }
    }
}

/// Room for so many entries and some more, so that growing and shrinking stay rare.
fn with_spare(count: usize) -> usize {
    count + count / 4 + SPARE
}

#[cfg(test)]
impl Entries {
    /// Checks that all parts say the same, and that the limits hold: by the costs, and by what is really reserved.
    pub(super) fn audit(&self) {
        let count = self.slots.len();
        assert_eq!(self.by_key.len(), count);
        assert_eq!(self.by_use.order().len(), count);
        for (at, slot) in self.slots.iter().enumerate() {
            assert_eq!(self.by_key[&slot.key], at);
            let place = slot.deadline.map(|deadline| (deadline, Arc::clone(&slot.key)));
            assert!(place.is_none_or(|place| self.by_deadline.contains(&place)));
        }
        let expiring = self.slots.iter().filter(|slot| slot.deadline.is_some()).count();
        assert_eq!(self.by_deadline.len(), expiring);
        assert_eq!(self.bytes, self.slots.iter().map(Slot::cost).sum::<usize>());
        assert!(!self.is_over(self.limits), "{count} keys, {} bytes", self.bytes);
        // An empty shard may keep some room; it is all that comes on top.
        let spare = 4 * SPARE * (size_of::<Slot>() + Recency::LINK_BYTES);
        assert!(
            self.reserved() <= self.bytes + spare,
            "{} reserved for {count} keys, {} bytes",
            self.reserved(),
            self.bytes
        );
    }

    /// What the allocator is asked for, as far as the standard library shows it.
    fn reserved(&self) -> usize {
        let slots = self.slots.capacity() * size_of::<Slot>() + self.by_use.capacity() * Recency::LINK_BYTES;
        // Seven of eight buckets are used, with a byte of control each.
        let by_key = self.by_key.capacity() * 8 / 7 * (size_of::<(Arc<str>, usize)>() + 1);
        // Nodes are at least half full.
        let by_deadline = self.by_deadline.len() * 2 * size_of::<(Instant, Arc<str>)>();
        // Two counts beside each key; and beside a value that was given out, what its holders share.
        let slot = |slot: &Slot| slot.key.len() + 16 + slot.value.len() + 32;
        slots + by_key + by_deadline + self.slots.iter().map(slot).sum::<usize>()
    }
}
