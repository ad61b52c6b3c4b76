//! Maglev hashing (Eisenbud et al., NSDI 2016, 3.4): a table in which endpoints take turns at claiming entries, each in
//! an order of its own.
//!
//! Pure. Shares are more even than on a ring, and a look-up is one access; a few more keys move when an endpoint comes
//! or goes.

use twox_hash::XxHash3_64;

/// Prime, as the method demands, and a hundred times the usual number of endpoints: shares differ by a hundredth then.
const SMALL: usize = 65_537;
/// The paper's larger one, for more than a hundredth of the smaller.
const LARGE: usize = 655_373;
/// Looks for another entry when an endpoint does not suit; half of them unusable leave one in 10^9 without an answer
/// then, which gets one from a walk.
const PROBES: usize = 30;

#[derive(Debug)]
pub struct Maglev {
    entries: Vec<u16>,
    endpoints: usize,
}

impl Maglev {
    /// Of labels and weights; at most 65,536 of them.
    pub fn new(endpoints: &[(&str, u32)]) -> Self {
        let size = if endpoints.len() > SMALL / 100 { LARGE } else { SMALL };
        let order = |(label, _): &(&str, u32)| Order {
            at: (XxHash3_64::oneshot(label.as_bytes()) % size as u64) as usize,
            step: (XxHash3_64::oneshot_with_seed(1, label.as_bytes()) % (size as u64 - 1)) as usize + 1,
        };
        let mut orders: Vec<Order> = endpoints.iter().map(order).collect();
        let heaviest = endpoints
            .iter()
            .map(|(_, weight)| u64::from(*weight))
            .max()
            .unwrap_or(1);
        let mut credits = vec![0; endpoints.len()];
        let mut entries: Vec<Option<u16>> = vec![None; size];
        let mut left = if endpoints.is_empty() { 0 } else { size };
        while left > 0 {
            for (index, (_, weight)) in endpoints.iter().enumerate() {
                credits[index] += u64::from(*weight);
                if credits[index] < heaviest || left == 0 {
                    continue;
                }
                credits[index] -= heaviest;
                let at = orders[index].next_free(&entries);
                entries[at] = u16::try_from(index).ok();
                left -= 1;
            }
        }
        Self {
            entries: entries.into_iter().flatten().collect(),
            endpoints: endpoints.len(),
        }
    }

    pub fn find(&self, key: u64, suits: impl Fn(usize) -> bool) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        let mut hash = key;
        for _ in 0..PROBES {
            let owner = usize::from(self.entries[(hash % self.entries.len() as u64) as usize]);
            if suits(owner) {
                return Some(owner);
            }
            hash = XxHash3_64::oneshot(&hash.to_le_bytes());
        }
        let from = (hash % self.endpoints as u64) as usize;
        (from..self.endpoints).chain(0..from).find(|owner| suits(*owner))
    }
}

/// The order in which one endpoint claims entries: all of them, once.
struct Order {
    at: usize,
    step: usize,
}

impl Order {
    fn next_free(&mut self, entries: &[Option<u16>]) -> usize {
        loop {
            let at = self.at;
            self.at = (self.at + self.step) % entries.len();
            if entries[at].is_none() {
                return at;
            }
        }
    }
}
