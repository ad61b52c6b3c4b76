//! Reloading: the only writer of the pointer to the generation in use.
//!
//! Control plane, in a thread of its own. A trigger carries no content, only "read again". Read, parse, assemble, warm,
//! swap: whatever fails, the running generation stays, and whoever asked is told why. Triggers that come while one is
//! being worked on are answered together by the next. What was replaced is let go here, never in a worker.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tamis_config::Config;
use tokio::sync::{Mutex as Turn, oneshot};

use crate::assemble::{self, Assembled, Assembler, Faults};
use crate::chain::StepKind;
use crate::difference::{self, Difference, Hidden, State};
use crate::generations::{Bounds, Generations, Overdue};
use crate::report::{Outcome, Report, Tenure, Took, milliseconds};
use crate::snapshot::{Listener, Snapshot};
use crate::telemetry::exposition::Reloads;
use crate::trigger::{self, Batch, Requests, Trigger};
use crate::wasm;
use crate::watch::Watcher;
use crate::worker::{Command, Live, Workers};

/// How often generations that were replaced are looked at, as long as there are some.
const SWEEP: Duration = Duration::from_secs(1);
/// How long the swap waits for guests to be made ready: as long as one may take to start. It is not called off then,
/// the rest starts with its first exchange.
const WARM_PATIENCE: Duration = Duration::from_secs(5);

/// How long a reload waits for whoever is writing one of its files: a write takes milliseconds.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);
const WRITER_LOOK: Duration = Duration::from_millis(10);

/// What the admin endpoint shows of reloads.
pub struct History {
    applied: AtomicU64,
    unchanged: AtomicU64,
    refused: AtomicU64,
    ended: AtomicU64,
    compilations: Arc<wasm::CompilerCounts>,
    last: Mutex<Option<Report>>,
    live: Mutex<Tenure>,
}

impl History {
    fn new(compilations: Arc<wasm::CompilerCounts>, live: Tenure) -> Self {
        Self {
            applied: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            compilations,
            last: Mutex::default(),
            live: Mutex::new(live),
        }
    }

    pub fn counts(&self) -> Reloads {
        Reloads {
            applied: self.applied.load(Ordering::Relaxed),
            unchanged: self.unchanged.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            compiled: self.compilations.compiled(),
            cached: self.compilations.cached(),
        }
    }

    /// Of the last reload; `None` before the first. One that found nothing new takes the place of a refusal only: what
    /// the live generation brought is still of interest.
    pub fn last(&self) -> Option<Report> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The report, and how what is live came to be so.
    pub fn complete(&self, report: Report) -> Report {
        report.of(&self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, live: Tenure) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
    }

    fn note(&self, report: &Report) {
        let count = match report.outcome {
            Outcome::Applied => &self.applied,
            Outcome::Unchanged => &self.unchanged,
            // The other two never come here: nothing was read for them.
            Outcome::Refused | Outcome::Conflict | Outcome::Unavailable => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let was_applied = last.as_ref().is_some_and(|last| last.outcome == Outcome::Applied);
        if report.outcome != Outcome::Unchanged || !was_applied {
            *last = Some(report.clone());
        }
    }
}

/// Owns the parts of the running generation.
pub struct Reloader {
    file: PathBuf,
    config: Config,
    assembler: Assembler,
    live: Arc<Live>,
    history: Arc<History>,
    generations: Arc<Generations>,
    workers: Workers,
    watcher: Option<Watcher>,
    requests: Requests,
    turn: Arc<Turn<()>>,
}

/// What others need of a [`Reloader`] that runs.
pub struct Handles {
    pub trigger: Trigger,
    pub history: Arc<History>,
    pub generations: Arc<Generations>,
}

/// What became of the files.
enum Built {
    /// They say what is live already.
    Same(Took),
    New(Box<Candidate>),
}

/// Read, checked and built, and not live yet.
struct Candidate {
    config: Config,
    assembled: Assembled,
    took: Took,
}

impl Reloader {
    /// `config` is what `assembler` has assembled and accepted already, with these `warnings`.
    pub fn new(
        file: &Path,
        config: Config,
        warnings: Vec<String>,
        assembler: Assembler,
        live: Arc<Live>,
        workers: Workers,
    ) -> (Self, Handles) {
        let (trigger, requests) = trigger::queue();
        let turn = trigger.turn();
        let history = Arc::new(History::new(
            Arc::clone(assembler.compiler_counts()),
            tenure("start", warnings),
        ));
        let generations = Arc::new(Generations::default());
        let reloader = Self {
            file: file.to_owned(),
            config,
            assembler,
            live,
            history: Arc::clone(&history),
            generations: Arc::clone(&generations),
            workers,
            watcher: None,
            requests,
            turn,
        };
        let handles = Handles {
            trigger,
            history,
            generations,
        };
        (reloader, handles)
    }

