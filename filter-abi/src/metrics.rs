//! The filter's own metrics; needs the grant `metrics`.
//!
//! ```no_run
//! use tamis_filter::metrics;
//!
//! # let tenant = "acme";
//! metrics::counter_add("orders", 1);
//! metrics::labels(&[("tenant", tenant)]).counter_add("orders_by_tenant", 1);
//! ```
//!
//! A metric is exported as `tamis_filter_custom_NAME` with the labels `filter` and `version` and those given, of which
//! one named `version` becomes `exported_version`. At most 64 names a filter, of `[a-z0-9_]`, 64 bytes at most, with 4
//! labels and 32 sets of label values each; others are dropped and counted.

use crate::host::metrics;

/// Adds to a counter.
pub fn counter_add(name: &str, by: u64) {
    metrics::counter_add(name, &[], by);
}

/// Sets a gauge.
pub fn gauge_set(name: &str, value: f64) {
    metrics::gauge_set(name, &[], value);
}

/// Counts a value in a histogram.
pub fn histogram_observe(name: &str, value: f64) {
    metrics::histogram_observe(name, &[], value);
}

/// Labels for a metric: names, each with its value.
pub fn labels(labels: &[(&str, &str)]) -> Labels {
    let label = |&(name, value): &(&str, &str)| Label {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    Labels(labels.iter().map(label).collect())
}

pub(crate) use metrics::Label;

/// The labels of a metric; from [`labels`].
#[derive(Debug)]
pub struct Labels(Vec<Label>);

impl Labels {
    /// Adds to a counter with these labels.
    pub fn counter_add(&self, name: &str, by: u64) {
        metrics::counter_add(name, &self.0, by);
    }

    /// Sets a gauge with these labels.
    pub fn gauge_set(&self, name: &str, value: f64) {
        metrics::gauge_set(name, &self.0, value);
    }

    /// Counts a value in a histogram with these labels.
    pub fn histogram_observe(&self, name: &str, value: f64) {
        metrics::histogram_observe(name, &self.0, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Proxy;

    #[test]
    fn labels_make_series_of_their_own() {
        let proxy = Proxy::new();
        proxy.within(|| {
            counter_add("orders", 2);
            let acme = labels(&[("tenant", "acme"), ("plan", "a\"b")]);
            acme.counter_add("orders", 3);
            acme.counter_add("orders", 4);
            acme.gauge_set("open", 1.5);
            acme.histogram_observe("size", 7.0);
            gauge_set("open", 2.5);
            histogram_observe("size", 8.0);
            histogram_observe("size", 9.0);
        });
        let series = |name: &str| format!(r#"{name}{{plan="a\"b",tenant="acme"}}"#);
        assert_eq!((proxy.counter("orders"), proxy.counter(&series("orders"))), (2, 7));
        assert_eq!(
            (proxy.gauge("open"), proxy.gauge(&series("open"))),
            (Some(2.5), Some(1.5))
        );
        assert_eq!(proxy.histogram("size"), [8.0, 9.0]);
        assert_eq!(proxy.histogram(&series("size")), [7.0]);
    }
}
