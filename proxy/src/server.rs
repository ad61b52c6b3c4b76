//! The process: start, signals, drain, end.
//!
//! Control plane. pingora-core owns the life cycle: our services (workers, admin, reload, court, upkeep) run under its server,
//! and its loop ends when [`Signals`] says so. Start-up is strict: everything that can fail fails here, in one
//! paragraph, before anything listens.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::Service;
use pingora_core::services::background::{BackgroundService, background_service};
use tamis_config::Config;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::address::Address;
use crate::admin;
use crate::assemble::{self, Assembler, Faults};
use crate::court;
use crate::descriptors;
use crate::difference::State;
use crate::handover::control::Control;
use crate::handover::predecessor::{Estate, Taken};
use crate::handover::successor::End;
use crate::handover::{self, Heritage, Predecessor, Upgrader};
use crate::listener::Sockets;
use crate::memory;
use crate::operations::{Operator, Origin};
use crate::panics;
use crate::priority;
use crate::reload::{self, Reloader};
use crate::report::Comparison;
use crate::snapshot::Snapshot;
use crate::state::good::Store;
use crate::state::keeper::Keeper;
use crate::state::{self, Fallback, Folder};
use crate::supervisor;
use crate::trigger::Trigger;
use crate::upkeep;
use crate::worker::{self, Command, Live, Workers};

/// How often a drain looks whether everything has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// For the workers to drop what is still open when the process ends.
const THREADS_END: Duration = Duration::from_secs(1);
/// For a running process to say what it runs.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last lines of the access log when the process ends.
const LOG_CLOSE: Duration = Duration::from_secs(2);

/// What `tamis run` is told.
pub struct Options {
    pub file: PathBuf,
    /// `None`: nothing is written, and only SIGUSR2 asks for a successor.
    pub state: Option<state::Options>,
    pub interrupt: Interrupt,
}

/// What SIGINT does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ends at once: whoever wants to drain has signals for that.
    Ends,
    /// Drains, as SIGTERM does: at a terminal it is the only one at hand.
    Drains,
}

impl Options {
    /// Nothing but the configuration.
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            state: None,
            interrupt: Interrupt::Ends,
        }
    }
}

/// Loads the configuration and serves until a signal ends the process. An error is for people, with the place and the
/// fix.
pub fn run(options: &Options) -> Result<(), String> {
    run_then(options, |_| {})
}

/// The same, with something to do once the sockets are there; it is given the first TCP listener's address.
pub fn run_then(options: &Options, listening: impl FnOnce(Option<SocketAddr>)) -> Result<(), String> {
    panics::count_all();
    let descriptors = descriptors::raise();
    let (predecessor, estate) = Predecessor::find()?.unzip();
    let process = match (Process::prepare(options, estate), &predecessor) {
        (Ok(process), Some(predecessor)) => predecessor.prepared(&process.taken).map(|()| process)?,
        (Err(message), Some(predecessor)) => {
            predecessor.refuse(&message);
            return Err(message);
        }
        (prepared, None) => prepared?,
    };
    let snapshot = process.live.load();
    tell_of_few(descriptors, &snapshot, process.workers.len());
    let first = first_address(&snapshot);
    // Whoever holds it keeps its sockets open.
    drop(snapshot);
    listening(first);
    process.serve(predecessor);
    Ok(())
}

/// An exchange that is passed on takes a descriptor for its client and one for its upstream.
fn tell_of_few(descriptors: Option<u64>, snapshot: &Snapshot, workers: usize) {
    let of_listeners = snapshot
        .listeners
        .iter()
        .map(|listener| listener.limits.connections_per_worker);
    let of_worker = of_listeners
        .sum::<usize>()
        .min(snapshot.overload.connections_per_worker);
    let connections = workers * of_worker;
    if let Some(descriptors) = descriptors.filter(|descriptors| *descriptors < 2 * connections as u64) {
        tracing::info!(
            descriptors,
            connections,
            "fewer descriptors than two for each of `max_connections`: connections will be refused before; raise the \
             hard limit (`ulimit -Hn`, `LimitNOFILE`) or lower `max_connections`"
        );
    }
}