    /// Pulls `trigger` whenever a file changes that the configuration depends on.
    pub fn watch_files(&mut self, trigger: Trigger) {
        match Watcher::start(move || trigger.pull("file")) {
            Ok(watcher) => {
                watcher.set(assemble::watched(&self.file, &self.config));
                watcher.wait_armed();
                self.watcher = Some(watcher);
            }
            Err(error) => tracing::warn!(%error, "files cannot be watched; reload by SIGHUP or POST /reload"),
        }
    }

    /// Works off requests for as long as the process runs.
    pub async fn run(mut self) {
        // Whatever changed between the first look at the files and the watch over them.
        let first = self.reload("start").await;
        if first.outcome != Outcome::Unchanged {
            self.settle(&first);
            self.sweep();
        }
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = self.requests.next() => self.answer(batch).await,
                _ = sweep.tick(), if !self.generations.is_empty() => self.sweep(),
            }
        }
    }

    async fn answer(&mut self, batch: Batch) {
        if batch.reopens_log {
            self.assembler.reopen_log();
        }
        let live = self.live.load().generation;
        let (waiting, mistaken): (Vec<_>, Vec<_>) = batch
            .waiting
            .into_iter()
            .partition(|waiting| waiting.expects.is_none_or(|expected| expected == live));
        for waiting in mistaken {
            let report = conflict(live, waiting.cause, waiting.expects.unwrap_or_default());
            let report = self.history.complete(report);
            // Whoever asked may have gone.
            let _ = waiting.tell.send(report);
        }
        // What only those wanted who were mistaken is not done.
        let cause = batch.pulled.or_else(|| waiting.first().map(|waiting| waiting.cause));
        let Some(cause) = cause else { return };
        let report = self.reload(cause).await;
        self.settle(&report);
        for waiting in waiting {
            let _ = waiting.tell.send(report.clone());
        }
        // Last: to free what ten thousand routes were takes longer than to tell of it.
        if report.outcome == Outcome::Applied {
            self.sweep();
        }
    }

    /// Counts and logs what came of a reload.
    fn settle(&self, report: &Report) {
        self.history.note(report);
        let Report { generation, cause, .. } = report;
        match report.outcome {
            Outcome::Applied => {
                let (changes, took_ms) = (report.difference.summary(), report.took_ms.total());
                tracing::info!(generation, cause, changes, took_ms, "generation live");
                warn(&report.warnings);
                for permissions in &report.difference.permissions {
                    let (imports, grants) = (&permissions.imports.added, &permissions.grants.added);
                    if !imports.is_empty() || !grants.is_empty() {
                        let filter = &*permissions.filter;
                        tracing::info!(
                            generation,
                            filter,
                            ?imports,
                            ?grants,
                            "a filter may do more than before"
                        );
                    }
                }
            }
            Outcome::Unchanged => tracing::debug!(generation, cause, "nothing changed"),
            Outcome::Refused | Outcome::Conflict | Outcome::Unavailable => {
                tracing::error!(cause, errors = report.errors.join("; "), "reload refused");
            }
        }
    }

    async fn reload(&mut self, cause: &str) -> Report {
        let _turn = Arc::clone(&self.turn).lock_owned().await;
        let old = self.live.load();
        let compiled = self.assembler.compiler_counts().compiled();
        let mut report = match self.build(&old).await {
            Ok(Built::New(candidate)) => self.go_live(old, *candidate, cause).await,
            Ok(Built::Same(took)) => Report {
                took_ms: took,
                ..Report::new(Outcome::Unchanged, old.generation, cause)
            },
            Err(Faults(errors)) => Report::failed(Outcome::Refused, old.generation, cause, errors),
        };
        report.compiled = self.assembler.compiler_counts().compiled() - compiled;
        self.history.complete(report)
    }

    async fn build(&mut self, old: &Snapshot) -> Result<Built, Faults> {
        let mut took = Took::default();
        let begun = Instant::now();
        self.wait_for_writers().await?;
        let config = tamis_config::load(&self.file)
            .map_err(|errors| Faults(errors.iter().map(ToString::to_string).collect()))?;
        if let Some(watcher) = &self.watcher {
            watcher.set(assemble::watched(&self.file, &config));
        }
        self.check_fixed(&config)?;
        took.read = milliseconds(begun.elapsed());
        let begun = Instant::now();
        let in_use = (&self.config, old);
        let assembled = self
            .assembler
            .assemble_anew(&config, in_use, old.generation + 1)
            .await?;
        took.build = milliseconds(begun.elapsed());
        Ok(match assembled {
            Some(assembled) => Built::New(Box::new(Candidate {
                config,
                assembled,
                took,
            })),
            None => Built::Same(took),
        })
    }

    /// Half a file may be sound by accident, so nothing is read while somebody writes one.
    async fn wait_for_writers(&self) -> Result<(), Faults> {
        let Some(watcher) = &self.watcher else { return Ok(()) };
        let deadline = Instant::now() + WRITER_PATIENCE;
        while let Some(file) = watcher.unfinished() {
            if Instant::now() >= deadline {
                let file = file.display();
                return Err(Faults(vec![format!(
                    "{file}: is being written, and its writer has not closed it; nothing is read before that"
                )]));
            }
            tokio::time::sleep(WRITER_LOOK).await;
        }
        Ok(())
    }

    async fn go_live(&mut self, old: Arc<Snapshot>, candidate: Candidate, cause: &str) -> Report {
        let Candidate {
            config,
            assembled,
            mut took,
        } = candidate;
        let warnings = assembled.warnings.clone();
        let snapshot = Arc::new(self.assembler.accept(assembled));
        let begun = Instant::now();
        // Before the swap, so that whoever asked knows of it as soon as it is done.
        let hidden = Hidden::between(&self.config, &config);
        let difference = Difference::between(&State::of(&old), &State::of(&snapshot), &hidden);
        took.compare = milliseconds(begun.elapsed());
        let begun = Instant::now();
        let warmed = self.warm(&old, &snapshot).await;
        took.warm = milliseconds(begun.elapsed());
        let begun = Instant::now();
        announce(&old.listeners, &snapshot.listeners);
        self.live.store(Arc::clone(&snapshot));
        for listener in removed(&old.listeners, &snapshot.listeners) {
            listener.sockets.close();
        }
        self.tell_workers(|| Command::Reconcile);
        took.swap = milliseconds(begun.elapsed());
        self.history.begin(tenure(cause, warnings));
        let report = Report {
            previous: old.generation,
            took_ms: took,
            warmed,
            difference,
            ..Report::new(Outcome::Applied, snapshot.generation, cause)
        };
        self.config = config;
        self.generations.retire(old, Instant::now());
        report
    }

    /// Has every worker start guests of the filters that are new, so that their first exchange does not wait for one.
    async fn warm(&self, old: &Snapshot, new: &Snapshot) -> u64 {
        let known: HashSet<u64> = old.guests.iter().map(|guest| guest.id()).collect();
        let mut fresh = used_guests(new);
        fresh.retain(|guest| !known.contains(&guest.id()));
        if fresh.is_empty() {
            return 0;
        }
        let asked: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (tell, told) = oneshot::channel();
                // A worker that has ended takes no requests either.
                let _ = worker.send(Command::Warm(fresh.clone(), tell));
                told
            })
            .collect();
        let mut warmed = 0;
        let all = async {
            for told in asked {
                warmed += u64::from(told.await.unwrap_or(0));
            }
        };
        if tokio::time::timeout(WARM_PATIENCE, all).await.is_err() {
            tracing::warn!("guests are still starting; the new generation goes live without all of them");
        }
        warmed
    }

    /// Lets go of generations that nobody is on, and ends those that have had their time.
    fn sweep(&mut self) {
        let bounds = Bounds {
            max_age: self.config.reload.max_age,
            max_alive: self.config.reload.max_generations,
        };
        let Some(Overdue { newest, more }) = self.generations.sweep(&self.live.load(), bounds, Instant::now()) else {
            return;
        };
        if more > 0 {
            self.history.ended.fetch_add(more as u64, Ordering::Relaxed);
            tracing::warn!(
                generation = newest,
                "what is still on this generation or an older one is ended (reload.max_age, reload.max_generations)"
            );
        }
        self.tell_workers(|| Command::Outlive(newest));
    }

    fn tell_workers(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // A worker that has ended takes no requests either.
            let _ = worker.send(command());
        }
    }

    /// What is laid out once, when the process starts.
    fn check_fixed(&self, config: &Config) -> Result<(), Faults> {
        let faults = difference::needs_restart(&self.config.describe_process(), &config.describe_process());
        if faults.is_empty() {
            return Ok(());
        }
        let file = self.file.display();
        Err(Faults(faults.iter().map(|fault| format!("{file}: {fault}")).collect()))
    }
}

