//! The filter's own metrics; needs the grant `metrics`.
//!
//! A metric is exported as `tamis_filter_custom_NAME` with the label `filter`. At most 64 names a filter, of
//! `[a-z0-9_]`, 64 bytes at most; others are dropped and counted.

use crate::host::metrics;

/// Adds to a counter.
pub fn counter_add(name: &str, by: u64) {
    metrics::counter_add(name, by);
}

/// Sets a gauge.
pub fn gauge_set(name: &str, value: f64) {
    metrics::gauge_set(name, value);
}

/// Counts a value in a histogram.
pub fn histogram_observe(name: &str, value: f64) {
    metrics::histogram_observe(name, value);
}
