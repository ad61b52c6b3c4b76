//! A histogram with fixed buckets: how often a value fell between which bounds.
//!
//! Data plane. Plain memory without pointers, so that an observation costs one pass over one or two cache lines. The
//! counts are per bucket; they become cumulative only when they are written out.

/// The most bounds that a bucket list may have.
pub const MAX_BOUNDS: usize = 15;

/// Upper bounds in ascending order, in the unit of what is observed. A value beyond the last is counted as well.
#[derive(Debug, PartialEq)]
pub struct Bounds(&'static [f64]);

/// Seconds of a whole exchange or of an upstream's answer, 0.5 ms to 10 s: below lies what a proxy adds by itself,
/// above lies what the default route timeout (15 s) ends anyway.
pub static EXCHANGE_SECONDS: Bounds = Bounds::new(&[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
]);

/// Seconds of one TLS handshake, 0.5 ms to 10 s: below lies what the cryptography costs, above the default deadline.
pub static HANDSHAKE_SECONDS: Bounds = Bounds::new(&[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
]);

/// Seconds of one filter hook, 1 us to 1 s: a plain wasm call is below 1 us, the default limits are 10 ms of processor
/// time and 100 ms of wall time.
pub static HOOK_SECONDS: Bounds = Bounds::new(&[
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.01,
    0.1,
    0.5,
    1.0,
]);

/// Whatever a guest measures, in a unit that only the guest knows: two bounds a decade from a thousandth to ten thousand.
pub static GUEST_VALUES: Bounds = Bounds::new(&[
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10_000.0,
]);

impl Bounds {
    const fn new(bounds: &'static [f64]) -> Self {
        assert!(bounds.len() <= MAX_BOUNDS);
        Self(bounds)
    }
}

#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// One for each bound, then one for what is beyond the last; the rest stays zero.
    counts: [u64; MAX_BOUNDS + 1],
    sum: f64,
}

impl Histogram {
    pub const fn new(bounds: &'static Bounds) -> Self {
        Self {
            bounds,
            counts: [0; MAX_BOUNDS + 1],
            sum: 0.0,
        }
    }

    /// What is not a number is not counted: one such value would make the sum useless for good.
    #[inline]
    pub fn observe(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        // Every bound is compared, without a branch: cheaper than leaving a loop early at a place that is hard to predict.
        let bucket = self.bounds.0.iter().filter(|bound| value > **bound).count();
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }

    /// Adds what another worker saw. Histograms of different bounds are never merged, because bounds belong to the
    /// metric, not to the worker.
    pub fn absorb(&mut self, other: &Self) {
        debug_assert_eq!(self.bounds, other.bounds);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bound with the number of values at or below it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds.0.iter().zip(&self.counts).scan(0, |total, (bound, count)| {
            *total += count;
            Some((*bound, *total))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cumulative_at(histogram: &Histogram, bound: f64) -> u64 {
        histogram
            .cumulative()
            .find(|(at, _)| *at == bound)
            .expect("a bound of this histogram")
            .1
    }

    #[test]
    fn a_value_counts_at_its_bound_and_above() {
        for (value, bound, below, at) in [
            (0.0005, 0.0005, 0, 1), // a bound includes itself
            (0.000_500_1, 0.001, 0, 1),
            (10.0, 10.0, 0, 1),
            (-1.0, 0.0005, 0, 1),
        ] {
            let mut histogram = Histogram::new(&EXCHANGE_SECONDS);
            histogram.observe(value);
            let before = histogram.cumulative().take_while(|(upper, _)| *upper < bound).last();
            assert_eq!(before.map_or(0, |(_, count)| count), below, "{value}");
            assert_eq!(cumulative_at(&histogram, bound), at, "{value}");
            assert_eq!(histogram.count(), 1, "{value}");
        }
    }

    #[test]
    fn a_value_beyond_the_last_bound_counts_only_in_the_total() {
        let mut histogram = Histogram::new(&EXCHANGE_SECONDS);
        histogram.observe(10.1);
        assert_eq!(cumulative_at(&histogram, 10.0), 0);
        assert_eq!((histogram.count(), histogram.sum()), (1, 10.1));
    }

    #[test]
    fn what_is_not_a_number_leaves_no_trace() {
        let mut histogram = Histogram::new(&GUEST_VALUES);
        histogram.observe(f64::NAN);
        histogram.observe(2.0);
        assert_eq!((histogram.count(), histogram.sum()), (1, 2.0));
    }

    #[test]
    fn two_workers_add_up() {
        let (mut one, mut two) = (Histogram::new(&HOOK_SECONDS), Histogram::new(&HOOK_SECONDS));
        one.observe(0.000_000_5);
        two.observe(0.000_002);
        two.observe(3.0);
        one.absorb(&two);
        assert_eq!(cumulative_at(&one, 0.000_001), 1);
        assert_eq!(cumulative_at(&one, 0.000_002_5), 2);
        assert_eq!((one.count(), one.sum()), (3, 0.000_000_5 + 0.000_002 + 3.0));
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [&EXCHANGE_SECONDS, &HOOK_SECONDS, &GUEST_VALUES] {
            assert!(bounds.0.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }
}