fn first_address(snapshot: &Snapshot) -> Option<SocketAddr> {
    snapshot
        .listeners
        .iter()
        .find_map(|listener| match listener.sockets.bound {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) | Address::Component(_) => None,
        })
}

/// Loads `file` and everything that it names, and opens nothing. Warnings, or the errors as a text.
pub fn check(file: &Path) -> Result<Vec<String>, String> {
    let (_, checked) = load(file)?;
    Ok(checked.warnings)
}

/// The same, and what is different from the process behind this admin endpoint, which goes on as it is.
pub fn check_against(file: &Path, admin: &Address) -> Result<Comparison, String> {
    let file = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (config, checked) = load(&file)?;
    let (status, body) = admin::get(admin, "/config", CONFIG_TIMEOUT).map_err(admin::unreachable)?;
    let running: State = match status {
        200 => serde_json::from_str(&body).map_err(|error| format!("GET /config of {admin}: {error}"))?,
        _ => return Err(format!("GET /config of {admin}: status {status}: {}", body.trim_end())),
    };
    let candidate = State {
        generation: running.generation,
        config: Arc::new(config.describe()),
        components: checked.components,
        listener_files: checked.listener_files,
        cluster_files: checked.cluster_files,
    };
    Ok(Comparison::between(&running, &candidate, checked.warnings))
}

fn load(file: &Path) -> Result<(Config, assemble::Checked), String> {
    let config = tamis_config::load(file).map_err(|errors| errors.to_string())?;
    let compiler = Assembler::compiler(&config)?;
    let assembler = Assembler::new(compiler, Assembler::workers(&config));
    let checked = control_runtime()?.block_on(assembler.check(&config));
    checked
        .map(|checked| (config, checked))
        .map_err(|faults| faults.to_string())
}

/// Everything that was made before the first connection.
struct Process {
    live: Arc<Live>,
    reloader: Reloader,
    trigger: Trigger,
    operator: Arc<Operator>,
    court: Court,
    admin: Option<Arc<Sockets>>,
    workers: Vec<(mpsc::UnboundedSender<Command>, mpsc::UnboundedReceiver<Command>)>,
    drain: watch::Receiver<bool>,
    upgrader: Arc<Upgrader>,
    control: Option<Arc<Control>>,
    keeper: Option<Keeper>,
    interrupt: Interrupt,
    /// Which sockets came from a predecessor.
    taken: Taken,
    /// The state folder is this process's until it ends.
    _folder: Option<Folder>,
}

impl Process {
    /// `estate` is what a predecessor gives.
    fn prepare(options: &Options, estate: Option<Estate>) -> Result<Self, String> {
        let relieves = estate.is_some();
        let mut estate = estate.unwrap_or_default();
        let open = |state: &state::Options| Folder::open(&state.folder, estate.lock.take());
        let folder = options.state.as_ref().map(open).transpose()?;
        let load = || tamis_config::load(&options.file).map_err(|errors| errors.to_string());
        let current = load().and_then(|config| First::build(config, &mut estate));
        let (first, origin) = match (current, &options.state) {
            (Ok(first), _) => (first, Origin::CurrentFiles),
            // The one that is running is better than any that was.
            (Err(message), Some(state)) if state.fallback == Fallback::LastGood && !relieves => {
                (First::last_good(&options.file, state, message)?, Origin::LastGood)
            }
            (Err(message), _) => return Err(message),
        };
        let control = match &folder {
            Some(folder) => Some(Arc::new(Control::open(folder.path(), estate.control.take())?)),
            None => None,
        };
        Self::of(options, first, origin, folder, control)
    }

