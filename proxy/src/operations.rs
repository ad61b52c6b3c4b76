//! What an operator can see and do, behind the admin endpoint.
//!
//! Control plane. Asks every worker for a report when somebody looks, and never otherwise; a worker that does not
//! answer in time is left out and counted as missing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot, watch};

use crate::admin::{Operations, Readiness};
use crate::balance::Member;
use crate::breaker::{self, Breaker};
use crate::canary::{Account, Evidence, Phase, Times, Version, WHOLE};
use crate::chain::{Chain, StepKind};
use crate::cluster::{Cluster, Limit};
use crate::difference::State;
use crate::endpoint::millis;
use crate::filter::Hook;
use crate::generations::Generations;
use crate::overload::{Level, Pressure};
use crate::panics;
use crate::reload::{Handles, History};
use crate::report::{Outcome, Report as ReloadReport, milliseconds, seconds};
use crate::snapshot::{Action, Snapshot};
use crate::store;
use crate::telemetry::exposition::{
    self, BreakerFacts, CertificateFacts, ClusterFacts, EndpointFacts, FilterFacts, OverloadFacts, ProcessFacts,
    TableFacts, TrialFacts,
};
use crate::telemetry::metrics::Report;
use crate::trial::{Standing, Trial};
use crate::trigger::Trigger;
use crate::wasm;
use crate::wasm::http::{Middleware, Service, Usage};
use crate::worker::{Command, Live, WorkerReport, Workers};

/// How long a worker may take to report: many times what it needs, and short enough for a scrape.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the first generation was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    CurrentFiles,
    /// See [`state`](crate::state).
    LastGood,
}

pub struct Operator {
    live: Arc<Live>,
    workers: Workers,
    trigger: Trigger,
    history: Arc<History>,
    generations: Arc<Generations>,
    begin_drain: watch::Sender<bool>,
    draining: AtomicBool,
    started: SystemTime,
    origin: Origin,
    /// The last counts of each worker, for one that is late: a counter never goes back.
    last: Mutex<Vec<Report>>,
}

impl Operator {
    pub fn new(
        live: Arc<Live>,
        workers: Workers,
        reloading: Handles,
        begin_drain: watch::Sender<bool>,
        started: SystemTime,
        origin: Origin,
    ) -> Self {
        let last = Mutex::new(vec![Report::default(); workers.len()]);
        Self {
            live,
            workers,
            trigger: reloading.trigger,
            history: reloading.history,
            generations: reloading.generations,
            begin_drain,
            draining: AtomicBool::new(false),
            started,
            origin,
            last,
        }
    }

    /// From now on the process says that it is not ready.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Until the first reload that succeeds.
    fn is_on_last_good(&self) -> bool {
        self.origin == Origin::LastGood && self.live.load().generation == 1
    }

    /// Open connections of all workers; one that does not answer counts as busy.
    pub async fn connections(&self) -> usize {
        self.ask()
            .await
            .iter()
            .map(|report| report.as_ref().map_or(1, |report| report.connections))
            .sum()
    }

    async fn ask(&self) -> Vec<Option<WorkerReport>> {
        let asked: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (tell, told) = oneshot::channel();
                worker.send(Command::Report(tell)).is_ok().then_some(told)
            })
            .collect();
        let mut reports = Vec::with_capacity(asked.len());
        for told in asked {
            reports.push(match told {
                Some(told) => tokio::time::timeout(PATIENCE, told).await.ok().and_then(Result::ok),
                // Its thread has ended, and its connections with it.
                None => Some(WorkerReport::default()),
            });
        }
        reports
    }

    async fn reports(&self) -> Vec<WorkerReport> {
        self.ask().await.into_iter().flatten().collect()
    }
}

#[async_trait]
impl Operations for Operator {
    async fn ready(&self) -> Readiness {
        if self.draining.load(Ordering::Relaxed) {
            Readiness::Draining
        } else if self.is_on_last_good() {
            Readiness::LastGood
        } else {
            Readiness::Ready
        }
    }

