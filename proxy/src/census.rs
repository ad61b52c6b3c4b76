//! How many connections each address has at one listener, over all workers.
//!
//! Data plane. Asked once when a connection is accepted and once when it ends, never per request, and only where the
//! listener has a bound. Invariant: an address is held as long as one of its connections is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Two workers that accept at once seldom meet in one.
const SHARDS: usize = 16;
/// A network of IPv6 that has one owner (RFC 6177 asks for no longer prefix than this at the least of sites).
const PREFIX: u32 = 64;

/// Lives as long as its listener's sockets.
#[derive(Debug)]
pub struct Census {
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
    hashes: RandomState,
}

impl Default for Census {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hashes: RandomState::new(),
        }
    }
}

impl Census {
    /// Counts a connection in, unless its address has `most` of them; each that was has to [leave](Census::leave).
    pub fn enter(&self, address: IpAddr, most: u32) -> bool {
        let address = household(address);
        let mut shard = self.shard(address);
        let count = shard.entry(address).or_default();
        let has_room = *count < most;
        *count += u32::from(has_room);
        if *count == 0 {
            shard.remove(&address);
        }
        has_room
    }

    pub fn leave(&self, address: IpAddr) {
        let address = household(address);
        if let Entry::Occupied(mut entry) = self.shard(address).entry(address) {
            *entry.get_mut() = entry.get().saturating_sub(1);
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    fn shard(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let shard = self.hashes.hash_one(address) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who counts as one: each address of IPv4, each network of IPv6 that is handed out whole.
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - PREFIX))).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share() {
        let census = Census::default();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(census.enter(ip("192.0.2.1"), 2) && census.enter(ip("::ffff:192.0.2.1"), 2));
        assert!(!census.enter(ip("192.0.2.1"), 2));
        assert!(census.enter(ip("192.0.2.2"), 2), "another one");
        census.leave(ip("192.0.2.1"));
        assert!(census.enter(ip("192.0.2.1"), 2));
        // One network, many addresses.
        assert!(census.enter(ip("2001:db8::1"), 1) && !census.enter(ip("2001:db8::2:0:0:9"), 1));
        assert!(census.enter(ip("2001:db8:0:1::1"), 1));
        assert!(!census.enter(ip("192.0.2.3"), 0), "nobody may");
    }

    #[test]
    fn whoever_has_left_is_forgotten() {
        let census = Census::default();
        for last in 0..=255 {
            let address = IpAddr::from([192, 0, 2, last]);
            assert!(census.enter(address, 1) && !census.enter(address, 1));
            census.leave(address);
            assert!(!census.enter(address, 0));
            census.leave(address);
        }
        let held: usize = census
            .shards
            .iter()
            .map(|shard| shard.lock().expect("sound").len())
            .sum();
        assert_eq!(held, 0);
    }
}
