//! Key-value tables: what filters, and components that serve, remember from one exchange to the next, and share.
//!
//! Data plane; shared by all workers. Invariant: a table's memory never exceeds its [`Bounds`], whatever filters do; what
//! was not used for longest makes room. A table is split into shards, each under a lock of its own that is held for one
//! operation and never while anybody waits. It knows nothing of filters, and not what time it is.
//!
//! `entries` holds the values, in the order of `recency`; `flights` has the claims to make one, and those who wait
//! for them; `tables` keeps tables from one generation to the next.

mod entries;
mod flights;
mod recency;
mod tables;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::entries::{ENTRY_OVERHEAD, Entries, Limits};
use self::flights::Flights;
pub use self::flights::{Claim, Ticket, Waited};
pub use self::tables::{TableName, Tables};
use crate::permits::Permits;

/// The most shards: an operation holds its shard for some 100 ns, so four carry more than ten million a second. Two of
/// the largest entries have room in each.
const MAX_SHARDS: usize = 4;

/// A table is split no further than into shards of this many bytes and keys: in a small one, exact order of use is worth
/// more than a lock that is free.
const MIN_SHARD_BYTES: usize = 1 << 20;
const MIN_SHARD_KEYS: usize = 1 << 10;

/// Key and value of one entry are at most this part of the table, so that one entry cannot empty it.
const ENTRY_PART: usize = 8;

/// The keys of all claims together take at most this part of the table, beside the entries.
const CLAIMS_PART: usize = 8;

/// Entries that are dropped together before others get their turn at the shard: some 50 us.
const STEP: usize = 64;

/// What a table may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Keys, values, and what the table itself needs for each.
    pub bytes: usize,
    /// Entries; a table that was split counts at least one for each shard.
    pub keys: usize,
    /// Claims, and tickets of those who wait for one, together. Their keys may take an eighth of `bytes`, on top of it.
    pub claims: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Some 40,000 counters or short answers.
            bytes: 16 << 20,
            // More than so many bytes have room for; it is for tables that are given more.
            keys: 1 << 16,
            // As many exchanges as may well wait at once for one slow origin; some 300 bytes each.
            claims: 1 << 10,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Key and value together are over an eighth of the table, or do not fit into it.
    TooLarge,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("too large for the table"),
        }
    }
}

impl Error for StoreError {}

/// What a claim found.
pub enum Claimed {
    Value(Bytes),
    /// There is no value, and the caller is the only one to make it.
    Yours(Claim),
    /// Somebody else is making it.
    Wait(Ticket),
    /// There is no value, and [`Bounds::claims`], or as many bytes of keys as they may take, are under way.
    TooMany,
}

/// A table at one moment. Numbers that only grow begin with the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Those that have expired and are not dropped yet included.
    pub keys: usize,
    pub bytes: usize,
    /// Claims, and tickets of those who wait for one.
    pub claims: usize,
    /// Of `get` and `claim`.
    pub hits: u64,
    pub misses: u64,
    /// Entries that made room before they expired.
    pub evictions: u64,
}

/// Lives as long as a generation or an exchange holds it; one for a whole process.
pub struct Table {
    /// Held while they change.
    bounds: Mutex<Bounds>,
    /// With keys of its own, so that nobody outside can choose the shard.
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// What [`Bounds::claims`] counts.
    claims: Arc<Permits>,
}

struct Shard {
    entries: Entries,
    flights: Flights,
}

impl Table {
    pub fn new(bounds: Bounds) -> Self {
        let shards = (bounds.bytes / MIN_SHARD_BYTES).min(bounds.keys / MIN_SHARD_KEYS);
        let shards = shards.clamp(1, MAX_SHARDS);
        let shard = || {
            Mutex::new(Shard {
                entries: Entries::new(limits(bounds, shards)),
                flights: Flights::new(claimed_bytes(bounds, shards)),
            })
        };
        Self {
            bounds: Mutex::new(bounds),
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            claims: Arc::new(Permits::new(bounds.claims)),
        }
    }

    pub fn get(&self, key: &str, now: Instant) -> Option<Bytes> {
        self.shard(key).entries.get(key, now)
    }

