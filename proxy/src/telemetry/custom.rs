//! The metrics that one filter makes for itself.
//!
//! Data plane. Names, labels and values come from a guest and are hostile: names are few and plain, each has one kind for
//! good and few sets of labels, values are finite. What breaks a rule is dropped and counted, and never reported to the
//! guest.

use std::collections::BTreeMap;
use std::time::Instant;

use super::histogram::{GUEST_VALUES, Histogram};

/// Names of one filter. Each is a series that every scrape carries.
pub const MAX_NAMES: usize = 64;

/// Bytes of one name.
pub const MAX_NAME_BYTES: usize = 64;

/// Sets of label values of one name, each a series of its own.
pub const MAX_SERIES: usize = 32;

/// Labels of one name.
pub const MAX_LABELS: usize = 4;

/// Bytes of one label's value.
pub const MAX_VALUE_BYTES: usize = 64;

/// Names and values, in the order of names.
pub type Labels = Vec<(String, String)>;

#[derive(Clone, Debug, Default)]
pub struct CustomMetrics {
    by_name: BTreeMap<Box<str>, Family>,
    dropped: u64,
}

/// All series of one name, which are of one kind.
#[derive(Clone, Debug)]
struct Family {
    kind: CustomKind,
    series: BTreeMap<Labels, Custom>,
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
    pub fn add(&mut self, name: &str, labels: Labels, by: u64) {
        match self.entry(name, labels, CustomKind::Counter) {
            Some(Custom::Counter(count)) => *count = count.saturating_add(by),
            _ => self.dropped += 1,
        }
    }

    pub fn set(&mut self, name: &str, labels: Labels, to: f64) {
        match self.entry(name, labels, CustomKind::Gauge) {
            Some(Custom::Gauge { value, set_at }) if to.is_finite() => (*value, *set_at) = (to, Instant::now()),
            _ => self.dropped += 1,
        }
    }

    pub fn observe(&mut self, name: &str, labels: Labels, value: f64) {
        match self.entry(name, labels, CustomKind::Histogram) {
            Some(Custom::Histogram(histogram)) if value.is_finite() => histogram.observe(value),
            _ => self.dropped += 1,
        }
    }

    /// What is known by this name and these labels, made when it is new and allowed. `None` also when the name is of
    /// another kind.
    fn entry(&mut self, name: &str, mut labels: Labels, kind: CustomKind) -> Option<&mut Custom> {
        labels.sort_unstable();
        if !self.by_name.contains_key(name) {
            if self.by_name.len() >= MAX_NAMES || !is_name(name) || !are_labels(&labels) {
                return None;
            }
            let series = BTreeMap::new();
            self.by_name.insert(name.into(), Family { kind, series });
        }
        let family = self.by_name.get_mut(name)?;
        if family.kind != kind {
            return None;
        }
        if !family.series.contains_key(&labels) && (family.series.len() >= MAX_SERIES || !are_labels(&labels)) {
            return None;
        }
        Some(family.series.entry(labels).or_insert_with(|| Custom::new(kind)))
    }

