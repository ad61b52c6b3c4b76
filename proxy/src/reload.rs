//! Reloading: the only writer of the pointer to the generation in use.
//!
//! Control plane, in a thread of its own. A trigger carries no content, only "read again". Read, parse, assemble, swap:
//! whatever fails, the running generation stays, and whoever asked is told why. Triggers that come while one is being
//! worked on are answered together by the next.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tamis_config::Config;
use tokio::sync::{Mutex as Turn, mpsc, oneshot};

use crate::assemble::{self, Assembler, Faults};
use crate::snapshot::Listener;
use crate::telemetry::exposition::Reloads;
use crate::watch::Watcher;
use crate::worker::{Command, Live, Workers};

/// What came of one reload.
pub type Outcome = Result<u64, Vec<String>>;

/// Asks for a reload; cheap to clone.
#[derive(Clone)]
pub struct Trigger {
    requests: mpsc::UnboundedSender<Request>,
    /// Held by whoever changes the running generation, or needs it to stay as it is.
    turn: Arc<Turn<()>>,
}

enum Request {
    /// With whom to tell.
    Reload(&'static str, Option<oneshot::Sender<Outcome>>),
    ReopenLog,
}

impl Trigger {
    /// Reads again, some time soon; `cause` is for the log.
    pub fn pull(&self, cause: &'static str) {
        // Nobody to ask means that the process is ending.
        let _ = self.requests.send(Request::Reload(cause, None));
    }

    /// Reads again and says what came of it.
    pub async fn pull_and_wait(&self, cause: &'static str) -> Outcome {
        let (tell, told) = oneshot::channel();
        let _ = self.requests.send(Request::Reload(cause, Some(tell)));
        told.await.unwrap_or_else(|_| Err(vec!["the process is ending".into()]))
    }

    /// While this is held, no reload takes place; those that are asked for wait.
    pub fn turn(&self) -> Arc<Turn<()>> {
        Arc::clone(&self.turn)
    }

    pub fn reopen_log(&self) {
        let _ = self.requests.send(Request::ReopenLog);
    }
}

/// What the admin endpoint shows of reloads.
#[derive(Default)]
pub struct History {
    applied: AtomicU64,
    unchanged: AtomicU64,
    refused: AtomicU64,
    /// Why the last one was refused; `None` once one succeeds.
    refusal: Mutex<Option<Vec<String>>>,
}

impl History {
    pub fn counts(&self) -> Reloads {
        Reloads {
            applied: self.applied.load(Ordering::Relaxed),
            unchanged: self.unchanged.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    pub fn refusal(&self) -> Option<Vec<String>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, count: &AtomicU64, refusal: Option<Vec<String>>) {
        count.fetch_add(1, Ordering::Relaxed);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }
}

/// Owns the parts of the running generation.
pub struct Reloader {
    file: PathBuf,
    config: Config,
    assembler: Assembler,
    live: Arc<Live>,
    history: Arc<History>,
    workers: Workers,
    watcher: Option<Watcher>,
    requests: mpsc::UnboundedReceiver<Request>,
    turn: Arc<Turn<()>>,
}

impl Reloader {
    /// `config` is what `assembler` has assembled and accepted already.
    pub fn new(
        file: &Path,
        config: Config,
        assembler: Assembler,
        live: Arc<Live>,
        workers: Workers,
    ) -> (Self, Trigger, Arc<History>) {
        let (requests, received) = mpsc::unbounded_channel();
        let turn = Arc::default();
        let trigger = Trigger {
            requests,
            turn: Arc::clone(&turn),
        };
        let history = Arc::new(History::default());
        let reloader = Self {
            file: file.to_owned(),
            config,
            assembler,
            live,
            history: Arc::clone(&history),
            workers,
            watcher: None,
            requests: received,
            turn,
        };
        (reloader, trigger, history)
    }

    /// Pulls `trigger` whenever a file changes that the configuration depends on.
    pub fn watch_files(&mut self, trigger: Trigger) {
        match Watcher::start(move || trigger.pull("file")) {
            Ok(watcher) => {
                watcher.set(assemble::watched(&self.file, &self.config));
                self.watcher = Some(watcher);
            }
            Err(error) => tracing::warn!(%error, "files cannot be watched; reload by SIGHUP or POST /reload"),
        }
    }