    async fn metrics(&self) -> String {
        let reports = self.ask().await;
        let missing = reports.iter().filter(|report| report.is_none()).count();
        let exchanges = reports.iter().flatten().map(|report| report.exchanges).sum();
        let mut last = self.last.lock().await;
        for (last, report) in last.iter_mut().zip(reports) {
            if let Some(report) = report {
                *last = report.counts;
            }
        }
        let snapshot = self.live.load();
        let log = snapshot.access_log.as_ref().map(|log| &log.writer);
        let facts = ProcessFacts {
            version: env!("CARGO_PKG_VERSION"),
            started: self.started,
            generation: snapshot.generation,
            generations: self.generations.alive(),
            oldest_generation: self.generations.oldest_age(Instant::now()),
            reloads: self.history.counts(),
            access_log_dropped: log.map_or(0, |log| log.dropped()),
            access_log_errors: log.map_or(0, |log| log.errors()),
            panics: panics::count(),
            ready: matches!(self.ready().await, Readiness::Ready | Readiness::LastGood),
            last_good: self.is_on_last_good(),
            workers: self.workers.len(),
            workers_missing: missing,
            filters: filter_facts(&snapshot),
            clusters: cluster_facts(&snapshot),
            certificates: certificate_facts(&snapshot),
            overload: overload_facts(&snapshot.overload.pressure, exchanges),
        };
        exposition::encode(&last, &facts)
    }

    async fn config(&self) -> Value {
        let snapshot = self.live.load();
        let State {
            generation,
            config,
            components,
            listener_files,
            cluster_files,
        } = State::of(&snapshot);
        json!({
            "generation": generation,
            "last_reload": self.history.last(),
            "overload": shown_overload(&snapshot.overload.pressure),
            "components": components,
            "listener_files": listener_files,
            "cluster_files": cluster_files,
            "config": *config,
        })
    }

    async fn routes(&self) -> Value {
        let snapshot = self.live.load();
        snapshot
            .routes
            .iter()
            .map(|route| route_value(&snapshot, route))
            .collect()
    }

    async fn clusters(&self) -> Value {
        let snapshot = self.live.load();
        let mut usage: BTreeMap<(String, String), (usize, u32)> = BTreeMap::new();
        let mut instances: BTreeMap<String, Usage> = BTreeMap::new();
        for endpoint in self.reports().await.into_iter().flat_map(|report| report.endpoints) {
            if let Some(here) = endpoint.instances {
                instances.entry(endpoint.cluster.clone()).or_default().add(here);
            }
            let (idle, in_flight) = usage.entry((endpoint.cluster, endpoint.endpoint)).or_default();
            *idle += endpoint.idle;
            *in_flight += endpoint.in_flight;
        }
        let now = Instant::now();
        let cluster = |cluster: &Arc<Cluster>| {
            let members = cluster.members();
            let endpoint = |member: &Member| {
                let key = (cluster.name().to_owned(), member.endpoint.label.clone());
                shown_endpoint(member, usage.get(&key).copied().unwrap_or_default(), now)
            };
            let endpoints: Vec<_> = members.list.iter().map(endpoint).collect();
            let overflows = Limit::ALL.map(|limit| (limit.as_str(), cluster.terms.standing.overflows(limit)));
            json!({
                "name": cluster.name(),
                "protocol": cluster.terms.protocol.as_str(),
                "endpoints": endpoints,
                "overflows": BTreeMap::from(overflows),
                "component": cluster.terms.service.as_ref().map(|service| {
                    shown_service(service, instances.get(cluster.name()).copied().unwrap_or_default())
                }),
            })
        };
        snapshot.clusters.iter().map(cluster).collect()
    }

    async fn filters(&self) -> Value {
        let snapshot = self.live.load();
        let reports = self.reports().await;
        let natives = snapshot
            .filters
            .iter()
            .filter(|name| !snapshot.guests.iter().any(|guest| guest.name() == *name))
            .filter(|name| !snapshot.middlewares.iter().any(|one| one.name() == *name));
        let natives = natives.map(|name| json!({ "name": &**name, "kind": "native" }));
        let mut shown = HashSet::new();
        let guests = snapshot
            .guests
            .iter()
            .filter(|guest| shown.insert(guest.id()))
            .map(|guest| {
                let usage = usage_of(guest.name(), &reports);
                let hooks = Hook::ALL.into_iter().filter(|hook| guest.hooks().has(*hook));
                let breaker = guest.breaker().map(|breaker| shown_breaker(breaker));
                let (name, version) = Version::of(guest.name());
                let trial = trial_of(&snapshot, guest.name()).map(shown_trial);
                json!({
                    "name": name,
                    "kind": "component",
                    "version": version.as_str(),
                    "candidate": trial,
                    "sha256": guest.artifact().digest().to_string(),
                    "size_bytes": guest.artifact().size(),
                    "imports": guest.artifact().imports(),
                    "exports": guest.artifact().exports(),
                    "hooks": hooks.map(Hook::as_str).collect::<Vec<_>>(),
                    "on_failure": guest.on_failure().as_str(),
                    "breaker": breaker,
                    "tick_seconds": guest.tick().map(seconds),
                    "instances": usage.live,
                    "instances_idle": usage.idle,
                    "waiting": usage.waiting,
                    "memory_bytes": usage.memory_bytes,
                    "log_lines_dropped": guest.log_lines_dropped(),
                })
            });
        let mut shown = HashSet::new();
        let middlewares = (snapshot.middlewares.iter())
            .filter(|one| shown.insert(one.id()))
            .map(|one| shown_middleware(one, trial_of(&snapshot, one.name()), usage_of(one.name(), &reports)));
        natives.chain(guests).chain(middlewares).collect()
    }

