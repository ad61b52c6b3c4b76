//! Claims to make a value, and those who wait for them: of all who miss one key at once, one makes its value.
//!
//! Data plane; a shard's flights are under its lock. Invariant: a key's flight is there exactly as long as its [`Claim`],
//! so that there is never a second one. A claim that ends without a value passes on to the one who has waited for
//! longest. Whoever is dropped while waiting leaves nothing behind.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Claimed, Table};
use crate::permits::Permit;

/// The duty to make a key's value. [`Table::set`] hands the value to all who wait; when the claim is dropped and some
/// still wait, or have come since, one of them gets it.
pub struct Claim {
    /// `None` once it has passed on.
    held: Option<Held>,
}

struct Held {
    table: Arc<Table>,
    key: Arc<str>,
    _permit: Permit,
}

impl Claim {
    /// What is to be made; empty once the claim has passed on.
    pub fn key(&self) -> &str {
        self.held.as_ref().map_or("", |held| &held.key)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.held.take();
        while let Some(mine) = held.take() {
            let next = mine.table.shard(&mine.key).flights.next(&mine.key);
            let Some(next) = next else { return };
            // Outside the lock: one who has just left gives it back, and another is asked.
            if let Err(Waited::Yours(mut back)) = next.send(Waited::Yours(Claim { held: Some(mine) })) {
                held = back.held.take();
            }
        }
    }
}

/// What somebody who waited got.
pub enum Waited {
    Value(Bytes),
    /// The one who was making it has given up.
    Yours(Claim),
}

/// A place among those who wait for a claim; given up when it is dropped.
pub struct Ticket {
    table: Arc<Table>,
    key: Arc<str>,
    number: u64,
    receiver: oneshot::Receiver<Waited>,
    _permit: Permit,
}

impl Ticket {
    /// As long as it takes: how long the caller is willing to wait is its own business. Dropped at any moment, it loses
    /// nothing: a claim that was on its way here passes on.
    pub async fn wait(mut self) -> Waited {
        (&mut self.receiver)
            .await
            .expect("a sender goes only by sending, or with its ticket")
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Dropped after the lock: it may wake a task.
        let _sender = self.table.shard(&self.key).flights.leave(&self.key, self.number);
    }
}

pub(super) type Waiters = BTreeMap<u64, oneshot::Sender<Waited>>;

/// Hands a value to all of them. Never under a shard's lock: it wakes their tasks.
pub(super) fn tell(waiters: Waiters, value: &Bytes) {
    for waiter in waiters.into_values() {
        // One who has left needs no value.
        let _ = waiter.send(Waited::Value(value.clone()));
    }
}

/// One shard's claims.
pub(super) struct Flights {
    /// By the number of their tickets, and so in the order in which they came.
    by_key: HashMap<Arc<str>, Waiters>,
    key_bytes: usize,
    pub(super) max_key_bytes: usize,
    next_number: u64,
}

impl Flights {
    pub(super) fn new(max_key_bytes: usize) -> Self {
        Self {
            by_key: HashMap::new(),
            key_bytes: 0,
            max_key_bytes,
            next_number: 0,
        }
    }

    /// Claims the key, or waits for the one who has.
    pub(super) fn join(&mut self, table: &Arc<Table>, key: &str, permit: Permit) -> Claimed {
        let table = Arc::clone(table);
        match self.by_key.entry(key.into()) {
            Entry::Occupied(mut flight) => {
                let (sender, receiver) = oneshot::channel();
                let number = self.next_number;
                self.next_number += 1;
                flight.get_mut().insert(number, sender);
                Claimed::Wait(Ticket {
                    table,
                    key: Arc::clone(flight.key()),
                    number,
                    receiver,
                    _permit: permit,
                })
            }
            Entry::Vacant(_) if self.key_bytes + key.len() > self.max_key_bytes => Claimed::TooMany,
            Entry::Vacant(flight) => {
                self.key_bytes += key.len();
                let key = Arc::clone(flight.key());
                flight.insert(Waiters::new());
                Claimed::Yours(Claim {
                    held: Some(Held {
                        table,
                        key,
                        _permit: permit,
                    }),
                })
            }
        }
    }

    /// Those who wait for the key; `None` when nobody does. The claim stays with the one who has it.
    pub(super) fn take_waiters(&mut self, key: &str) -> Option<Waiters> {
        let waiters = self.by_key.get_mut(key).map(std::mem::take)?;
        (!waiters.is_empty()).then_some(waiters)
    }

    /// The one who gets the key's claim next; without one, the claim ends.
    fn next(&mut self, key: &str) -> Option<oneshot::Sender<Waited>> {
        let waiters = self.by_key.get_mut(key)?;
        let next = waiters.pop_first();
        if next.is_none() {
            self.by_key.remove(key);
            self.key_bytes -= key.len();
        }
        next.map(|(_, sender)| sender)
    }

    fn leave(&mut self, key: &str, number: u64) -> Option<oneshot::Sender<Waited>> {
        self.by_key.get_mut(key)?.remove(&number)
    }
}

#[cfg(test)]
impl Flights {
    /// Checks that no more is kept than what is under way, and gives the number of claims and of those who wait.
    pub(super) fn audit(&self) -> (usize, usize) {
        assert_eq!(self.key_bytes, self.by_key.keys().map(|key| key.len()).sum::<usize>());
        (self.by_key.len(), self.by_key.values().map(Waiters::len).sum())
    }
}
