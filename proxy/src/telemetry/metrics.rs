//! One worker's counts of everything that it does.
//!
//! Data plane. Plain memory of one thread: no lock, no atomic, no line of cache that another worker writes. Who wants to
//! see the counts asks the worker for a [`Report`]. A series is named once (cold) and counted by its id (hot); an id whose
//! series was forgotten counts nothing and harms nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::calls::Calls;
use super::counts::Counts;
use super::custom::{CustomMetrics, Labels as CustomLabels};
use super::histogram::{EXCHANGE_SECONDS, HANDSHAKE_SECONDS, Histogram};
pub use crate::filter::Hook;

use super::series::{Labels, OVERFLOW, SeriesId, Table};

/// The route label of a request that no route took. Never the path: that is the client's to choose.
pub const UNMATCHED: &str = "<unmatched>";

/// Lives as long as its worker.
#[derive(Default)]
pub struct Tally {
    listeners: Table<1, ListenerCounts>,
    routes: Table<2, RouteCounts>,
    endpoints: Table<2, EndpointCounts>,
    clusters: Table<1, ClusterCounts>,
    filters: Table<1, FilterCounts>,
    stale: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerSeries(SeriesId<ListenerCounts>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSeries(SeriesId<RouteCounts>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointSeries {
    endpoint: SeriesId<EndpointCounts>,
    cluster: SeriesId<ClusterCounts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterSeries(SeriesId<FilterCounts>);

/// The names that a generation has; all others are forgotten by [`Tally::retain`].
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub listeners: HashSet<String>,
    pub routes: HashSet<String>,
    /// Endpoints by cluster.
    pub clusters: HashMap<String, HashSet<String>>,
    pub filters: HashSet<String>,
}

/// A copy of one worker's counts, to be sent to whoever writes them out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub(super) listeners: Vec<(Labels<1>, ListenerCounts)>,
    pub(super) routes: Vec<(Labels<2>, RouteCounts)>,
    pub(super) endpoints: Vec<(Labels<2>, EndpointCounts)>,
    pub(super) clusters: Vec<(Labels<1>, ClusterCounts)>,
    pub(super) filters: Vec<(Labels<1>, FilterCounts)>,
    pub(super) stale: u64,
}

#[derive(Clone, Debug)]
pub struct ListenerCounts {
    pub(super) open: i64,
    pub(super) accepted: u64,
    pub(super) refused: Counts<&'static str>,
    pub(super) http2_resets: Counts<&'static str>,
    pub(super) http2_cuts: Counts<&'static str>,
    pub(super) shed: Counts<&'static str>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) handshakes: Counts<Handshake>,
    pub(super) handshake_seconds: Histogram,
}

/// How a TLS handshake went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// As in `TLSv1.3`; empty when none was agreed on.
    pub version: &'static str,
    pub outcome: &'static str,
}

#[derive(Clone, Debug)]
pub struct RouteCounts {
    pub(super) codes: Counts<u16>,
    pub(super) seconds: Histogram,
    /// Calls of gRPC, by status.
    pub(super) calls: Counts<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub struct EndpointCounts {
    pub(super) codes: Counts<u16>,
    pub(super) failures: Counts<&'static str>,
    pub(super) open: i64,
    pub(super) opened: u64,
    pub(super) reused: u64,
}

/// Apart from its endpoints, so that the histogram does not shrink when an endpoint goes.
#[derive(Clone, Debug)]
pub struct ClusterCounts {
    pub(super) seconds: Histogram,
    pub(super) retries: Counts<Retry>,
    /// Copies of requests, by what became of them.
    pub(super) mirrored: Counts<&'static str>,
}

/// A try that failed, on a route that tries again for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub reason: &'static str,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct FilterCounts {
    pub(super) calls: Calls,
    pub(super) failures: Counts<FilterFailure>,
    pub(super) instances: i64,
    pub(super) memory_bytes: i64,
    pub(super) idle: i64,
    pub(super) waiting: i64,
    /// By status.
    pub(super) replies: Counts<u16>,
    pub(super) custom: CustomMetrics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterFailure {
    pub hook: Hook,
    pub kind: &'static str,
    pub policy: &'static str,
}

impl Tally {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn listener(&mut self, name: &str) -> ListenerSeries {
        ListenerSeries(self.listeners.intern([name]))
    }