    fn of(
        options: &Options,
        first: First,
        origin: Origin,
        folder: Option<Folder>,
        control: Option<Arc<Control>>,
    ) -> Result<Self, String> {
        let First {
            config,
            warnings,
            assembler,
            snapshot,
            admin,
            taken,
        } = first;
        let live = Arc::new(Live::new(Arc::clone(&snapshot)));
        let workers: Vec<_> = (0..Assembler::workers(&config))
            .map(|_| mpsc::unbounded_channel())
            .collect();
        let senders: Workers = workers.iter().map(|(sender, _)| sender.clone()).collect();
        let court = Court {
            live: Arc::clone(&live),
            alarm: assembler.alarm(),
        };
        reload::warn(&warnings);
        let (reloader, reloading) = Reloader::new(
            &options.file,
            config,
            warnings,
            assembler,
            Arc::clone(&live),
            senders.clone(),
        );
        let trigger = reloading.trigger.clone();
        let (begin_drain, drain) = watch::channel(false);
        let operator = Arc::new(Operator::new(
            Arc::clone(&live),
            senders,
            reloading,
            begin_drain,
            SystemTime::now(),
            origin,
        ));
        reload::announce(&[], &snapshot.listeners);
        if let Some(sockets) = &admin {
            tracing::info!(address = %sockets.bound, "admin listening");
        }
        let cannot = |error: std::io::Error| format!("--state: {error}");
        let shared = |folder: &Folder, control: &Arc<Control>| Ok((folder.lock()?, control.descriptor()?));
        let shared = folder
            .as_ref()
            .zip(control.as_ref())
            .map(|(folder, control)| shared(folder, control));
        let keeper = options.state.as_ref().map(|state| {
            let (live, turn) = (Arc::clone(&live), trigger.turn());
            Keeper::new(&state.folder, &options.file, state.good_after, live, turn)
        });
        let upgrader = Upgrader::new(Heritage {
            live: Arc::clone(&live),
            trigger: trigger.clone(),
            admin: admin.clone(),
            state: shared.transpose().map_err(cannot)?,
        });
        Ok(Self {
            live,
            reloader,
            trigger,
            operator,
            court,
            admin,
            workers,
            drain,
            upgrader: Arc::new(upgrader),
            control,
            keeper: keeper.transpose().map_err(cannot)?,
            interrupt: options.interrupt,
            taken,
            _folder: folder,
        })
    }

    /// Returns when the process may end.
    fn serve(self, predecessor: Option<Predecessor>) {
        let settings = ServerConf {
            threads: 1,
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, settings);
        let senders: Workers = self.workers.iter().map(|(sender, _)| sender.clone()).collect();
        let (ending, ended) = std::sync::mpsc::channel();
        server.add_service(WorkerThreads {
            live: Arc::clone(&self.live),
            ending: Some(ending),
            commands: self.workers.into_iter().map(|(_, commands)| commands).collect(),
        });
        server.add_service(background_service(
            "reload",
            Reloading {
                reloader: Mutex::new(Some(self.reloader)),
                trigger: self.trigger.clone(),
            },
        ));
        server.add_service(background_service("court", self.court));
        server.add_service(background_service("upkeep", Upkeep(Arc::clone(&self.live))));
        let memory = Memory {
            live: Arc::clone(&self.live),
            workers: senders.clone(),
        };
        server.add_service(background_service("memory", memory));
        if let Some(sockets) = &self.admin {
            let admin = Admin {
                sockets: Arc::clone(sockets),
                operations: Arc::clone(&self.operator),
                upgrader: Arc::clone(&self.upgrader),
            };
            server.add_service(background_service("admin", admin));
        }
        if let Some(control) = &self.control {
            let controlling = Controlling {
                control: Arc::clone(control),
                upgrader: Arc::clone(&self.upgrader),
                live: Arc::clone(&self.live),
            };
            server.add_service(background_service("control", controlling));
        }
        if let Some(keeper) = self.keeper {
            let generations = self.live.generations();
            server.add_service(background_service("state", Keeping { keeper, generations }));
        }
        let signals = Signals {
            operator: self.operator,
            live: Arc::clone(&self.live),
            workers: senders.clone(),
            trigger: self.trigger,
            drain: self.drain,
            upgrader: Arc::clone(&self.upgrader),
            admin: self.admin,
            predecessor,
            interrupt: self.interrupt,
        };
        server.run(RunArgs {
            shutdown_signal: Box::new(signals),
        });
        if let (Some(control), true) = (&self.control, self.upgrader.end() != End::HandedOver) {
            control.remove();
        }
        // What is still open is cut, and leaves its record.
        for worker in &senders {
            let _ = worker.send(Command::Stop);
        }
        // Nobody ever sends: the wait ends when the last thread has let go of its end.
        let _ = ended.recv_timeout(THREADS_END);
        if let Some(log) = &self.live.load().access_log {
            // What could not be written in time is lost; the process ends all the same.
            let _ = log.writer.close(LOG_CLOSE);
        }
    }
}