    /// Wakes those who wait for a claim on the key. Without `ttl` the value stays until it makes room. `value` must not
    /// be a piece of something longer: its own length is all that is counted.
    pub fn set(&self, key: &str, value: Bytes, ttl: Option<Duration>, now: Instant) -> Result<(), StoreError> {
        let shard = self.shard(key);
        shard.entries.check(key, value.len())?;
        let shard = self.make_room(shard, key, value.len(), now);
        put(shard, key, value, deadline(ttl, now), now);
        Ok(())
    }

    /// Whether there was a value.
    pub fn delete(&self, key: &str, now: Instant) -> bool {
        self.shard(key).entries.remove(key, now)
    }

    /// Sets `value`, as [`Table::set`] does, if the present value is `expected` (`None`: if there is none); whether it
    /// did.
    pub fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: Bytes,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<bool, StoreError> {
        let is_expected = |shard: &mut Shard| shard.entries.peek(key, now).map(|(value, _)| &value[..]) == expected;
        let mut shard = self.shard(key);
        shard.entries.check(key, value.len())?;
        // A swap that fails drops nothing.
        if !is_expected(&mut shard) {
            return Ok(false);
        }
        let mut shard = self.make_room(shard, key, value.len(), now);
        // Others may have had their turn.
        let still = is_expected(&mut shard);
        if still {
            put(shard, key, value, deadline(ttl, now), now);
        }
        Ok(still)
    }

    /// Adds to a counter of 8 bytes, little end first, and gives the sum, which stops at the ends of its range. What is
    /// no counter, or not there, begins one at 0, which lives for `ttl`.
    pub fn add(&self, key: &str, by: i64, ttl: Option<Duration>, now: Instant) -> Result<i64, StoreError> {
        let mut shard = self.shard(key);
        shard.entries.check(key, size_of::<i64>())?;
        let counter = |(value, deadline): (&Bytes, Option<Instant>)| {
            let count = <[u8; 8]>::try_from(&value[..]).ok()?;
            Some((i64::from_le_bytes(count), deadline))
        };
        let counter = shard.entries.peek(key, now).and_then(counter);
        let (count, deadline) = counter.unwrap_or_else(|| (0, deadline(ttl, now)));
        let sum = count.saturating_add(by);
        put(shard, key, Bytes::copy_from_slice(&sum.to_le_bytes()), deadline, now);
        Ok(sum)
    }

    /// Sets what `change` makes of the present value, as [`Table::set`] does, and gives it; with `None` all stays as it is.
    /// It expires when the value before would have. For short values: room for a long one is made at once.
    pub fn update(
        &self,
        key: &str,
        change: impl FnOnce(Option<&[u8]>) -> Option<Bytes>,
        now: Instant,
    ) -> Result<Option<Bytes>, StoreError> {
        let mut shard = self.shard(key);
        let present = shard.entries.peek(key, now);
        let deadline = present.and_then(|(_, deadline)| deadline);
        let Some(value) = change(present.map(|(value, _)| &value[..])) else {
            return Ok(None);
        };
        shard.entries.check(key, value.len())?;
        put(shard, key, value.clone(), deadline, now);
        Ok(Some(value))
    }

    /// Some of the keys, and where to go on for more. A key that is there from the first page to the last is on one of
    /// them, whatever is removed meanwhile; it may be on two.
    pub fn keys(&self, from: Option<u64>, now: Instant) -> (Vec<Arc<str>>, Option<u64>) {
        let mut place = from.map_or(ListPlace::beginning(0), ListPlace::from);
        while let Some(shard) = self.shards.get(place.shard) {
            let (keys, left) = lock(shard).entries.keys_below(place.entries, now);
            place = match left {
                0 => ListPlace::beginning(place.shard + 1),
                left => ListPlace { entries: left, ..place },
            };
            if !keys.is_empty() {
                let is_more = place.shard < self.shards.len();
                return (keys, is_more.then(|| place.into()));
            }
        }
        (Vec::new(), None)
    }

