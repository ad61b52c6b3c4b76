//! The metrics that one filter makes for itself.
//!
//! Data plane. Names and values come from a guest and are hostile: names are few and plain, each has one kind for good,
//! values are finite. What breaks a rule is dropped and counted, and never reported to the guest.

use std::collections::BTreeMap;
use std::time::Instant;

use super::histogram::{GUEST_VALUES, Histogram};

/// Names of one filter. Each is a series that every scrape carries.
pub const MAX_NAMES: usize = 64;

/// Bytes of one name.
pub const MAX_NAME_BYTES: usize = 64;

#[derive(Clone, Debug, Default)]
pub struct CustomMetrics {
    by_name: BTreeMap<Box<str>, Custom>,
    dropped: u64,
}

#[derive(Clone, Debug)]
pub enum Custom {
    Counter(u64),
    /// Set by any instance on any worker: the value set last is the value.
    Gauge {
        value: f64,
        set_at: Instant,
    },
    Histogram(Box<Histogram>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CustomKind {
    Counter,
    Gauge,
    Histogram,
}

impl CustomMetrics {
    pub fn add(&mut self, name: &str, by: u64) {
        match self.entry(name, CustomKind::Counter) {
            Some(Custom::Counter(count)) => *count = count.saturating_add(by),
            _ => self.dropped += 1,
        }
    }

    pub fn set(&mut self, name: &str, to: f64) {
        match self.entry(name, CustomKind::Gauge) {
            Some(Custom::Gauge { value, set_at }) if to.is_finite() => (*value, *set_at) = (to, Instant::now()),
            _ => self.dropped += 1,
        }
    }

    pub fn observe(&mut self, name: &str, value: f64) {
        match self.entry(name, CustomKind::Histogram) {
            Some(Custom::Histogram(histogram)) if value.is_finite() => histogram.observe(value),
            _ => self.dropped += 1,
        }
    }

    /// What is known by this name, made when the name is new and allowed. May be of another kind than asked for.
    fn entry(&mut self, name: &str, kind: CustomKind) -> Option<&mut Custom> {
        if !self.by_name.contains_key(name) {
            if self.by_name.len() >= MAX_NAMES || !is_name(name) {
                return None;
            }
            self.by_name.insert(name.into(), Custom::new(kind));
        }
        self.by_name.get_mut(name)
    }

    /// Adds what the same filter's instances on another worker made. A name that has another kind there keeps the one
    /// that it has here.
    pub fn absorb(&mut self, other: &Self) {
        self.dropped += other.dropped;
        for (name, custom) in &other.by_name {
            match self.by_name.get_mut(name) {
                Some(known) => known.absorb(custom),
                None => drop(self.by_name.insert(name.clone(), custom.clone())),
            }
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// In the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Custom)> {
        self.by_name.iter().map(|(name, custom)| (&**name, custom))
    }
}

impl Custom {
    fn new(kind: CustomKind) -> Self {
        match kind {
            CustomKind::Counter => Self::Counter(0),
            CustomKind::Gauge => Self::Gauge {
                value: 0.0,
                set_at: Instant::now(),
            },
            CustomKind::Histogram => Self::Histogram(Box::new(Histogram::new(&GUEST_VALUES))),
        }
    }

    pub fn kind(&self) -> CustomKind {
        match self {
            Self::Counter(_) => CustomKind::Counter,
            Self::Gauge { .. } => CustomKind::Gauge,
            Self::Histogram(_) => CustomKind::Histogram,
        }
    }

    fn absorb(&mut self, other: &Self) {
        match (self, other) {
            (Self::Counter(count), Self::Counter(more)) => *count = count.saturating_add(*more),
            (Self::Histogram(histogram), Self::Histogram(more)) => histogram.absorb(more),
            (
                Self::Gauge { value, set_at },
                Self::Gauge {
                    value: theirs,
                    set_at: later,
                },
            ) if later > set_at => {
                (*value, *set_at) = (*theirs, *later);
            }
            _ => {}
        }
    }
}

/// Narrower than what Prometheus takes: the name is pasted behind a prefix, and upper case would only invite twins.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(metrics: &CustomMetrics) -> Vec<&str> {
        metrics.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn only_plain_names_are_taken() {
        let mut metrics = CustomMetrics::default();
        let long = "n".repeat(65);
        let bad = ["", "A", "a-b", "a b", "a{b}", "a\n", "é", "a\0", &long];
        for name in bad {
            metrics.add(name, 1);
        }
        assert_eq!((names(&metrics), metrics.dropped()), (vec![], bad.len() as u64));
        metrics.add("orders_2_total", 1);
        metrics.add(&"n".repeat(64), 1);
        assert_eq!((names(&metrics).len(), metrics.dropped()), (2, bad.len() as u64));
    }

    #[test]
    fn names_are_bounded_and_known_ones_go_on_counting() {
        let mut metrics = CustomMetrics::default();
        for number in 0..100 {
            metrics.add(&format!("n{number}"), 1);
        }
        metrics.add("n0", 1);
        assert_eq!((names(&metrics).len(), metrics.dropped()), (MAX_NAMES, 36));
        assert!(matches!(metrics.by_name["n0"], Custom::Counter(2)));
    }

    #[test]
    fn a_name_keeps_its_kind_and_values_are_finite() {
        let mut metrics = CustomMetrics::default();
        metrics.add("x", u64::MAX);
        metrics.add("x", 2);
        metrics.set("x", 1.0);
        metrics.observe("x", 1.0);
        metrics.set("y", f64::NAN);
        metrics.observe("z", f64::INFINITY);
        assert!(matches!(metrics.by_name["x"], Custom::Counter(u64::MAX)));
        assert_eq!(metrics.dropped(), 4);
    }

    #[test]
    fn the_gauge_set_last_wins_whatever_the_order_of_workers() {
        let (mut one, mut two) = (CustomMetrics::default(), CustomMetrics::default());
        one.set("level", 1.0);
        two.set("level", 2.0);
        for (mut merged, other) in [(one.clone(), &two), (two.clone(), &one)] {
            merged.absorb(other);
            assert!(matches!(merged.by_name["level"], Custom::Gauge { value: 2.0, .. }));
        }
    }
}