/// The first generation, built and bound.
struct First {
    config: Config,
    warnings: Vec<String>,
    assembler: Assembler,
    snapshot: Arc<Snapshot>,
    admin: Option<Arc<Sockets>>,
    taken: Taken,
}

impl First {
    fn build(config: Config, estate: &mut Estate) -> Result<Self, String> {
        let workers = Assembler::workers(&config);
        let mut assembler = Assembler::new(Assembler::compiler(&config)?, workers);
        let given = estate.listeners(workers)?;
        assembler.adopt(given.clone());
        // Whoever gave sockets still serves on them.
        let is_served = !given.is_empty();
        if is_served {
            assembler.yield_to_exchanges();
        }
        let assembled = control_runtime()?
            .block_on(assembler.assemble(&config, 1))
            .map_err(|Faults(faults)| faults.join("\n"))?;
        if !is_served {
            assembler.yield_to_exchanges();
        }
        let warnings = assembled.warnings.clone();
        let snapshot = Arc::new(assembler.accept(assembled));
        let mut taken = Taken::default();
        taken.note_listeners(&given, &snapshot.listeners);
        let admin = match config.admin.as_ref().map(assemble::address) {
            Some(address) => Some(Arc::new(admin_sockets(&address, estate, &mut taken)?)),
            None => None,
        };
        Ok(Self {
            config,
            warnings,
            assembler,
            snapshot,
            admin,
            taken,
        })
    }

    /// `message` says why the current files do not load.
    fn last_good(file: &Path, state: &state::Options, message: String) -> Result<Self, String> {
        let store = Store::new(&state.folder, state::disk::System);
        let kept = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()));
        let config = kept
            .and_then(|file| store.load(&file))
            .and_then(|good| store.config(&good, file));
        match config.and_then(|config| Self::build(config, &mut Estate::default())) {
            Ok(first) => {
                tracing::error!(
                    errors = message.replace('\n', "; "),
                    "the current files do not load; the last good generation is served instead"
                );
                Ok(first)
            }
            Err(why) => Err(format!(
                "{message}\nand there is no last good generation instead: {why}"
            )),
        }
    }
}

fn admin_sockets(address: &Address, estate: &mut Estate, taken: &mut Taken) -> Result<Sockets, String> {
    match estate.admin(address)? {
        Some(sockets) => {
            taken.note_admin(address);
            Ok(sockets)
        }
        None => bind_admin(address),
    }
}

/// Blocking work before the server runs; its own server has threads of its own.
fn control_runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))
}

/// The admin endpoint's socket; a Unix socket is the owner's alone.
fn bind_admin(address: &Address) -> Result<Sockets, String> {
    let bound = Sockets::bind(address, 1).and_then(|sockets| {
        if let Address::Unix(path) = address {
            std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        }
        Ok(sockets)
    });
    bound.map_err(|error| format!("admin: address {address}: cannot listen: {error}; choose another, or `admin: off`"))
}

