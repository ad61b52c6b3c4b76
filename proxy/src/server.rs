//! The process: start, signals, drain, end.
//!
//! Control plane. pingora-core owns the life cycle: our services (workers, admin, reload) run under its server, and
//! its loop ends when [`Signals`] says so. Start-up is strict: everything that can fail fails here, in one paragraph,
//! before anything listens.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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
use tokio::sync::{mpsc, watch};

use crate::address::Address;
use crate::admin;
use crate::assemble::{self, Assembler, Faults};
use crate::difference::State;
use crate::listener::Sockets;
use crate::operations::Operator;
use crate::reload::{self, Reloader};
use crate::report::Comparison;
use crate::snapshot::Snapshot;
use crate::trigger::Trigger;
use crate::worker::{self, Command, Live, Workers};

/// How often a drain looks whether everything has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// For the workers to drop what is still open when the process ends.
const THREADS_END: Duration = Duration::from_secs(1);
/// For a running process to say what it runs.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last lines of the access log when the process ends.
const LOG_CLOSE: Duration = Duration::from_secs(2);

/// Loads `file` and serves until a signal ends the process. An error is for people, with the place and the fix.
pub fn run(file: &Path) -> Result<(), String> {
    run_then(file, |_| {})
}

/// The same, with something to do once the sockets are there; it is given the first TCP listener's address.
pub fn run_then(file: &Path, listening: impl FnOnce(Option<SocketAddr>)) -> Result<(), String> {
    let config = tamis_config::load(file).map_err(|errors| errors.to_string())?;
    let process = Process::prepare(file, config)?;
    let first = first_address(&process.live.load());
    listening(first);
    process.serve();
    Ok(())
}

/// Lets go of the generation at once: whoever holds it keeps its sockets open.
fn first_address(snapshot: &Snapshot) -> Option<SocketAddr> {
    snapshot
        .listeners
        .iter()
        .find_map(|listener| match listener.sockets.bound {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
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
        config: config.describe(),
        components: checked.components,
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
    admin: Option<Sockets>,
    workers: Vec<(mpsc::UnboundedSender<Command>, mpsc::UnboundedReceiver<Command>)>,
    drain: watch::Receiver<bool>,
}

impl Process {
    fn prepare(file: &Path, config: Config) -> Result<Self, String> {
        let count = Assembler::workers(&config);
        let compiler = Assembler::compiler(&config)?;
        let mut assembler = Assembler::new(compiler, count);
        let assembled = control_runtime()?
            .block_on(assembler.assemble(&config, 1))
            .map_err(|Faults(faults)| faults.join("\n"))?;
        let snapshot = Arc::new(assembler.accept(assembled));
        let live = Arc::new(Live::new(Arc::clone(&snapshot)));
        let workers: Vec<_> = (0..count).map(|_| mpsc::unbounded_channel()).collect();
        let senders: Workers = workers.iter().map(|(sender, _)| sender.clone()).collect();
        let admin = config.admin.as_ref().map(bind_admin).transpose()?;
        let (reloader, reloading) = Reloader::new(file, config, assembler, Arc::clone(&live), senders.clone());
        let trigger = reloading.trigger.clone();
        let (begin_drain, drain) = watch::channel(false);
        let operator = Arc::new(Operator::new(
            Arc::clone(&live),
            senders,
            reloading,
            begin_drain,
            SystemTime::now(),
        ));
        reload::announce(&[], &snapshot.listeners);
        if let Some(sockets) = &admin {
            tracing::info!(address = %sockets.bound, "admin listening");
        }
        Ok(Self {
            live,
            reloader,
            trigger,
            operator,
            admin,
            workers,
            drain,
        })
    }

    /// Returns when the process may end.
    fn serve(self) {
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
        if let Some(sockets) = self.admin {
            let operations = Arc::clone(&self.operator);
            server.add_service(background_service("admin", Admin { sockets, operations }));
        }
        let signals = Signals {
            operator: self.operator,
            live: Arc::clone(&self.live),
            workers: senders.clone(),
            trigger: self.trigger,
            drain: self.drain,
        };
        server.run(RunArgs {
            shutdown_signal: Box::new(signals),
        });
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

/// Blocking work before the server runs; its own server has threads of its own.
fn control_runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))
}

/// The admin endpoint's socket; a Unix socket is the owner's alone.
fn bind_admin(address: &tamis_config::Address) -> Result<Sockets, String> {
    let address = assemble::address(address);
    let bound = Sockets::bind(&address, 1).and_then(|sockets| {
        if let Address::Unix(path) = &address {
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
    /// The table of descriptors is for handing sockets to a successor; ours are made by `assemble`.
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
        reloader.watch_files(self.trigger.clone());
        tokio::select! {
            () = reloader.run() => {}
            _ = shutdown.wait_for(|down| *down) => {}
        }
    }
}

struct Admin {
    sockets: Sockets,
    operations: Arc<Operator>,
}

impl Admin {
    /// Within a runtime only.
    fn listener(&self) -> std::io::Result<admin::Listener> {
        let socket = self.sockets.socket(0)?;
        Ok(match self.sockets.bound {
            Address::Tcp(_) => admin::Listener::Tcp(TcpListener::from_std(socket.into())?),
            Address::Unix(_) => admin::Listener::Unix(UnixListener::from_std(socket.into())?),
        })
    }
}

#[async_trait]
impl BackgroundService for Admin {
    async fn start(&self, shutdown: ShutdownWatch) {
        match self.listener() {
            Ok(listener) => admin::serve(listener, self.operations.clone(), shutdown).await,
            Err(error) => tracing::error!(%error, "the admin endpoint cannot be served"),
        }
    }
}

/// Every signal that the process knows. SIGTERM, SIGQUIT and `POST /drain` end it after a drain, SIGINT and a second
/// signal at once; SIGHUP reads the configuration again and opens the access log anew.
struct Signals {
    operator: Arc<Operator>,
    live: Arc<Live>,
    workers: Workers,
    trigger: Trigger,
    drain: watch::Receiver<bool>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut terminate), Ok(mut quit), Ok(mut interrupt), Ok(mut hangup)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::quit()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::hangup()),
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
        let mut asked = self.drain.clone();
        let by_signal = loop {
            tokio::select! {
                _ = hangup.recv() => {
                    self.trigger.reopen_log();
                    self.trigger.pull("SIGHUP");
                }
                _ = terminate.recv() => break true,
                _ = quit.recv() => break true,
                _ = asked.wait_for(|drain| *drain) => break false,
                _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
            }
        };
        // An orchestrator asks for the drain first and sends its signal later: that one is not the second.
        let mut patience = if by_signal { 1 } else { 2 };
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
    /// Readiness flips first, then connections are told to close; the deadline always ends it.
    async fn drain(&self) {
        self.operator.begin_drain();
        let timeout = self.live.load().drain_timeout;
        tracing::info!(?timeout, "draining");
        let deadline = Instant::now() + timeout;
        for worker in &self.workers {
            // One that has ended accepts nothing any more.
            let _ = worker.send(Command::Drain);
        }
        for listener in &self.live.load().listeners {
            listener.sockets.close();
        }
        loop {
            let connections = self.operator.connections().await;
            if connections == 0 {
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
}