    /// Adds what the same filter's instances on another worker made. A name that has another kind there keeps the one
    /// that it has here.
    pub fn absorb(&mut self, other: &Self) {
        self.dropped += other.dropped;
        for (name, theirs) in &other.by_name {
            match self.by_name.get_mut(name) {
                Some(ours) if ours.kind == theirs.kind => ours.absorb(theirs),
                Some(_) => {}
                None => drop(self.by_name.insert(name.clone(), theirs.clone())),
            }
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Each name with its kind and its series, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, CustomKind, impl Iterator<Item = (&Labels, &Custom)>)> {
        self.by_name
            .iter()
            .map(|(name, family)| (&**name, family.kind, family.series.iter()))
    }
}

impl Family {
    /// As many workers as there are may each have found other labels; together they are bounded all the same.
    fn absorb(&mut self, other: &Self) {
        for (labels, custom) in &other.series {
            if let Some(known) = self.series.get_mut(labels) {
                known.absorb(custom);
            } else if self.series.len() < MAX_SERIES {
                self.series.insert(labels.clone(), custom.clone());
            }
        }
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

/// Each name once; `filter` says whose it is, `version` of which version and makes a label of that name an
/// `exported_version`, `le` is a histogram's own, and what begins with `__` is Prometheus's.
fn are_labels(labels: &Labels) -> bool {
    let is_sound = |(name, value): &(String, String)| {
        let taken = ["filter", "exported_version", "le"].contains(&name.as_str()) || name.starts_with("__");
        let begins_well = !name.starts_with(|first: char| first.is_ascii_digit());
        is_name(name) && begins_well && !taken && value.len() <= MAX_VALUE_BYTES
    };
    let differ = labels.windows(2).all(|pair| pair[0].0 != pair[1].0);
    labels.len() <= MAX_LABELS && differ && labels.iter().all(is_sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(metrics: &CustomMetrics) -> Vec<&str> {
        metrics.iter().map(|(name, ..)| name).collect()
    }

    fn plain(metrics: &CustomMetrics, name: &str) -> Custom {
        metrics.by_name[name].series[&Labels::new()].clone()
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn labels_are_plain_few_and_in_any_order() {
        let mut metrics = CustomMetrics::default();
        metrics.add("n", labels(&[("b", "2"), ("a", "1")]), 1);
        metrics.add("n", labels(&[("a", "1"), ("b", "2")]), 1);
        let series = &metrics.by_name["n"].series;
        assert!(matches!(series[&labels(&[("a", "1"), ("b", "2")])], Custom::Counter(2)));
        let long = "v".repeat(MAX_VALUE_BYTES + 1);
        let bad = [
            labels(&[("filter", "x")]),
            labels(&[("le", "1")]),
            labels(&[("__name__", "x")]),
            labels(&[("1a", "x")]),
            labels(&[("a-b", "x")]),
            labels(&[("a", "x"), ("a", "y")]),
            labels(&[("a", long.as_str())]),
            labels(&[("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "")]),
        ];
        let count = bad.len() as u64;
        bad.into_iter().for_each(|labels| metrics.add("n", labels, 1));
        assert_eq!((metrics.by_name["n"].series.len(), metrics.dropped()), (1, count));
    }

    #[test]
    fn label_values_are_bounded_over_all_workers() {
        let mut all = CustomMetrics::default();
        for worker in 0..3 {
            let mut metrics = CustomMetrics::default();
            for number in 0..100 {
                metrics.add("n", labels(&[("id", &format!("{worker}-{number}"))]), 1);
            }
            assert_eq!(metrics.dropped(), 100 - MAX_SERIES as u64);
            all.absorb(&metrics);
        }
        assert_eq!(all.by_name["n"].series.len(), MAX_SERIES);
    }

    #[test]
    fn only_plain_names_are_taken() {
        let mut metrics = CustomMetrics::default();
        let long = "n".repeat(65);
        let bad = ["", "A", "a-b", "a b", "a{b}", "a\n", "é", "a\0", &long];
        for name in bad {
            metrics.add(name, Labels::new(), 1);
        }
        assert_eq!((names(&metrics), metrics.dropped()), (vec![], bad.len() as u64));
        metrics.add("orders_2_total", Labels::new(), 1);
        metrics.add(&"n".repeat(64), Labels::new(), 1);
        assert_eq!((names(&metrics).len(), metrics.dropped()), (2, bad.len() as u64));
    }

    #[test]
    fn names_are_bounded_and_known_ones_go_on_counting() {
        let mut metrics = CustomMetrics::default();
        for number in 0..100 {
            metrics.add(&format!("n{number}"), Labels::new(), 1);
        }
        metrics.add("n0", Labels::new(), 1);
        assert_eq!((names(&metrics).len(), metrics.dropped()), (MAX_NAMES, 36));
        assert!(matches!(plain(&metrics, "n0"), Custom::Counter(2)));
    }

    #[test]
    fn a_name_keeps_its_kind_and_values_are_finite() {
        let mut metrics = CustomMetrics::default();
        metrics.add("x", Labels::new(), u64::MAX);
        metrics.add("x", Labels::new(), 2);
        metrics.set("x", Labels::new(), 1.0);
        metrics.observe("x", Labels::new(), 1.0);
        metrics.set("y", Labels::new(), f64::NAN);
        metrics.observe("z", Labels::new(), f64::INFINITY);
        assert!(matches!(plain(&metrics, "x"), Custom::Counter(u64::MAX)));
        assert_eq!(metrics.dropped(), 4);
    }

    #[test]
    fn the_gauge_set_last_wins_whatever_the_order_of_workers() {
        let (mut one, mut two) = (CustomMetrics::default(), CustomMetrics::default());
        one.set("level", Labels::new(), 1.0);
        two.set("level", Labels::new(), 2.0);
        for (mut merged, other) in [(one.clone(), &two), (two.clone(), &one)] {
            merged.absorb(other);
            assert!(matches!(plain(&merged, "level"), Custom::Gauge { value: 2.0, .. }));
        }
    }
}