/// The data plane's threads, under pingora's life cycle.
struct WorkerThreads {
    live: Arc<Live>,
    /// Held by every thread until it ends.
    ending: Option<std::sync::mpsc::Sender<()>>,
    commands: Vec<mpsc::UnboundedReceiver<Command>>,
}

#[async_trait]
impl Service for WorkerThreads {
    /// pingora's table of descriptors stays empty: sockets are made by `assemble` and handed over by `handover`.
    async fn start_service(&mut self, _fds: Option<ListenFds>, mut shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        let instance = instance();
        let ending = self.ending.take();
        for (index, commands) in self.commands.drain(..).enumerate() {
            let (live, instance, ending) = (Arc::clone(&self.live), instance.clone(), ending.clone());
            let thread = std::thread::Builder::new().name(format!("tamis-worker-{index}"));
            let spawned = thread.spawn(move || {
                let ended = worker::run(index, live, &instance, commands);
                drop(ending);
                ended
            });
            if let Err(error) = spawned {
                tracing::error!(%error, "a worker cannot start");
                std::process::exit(1);
            }
        }
        drop(ending);
        let _ = shutdown.wait_for(|down| *down).await;
    }

    fn name(&self) -> &str {
        "workers"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Tells two processes apart in `via`: 8 hex digits.
fn instance() -> String {
    use std::hash::{BuildHasher, RandomState};
    let hash = RandomState::new().hash_one((std::process::id(), SystemTime::now()));
    format!("{:08x}", hash as u32)
}

struct Reloading {
    reloader: Mutex<Option<Reloader>>,
    trigger: Trigger,
}

#[async_trait]
impl BackgroundService for Reloading {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let taken = self.reloader.lock().ok().and_then(|mut reloader| reloader.take());
        let Some(mut reloader) = taken else { return };
        // The service's own thread: with a storm of triggers it would never rest.
        priority::yield_to_exchanges();
        reloader.watch_files(self.trigger.clone());
        tokio::select! {
            () = reloader.run() => {}
            _ = shutdown.wait_for(|down| *down) => {}
        }
    }
}

/// Judges candidates of filters.
struct Court {
    live: Arc<Live>,
    alarm: Arc<Notify>,
}

#[async_trait]
impl BackgroundService for Court {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = court::sit(Arc::clone(&self.live), Arc::clone(&self.alarm)) => {}
            _ = shutdown.wait_for(|down| *down) => {}
        }
    }
}

/// Looks after the endpoints of clusters.
struct Upkeep(Arc<Live>);

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let (live, (end, ended)) = (Arc::clone(&self.0), oneshot::channel());
        // A runtime of its own: the connections of health checks do not move between threads. It gives way to nobody: a
        // check that came too late for want of a processor would speak against an endpoint that is well.
        let thread = std::thread::Builder::new().name("tamis-upkeep".into());
        let spawned = thread.spawn(move || {
            if let Err(error) = upkeep::run(live, ended) {
                tracing::error!(%error, "endpoints are not looked after");
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "endpoints are not looked after");
        }
        let _ = shutdown.wait_for(|down| *down).await;
        drop(end);
    }
}

/// Says when load has to be shed.
struct Memory {
    live: Arc<Live>,
    workers: Workers,
}

#[async_trait]
impl BackgroundService for Memory {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = memory::watch(Arc::clone(&self.live), self.workers.clone()) => {}
            _ = shutdown.wait_for(|down| *down) => {}
        }
    }
}

struct Admin {
    sockets: Arc<Sockets>,
    operations: Arc<Operator>,
    upgrader: Arc<Upgrader>,
}