    /// `route` is a configured name or [`UNMATCHED`].
    pub fn route(&mut self, listener: &str, route: &str) -> RouteSeries {
        RouteSeries(self.routes.intern([listener, route]))
    }

    pub fn endpoint(&mut self, cluster: &str, endpoint: &str) -> EndpointSeries {
        EndpointSeries {
            endpoint: self.endpoints.intern([cluster, endpoint]),
            cluster: self.clusters.intern([cluster]),
        }
    }

    pub fn filter(&mut self, name: &str) -> FilterSeries {
        FilterSeries(self.filters.intern([name]))
    }

    /// Forgets what `live` does not name. A series that still counts something open (connections, instances) is kept
    /// until a later call finds it closed, so that what closes is taken off where it was put on.
    pub fn retain(&mut self, live: &Live) {
        self.listeners
            .retain(|[name], counts| live.listeners.contains(name) || name == OVERFLOW || counts.open != 0);
        self.routes.retain(|[listener, route], _| {
            let known = live.routes.contains(route) || route == UNMATCHED;
            known && live.listeners.contains(listener) || route == OVERFLOW
        });
        self.endpoints.retain(|[cluster, endpoint], counts| {
            let known = live
                .clusters
                .get(cluster)
                .is_some_and(|endpoints| endpoints.contains(endpoint));
            known || endpoint == OVERFLOW || counts.open != 0
        });
        self.clusters
            .retain(|[name], _| live.clusters.contains_key(name) || name == OVERFLOW);
        self.filters.retain(|[name], counts| {
            let open = counts.instances != 0 || counts.memory_bytes != 0;
            live.filters.contains(name) || name == OVERFLOW || open
        });
    }

    pub fn report(&self) -> Report {
        let mut filters = copy(&self.filters);
        filters.iter_mut().for_each(|(_, counts)| counts.calls.settle());
        Report {
            listeners: copy(&self.listeners),
            routes: copy(&self.routes),
            endpoints: copy(&self.endpoints),
            clusters: copy(&self.clusters),
            filters,
            stale: self.stale,
        }
    }
}

fn copy<const N: usize, V: Clone>(table: &Table<N, V>) -> Vec<(Labels<N>, V)> {
    table
        .iter()
        .map(|(labels, counts)| (labels.clone(), counts.clone()))
        .collect()
}

/// Connections of clients.
impl Tally {
    /// A connection came (`1`) or went (`-1`).
    pub fn connection(&mut self, series: ListenerSeries, delta: i64) {
        let Some(counts) = found(self.listeners.at(series.0), &mut self.stale) else {
            return;
        };
        counts.open += delta;
        counts.accepted += u64::try_from(delta).unwrap_or(0);
    }

    /// `reason`: what bound or rule the connection met before it could ask for anything.
    pub fn connection_refused(&mut self, series: ListenerSeries, reason: &'static str) {
        let Some(counts) = found(self.listeners.at(series.0), &mut self.stale) else {
            return;
        };
        counts.refused.add(reason, 1);
    }

    /// `outcome`: `full`, `resumed`, or why there is no session.
    pub fn handshake(&mut self, series: ListenerSeries, version: &'static str, outcome: &'static str, seconds: f64) {
        let Some(counts) = found(self.listeners.at(series.0), &mut self.stale) else {
            return;
        };
        counts.handshakes.add(Handshake { version, outcome }, 1);
        counts.handshake_seconds.observe(seconds);
    }

    /// `reason`: whose doing it was, or what bound it met.
    pub fn http2_reset(&mut self, series: ListenerSeries, reason: &'static str) {
        let Some(counts) = found(self.listeners.at(series.0), &mut self.stale) else {
            return;
        };
        counts.http2_resets.add(reason, 1);
    }

    /// `reason`: what the client did too much of, or too slowly.
    pub fn http2_cut(&mut self, series: ListenerSeries, reason: &'static str) {
        let Some(counts) = found(self.listeners.at(series.0), &mut self.stale) else {
            return;
        };
        counts.http2_cuts.add(reason, 1);
    }