/// From now on.
fn tenure(cause: &str, warnings: Vec<String>) -> Tenure {
    Tenure {
        since: SystemTime::now(),
        cause: cause.to_owned(),
        warnings,
    }
}

/// What is odd about a configuration that is live.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(warning, "the configuration is live, and odd");
    }
}

fn conflict(live: u64, cause: &str, expected: u64) -> Report {
    let error = format!(
        "generation {expected} was expected, but generation {live} is live: somebody else has reloaded in between; \
         look at what is live (GET /config), and ask again with its number"
    );
    Report::failed(Outcome::Conflict, live, cause, vec![error])
}

/// Components that stand in a chain, each once.
fn used_guests(snapshot: &Snapshot) -> Vec<Arc<wasm::Filter>> {
    let listeners = snapshot.listeners.iter().map(|listener| &listener.chain);
    let chains = listeners.chain(snapshot.routes.iter().map(|route| &route.chain));
    let mut seen = HashSet::new();
    chains
        .flat_map(|chain| &chain.steps)
        .filter_map(|step| match &step.kind {
            StepKind::Wasm(guest, _) => seen.insert(guest.id()).then(|| Arc::clone(guest)),
            StepKind::Native(_) | StepKind::Middleware(..) => None,
        })
        .collect()
}

/// Listeners whose sockets the new generation does not have.
fn removed<'a>(old: &'a [Listener], new: &'a [Listener]) -> impl Iterator<Item = &'a Listener> {
    let kept = |old: &Listener| new.iter().any(|new| new.sockets.id() == old.sockets.id());
    old.iter().filter(move |old| !kept(old))
}

/// Says where listeners that are new listen.
pub fn announce(old: &[Listener], new: &[Listener]) {
    for listener in removed(new, old) {
        tracing::info!(listener = &*listener.name, address = %listener.sockets.bound, "listening");
    }
}