    async fn reload(&self, expected: Option<u64>) -> ReloadReport {
        let asked = self.trigger.pull_and_wait("admin", expected).await;
        asked.unwrap_or_else(|why| {
            let live = self.live.load().generation;
            let report = ReloadReport::failed(Outcome::Unavailable, live, "admin", vec![why.to_owned()]);
            self.history.complete(report)
        })
    }

    async fn drain(&self) {
        self.begin_drain.send_replace(true);
    }
}

/// What a filter has, in all workers.
fn usage_of(filter: &Arc<str>, reports: &[WorkerReport]) -> wasm::Usage {
    let of_filter = reports
        .iter()
        .flat_map(|report| &report.guests)
        .filter(|(name, _)| name == filter);
    of_filter.fold(wasm::Usage::default(), |sum, (_, usage)| wasm::Usage {
        live: sum.live + usage.live,
        idle: sum.idle + usage.idle,
        waiting: sum.waiting + usage.waiting,
        memory_bytes: sum.memory_bytes + usage.memory_bytes,
    })
}

fn shown_middleware(middleware: &Middleware, trial: Option<&Trial>, usage: wasm::Usage) -> Value {
    let artifact = middleware.service.artifact();
    let (name, version) = Version::of(middleware.name());
    json!({
        "name": name,
        "kind": "middleware",
        "version": version.as_str(),
        "candidate": trial.map(shown_trial),
        "sha256": artifact.digest().to_string(),
        "size_bytes": artifact.size(),
        "imports": artifact.imports(),
        "exports": artifact.exports(),
        "on_failure": middleware.terms.on_failure.as_str(),
        "breaker": middleware.terms.breaker.as_deref().map(shown_breaker),
        "instances": usage.live,
        "instances_idle": usage.idle,
        "waiting": usage.waiting,
        "memory_bytes": usage.memory_bytes,
        "log_lines_dropped": middleware.service.log_lines_dropped(),
    })
}

fn shown_service(service: &Service, usage: Usage) -> Value {
    json!({
        "sha256": service.artifact().digest().to_string(),
        "size_bytes": service.artifact().size(),
        "speaks": service.kind(),
        "imports": service.artifact().imports(),
        "instances": usage.live,
        "instances_idle": usage.idle,
        "memory_bytes": usage.memory_bytes,
        "log_lines_dropped": service.log_lines_dropped(),
        "key_value": service.table().map(|table| shown_table(table.stats())),
    })
}

fn shown_table(stats: store::Stats) -> Value {
    json!({
        "keys": stats.keys,
        "bytes": stats.bytes,
        "hits": stats.hits,
        "misses": stats.misses,
        "evictions": stats.evictions,
    })
}

/// `usage` is idle connections and requests in flight.
fn shown_endpoint(member: &Member, usage: (usize, u32), now: Instant) -> Value {
    let endpoint = &member.endpoint;
    let ejected_for = endpoint.is_ejected().then(|| {
        let until = endpoint.ejection.until.load(Ordering::Relaxed);
        until.saturating_sub(millis(now)) as f64 / 1e3
    });
    json!({
        "address": endpoint.label,
        "host": endpoint.host.as_deref(),
        "weight": member.weight,
        "priority": member.priority,
        "health": endpoint.health().as_str(),
        "ejected": endpoint.is_ejected(),
        "ejected_for_seconds": ejected_for,
        "since": humantime::format_rfc3339_millis(endpoint.since()).to_string(),
        "idle_connections": usage.0,
        "requests_in_flight": usage.1,
    })
}