impl Admin {
    /// Within a runtime only.
    fn listener(&self) -> std::io::Result<admin::Listener> {
        let socket = self.sockets.of_worker(0)?.pop();
        let socket = socket.ok_or_else(|| std::io::Error::other("it was handed over"))?;
        Ok(match &self.sockets.bound {
            Address::Tcp(_) => admin::Listener::Tcp(TcpListener::from_std(socket.into())?),
            Address::Unix(_) => admin::Listener::Unix(UnixListener::from_std(socket.into())?),
            Address::Component(_) => return Err(self.sockets.bound.no_socket()),
        })
    }
}

#[async_trait]
impl BackgroundService for Admin {
    /// Until the process ends, or a successor answers.
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let listener = match self.listener() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the admin endpoint cannot be served"),
        };
        let (stop, stopped) = watch::channel(false);
        let mut handed_over = self.upgrader.handed_over();
        tokio::join!(admin::serve(listener, self.operations.clone(), stopped), async {
            tokio::select! {
                _ = shutdown.wait_for(|down| *down) => {}
                _ = handed_over.wait_for(|done| *done) => {}
            }
            stop.send_replace(true);
        });
    }
}

/// Answers `tamis upgrade`.
struct Controlling {
    control: Arc<Control>,
    upgrader: Arc<Upgrader>,
    live: Arc<Live>,
}

#[async_trait]
impl BackgroundService for Controlling {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut handed_over = self.upgrader.handed_over();
        let drain_timeout = || self.live.load().drain_timeout;
        tokio::select! {
            served = self.control.serve(Arc::clone(&self.upgrader), drain_timeout) => {
                if let Err(error) = served {
                    tracing::error!(%error, "`tamis upgrade` cannot be answered");
                }
            }
            _ = handed_over.wait_for(|done| *done) => {}
            _ = shutdown.wait_for(|down| *down) => return,
        }
        // Whoever asked is told by the end of this process that it has ended.
        let _ = shutdown.wait_for(|down| *down).await;
    }
}

/// Keeps the generation that serves, in case the next start finds none.
struct Keeping {
    keeper: Keeper,
    generations: watch::Receiver<u64>,
}

#[async_trait]
impl BackgroundService for Keeping {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.keeper.run(self.generations.clone()) => {}
            _ = shutdown.wait_for(|down| *down) => {}
        }
    }
}

/// Every signal that the process knows. SIGTERM, SIGQUIT and `POST /drain` end it after a drain, SIGINT and a second
/// signal at once; SIGHUP reads the configuration again and opens the access log anew; SIGUSR2 hands over to a new
/// process.
struct Signals {
    operator: Arc<Operator>,
    live: Arc<Live>,
    workers: Workers,
    trigger: Trigger,
    drain: watch::Receiver<bool>,
    upgrader: Arc<Upgrader>,
    admin: Option<Arc<Sockets>>,
    predecessor: Option<Predecessor>,
    interrupt: Interrupt,
}

/// Why the process ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Signal,
    /// `POST /drain`.
    Asked,
    HandedOver,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut terminate), Ok(mut quit), Ok(mut interrupt), Ok(mut hangup), Ok(mut upgrade)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::quit()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::hangup()),
            signal(SignalKind::user_defined2()),
        ) else {
            tracing::error!("signals cannot be received");
            return ShutdownSignal::FastShutdown;
        };
        // Only now: whoever waits for this line may send a signal.
        tracing::info!(
            generation = 1,
            workers = self.workers.len(),
            version = env!("CARGO_PKG_VERSION"),
            "generation live"
        );
        self.announce().await;
        let (mut asked, mut handed_over) = (self.drain.clone(), self.upgrader.handed_over());
        let cause = loop {
            tokio::select! {
                _ = hangup.recv() => {
                    self.trigger.reopen_log();
                    self.trigger.pull("SIGHUP");
                }
                _ = upgrade.recv() => self.upgrade(),
                _ = terminate.recv() => break Cause::Signal,
                _ = quit.recv() => break Cause::Signal,
                _ = asked.wait_for(|drain| *drain) => break Cause::Asked,
                _ = handed_over.wait_for(|done| *done) => break Cause::HandedOver,
                _ = interrupt.recv() => match self.interrupt {
                    Interrupt::Ends => {
                        tracing::warn!("SIGINT: ending at once; SIGTERM lets what is under way finish");
                        return ShutdownSignal::FastShutdown;
                    }
                    Interrupt::Drains => break Cause::Signal,
                },
            }
        };
        // An orchestrator asks for the drain first and sends its signal later, and a service manager may signal the old
        // process with the new one: that is not the second.
        let mut patience = if cause == Cause::Signal { 1 } else { 2 };
        let mut drain = std::pin::pin!(self.drain());
        while patience > 0 {
            tokio::select! {
                () = &mut drain => return ShutdownSignal::FastShutdown,
                _ = terminate.recv() => patience -= 1,
                _ = quit.recv() => patience -= 1,
                _ = interrupt.recv() => patience = 0,
            }
        }
        tracing::warn!("second signal: ending at once");
        ShutdownSignal::FastShutdown
    }
}