    /// The value; or the duty to make it, for one caller at a time; or a place among those who wait for that one.
    pub fn claim(self: &Arc<Self>, key: &str, now: Instant) -> Claimed {
        let mut shard = self.shard(key);
        if let Some(value) = shard.entries.get(key, now) {
            return Claimed::Value(value);
        }
        match self.claims.try_take() {
            Some(permit) => shard.flights.join(self, key, permit),
            None => Claimed::TooMany,
        }
    }

    pub fn bounds(&self) -> Bounds {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what is too much, in steps between which others go on; claims that are too many end as they would have.
    /// The number of shards stays.
    pub fn resize(&self, bounds: Bounds, now: Instant) {
        let mut current = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == bounds {
            return;
        }
        self.claims.set_limit(bounds.claims);
        let limits = limits(bounds, self.shards.len());
        let claimed = claimed_bytes(bounds, self.shards.len());
        for shard in &self.shards {
            lock(shard).flights.max_key_bytes = claimed;
            while !lock(shard).entries.resize(limits, STEP, now) {}
        }
        *current = bounds;
    }

    /// For metrics: the shards one after the other.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            claims: self.claims.taken(),
            ..Stats::default()
        };
        for shard in &self.shards {
            lock(shard).entries.add_to(&mut stats);
        }
        stats
    }

    /// Makes most of the room that a long value needs in steps, so that others need not wait until thousands of short
    /// ones are dropped. For a short one it keeps the lock, and leaves all to [`put`].
    fn make_room<'table>(
        &'table self,
        mut shard: MutexGuard<'table, Shard>,
        key: &str,
        length: usize,
        now: Instant,
    ) -> MutexGuard<'table, Shard> {
        for _ in 0..length / (STEP * ENTRY_OVERHEAD) {
            if shard.entries.make_room(key, length, STEP, now) {
                break;
            }
            drop(shard);
            shard = self.shard(key);
        }
        shard
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        match &*self.shards {
            [only] => lock(only),
            shards => lock(&shards[self.hasher.hash_one(key) as usize % shards.len()]),
        }
    }
}

/// Where a list of keys goes on.
#[derive(Clone, Copy)]
struct ListPlace {
    shard: usize,
    /// So many of its entries are not listed yet, the first ones.
    entries: usize,
}

impl ListPlace {
    fn beginning(shard: usize) -> Self {
        Self {
            shard,
            // More than there can be.
            entries: u32::MAX as usize,
        }
    }
}

/// As users of the table see it, who may make up what they like.
impl From<u64> for ListPlace {
    fn from(place: u64) -> Self {
        Self {
            shard: (place >> u32::BITS) as usize,
            entries: (place & u64::from(u32::MAX)) as usize,
        }
    }
}

impl From<ListPlace> for u64 {
    fn from(place: ListPlace) -> Self {
        ((place.shard as Self) << u32::BITS) | place.entries as Self
    }
}

/// Sets a value that was checked, lets go of the shard, and wakes those who wait for the key.
fn put(mut shard: MutexGuard<'_, Shard>, key: &str, value: Bytes, deadline: Option<Instant>, now: Instant) {
    let waiters = shard.flights.take_waiters(key);
    let told = waiters.map(|waiters| (waiters, value.clone()));
    let replaced = shard.entries.put(key, value, deadline, now);
    drop(shard);
    // To free much memory, and to wake many, takes time.
    drop(replaced);
    if let Some((waiters, value)) = told {
        flights::tell(waiters, &value);
    }
}

/// `None` is never.
fn deadline(ttl: Option<Duration>, now: Instant) -> Option<Instant> {
    now.checked_add(ttl?)
}

fn limits(bounds: Bounds, shards: usize) -> Limits {
    Limits {
        bytes: bounds.bytes / shards,
        keys: (bounds.keys / shards).max(1),
        entry: bounds.bytes / ENTRY_PART,
    }
}

/// What the keys of one shard's claims may take.
fn claimed_bytes(bounds: Bounds, shards: usize) -> usize {
    bounds.bytes / CLAIMS_PART / shards
}

// A shard is whole after each of its steps, so a panic elsewhere under its lock leaves nothing to repair.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
