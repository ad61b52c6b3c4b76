//! Ring hash (Ketama): endpoints own arcs of a circle, and a key belongs to whose arc it falls on.
//!
//! Pure. An endpoint that comes or goes moves only the keys of its own arcs.

use twox_hash::XxHash3_64;

/// For an endpoint of average weight, as in Ketama: arcs differ by about a twelfth then.
const POINTS: f64 = 160.0;

#[derive(Debug)]
pub struct Ring {
    /// Where arcs begin, in order, and whose they are.
    points: Vec<(u64, u16)>,
}

impl Ring {
    /// Of labels and weights; at most 65,536 of them.
    pub fn new(endpoints: &[(&str, u32)]) -> Self {
        let total: f64 = endpoints.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mean = total / endpoints.len() as f64;
        let mut points = Vec::new();
        for (index, (label, weight)) in endpoints.iter().enumerate() {
            let count = (POINTS * f64::from(*weight) / mean).round().max(1.0) as u32;
            let owner = u16::try_from(index).unwrap_or(u16::MAX);
            points.extend((0..count).map(|number| (point(label, number), owner)));
        }
        points.sort_unstable();
        Self { points }
    }

    /// The first from the key on that suits.
    pub fn find(&self, key: u64, suits: impl Fn(usize) -> bool) -> Option<usize> {
        let from = self.points.partition_point(|(at, _)| *at < key);
        let (before, after) = self.points.split_at(from);
        let mut owners = after.iter().chain(before).map(|(_, owner)| usize::from(*owner));
        owners.find(|owner| suits(*owner))
    }
}

fn point(label: &str, number: u32) -> u64 {
    XxHash3_64::oneshot_with_seed(u64::from(number), label.as_bytes())
}