fn shown_overload(pressure: &Pressure) -> Value {
    json!({
        "level": pressure.level().as_str(),
        "memory_used_bytes": pressure.used(),
        "memory_limit_bytes": pressure.limit(),
    })
}

fn overload_facts(pressure: &Pressure, exchanges: usize) -> OverloadFacts {
    let steps = [
        Level::DisableKeepAlive,
        Level::StopAcceptingRequests,
        Level::StopAcceptingConnections,
    ];
    OverloadFacts {
        exchanges,
        steps: steps.map(|step| (step.as_str(), pressure.level() >= step, pressure.begun(step))),
        memory_used: pressure.used(),
        memory_limit: pressure.limit(),
    }
}

fn cluster_facts(snapshot: &Snapshot) -> Vec<ClusterFacts> {
    let facts = |cluster: &Arc<Cluster>| {
        let members = cluster.members();
        let standing = &cluster.terms.standing;
        ClusterFacts {
            cluster: cluster.name().to_owned(),
            overflows: Limit::ALL.map(|limit| (limit.as_str(), standing.overflows(limit))),
            resolutions: (!cluster.origin.is_fixed()).then(|| {
                [
                    ("changed", standing.resolutions.changed.load(Ordering::Relaxed)),
                    ("unchanged", standing.resolutions.unchanged.load(Ordering::Relaxed)),
                    ("failed", standing.resolutions.failed.load(Ordering::Relaxed)),
                ]
            }),
            is_checked: cluster.terms.check.is_some(),
            can_eject: cluster.terms.outlier.is_some(),
            endpoints: members.list.iter().map(endpoint_facts).collect(),
        }
    };
    snapshot.clusters.iter().map(facts).collect()
}

fn endpoint_facts(member: &Member) -> EndpointFacts {
    let endpoint = &member.endpoint;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    EndpointFacts {
        endpoint: endpoint.label.clone(),
        usable: endpoint.is_usable(),
        ejected: endpoint.is_ejected(),
        health_changes: count(&endpoint.counts.health_changes),
        checks: [
            ("good", count(&endpoint.counts.checks_good)),
            ("bad", count(&endpoint.counts.checks_bad)),
        ],
        ejections: [
            ("consecutive_failures", count(&endpoint.counts.ejections_in_a_row)),
            ("success_rate", count(&endpoint.counts.ejections_success_rate)),
        ],
    }
}

fn certificate_facts(snapshot: &Snapshot) -> Vec<CertificateFacts> {
    let of_listener = |listener: &crate::snapshot::Listener| {
        let certificates = listener.tls.iter().flat_map(|server| server.certificates().enumerate());
        let facts = certificates.map(|(index, certificate)| CertificateFacts {
            listener: listener.name.to_string(),
            index,
            subject: certificate.subject.clone(),
            not_after: certificate.not_after,
        });
        facts.collect::<Vec<_>>()
    };
    snapshot.listeners.iter().flat_map(of_listener).collect()
}

/// Each filter once, however many chains it stands in.
fn filter_facts(snapshot: &Snapshot) -> Vec<FilterFacts> {
    let guests = snapshot.guests.iter().map(|guest| FilterFacts {
        filter: guest.name().to_string(),
        log_dropped: guest.log_lines_dropped(),
        breaker: guest.breaker().map(|breaker| breaker_facts(breaker)),
        table: guest.table().map(|table| table_facts(table)),
        calls: guest.calls_under_way(),
        trial: None,
    });
    let middlewares = snapshot.middlewares.iter().map(|one| FilterFacts {
        filter: one.name().to_string(),
        log_dropped: one.service.log_lines_dropped(),
        breaker: one.terms.breaker.as_deref().map(breaker_facts),
        table: one.service.table().map(|table| table_facts(table)),
        calls: None,
        trial: None,
    });
    let mut shown = HashSet::new();
    let filters = guests.chain(middlewares);
    filters
        .filter(|facts| shown.insert(facts.filter.clone()))
        .map(|facts| FilterFacts {
            trial: trial_of(snapshot, &facts.filter).map(|trial| TrialFacts {
                share: part_of(trial.share(), WHOLE),
                promoted: trial.verdicts().promoted.load(Ordering::Relaxed),
                held: trial.verdicts().held.load(Ordering::Relaxed),
                rolled_back: trial.verdicts().rolled_back.load(Ordering::Relaxed),
            }),
            ..facts
        })
        .collect()
}