    /// `cause`: of what there was not enough for another exchange.
    pub fn shed(&mut self, series: ListenerSeries, cause: &'static str) {
        let Some(counts) = found(self.listeners.at(series.0), &mut self.stale) else {
            return;
        };
        counts.shed.add(cause, 1);
    }

    pub fn bytes(&mut self, series: ListenerSeries, received: u64, sent: u64) {
        let Some(counts) = found(self.listeners.at(series.0), &mut self.stale) else {
            return;
        };
        counts.received_bytes += received;
        counts.sent_bytes += sent;
    }
}

/// Exchanges.
impl Tally {
    /// `seconds` from the first byte of the head to the last of the response.
    #[inline]
    pub fn request(&mut self, series: RouteSeries, status: u16, seconds: f64) {
        let Some(counts) = found(self.routes.at(series.0), &mut self.stale) else {
            return;
        };
        counts.codes.add_code(status);
        counts.seconds.observe(seconds);
    }

    /// A call of gRPC came to this status.
    pub fn call(&mut self, series: RouteSeries, status: &'static str) {
        let Some(counts) = found(self.routes.at(series.0), &mut self.stale) else {
            return;
        };
        counts.calls.add(status, 1);
    }
}

/// Upstreams.
impl Tally {
    /// `seconds` from the request's first byte upstream to the end of the response's head.
    #[inline]
    pub fn upstream_response(&mut self, series: EndpointSeries, status: u16, seconds: f64) {
        if let Some(counts) = found(self.endpoints.at(series.endpoint), &mut self.stale) {
            counts.codes.add_code(status);
        }
        if let Some(counts) = self.clusters.at(series.cluster) {
            counts.seconds.observe(seconds);
        }
    }

    /// `kind`: one of [`UPSTREAM_FAILURES`](super::UPSTREAM_FAILURES), which are shown from zero.
    pub fn upstream_failure(&mut self, series: EndpointSeries, kind: &'static str) {
        let Some(counts) = found(self.endpoints.at(series.endpoint), &mut self.stale) else {
            return;
        };
        counts.failures.add(kind, 1);
    }

    /// `reason`: what came of the try; `outcome`: `retried`, or why it was not.
    pub fn upstream_retry(&mut self, series: EndpointSeries, reason: &'static str, outcome: &'static str) {
        let Some(counts) = found(self.clusters.at(series.cluster), &mut self.stale) else {
            return;
        };
        counts.retries.add(Retry { reason, outcome }, 1);
    }

    /// A copy of a request went to the cluster, and this became of it.
    pub fn upstream_mirrored(&mut self, cluster: &str, outcome: &'static str) {
        let series = self.clusters.intern([cluster]);
        if let Some(counts) = found(self.clusters.at(series), &mut self.stale) {
            counts.mirrored.add(outcome, 1);
        }
    }

    /// So many more connections are open than before.
    pub fn upstream_connections(&mut self, series: EndpointSeries, delta: i64) {
        let Some(counts) = found(self.endpoints.at(series.endpoint), &mut self.stale) else {
            return;
        };
        counts.open += delta;
    }

    #[inline]
    pub fn upstream_opened(&mut self, series: EndpointSeries) {
        let Some(counts) = found(self.endpoints.at(series.endpoint), &mut self.stale) else {
            return;
        };
        counts.opened += 1;
    }

    /// A request took a connection that was open already.
    #[inline]
    pub fn upstream_reused(&mut self, series: EndpointSeries) {
        let Some(counts) = found(self.endpoints.at(series.endpoint), &mut self.stale) else {
            return;
        };
        counts.reused += 1;
    }
}

/// Filters.
impl Tally {
    /// `cpu`: what guests computed of it; none of a native filter's is told apart.
    #[inline]
    pub fn filter_call(&mut self, series: FilterSeries, hook: Hook, took: Duration, cpu: Duration) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.calls.add(hook, took, cpu);
    }

    /// `kind`: `trap`, `cpu`, `wall`, `memory`, `no_instance`, ..; `policy`: what became of the exchange, `closed` or
    /// `open`.
    pub fn filter_failure(&mut self, series: FilterSeries, hook: Hook, kind: &'static str, policy: &'static str) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.failures.add(FilterFailure { hook, kind, policy }, 1);
    }

