//! The text that a scrape gets: every worker's report added up, with the facts of the process.
//!
//! Control plane: runs once a scrape, away from the workers. Its invariant: the text is valid for Prometheus whatever
//! labels, names and values went in, because one invalid line costs the operator the whole scrape.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;
use prometheus::proto::{self, Bucket, LabelPair, Metric, MetricFamily, MetricType};

use crate::canary::Version;

use super::counts::{Counts, OTHER_CODES};
use super::custom::{Custom, CustomKind};
use super::histogram::Histogram;
use super::metrics::{
    Absorb, ClusterCounts, EndpointCounts, FilterCounts, Handshake, ListenerCounts, Report, RouteCounts,
};
use super::series::Labels;

/// The content type of what [`encode`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every kind of upstream failure; all are shown from zero, so that the first failure is an increase.
pub const UPSTREAM_FAILURES: [&str; 8] = [
    "connect_failed",
    "connect_timeout",
    "grpc_no_status",
    "route_timeout",
    "upstream_protocol",
    "upstream_reset",
    "upstream_timeout",
    "upstream_tls",
];

/// What is true of the process as a whole at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct ProcessFacts<'a> {
    pub version: &'a str,
    pub started: SystemTime,
    /// The generation that new exchanges take.
    pub generation: u64,
    /// Generations that are alive, because exchanges are still on them.
    pub generations: usize,
    /// How long ago the oldest of them was replaced.
    pub oldest_generation: Duration,
    pub reloads: Reloads,
    pub access_log_dropped: u64,
    pub access_log_errors: u64,
    pub panics: u64,
    pub ready: bool,
    /// It serves the last good generation, because the current files do not load.
    pub last_good: bool,
    pub workers: usize,
    /// Workers that did not report in time. Pass the last report of each: without it, every counter would seem to start
    /// again from a smaller value, and rates would leap.
    pub workers_missing: usize,
    /// Each component filter once.
    pub filters: Vec<FilterFacts>,
    /// Those of all listeners.
    pub certificates: Vec<CertificateFacts>,
    pub clusters: Vec<ClusterFacts>,
    pub overload: OverloadFacts,
}