/// The trial of the filter's candidate.
fn trial_of<'a>(snapshot: &'a Snapshot, filter: &str) -> Option<&'a Trial> {
    let mut trials = snapshot.trials.iter().map(|trial| &**trial);
    trials.find(|trial| trial.filter() == filter)
}

fn part_of(part: impl Into<f64>, whole: impl Into<f64>) -> f64 {
    part.into() / whole.into()
}

/// Both versions side by side, as they were when last looked at.
fn shown_trial(trial: &Trial) -> Value {
    let Standing {
        phase,
        elapsed,
        evidence,
    } = trial.standing();
    let reason = match &phase {
        Phase::RolledBack(reason) => Some(reason.to_string()),
        _ => None,
    };
    let Evidence { stable, candidate } = &evidence;
    let both = |count: fn(&Account) -> u64| json!({ "stable": count(stable), "candidate": count(candidate) });
    let p99 = Hook::ALL.into_iter().filter_map(|hook| {
        let times = [stable, candidate].map(|account| &account.times[hook as usize]);
        let millis = |times: &Times| (times.count() > 0).then(|| milliseconds(times.p99()));
        let shown = json!({ "stable": millis(times[0]), "candidate": millis(times[1]) });
        times
            .iter()
            .any(|times| times.count() > 0)
            .then(|| (hook.as_str().to_owned(), shown))
    });
    json!({
        "state": phase.as_str(),
        "reason": reason,
        "sha256": trial.component(),
        "share": part_of(trial.share(), WHOLE),
        "window_seconds": seconds(trial.terms().rules.window),
        "elapsed_seconds": seconds(elapsed),
        "min_calls": trial.terms().rules.min_calls,
        "exchanges": both(|account| account.exchanges),
        "failed": both(|account| account.failed),
        "replied": both(|account| account.replied),
        "p99_ms": p99.collect::<serde_json::Map<_, _>>(),
    })
}

fn breaker_facts(breaker: &Breaker) -> BreakerFacts {
    BreakerFacts {
        state: match breaker.state(std::time::Instant::now()) {
            breaker::State::Closed => 0.0,
            breaker::State::HalfOpen => 0.5,
            breaker::State::Open { .. } => 1.0,
        },
        openings: breaker.openings(),
    }
}

fn table_facts(table: &store::Table) -> TableFacts {
    let stats = table.stats();
    TableFacts {
        keys: stats.keys,
        bytes: stats.bytes,
        hits: stats.hits,
        misses: stats.misses,
        evictions: stats.evictions,
    }
}

fn shown_breaker(breaker: &Breaker) -> Value {
    let (state, opens_in) = match breaker.state(std::time::Instant::now()) {
        breaker::State::Closed => ("closed", None),
        breaker::State::HalfOpen => ("half_open", None),
        breaker::State::Open { remaining } => ("open", Some(seconds(remaining))),
    };
    json!({ "state": state, "probe_in_seconds": opens_in, "openings": breaker.openings() })
}

fn route_value(snapshot: &Snapshot, route: &crate::snapshot::Route) -> Value {
    let action = match &route.action {
        Action::Clusters { choices, .. } => {
            let clusters: Vec<_> = choices
                .iter()
                .map(|choice| json!({ "name": snapshot.clusters[choice.cluster].name(), "weight": choice.weight }))
                .collect();
            json!({ "clusters": clusters })
        }
        Action::Redirect(redirect) => json!({ "redirect": redirect.status.as_u16() }),
        Action::Respond(respond) => json!({ "respond": respond.status.as_u16() }),
    };
    json!({
        "name": &*route.name,
        "filters": filters(&route.chain),
        "action": action,
        "timeout_ms": route.timeout.map(|timeout| timeout.as_millis()),
    })
}

fn filters(chain: &Chain) -> Value {
    let filter = |step: &crate::chain::Step| {
        let kind = match step.kind {
            StepKind::Native(_) => "native",
            StepKind::Wasm(..) => "component",
            StepKind::Middleware(..) => "middleware",
        };
        json!({ "name": &*step.name, "kind": kind })
    };
    chain.steps.iter().map(filter).collect()
}