    /// Instances were made or dropped on this worker.
    pub fn filter_instances(&mut self, series: FilterSeries, delta: i64) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.instances += delta;
    }

    /// Linear memory of the filter's instances grew, or went with an instance.
    pub fn filter_memory(&mut self, series: FilterSeries, delta_bytes: i64) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.memory_bytes += delta_bytes;
    }

    /// The filter answered in the upstream's place.
    pub fn filter_reply(&mut self, series: FilterSeries, status: u16) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.replies.add_code(status);
    }

    /// Instances at rest, and exchanges that wait for one: more or fewer.
    pub fn filter_queue(&mut self, series: FilterSeries, idle_delta: i64, waiting_delta: i64) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.idle += idle_delta;
        counts.waiting += waiting_delta;
    }

    /// The guest's `counter-add`. `name` and `by` are taken as they come and dropped when they break a rule.
    pub fn filter_counter(&mut self, series: FilterSeries, name: &str, labels: CustomLabels, by: u64) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.custom.add(name, labels, by);
    }

    /// The guest's `gauge-set`.
    pub fn filter_gauge(&mut self, series: FilterSeries, name: &str, labels: CustomLabels, value: f64) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.custom.set(name, labels, value);
    }

    /// The guest's `histogram-observe`.
    pub fn filter_histogram(&mut self, series: FilterSeries, name: &str, labels: CustomLabels, value: f64) {
        let Some(counts) = found(self.filters.at(series.0), &mut self.stale) else {
            return;
        };
        counts.custom.observe(name, labels, value);
    }
}

/// Passes on what an id led to, and counts the ids that led nowhere.
#[inline]
fn found<'a, V>(counts: Option<&'a mut V>, stale: &mut u64) -> Option<&'a mut V> {
    if counts.is_none() {
        *stale += 1;
    }
    counts
}

impl Default for ListenerCounts {
    fn default() -> Self {
        Self {
            open: 0,
            accepted: 0,
            refused: Counts::default(),
            received_bytes: 0,
            sent_bytes: 0,
            http2_resets: Counts::default(),
            http2_cuts: Counts::default(),
            shed: Counts::default(),
            handshakes: Counts::default(),
            handshake_seconds: Histogram::new(&HANDSHAKE_SECONDS),
        }
    }
}

impl Default for RouteCounts {
    fn default() -> Self {
        Self {
            codes: Counts::default(),
            seconds: Histogram::new(&EXCHANGE_SECONDS),
            calls: Counts::default(),
        }
    }
}

impl Default for ClusterCounts {
    fn default() -> Self {
        Self {
            seconds: Histogram::new(&EXCHANGE_SECONDS),
            retries: Counts::default(),
            mirrored: Counts::default(),
        }
    }
}

/// Adds what another worker counted under the same labels.
pub(super) trait Absorb {
    fn absorb(&mut self, other: &Self);
}

impl Absorb for ListenerCounts {
    fn absorb(&mut self, other: &Self) {
        self.open += other.open;
        self.accepted += other.accepted;
        self.refused.absorb(&other.refused);
        self.http2_resets.absorb(&other.http2_resets);
        self.http2_cuts.absorb(&other.http2_cuts);
        self.shed.absorb(&other.shed);
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.handshakes.absorb(&other.handshakes);
        self.handshake_seconds.absorb(&other.handshake_seconds);
    }
}

impl Absorb for RouteCounts {
    fn absorb(&mut self, other: &Self) {
        self.codes.absorb(&other.codes);
        self.seconds.absorb(&other.seconds);
        self.calls.absorb(&other.calls);
    }
}

impl Absorb for EndpointCounts {
    fn absorb(&mut self, other: &Self) {
        self.codes.absorb(&other.codes);
        self.failures.absorb(&other.failures);
        self.open += other.open;
        self.opened += other.opened;
        self.reused += other.reused;
    }
}

impl Absorb for ClusterCounts {
    fn absorb(&mut self, other: &Self) {
        self.seconds.absorb(&other.seconds);
        self.retries.absorb(&other.retries);
        self.mirrored.absorb(&other.mirrored);
    }
}