impl Signals {
    /// Tells whoever waits for it that the process serves: its predecessor, or the service manager.
    async fn announce(&self) {
        let Some(predecessor) = &self.predecessor else {
            return supervisor::ready();
        };
        // A worker that answers accepts.
        self.operator.connections().await;
        let snapshot = self.live.load();
        let listeners = snapshot.listeners.iter().map(|listener| &listener.sockets);
        for sockets in listeners.chain(&self.admin) {
            sockets.own();
        }
        match predecessor.serving() {
            Ok(()) => tracing::info!(pid = std::process::id(), "took over"),
            // Then nobody serves but this process.
            Err(error) => tracing::warn!(error, "took over from a process that is gone"),
        }
    }

    /// SIGUSR2: what comes of it is in the log.
    fn upgrade(&self) {
        let upgrader = Arc::clone(&self.upgrader);
        let order = handover::Order {
            program: None,
            timeout: handover::READY_TIMEOUT,
        };
        let thread = std::thread::Builder::new().name("tamis-upgrade".into());
        let spawned = thread.spawn(move || {
            if let Err(error) = upgrader.upgrade(&order, &mut |step| tracing::info!(step, "upgrade")) {
                tracing::error!(error, "no upgrade; this process serves on");
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no upgrade; this process serves on");
        }
    }

    /// Readiness flips first; after a delay, for balancers that look at it now and then, the listeners close and
    /// connections are told to; the deadline always ends it.
    async fn drain(&self) {
        let end = self.decide().await;
        self.operator.begin_drain();
        let timeout = self.live.load().drain_timeout;
        tracing::info!(?timeout, handed_over = end == End::HandedOver, "draining");
        if end == End::Alone {
            supervisor::stopping();
            // Not where another process answers already. Nor a sleep of nothing without one: somebody would see that
            // readiness says no, and an answer that does not say that it is the last.
            if let Some(delay) = self.live.load().drain_delay {
                tokio::time::sleep(delay).await;
            }
        }
        let deadline = Instant::now() + timeout;
        for worker in &self.workers {
            // One that has ended accepts nothing any more.
            let _ = worker.send(Command::Drain);
        }
        // Those that were handed over are not this process's to close.
        for listener in &self.live.load().listeners {
            listener.sockets.close();
        }
        loop {
            let connections = self.operator.connections().await;
            if connections == 0 && !self.upgrader.is_telling() {
                tracing::info!("drained");
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(connections, "drain timed out; what is still open is cut");
                return;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Whether this process's sockets are another's now. A successor that was told to serve is waited for: closing them
    /// would take them from it.
    async fn decide(&self) -> End {
        loop {
            match self.upgrader.end() {
                End::Undecided => tokio::time::sleep(DRAIN_LOOK).await,
                decided => return decided,
            }
        }
    }
}