/// How much the process has taken on, and what it sheds.
#[derive(Clone, Debug, Default)]
pub struct OverloadFacts {
    /// Under way in the workers that have reported.
    pub exchanges: usize,
    /// Each step, whether it holds, and how often it began.
    pub steps: [(&'static str, bool, u64); 3],
    /// Bytes; no limit when nobody looks.
    pub memory_used: u64,
    pub memory_limit: u64,
}

/// What all workers share of one cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    pub cluster: String,
    /// By limit.
    pub overflows: [(&'static str, u64); 4],
    /// By what came of them, where endpoints are looked up.
    pub resolutions: Option<[(&'static str, u64); 3]>,
    /// Whether it has health checks, and whether it ejects endpoints.
    pub is_checked: bool,
    pub can_eject: bool,
    pub endpoints: Vec<EndpointFacts>,
}

#[derive(Clone, Debug, Default)]
pub struct EndpointFacts {
    pub endpoint: String,
    pub usable: bool,
    pub ejected: bool,
    pub health_changes: u64,
    pub checks: [(&'static str, u64); 2],
    /// By reason.
    pub ejections: [(&'static str, u64); 2],
}

#[derive(Clone, Debug)]
pub struct CertificateFacts {
    pub listener: String,
    /// From 0, as in the configuration.
    pub index: usize,
    pub subject: String,
    pub not_after: SystemTime,
}

/// What all workers share of one filter.
#[derive(Clone, Debug, Default)]
pub struct FilterFacts {
    pub filter: String,
    pub log_dropped: u64,
    pub breaker: Option<BreakerFacts>,
    pub table: Option<TableFacts>,
    /// Outbound calls under way, for a filter that may make some.
    pub calls: Option<usize>,
    /// Of a filter that has a candidate.
    pub trial: Option<TrialFacts>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TrialFacts {
    /// The part of the exchanges that the candidate takes, up to 1.
    pub share: f64,
    pub promoted: u64,
    pub held: u64,
    pub rolled_back: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct BreakerFacts {
    /// 0 closed, 0.5 half open, 1 open.
    pub state: f64,
    pub openings: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TableFacts {
    pub keys: usize,
    pub bytes: usize,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
}

/// Reloads since the start, by what came of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    pub applied: u64,
    pub unchanged: u64,
    pub refused: u64,
    /// Generations that were ended with what was still on them.
    pub ended: u64,
    /// Components that were compiled, and those whose code came from the cache.
    pub compiled: u64,
    pub cached: u64,
}

/// The text exposition format, version 0.0.4, in a stable order.
pub fn encode(reports: &[Report], process: &ProcessFacts) -> String {
    let mut text = Exposition::default();
    text.shared(&process.filters);
    text.balancing(&process.clusters);
    text.certificates(&process.certificates);
    text.overload(&process.overload);
    text.process(process, reports.iter().map(|report| report.stale).sum());
    text.listeners(&merge(reports.iter().map(|report| &report.listeners)));
    text.routes(&merge(reports.iter().map(|report| &report.routes)));
    text.endpoints(&merge(reports.iter().map(|report| &report.endpoints)));
    text.clusters(&merge(reports.iter().map(|report| &report.clusters)));
    let filters = merge(reports.iter().map(|report| &report.filters));
    text.filters(&filters);
    text.custom(&filters);
    text.finish()
}

type Merged<const N: usize, V> = BTreeMap<Labels<N>, V>;

fn merge<'a, const N: usize, V: Absorb + Clone + 'a>(
    parts: impl Iterator<Item = &'a Vec<(Labels<N>, V)>>,
) -> Merged<N, V> {
    let mut merged: Merged<N, V> = BTreeMap::new();
    for (labels, counts) in parts.flatten() {
        match merged.get_mut(labels) {
            Some(known) => known.absorb(counts),
            None => drop(merged.insert(labels.clone(), counts.clone())),
        }
    }
    merged
}

#[derive(Default)]
struct Exposition {
    families: Vec<MetricFamily>,
}

impl Exposition {
    fn shared(&mut self, filters: &[FilterFacts]) {
        let breakers = || {
            filters
                .iter()
                .filter_map(|facts| Some((facts.filter.as_str(), facts.breaker?)))
        };
        let tables = || {
            filters
                .iter()
                .filter_map(|facts| Some((facts.filter.as_str(), facts.table?)))
        };
        let calls = filters
            .iter()
            .filter_map(|facts| Some((facts.filter.as_str(), facts.calls?)));
        self.counters(
            "tamis_filter_log_dropped_total",
            "Log lines of the filter dropped over its rate.",
            filters
                .iter()
                .map(|facts| counter(&version(&facts.filter), facts.log_dropped)),
        );
        self.gauges(
            "tamis_filter_breaker_state",
            "0 while the filter is called, 1 while its breaker is open, 0.5 while a probe finds out.",
            breakers().map(|(filter, breaker)| gauge(&version(filter), breaker.state)),
        );
        self.counters(
            "tamis_filter_breaker_openings_total",
            "How often the filter's breaker has opened.",
            breakers().map(|(filter, breaker)| counter(&version(filter), breaker.openings)),
        );
        let trials = || {
            filters
                .iter()
                .filter_map(|facts| Some((facts.filter.as_str(), facts.trial?)))
        };
        self.gauges(
            "tamis_filter_candidate_share",
            "The part of the exchanges that the filter's candidate takes: 0 once it is rolled back, 1 once promoted.",
            trials().map(|(filter, trial)| gauge(&[("filter", filter)], trial.share)),
        );
        self.counters(
            "tamis_filter_candidate_verdicts_total",
            "Verdicts on the filter's candidates.",
            trials().flat_map(|(filter, trial)| {
                let verdict = |verdict, count| counter(&[("filter", filter), ("verdict", verdict)], count);
                [
                    verdict("promoted", trial.promoted),
                    verdict("held", trial.held),
                    verdict("rolled_back", trial.rolled_back),
                ]
            }),
        );
        self.gauges(
            "tamis_filter_outbound_calls",
            "Outbound calls of the filter under way.",
            calls.map(|(filter, calls)| gauge(&version(filter), calls as f64)),
        );
        self.gauges(
            "tamis_filter_table_keys",
            "Keys in the filter's table; filters that share one show the same.",
            tables().map(|(filter, table)| gauge(&version(filter), table.keys as f64)),
        );
        self.gauges(
            "tamis_filter_table_bytes",
            "Bytes of the filter's table.",
            tables().map(|(filter, table)| gauge(&version(filter), table.bytes as f64)),
        );
        self.counters(
            "tamis_filter_table_reads_total",
            "Reads of the filter's table, by whether there was a value.",
            tables().flat_map(|(filter, table)| {
                let read = |outcome, count| counter(&[&version(filter)[..], &[("outcome", outcome)]].concat(), count);
                [read("hit", table.hits), read("miss", table.misses)]
            }),
        );
        self.counters(
            "tamis_filter_table_evictions_total",
            "Values of the filter's table that made room before they expired.",
            tables().map(|(filter, table)| counter(&version(filter), table.evictions)),
        );
    }

    fn balancing(&mut self, clusters: &[ClusterFacts]) {
        let each = || {
            clusters.iter().flat_map(|cluster| {
                let name = &*cluster.cluster;
                let endpoints = cluster.endpoints.iter();
                endpoints.map(move |facts| ([("cluster", name), ("endpoint", &*facts.endpoint)], cluster, facts))
            })
        };
        self.gauges(
            "tamis_upstream_endpoints",
            "Endpoints of the cluster.",
            clusters
                .iter()
                .map(|facts| gauge(&[("cluster", &facts.cluster)], facts.endpoints.len() as f64)),
        );
        self.gauges(
            "tamis_upstream_endpoint_usable",
            "1 while nothing is known against the endpoint: it is neither unhealthy nor ejected.",
            each().map(|(labels, _, facts)| gauge(&labels, f64::from(facts.usable))),
        );
        let checked = || each().filter(|(_, cluster, _)| cluster.is_checked);
        self.counters(
            "tamis_upstream_health_changes_total",
            "How often health checks have found the endpoint to be otherwise than before.",
            checked().map(|(labels, _, facts)| counter(&labels, facts.health_changes)),
        );
        self.counters(
            "tamis_upstream_checks_total",
            "Health checks of the endpoint.",
            checked().flat_map(|(labels, _, facts)| with(&labels, "outcome", facts.checks)),
        );
        let ejecting = || each().filter(|(_, cluster, _)| cluster.can_eject);
        self.gauges(
            "tamis_upstream_endpoint_ejected",
            "1 while the endpoint is left alone because it failed requests.",
            ejecting().map(|(labels, _, facts)| gauge(&labels, f64::from(facts.ejected))),
        );
        self.counters(
            "tamis_upstream_ejections_total",
            "How often the endpoint was left alone, by reason.",
            ejecting().flat_map(|(labels, _, facts)| with(&labels, "reason", facts.ejections)),
        );
        self.counters(
            "tamis_upstream_overflows_total",
            "Requests that met a limit of the cluster.",
            clusters
                .iter()
                .flat_map(|facts| with(&[("cluster", &facts.cluster)], "limit", facts.overflows)),
        );
        self.counters(
            "tamis_upstream_resolutions_total",
            "Looks at where endpoints are (names, files), by what came of them.",
            clusters.iter().flat_map(|facts| {
                let resolutions = facts.resolutions.into_iter().flatten();
                resolutions.flat_map(|resolution| with(&[("cluster", &facts.cluster)], "outcome", [resolution]))
            }),
        );
    }

    fn certificates(&mut self, certificates: &[CertificateFacts]) {
        let until = |facts: &CertificateFacts| {
            let index = facts.index.to_string();
            let labels = [
                ("listener", &*facts.listener),
                ("index", &*index),
                ("subject", &*facts.subject),
            ];
            let until = facts.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            gauge(&labels, until.as_secs_f64())
        };
        self.gauges(
            "tamis_tls_certificate_not_after_seconds",
            "Until when a listener's certificate holds, in seconds since 1970.",
            certificates.iter().map(until),
        );
    }

    fn overload(&mut self, overload: &OverloadFacts) {
        self.gauges(
            "tamis_exchanges",
            "Exchanges under way.",
            [gauge(&[], overload.exchanges as f64)],
        );
        self.gauges(
            "tamis_overload",
            "1 while load is shed, by the step: each does what the one before it does, too.",
            overload
                .steps
                .map(|(step, holds, _)| gauge(&[("step", step)], f64::from(holds))),
        );
        self.counters(
            "tamis_overload_steps_total",
            "How often a step of shedding load began.",
            overload.steps.map(|(step, _, begun)| counter(&[("step", step)], begun)),
        );
        self.gauges(
            "tamis_memory_used_bytes",
            "What counts towards overload.memory, as of the last look.",
            [gauge(&[], overload.memory_used as f64)],
        );
        self.gauges(
            "tamis_memory_limit_bytes",
            "What the process is granted of it; 0 when nobody looks.",
            [gauge(&[], overload.memory_limit as f64)],
        );
    }

    fn process(&mut self, process: &ProcessFacts, stale: u64) {
        let started = process
            .started
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let reloads = [
            ("applied", process.reloads.applied),
            ("unchanged", process.reloads.unchanged),
            ("refused", process.reloads.refused),
        ];
        self.gauges(
            "tamis_build_info",
            "Always 1; the version that runs.",
            [gauge(&[("version", process.version)], 1.0)],
        );
        self.gauges(
            "tamis_start_time_seconds",
            "When the process started, in Unix time.",
            [gauge(&[], started)],
        );
        self.gauges(
            "tamis_ready",
            "1 while the proxy takes new traffic.",
            [gauge(&[], f64::from(process.ready))],
        );
        self.gauges(
            "tamis_last_good",
            "1 while the proxy serves the last good generation, because the current files do not load.",
            [gauge(&[], f64::from(process.last_good))],
        );
        self.gauges("tamis_workers", "Worker threads.", [gauge(&[], process.workers as f64)]);
        self.gauges(
            "tamis_workers_missing",
            "Workers that did not report to this scrape in time.",
            [gauge(&[], process.workers_missing as f64)],
        );
        self.gauges(
            "tamis_generation",
            "The configuration generation that new exchanges take.",
            [gauge(&[], process.generation as f64)],
        );
        self.gauges(
            "tamis_generations",
            "Generations alive, the newest included.",
            [gauge(&[], process.generations as f64)],
        );
        self.gauges(
            "tamis_generation_oldest_seconds",
            "How long ago the oldest generation that is alive was replaced; 0 when only the newest is.",
            [gauge(&[], process.oldest_generation.as_secs_f64())],
        );
        self.counters(
            "tamis_generations_ended_total",
            "Generations whose last exchanges were cut, by reload.max_age or reload.max_generations.",
            [counter(&[], process.reloads.ended)],
        );
        let compilations = [
            ("compiled", process.reloads.compiled),
            ("cached", process.reloads.cached),
        ];
        self.counters(
            "tamis_components_total",
            "Components made ready, by where their code came from; one that is kept is not made again.",
            compilations.map(|(from, count)| counter(&[("from", from)], count)),
        );
        self.counters(
            "tamis_reloads_total",
            "Reloads, by what came of them.",
            reloads.map(|(outcome, count)| counter(&[("outcome", outcome)], count)),
        );
        self.counters(
            "tamis_access_log_dropped_total",
            "Access-log lines dropped, because the writer was behind or could not write.",
            [counter(&[], process.access_log_dropped)],
        );
        self.counters(
            "tamis_access_log_errors_total",
            "Failed writes, flushes and openings of the access log.",
            [counter(&[], process.access_log_errors)],
        );
        self.counters(
            "tamis_panics_total",
            "Panics; each is a defect, and was the end of the exchange or the task that it happened in.",
            [counter(&[], process.panics)],
        );
        self.counters(
            "tamis_stale_counts_total",
            "Counts lost because their series was removed by a reload.",
            [counter(&[], stale)],
        );
    }

    fn listeners(&mut self, listeners: &Merged<1, ListenerCounts>) {
        let each = || {
            listeners
                .iter()
                .map(|([name], counts)| ([("listener", &**name)], counts))
        };
        self.gauges(
            "tamis_connections",
            "Client connections open.",
            each().map(|(labels, counts)| gauge(&labels, counts.open as f64)),
        );
        self.counters(
            "tamis_connections_total",
            "Client connections accepted.",
            each().map(|(labels, counts)| counter(&labels, counts.accepted)),
        );
        self.counters(
            "tamis_connections_refused_total",
            "Client connections closed before their first request, by reason.",
            each().flat_map(|(labels, counts)| by_name(&labels, "reason", &counts.refused)),
        );
        self.counters(
            "tamis_http2_streams_reset_total",
            "HTTP/2 streams of clients that were reset or refused, by reason.",
            each().flat_map(|(labels, counts)| by_name(&labels, "reason", &counts.http2_resets)),
        );
        self.counters(
            "tamis_http2_connections_cut_total",
            "HTTP/2 connections that were cut for what their client did, by reason.",
            each().flat_map(|(labels, counts)| by_name(&labels, "reason", &counts.http2_cuts)),
        );
        self.counters(
            "tamis_requests_shed_total",
            "Requests answered with 503 before any filter, by what there was not enough of.",
            each().flat_map(|(labels, counts)| by_name(&labels, "cause", &counts.shed)),
        );
        self.counters(
            "tamis_received_bytes_total",
            "Bytes received from clients.",
            each().map(|(labels, counts)| counter(&labels, counts.received_bytes)),
        );
        self.counters(
            "tamis_sent_bytes_total",
            "Bytes sent to clients.",
            each().map(|(labels, counts)| counter(&labels, counts.sent_bytes)),
        );
        self.counters(
            "tamis_tls_handshakes_total",
            "TLS handshakes of clients, by the version agreed on and by what came of them.",
            each().flat_map(|(labels, counts)| handshakes(&labels, &counts.handshakes)),
        );
        self.histograms(
            "tamis_tls_handshake_duration_seconds",
            "From the acceptance of a connection to the end of its TLS handshake.",
            each()
                .filter(|(_, counts)| counts.handshake_seconds.count() > 0)
                .map(|(labels, counts)| histogram(&labels, &counts.handshake_seconds)),
        );
    }

    fn routes(&mut self, routes: &Merged<2, RouteCounts>) {
        let each = || {
            let labels = |[listener, route]: &'_ Labels<2>| [("listener", listener.clone()), ("route", route.clone())];
            routes.iter().map(move |(names, counts)| (labels(names), counts))
        };
        self.counters(
            "tamis_requests_total",
            "Requests answered, by status code.",
            each().flat_map(|(labels, counts)| by_code(&borrow(&labels), &counts.codes)),
        );
        self.histograms(
            "tamis_request_duration_seconds",
            "From the first byte of a request to the last of its response.",
            each().map(|(labels, counts)| histogram(&borrow(&labels), &counts.seconds)),
        );
        self.counters(
            "tamis_grpc_calls_total",
            "Calls of gRPC, by status.",
            each().flat_map(|(labels, counts)| by_name(&borrow(&labels), "status", &counts.calls)),
        );
    }

    fn endpoints(&mut self, endpoints: &Merged<2, EndpointCounts>) {
        let each = || {
            let labels =
                |[cluster, endpoint]: &'_ Labels<2>| [("cluster", cluster.clone()), ("endpoint", endpoint.clone())];
            endpoints.iter().map(move |(names, counts)| (labels(names), counts))
        };
        self.counters(
            "tamis_upstream_requests_total",
            "Responses from upstreams, by status code.",
            each().flat_map(|(labels, counts)| by_code(&borrow(&labels), &counts.codes)),
        );
        self.counters(
            "tamis_upstream_failures_total",
            "Requests to upstreams that got no response, by kind.",
            each().flat_map(|(labels, counts)| {
                let mut failures = Counts::default();
                UPSTREAM_FAILURES.iter().for_each(|kind| failures.add(*kind, 0));
                failures.absorb(&counts.failures);
                by_name(&borrow(&labels), "kind", &failures)
            }),
        );
        self.gauges(
            "tamis_upstream_connections",
            "Connections to upstreams open.",
            each().map(|(labels, counts)| gauge(&borrow(&labels), counts.open as f64)),
        );
        self.counters(
            "tamis_upstream_connections_opened_total",
            "Connections to upstreams opened.",
            each().map(|(labels, counts)| counter(&borrow(&labels), counts.opened)),
        );
        self.counters(
            "tamis_upstream_connections_reused_total",
            "Requests that took a connection which was open already.",
            each().map(|(labels, counts)| counter(&borrow(&labels), counts.reused)),
        );
    }

    fn clusters(&mut self, clusters: &Merged<1, ClusterCounts>) {
        self.histograms(
            "tamis_upstream_duration_seconds",
            "From the first byte of a request to an upstream to the end of the response's head.",
            clusters
                .iter()
                .map(|([name], counts)| histogram(&[("cluster", name)], &counts.seconds)),
        );
        self.counters(
            "tamis_upstream_retries_total",
            "Tries that failed in a way that their route tries again for, or of which the server took nothing (`unsent`), \
             by reason and by what came of it: `retried`, or why it was not.",
            clusters.iter().flat_map(|([name], counts)| {
                counts.retries.iter().map(|(retry, count)| {
                    let labels = [("cluster", &**name), ("reason", retry.reason), ("outcome", retry.outcome)];
                    counter(&labels, count)
                })
            }),
        );
        self.counters(
            "tamis_upstream_mirrored_total",
            "Copies of requests for the cluster, by what became of them.",
            clusters.iter().flat_map(|([name], counts)| {
                let mirrored = counts.mirrored.iter();
                mirrored.map(|(outcome, count)| counter(&[("cluster", name), ("outcome", outcome)], count))
            }),
        );
    }

    fn filters(&mut self, filters: &Merged<1, FilterCounts>) {
        self.filter_calls(filters);
        let each = || filters.iter().map(|([name], counts)| (version(name), counts));
        self.gauges(
            "tamis_filter_instances",
            "Instances of the filter alive.",
            each().map(|(labels, counts)| gauge(&labels, counts.instances as f64)),
        );
        self.gauges(
            "tamis_filter_memory_bytes",
            "Linear memory of the filter's instances.",
            each().map(|(labels, counts)| gauge(&labels, counts.memory_bytes as f64)),
        );
        self.gauges(
            "tamis_filter_instances_idle",
            "Instances of the filter that serve no exchange.",
            each().map(|(labels, counts)| gauge(&labels, counts.idle as f64)),
        );
        self.gauges(
            "tamis_filter_waiting",
            "Exchanges that wait for an instance of the filter.",
            each().map(|(labels, counts)| gauge(&labels, counts.waiting as f64)),
        );
        self.counters(
            "tamis_filter_cpu_seconds_total",
            "Processor time of the filter's instances.",
            each().map(|(labels, counts)| counter_f64(&labels, counts.calls.cpu().as_secs_f64())),
        );
        self.counters(
            "tamis_filter_replies_total",
            "Exchanges that the filter answered in the upstream's place, by status.",
            filters
                .iter()
                .flat_map(|([name], counts)| by_code(&version(name), &counts.replies)),
        );
        self.counters(
            "tamis_filter_metrics_dropped_total",
            "Uses of the filter's own metrics dropped: bad name, too many names, another kind, or not finite.",
            each().map(|(labels, counts)| counter(&labels, counts.custom.dropped())),
        );
    }

    /// Only hooks that were called: which ones a filter exports is not known here.
    fn filter_calls(&mut self, filters: &Merged<1, FilterCounts>) {
        let called = || {
            filters.iter().flat_map(|([name], counts)| {
                let hooks = counts.calls.by_hook().filter(|(_, calls)| calls.count() > 0);
                hooks.map(move |(hook, calls)| {
                    let [filter, version] = version(name);
                    ([filter, version, ("hook", hook.as_str())], calls)
                })
            })
        };
        self.counters(
            "tamis_filter_calls_total",
            "Calls of the filter, by hook.",
            called().map(|(labels, calls)| counter(&labels, calls.count())),
        );
        self.histograms(
            "tamis_filter_duration_seconds",
            "Duration of one call of the filter.",
            called().map(|(labels, calls)| histogram(&labels, calls)),
        );
        self.counters(
            "tamis_filter_failures_total",
            "Calls of the filter that failed, by kind, and whether the exchange failed with it (closed) or not (open).",
            filters.iter().flat_map(|([name], counts)| {
                counts.failures.iter().map(|(failure, count)| {
                    let (hook, kind, policy) = (failure.hook.as_str(), failure.kind, failure.policy);
                    let failed = [("hook", hook), ("kind", kind), ("policy", policy)];
                    counter(&[&version(name)[..], &failed].concat(), count)
                })
            }),
        );
    }

    /// Filters share the names of their own metrics. Where two of them mean different things by one name, the filter
    /// that sorts first has it, and the other's metric is left out and counted: a text that says both is not valid.
    fn custom(&mut self, filters: &Merged<1, FilterCounts>) {
        let mut claims = Claims::default();
        let mut families: BTreeMap<&str, (CustomKind, Vec<Metric>)> = BTreeMap::new();
        let mut conflicts = Vec::new();
        for ([filter], counts) in filters {
            let mut left_out = 0;
            for (name, kind, series) in counts.custom.iter() {
                if claims.claim(name, kind) {
                    let family = families.entry(name).or_insert_with(|| (kind, Vec::new()));
                    for (labels, custom) in series {
                        let own = labels.iter().map(|(name, value)| (exported(name), value.as_str()));
                        let labels: Vec<(&str, &str)> = version(filter).into_iter().chain(own).collect();
                        family.1.push(custom_metric(&labels, custom));
                    }
                } else {
                    left_out += 1;
                }
            }
            conflicts.push(gauge(&version(filter), f64::from(left_out)));
        }
        self.gauges(
            "tamis_filter_metrics_conflicts",
            "Metrics of the filter left out, because another filter uses the name for something else.",
            conflicts,
        );
        for (name, (kind, metrics)) in families {
            let kind = match kind {
                CustomKind::Counter => MetricType::COUNTER,
                CustomKind::Gauge => MetricType::GAUGE,
                CustomKind::Histogram => MetricType::HISTOGRAM,
            };
            self.family(
                &format!("tamis_filter_custom_{name}"),
                "Made by a filter.",
                kind,
                metrics,
            );
        }
    }

    fn counters(&mut self, name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) {
        self.family(name, help, MetricType::COUNTER, metrics);
    }

    fn gauges(&mut self, name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) {
        self.family(name, help, MetricType::GAUGE, metrics);
    }

    fn histograms(&mut self, name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) {
        self.family(name, help, MetricType::HISTOGRAM, metrics);
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: impl IntoIterator<Item = Metric>) {
        let metrics: Vec<Metric> = metrics.into_iter().collect();
        // The encoder refuses families without series.
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.families.push(family);
    }

    fn finish(self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.families, &mut text) {
            tracing::error!(%error, "metrics are incomplete");
        }
        text
    }
}

/// Which sample names are taken, and by what. A histogram named `x` takes `x_bucket`, `x_sum` and `x_count` as well.
#[derive(Default)]
struct Claims {
    by_sample: HashMap<String, (String, CustomKind)>,
}

impl Claims {
    /// Whether all sample names of this metric are free, or already belong to the same name and kind.
    fn claim(&mut self, name: &str, kind: CustomKind) -> bool {
        let suffixes: &[&str] = match kind {
            CustomKind::Counter | CustomKind::Gauge => &[""],
            CustomKind::Histogram => &["", "_bucket", "_sum", "_count"],
        };
        let samples: Vec<String> = suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect();
        let owner = (name.to_owned(), kind);
        let free = samples
            .iter()
            .all(|sample| self.by_sample.get(sample).is_none_or(|taken| *taken == owner));
        if free {
            self.by_sample
                .extend(samples.into_iter().map(|sample| (sample, owner.clone())));
        }
        free
    }
}

/// What every series of a filter has: its name, and which version of it is meant.
fn version(name: &str) -> [(&str, &str); 2] {
    let (filter, version) = Version::of(name);
    [("filter", filter), ("version", version.as_str())]
}

/// A filter's own label of this name makes way, in the way in which Prometheus itself solves such conflicts.
fn exported(label: &str) -> &str {
    if label == "version" { "exported_version" } else { label }
}

fn borrow<'a>(labels: &'a [(&'a str, std::sync::Arc<str>); 2]) -> [(&'a str, &'a str); 2] {
    labels.each_ref().map(|(name, value)| (*name, &**value))
}

/// A counter for each value of one more label.
fn with<const N: usize>(labels: &[(&str, &str)], name: &str, counts: [(&str, u64); N]) -> Vec<Metric> {
    let count = |(value, count)| counter(&[labels, &[(name, value)]].concat(), count);
    counts.map(count).into()
}

fn by_code(labels: &[(&str, &str)], codes: &Counts<u16>) -> Vec<Metric> {
    let mut codes: Vec<_> = codes.iter().collect();
    codes.sort_unstable();
    let label = |code: u16| {
        if code == OTHER_CODES {
            "<other>".to_owned()
        } else {
            code.to_string()
        }
    };
    codes
        .into_iter()
        .map(|(code, count)| counter(&[labels, &[("code", &label(code))]].concat(), count))
        .collect()
}

fn by_name(labels: &[(&str, &str)], name: &str, counts: &Counts<&'static str>) -> Vec<Metric> {
    counts
        .iter()
        .map(|(value, count)| counter(&[labels, &[(name, value)]].concat(), count))
        .collect()
}

fn handshakes(labels: &[(&str, &str)], counts: &Counts<Handshake>) -> Vec<Metric> {
    let one = |(Handshake { version, outcome }, count)| {
        counter(&[labels, &[("version", version), ("outcome", outcome)]].concat(), count)
    };
    counts.iter().map(one).collect()
}

fn custom_metric(labels: &[(&str, &str)], custom: &Custom) -> Metric {
    match custom {
        Custom::Counter(count) => counter(labels, *count),
        Custom::Gauge { value, .. } => gauge(labels, *value),
        Custom::Histogram(values) => histogram(labels, values),
    }
}

/// Beyond 2^53 a count is rounded: the format's numbers are floats.
fn counter(labels: &[(&str, &str)], count: u64) -> Metric {
    counter_f64(labels, count as f64)
}

fn counter_f64(labels: &[(&str, &str)], count: f64) -> Metric {
    let mut value = proto::Counter::default();
    value.set_value(count);
    let mut metric = labelled(labels);
    metric.set_counter(value);
    metric
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut metric = Metric::from_gauge({
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        gauge
    });
    metric.set_label(pairs(labels));
    metric
}

fn histogram(labels: &[(&str, &str)], values: &Histogram) -> Metric {
    let buckets = values.cumulative().map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut value = proto::Histogram::default();
    value.set_bucket(buckets.collect());
    value.set_sample_count(values.count());
    value.set_sample_sum(values.sum());
    let mut metric = labelled(labels);
    metric.set_histogram(value);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    Metric::from_label(pairs(labels))
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    labels.iter().map(|(name, value)| pair(name, value)).collect()
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::metrics::{Tally, UNMATCHED};
    use super::*;
    use crate::filter::Hook;

    fn facts() -> ProcessFacts<'static> {
        ProcessFacts {
            version: "1.2.3",
            started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            generation: 7,
            generations: 2,
            oldest_generation: Duration::from_millis(1500),
            reloads: Reloads::default(),
            access_log_dropped: 3,
            access_log_errors: 0,
            panics: 0,
            ready: true,
            last_good: false,
            workers: 2,
            workers_missing: 1,
            filters: Vec::new(),
            clusters: Vec::new(),
            overload: OverloadFacts {
                exchanges: 0,
                steps: [("a", false, 0), ("b", true, 2), ("c", false, 0)],
                memory_used: 3,
                memory_limit: 4,
            },
            certificates: Vec::new(),
        }
    }

    #[test]
    fn what_workers_share_of_a_cluster_is_said_once() {
        let mut facts = facts();
        facts.clusters = vec![ClusterFacts {
            cluster: "app".into(),
            overflows: [("connections", 1), ("pending", 2), ("requests", 3), ("retries", 4)],
            resolutions: Some([("changed", 4), ("unchanged", 5), ("failed", 6)]),
            is_checked: true,
            can_eject: true,
            endpoints: vec![EndpointFacts {
                endpoint: "10.0.0.1:80".into(),
                usable: true,
                ejected: false,
                health_changes: 7,
                checks: [("good", 8), ("bad", 9)],
                ejections: [("consecutive_failures", 10), ("success_rate", 11)],
            }],
        }];
        let samples = parse(&encode(&[], &facts));
        for (name, value) in [
            ("endpoints{cluster=\"app\"}", 1.0),
            ("overflows_total{cluster=\"app\",limit=\"pending\"}", 2.0),
            ("resolutions_total{cluster=\"app\",outcome=\"failed\"}", 6.0),
            ("endpoint_usable{cluster=\"app\",endpoint=\"10.0.0.1:80\"}", 1.0),
            ("endpoint_ejected{cluster=\"app\",endpoint=\"10.0.0.1:80\"}", 0.0),
            ("health_changes_total{cluster=\"app\",endpoint=\"10.0.0.1:80\"}", 7.0),
            (
                "checks_total{cluster=\"app\",endpoint=\"10.0.0.1:80\",outcome=\"bad\"}",
                9.0,
            ),
            (
                "ejections_total{cluster=\"app\",endpoint=\"10.0.0.1:80\",reason=\"success_rate\"}",
                11.0,
            ),
        ] {
            let name = format!("tamis_upstream_{name}");
            assert_eq!(samples.get(&name), Some(&value), "{name}: {samples:?}");
        }
        facts.clusters[0].resolutions = None;
        facts.clusters[0].is_checked = false;
        let samples = parse(&encode(&[], &facts));
        let silent = ["tamis_upstream_checks_total", "tamis_upstream_resolutions_total"];
        assert!(
            !samples
                .keys()
                .any(|name| silent.iter().any(|silent| name.starts_with(silent)))
        );
    }

    #[test]
    fn a_certificate_says_until_when_it_holds() {
        let mut facts = facts();
        facts.certificates = vec![CertificateFacts {
            listener: "web".into(),
            index: 0,
            subject: "CN=a.example".into(),
            not_after: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        }];
        let samples = parse(&encode(&[], &facts));
        let name = "tamis_tls_certificate_not_after_seconds\
                    {listener=\"web\",index=\"0\",subject=\"CN=a.example\"}";
        assert_eq!(samples.get(name), Some(&1_800_000_000.0), "{samples:?}");
    }

    #[test]
    fn what_workers_share_of_a_filter_is_said_once() {
        let mut facts = facts();
        facts.filters = vec![FilterFacts {
            filter: "jwt".into(),
            log_dropped: 3,
            breaker: Some(BreakerFacts {
                state: 0.5,
                openings: 2,
            }),
            table: Some(TableFacts {
                keys: 4,
                bytes: 500,
                hits: 6,
                misses: 7,
                evictions: 8,
            }),
            calls: Some(9),
            trial: None,
        }];
        let samples = parse(&encode(&[], &facts));
        for (name, value) in [
            ("tamis_filter_log_dropped_total{filter=\"jwt\",version=\"stable\"}", 3.0),
            ("tamis_filter_breaker_state{filter=\"jwt\",version=\"stable\"}", 0.5),
            (
                "tamis_filter_breaker_openings_total{filter=\"jwt\",version=\"stable\"}",
                2.0,
            ),
            ("tamis_filter_outbound_calls{filter=\"jwt\",version=\"stable\"}", 9.0),
            ("tamis_filter_table_keys{filter=\"jwt\",version=\"stable\"}", 4.0),
            ("tamis_filter_table_bytes{filter=\"jwt\",version=\"stable\"}", 500.0),
            (
                "tamis_filter_table_reads_total{filter=\"jwt\",version=\"stable\",outcome=\"hit\"}",
                6.0,
            ),
            (
                "tamis_filter_table_reads_total{filter=\"jwt\",version=\"stable\",outcome=\"miss\"}",
                7.0,
            ),
            (
                "tamis_filter_table_evictions_total{filter=\"jwt\",version=\"stable\"}",
                8.0,
            ),
        ] {
            assert_eq!(samples.get(name), Some(&value), "{name}");
        }
    }

    /// Reads the text as Prometheus does: every line a comment or a sample, one block a family, no sample twice.
    /// Samples by name with labels.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut samples = BTreeMap::new();
        let mut types: HashMap<&str, &str> = HashMap::new();
        let mut family = ("", "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split_once(' ').expect("a name and a type");
                assert!(types.insert(family.0, family.1).is_none(), "two families: {line}");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
                let name = series.split('{').next().unwrap_or_default();
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                assert!(name.starts_with("tamis_") && name.chars().all(plain), "{line:?}");
                let suffix = name
                    .strip_prefix(family.0)
                    .unwrap_or_else(|| panic!("outside its family: {line:?}"));
                let suffixes: &[&str] = if family.1 == "histogram" {
                    &["_bucket", "_sum", "_count"]
                } else {
                    &[""]
                };
                assert!(suffixes.contains(&suffix), "{line:?}");
                check_labels(&series[name.len()..]);
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line:?}");
            }
        }
        samples
    }

    /// `{a="b",c="d"}`, where a value has a backslash only before `\`, `"` or `n`, and a quote only behind one.
    fn check_labels(labels: &str) {
        if labels.is_empty() {
            return;
        }
        let mut rest = labels.strip_prefix('{').expect(labels);
        loop {
            rest = rest.split_once("=\"").expect(labels).1;
            loop {
                let at = rest.find(['"', '\\']).expect(labels);
                if rest.as_bytes()[at] == b'"' {
                    rest = &rest[at + 1..];
                    break;
                }
                assert!(matches!(rest.as_bytes()[at + 1], b'\\' | b'"' | b'n'), "{labels:?}");
                rest = &rest[at + 2..];
            }
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break assert_eq!(rest, "}", "{labels:?}"),
            }
        }
    }

    #[test]
    fn a_process_without_workers_shows_its_facts_from_zero() {
        let samples = parse(&encode(&[], &facts()));
        for (name, value) in [
            ("tamis_build_info{version=\"1.2.3\"}", 1.0),
            ("tamis_start_time_seconds", 1_700_000_000.0),
            ("tamis_ready", 1.0),
            ("tamis_last_good", 0.0),
            ("tamis_workers", 2.0),
            ("tamis_workers_missing", 1.0),
            ("tamis_generation", 7.0),
            ("tamis_generations", 2.0),
            ("tamis_generation_oldest_seconds", 1.5),
            ("tamis_generations_ended_total", 0.0),
            ("tamis_components_total{from=\"compiled\"}", 0.0),
            ("tamis_components_total{from=\"cached\"}", 0.0),
            ("tamis_reloads_total{outcome=\"applied\"}", 0.0),
            ("tamis_reloads_total{outcome=\"unchanged\"}", 0.0),
            ("tamis_reloads_total{outcome=\"refused\"}", 0.0),
            ("tamis_access_log_dropped_total", 3.0),
            ("tamis_access_log_errors_total", 0.0),
            ("tamis_stale_counts_total", 0.0),
            ("tamis_panics_total", 0.0),
            ("tamis_exchanges", 0.0),
            ("tamis_overload{step=\"a\"}", 0.0),
            ("tamis_overload{step=\"b\"}", 1.0),
            ("tamis_overload{step=\"c\"}", 0.0),
            ("tamis_overload_steps_total{step=\"a\"}", 0.0),
            ("tamis_overload_steps_total{step=\"b\"}", 2.0),
            ("tamis_overload_steps_total{step=\"c\"}", 0.0),
            ("tamis_memory_used_bytes", 3.0),
            ("tamis_memory_limit_bytes", 4.0),
        ] {
            assert_eq!(samples.get(name), Some(&value), "{name}");
        }
        assert_eq!(samples.len(), 28);
    }

    #[test]
    fn a_named_series_shows_before_it_counts() {
        let mut tally = Tally::new();
        tally.listener("web");
        tally.route("web", "api");
        tally.endpoint("app", "127.0.0.1:9000");
        tally.filter("tenant");
        let samples = parse(&encode(&[tally.report()], &facts()));
        for name in [
            "tamis_connections{listener=\"web\"}",
            "tamis_connections_total{listener=\"web\"}",
            "tamis_received_bytes_total{listener=\"web\"}",
            "tamis_sent_bytes_total{listener=\"web\"}",
            "tamis_request_duration_seconds_count{listener=\"web\",route=\"api\"}",
            "tamis_upstream_failures_total{cluster=\"app\",endpoint=\"127.0.0.1:9000\",kind=\"connect_failed\"}",
            "tamis_upstream_failures_total{cluster=\"app\",endpoint=\"127.0.0.1:9000\",kind=\"upstream_timeout\"}",
            "tamis_upstream_connections{cluster=\"app\",endpoint=\"127.0.0.1:9000\"}",
            "tamis_upstream_duration_seconds_count{cluster=\"app\"}",
            "tamis_filter_instances{filter=\"tenant\",version=\"stable\"}",
            "tamis_filter_memory_bytes{filter=\"tenant\",version=\"stable\"}",
            "tamis_filter_instances_idle{filter=\"tenant\",version=\"stable\"}",
            "tamis_filter_waiting{filter=\"tenant\",version=\"stable\"}",
            "tamis_filter_cpu_seconds_total{filter=\"tenant\",version=\"stable\"}",
            "tamis_filter_metrics_dropped_total{filter=\"tenant\",version=\"stable\"}",
        ] {
            assert_eq!(samples.get(name), Some(&0.0), "{name}");
        }
    }

    fn busy_worker() -> Report {
        let mut tally = Tally::new();
        let (listener, route) = (tally.listener("web"), tally.route("web", UNMATCHED));
        tally.connection(listener, 1);
        tally.connection(listener, 1);
        tally.connection(listener, -1);
        tally.connection_refused(listener, "limit");
        tally.bytes(listener, 10, 20);
        tally.request(route, 404, 0.002);
        tally.request(route, 200, 20.0);
        let endpoint = tally.endpoint("app", "a:1");
        tally.upstream_connections(endpoint, 1);
        tally.upstream_opened(endpoint);
        tally.upstream_reused(endpoint);
        tally.upstream_response(endpoint, 200, 0.0001);
        tally.upstream_failure(endpoint, "upstream_reset");
        let filter = tally.filter("tenant");
        tally.filter_call(
            filter,
            Hook::RequestHead,
            Duration::from_nanos(400),
            Duration::from_millis(250),
        );
        tally.filter_failure(filter, Hook::ResponseHead, "trap", "closed");
        tally.filter_instances(filter, 1);
        tally.filter_memory(filter, 65_536);
        tally.filter_reply(filter, 403);
        tally.filter_queue(filter, 2, 1);
        tally.filter_counter(filter, "orders_total", Vec::new(), 5);
        tally.filter_counter(filter, "labelled_total", vec![("kind".into(), "x\"y".into())], 5);
        tally.filter_histogram(filter, "size", Vec::new(), 7.0);
        tally.report()
    }

    #[test]
    fn two_workers_add_up() {
        let samples = parse(&encode(&[busy_worker(), busy_worker()], &facts()));
        for (name, value) in [
            ("tamis_connections{listener=\"web\"}", 2.0),
            ("tamis_connections_total{listener=\"web\"}", 4.0),
            (
                "tamis_connections_refused_total{listener=\"web\",reason=\"limit\"}",
                2.0,
            ),
            ("tamis_received_bytes_total{listener=\"web\"}", 20.0),
            ("tamis_sent_bytes_total{listener=\"web\"}", 40.0),
            (
                "tamis_requests_total{listener=\"web\",route=\"<unmatched>\",code=\"200\"}",
                2.0,
            ),
            (
                "tamis_requests_total{listener=\"web\",route=\"<unmatched>\",code=\"404\"}",
                2.0,
            ),
            (
                "tamis_request_duration_seconds_bucket{listener=\"web\",route=\"<unmatched>\",le=\"0.001\"}",
                0.0,
            ),
            (
                "tamis_request_duration_seconds_bucket{listener=\"web\",route=\"<unmatched>\",le=\"0.0025\"}",
                2.0,
            ),
            (
                "tamis_request_duration_seconds_bucket{listener=\"web\",route=\"<unmatched>\",le=\"10\"}",
                2.0,
            ),
            (
                "tamis_request_duration_seconds_bucket{listener=\"web\",route=\"<unmatched>\",le=\"+Inf\"}",
                4.0,
            ),
            (
                "tamis_request_duration_seconds_count{listener=\"web\",route=\"<unmatched>\"}",
                4.0,
            ),
            (
                "tamis_upstream_requests_total{cluster=\"app\",endpoint=\"a:1\",code=\"200\"}",
                2.0,
            ),
            (
                "tamis_upstream_failures_total{cluster=\"app\",endpoint=\"a:1\",kind=\"upstream_reset\"}",
                2.0,
            ),
            ("tamis_upstream_connections{cluster=\"app\",endpoint=\"a:1\"}", 2.0),
            (
                "tamis_upstream_connections_opened_total{cluster=\"app\",endpoint=\"a:1\"}",
                2.0,
            ),
            (
                "tamis_upstream_connections_reused_total{cluster=\"app\",endpoint=\"a:1\"}",
                2.0,
            ),
            (
                "tamis_upstream_duration_seconds_bucket{cluster=\"app\",le=\"0.0005\"}",
                2.0,
            ),
            (
                "tamis_filter_calls_total{filter=\"tenant\",version=\"stable\",hook=\"request_head\"}",
                2.0,
            ),
            (
                "tamis_filter_duration_seconds_bucket{filter=\"tenant\",version=\"stable\",hook=\"request_head\",\
                 le=\"0.000001\"}",
                2.0,
            ),
            (
                "tamis_filter_failures_total{filter=\"tenant\",version=\"stable\",hook=\"response_head\",\
                 kind=\"trap\",policy=\"closed\"}",
                2.0,
            ),
            ("tamis_filter_instances{filter=\"tenant\",version=\"stable\"}", 2.0),
            (
                "tamis_filter_memory_bytes{filter=\"tenant\",version=\"stable\"}",
                131_072.0,
            ),
            (
                "tamis_filter_cpu_seconds_total{filter=\"tenant\",version=\"stable\"}",
                0.5,
            ),
            (
                "tamis_filter_replies_total{filter=\"tenant\",version=\"stable\",code=\"403\"}",
                2.0,
            ),
            (
                "tamis_filter_custom_orders_total{filter=\"tenant\",version=\"stable\"}",
                10.0,
            ),
            (
                "tamis_filter_custom_size_sum{filter=\"tenant\",version=\"stable\"}",
                14.0,
            ),
        ] {
            assert_eq!(samples.get(name), Some(&value), "{name}");
        }
        assert!(
            !samples.contains_key("tamis_filter_calls_total{filter=\"tenant\",version=\"stable\",hook=\"completion\"}")
        );
    }

    /// Of a candidate, everything that is counted stands beside that of the version in use.
    #[test]
    fn versions_are_told_apart() {
        let mut tally = Tally::new();
        for (name, calls) in [("tenant", 3), ("tenant@candidate", 2)] {
            let filter = tally.filter(name);
            (0..calls)
                .for_each(|_| tally.filter_call(filter, Hook::RequestHead, Duration::from_millis(100), Duration::ZERO));
            tally.filter_failure(filter, Hook::RequestHead, "trap", "open");
            tally.filter_counter(filter, "x", vec![("version".into(), "own".into())], calls);
        }
        let mut facts = facts();
        facts.filters = vec![FilterFacts {
            filter: "tenant".into(),
            trial: Some(TrialFacts {
                share: 0.05,
                rolled_back: 1,
                ..TrialFacts::default()
            }),
            ..FilterFacts::default()
        }];
        let samples = parse(&encode(&[tally.report()], &facts));
        for (name, value) in [
            (
                "tamis_filter_calls_total{filter=\"tenant\",version=\"stable\",hook=\"request_head\"}",
                3.0,
            ),
            (
                "tamis_filter_calls_total{filter=\"tenant\",version=\"candidate\",hook=\"request_head\"}",
                2.0,
            ),
            (
                "tamis_filter_failures_total{filter=\"tenant\",version=\"candidate\",hook=\"request_head\",\
                 kind=\"trap\",policy=\"open\"}",
                1.0,
            ),
            (
                "tamis_filter_custom_x{filter=\"tenant\",version=\"candidate\",exported_version=\"own\"}",
                2.0,
            ),
            ("tamis_filter_candidate_share{filter=\"tenant\"}", 0.05),
            (
                "tamis_filter_candidate_verdicts_total{filter=\"tenant\",verdict=\"rolled_back\"}",
                1.0,
            ),
            (
                "tamis_filter_candidate_verdicts_total{filter=\"tenant\",verdict=\"promoted\"}",
                0.0,
            ),
        ] {
            assert_eq!(samples.get(name), Some(&value), "{name}");
        }
    }

    #[test]
    fn hostile_labels_stay_inside_their_quotes() {
        let mut tally = Tally::new();
        for name in [
            "\"} 1\ntamis_ready 0\n",
            "\\",
            "\\\"",
            "a,b=\"c\"",
            "\r",
            "é\u{202e}",
            "\0",
            "",
        ] {
            let (route, endpoint, filter) = (tally.route(name, name), tally.endpoint(name, name), tally.filter(name));
            tally.listener(name);
            tally.request(route, 200, 0.1);
            tally.upstream_response(endpoint, 200, 0.1);
            tally.filter_counter(filter, "x", Vec::new(), 1);
        }
        let samples = parse(&encode(&[tally.report()], &facts()));
        assert_eq!(samples["tamis_ready"], 1.0);
        assert_eq!(
            samples
                .keys()
                .filter(|name| name.starts_with("tamis_requests_total"))
                .count(),
            8
        );
        assert!(
            samples.contains_key("tamis_filter_custom_x{filter=\"\\\"} 1\\ntamis_ready 0\\n\",version=\"stable\"}")
        );
    }

    #[test]
    fn filters_that_disagree_about_a_name_do_not_spoil_the_text() {
        let mut tally = Tally::new();
        let (a, b, c) = (tally.filter("a"), tally.filter("b"), tally.filter("c"));
        tally.filter_counter(a, "x", Vec::new(), 1);
        tally.filter_gauge(b, "x", Vec::new(), 2.0); // another kind
        tally.filter_counter(c, "x", Vec::new(), 3); // agrees
        tally.filter_histogram(a, "y", Vec::new(), 1.0);
        tally.filter_counter(b, "y_count", Vec::new(), 1); // a sample of the histogram
        tally.filter_counter(a, "z_sum", Vec::new(), 1);
        tally.filter_histogram(b, "z", Vec::new(), 1.0); // would write over the counter
        let samples = parse(&encode(&[tally.report()], &facts()));
        for (name, value) in [
            ("tamis_filter_custom_x{filter=\"a\",version=\"stable\"}", 1.0),
            ("tamis_filter_custom_x{filter=\"c\",version=\"stable\"}", 3.0),
            ("tamis_filter_custom_y_count{filter=\"a\",version=\"stable\"}", 1.0),
            ("tamis_filter_custom_z_sum{filter=\"a\",version=\"stable\"}", 1.0),
            ("tamis_filter_metrics_conflicts{filter=\"a\",version=\"stable\"}", 0.0),
            ("tamis_filter_metrics_conflicts{filter=\"b\",version=\"stable\"}", 3.0),
        ] {
            assert_eq!(samples.get(name), Some(&value), "{name}");
        }
        assert!(
            !samples
                .keys()
                .any(|name| name.contains("custom") && name.contains("\"b\""))
        );
    }
}