impl Absorb for FilterCounts {
    fn absorb(&mut self, other: &Self) {
        self.calls.absorb(&other.calls);
        self.failures.absorb(&other.failures);
        self.instances += other.instances;
        self.memory_bytes += other.memory_bytes;
        self.idle += other.idle;
        self.waiting += other.waiting;
        self.replies.absorb(&other.replies);
        self.custom.absorb(&other.custom);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(names: &[&str]) -> Live {
        let names: HashSet<String> = names.iter().map(|&name| name.to_owned()).collect();
        let clusters = names.iter().map(|name| (name.clone(), names.clone())).collect();
        Live {
            listeners: names.clone(),
            routes: names.clone(),
            clusters,
            filters: names,
        }
    }

    /// Label values of every series, tables in the order of the fields.
    fn names(report: &Report) -> Vec<String> {
        let one = |labels: &Labels<1>| labels[0].to_string();
        let two = |labels: &Labels<2>| labels.join("/");
        let mut names: Vec<String> = report.listeners.iter().map(|(labels, _)| one(labels)).collect();
        names.extend(report.routes.iter().map(|(labels, _)| two(labels)));
        names.extend(report.endpoints.iter().map(|(labels, _)| two(labels)));
        names.extend(report.clusters.iter().map(|(labels, _)| one(labels)));
        names.extend(report.filters.iter().map(|(labels, _)| one(labels)));
        names
    }

    #[test]
    fn a_report_goes_to_another_thread() {
        fn sendable<T: Send + Clone + 'static>() {}
        sendable::<Report>();
    }

    #[test]
    fn hooks_are_numbered_in_their_order() {
        for (number, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(hook as usize, number);
        }
    }

    #[test]
    fn names_that_are_gone_are_forgotten_and_their_ids_do_no_harm() {
        let mut tally = Tally::new();
        let (listener, route) = (tally.listener("old"), tally.route("old", "old"));
        let (endpoint, filter) = (tally.endpoint("old", "old"), tally.filter("old"));
        tally.route("new", UNMATCHED);
        tally.retain(&live(&["new"]));
        let (new_route, new_filter) = (tally.route("new", "new"), tally.filter("new"));

        tally.connection(listener, -1);
        tally.request(route, 200, 0.1);
        tally.upstream_response(endpoint, 200, 0.1);
        tally.upstream_connections(endpoint, -1);
        tally.filter_call(filter, Hook::RequestHead, Duration::from_millis(100), Duration::ZERO);
        tally.filter_counter(filter, "x", Vec::new(), 1);

        let report = tally.report();
        assert_eq!(names(&report), ["new/new", "new/<unmatched>", "new"]);
        assert!(report.routes.iter().all(|(_, counts)| counts.seconds.count() == 0));
        assert_eq!(report.stale, 6);
        assert!(new_route != route && new_filter != filter);
    }

    #[test]
    fn what_is_still_open_is_not_forgotten() {
        let mut tally = Tally::new();
        let (listener, endpoint, filter) = (tally.listener("old"), tally.endpoint("old", "old"), tally.filter("old"));
        tally.connection(listener, 1);
        tally.upstream_connections(endpoint, 1);
        tally.filter_instances(filter, 1);
        tally.retain(&live(&[]));
        assert_eq!(names(&tally.report()), ["old", "old/old", "old"]);

        tally.connection(listener, -1);
        tally.upstream_connections(endpoint, -1);
        tally.filter_instances(filter, -1);
        tally.retain(&live(&[]));
        assert_eq!(names(&tally.report()), [""; 0]);
        assert_eq!(tally.report().stale, 0);
    }

    #[test]
    fn a_name_that_stays_keeps_its_counts_and_its_id() {
        let mut tally = Tally::new();
        let route = tally.route("web", "api");
        tally.request(route, 200, 0.1);
        tally.retain(&live(&["web", "api"]));
        assert_eq!(tally.route("web", "api"), route);
        assert_eq!(tally.report().routes[0].1.seconds.count(), 1);
    }

    #[test]
    fn the_overflow_series_outlives_every_generation() {
        let mut tally = Tally::new();
        tally.route(OVERFLOW, OVERFLOW);
        tally.filter(OVERFLOW);
        tally.retain(&Live::default());
        assert_eq!(names(&tally.report()), ["<overflow>/<overflow>", "<overflow>"]);
    }
}