    /// Works off requests until nobody can ask any more.
    pub async fn run(mut self) {
        // Whatever changed between the first look at the files and the watch over them.
        let first = self.try_reload().await;
        if !matches!(first, Ok(None)) {
            // Nobody asked, so nobody is told but the log.
            let _ = self.settle("start", first);
        }
        while let Some(request) = self.requests.recv().await {
            let mut waiting = Vec::new();
            let mut cause = None;
            self.take(request, &mut cause, &mut waiting);
            while let Ok(request) = self.requests.try_recv() {
                self.take(request, &mut cause, &mut waiting);
            }
            if let Some(cause) = cause {
                let outcome = self.reload(cause).await;
                for tell in waiting {
                    // Whoever asked may have gone.
                    let _ = tell.send(outcome.clone());
                }
            }
        }
    }

    fn take(&self, request: Request, cause: &mut Option<&'static str>, waiting: &mut Vec<oneshot::Sender<Outcome>>) {
        match request {
            Request::ReopenLog => self.assembler.reopen_log(),
            Request::Reload(why, tell) => {
                cause.get_or_insert(why);
                waiting.extend(tell);
            }
        }
    }

    async fn reload(&mut self, cause: &'static str) -> Outcome {
        let result = self.try_reload().await;
        self.settle(cause, result)
    }

    /// Counts and logs what came of a reload.
    fn settle(&self, cause: &'static str, result: Result<Option<u64>, Faults>) -> Outcome {
        match result {
            Ok(Some(generation)) => {
                self.history.note(&self.history.applied, None);
                tracing::info!(generation, cause, "generation live");
                Ok(generation)
            }
            Ok(None) => {
                self.history.note(&self.history.unchanged, None);
                let generation = self.live.load().generation;
                tracing::debug!(generation, cause, "nothing changed");
                Ok(generation)
            }
            Err(Faults(faults)) => {
                self.history.note(&self.history.refused, Some(faults.clone()));
                tracing::error!(cause, errors = faults.join("; "), "reload refused");
                Err(faults)
            }
        }
    }

    /// `None` when the files say what runs already.
    async fn try_reload(&mut self) -> Result<Option<u64>, Faults> {
        let _turn = Arc::clone(&self.turn).lock_owned().await;
        let config = tamis_config::load(&self.file)
            .map_err(|errors| Faults(errors.iter().map(ToString::to_string).collect()))?;
        if let Some(watcher) = &self.watcher {
            watcher.set(assemble::watched(&self.file, &config));
        }
        self.check_fixed(&config)?;
        let old = self.live.load();
        let assembled = self.assembler.assemble(&config, old.generation + 1).await?;
        let same_guests = assembled
            .snapshot
            .guests
            .iter()
            .map(|guest| guest.id())
            .eq(old.guests.iter().map(|guest| guest.id()));
        if config == self.config && same_guests {
            return Ok(None);
        }
        let snapshot = Arc::new(self.assembler.accept(assembled));
        self.config = config;
        let generation = snapshot.generation;
        announce(&old.listeners, &snapshot.listeners);
        self.live.store(Arc::clone(&snapshot));
        for listener in removed(&old.listeners, &snapshot.listeners) {
            listener.sockets.close();
        }
        for worker in &self.workers {
            // A worker that has ended takes no requests either.
            let _ = worker.send(Command::Reconcile);
        }
        Ok(Some(generation))
    }

    /// What is laid out once, when the process starts.
    fn check_fixed(&self, config: &Config) -> Result<(), Faults> {
        let fixed = [
            ("workers", config.workers == self.config.workers),
            ("wasm", config.wasm == self.config.wasm),
            ("admin", config.admin == self.config.admin),
        ];
        let changed = fixed.iter().filter(|(_, same)| !same);
        let faults: Vec<_> = changed
            .map(|(key, _)| {
                format!(
                    "{}: {key}: cannot change while the process runs; restart or upgrade it, or take the change back",
                    self.file.display()
                )
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }
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
