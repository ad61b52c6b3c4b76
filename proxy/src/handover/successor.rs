//! The process that is to take this one's place: started, given everything, and let go on, or ended.
//!
//! Blocks, in a thread of its own. Until the successor serves, nothing here changes what this process does; whatever
//! fails, the successor is ended and its reason told.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, watch};

use super::channel::{Channel, MAX_DESCRIPTORS};
use super::{Answer, Offer, PROTOCOL, Place, VARIABLE};
use crate::assemble;
use crate::listener::Sockets;
use crate::supervisor;
use crate::trigger::Trigger;
use crate::worker::Live;

/// For a program to say that it is a Tamis: it does so before anything else.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// From being told to serve until every worker accepts: threads start, and nothing is loaded any more.
const SERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the status of a process that has closed its channel, which it does by ending.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at it.
const STATUS_LOOK: Duration = Duration::from_millis(5);

const ENDING: &str = "this process is ending";

/// What is asked for.
pub struct Order {
    /// `None` is the program that this process was started as, by its path, and so whatever is there now.
    pub program: Option<PathBuf>,
    /// To be prepared.
    pub timeout: Duration,
}

/// What there is to hand over.
pub struct Heritage {
    pub live: Arc<Live>,
    pub trigger: Trigger,
    pub admin: Option<Arc<Sockets>>,
    /// The state folder's lock and the control socket.
    pub state: Option<(File, OwnedFd)>,
}

/// One for each process.
pub struct Upgrader {
    heritage: Heritage,
    phase: Mutex<Phase>,
    handed_over: watch::Sender<bool>,
    /// One more for each who is still to be told what came of an upgrade.
    telling: Arc<()>,
}

enum Phase {
    /// Nobody is to take over.
    Alone,
    /// A successor is under way, from the moment that it was started on.
    Preparing(Option<Arc<Mutex<Child>>>),
    /// It was told to serve.
    Committed,
    /// It serves. No reload takes place here any more.
    HandedOver { _turn: OwnedMutexGuard<()> },
    /// This process ends, and takes nobody with it.
    Ending,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Alone,
    HandedOver,
    /// A successor was told to serve and has not answered yet, which it does within seconds.
    Undecided,
}

impl Upgrader {
    pub fn new(heritage: Heritage) -> Self {
        Self {
            heritage,
            phase: Mutex::new(Phase::Alone),
            handed_over: watch::Sender::new(false),
            telling: Arc::default(),
        }
    }

    /// Somebody is to be told what comes of an upgrade, until this is dropped.
    pub(super) fn tell(&self) -> Arc<()> {
        Arc::clone(&self.telling)
    }

    /// Whether the process would end in the middle of a sentence.
    pub fn is_telling(&self) -> bool {
        Arc::strong_count(&self.telling) > 1
    }

    /// `true` once another process serves in this one's place.
    pub fn handed_over(&self) -> watch::Receiver<bool> {
        self.handed_over.subscribe()
    }

    /// The process ends: nobody takes over any more, unless somebody has, or is about to.
    pub fn end(&self) -> End {
        let mut phase = self.phase();
        match *phase {
            Phase::HandedOver { .. } => End::HandedOver,
            Phase::Committed => End::Undecided,
            Phase::Alone | Phase::Preparing(_) | Phase::Ending => {
                if let Phase::Preparing(Some(child)) = std::mem::replace(&mut *phase, Phase::Ending) {
                    // It may have ended by itself.
                    let _ = lock(&child).kill();
                }
                End::Alone
            }
        }
    }

    /// Hands over to a new process, and tells every step. An error says why, and nothing has changed then.
    pub fn upgrade(&self, order: &Order, tell: &mut dyn FnMut(String)) -> Result<(), String> {
        self.go_on(|phase| match phase {
            Phase::Alone => Ok(Phase::Preparing(None)),
            Phase::Preparing(_) | Phase::Committed => Err("a new process is being started already"),
            Phase::HandedOver { .. } => Err("a new process serves already; ask that one"),
            Phase::Ending => Err(ENDING),
        })?;
        // No reload meanwhile: what is handed over must be what is.
        let turn = self.heritage.trigger.turn().blocking_lock_owned();
        let handed_over = self.hand_over(order, tell);
        let mut phase = self.phase();
        match handed_over {
            Ok(()) => *phase = Phase::HandedOver { _turn: turn },
            Err(_) if !matches!(*phase, Phase::Ending) => *phase = Phase::Alone,
            Err(_) => {}
        }
        drop(phase);
        if handed_over.is_ok() {
            self.handed_over.send_replace(true);
        }
        handed_over
    }

    fn hand_over(&self, order: &Order, tell: &mut dyn FnMut(String)) -> Result<(), String> {
        let deadline = Instant::now() + order.timeout;
        let mut successor = Successor::start(order)?;
        self.go_on(|phase| match phase {
            Phase::Preparing(_) => Ok(Phase::Preparing(Some(Arc::clone(&successor.child)))),
            _ => Err(ENDING),
        })?;
        tell(format!(
            "started process {}: {}",
            successor.pid,
            successor.program.display()
        ));
        let version = successor.hello(deadline)?;
        tell(format!("it is Tamis {version}"));
        let places = self.places();
        self.give(&successor, &places)
            .map_err(|error| successor.fault(&error))?;
        tell(format!("it has {}", Listeners(&places)));
        let taken = successor.prepared(deadline)?;
        tell("its configuration is loaded and its filters have started".into());
        self.go_on(|phase| match phase {
            Phase::Preparing(_) => Ok(Phase::Committed),
            _ => Err(ENDING),
        })?;
        successor.serve()?;
        tell("it serves".into());
        supervisor::follow(successor.pid);
        for (place, sockets) in &places {
            if taken.contains(place) {
                sockets.release();
            } else {
                tell(format!("it does not listen on {place}, which is closed"));
                sockets.close();
            }
        }
        successor.let_go();
        Ok(())
    }

    /// Where this process listens.
    fn places(&self) -> Vec<(Place, Arc<Sockets>)> {
        let snapshot = self.heritage.live.load();
        let listeners = snapshot.listeners.iter().map(|listener| {
            let (name, address) = assemble::socket_key(&listener.name, &listener.sockets.asked);
            let address = address.to_string();
            (Place::Listener { name, address }, Arc::clone(&listener.sockets))
        });
        let admin = self.heritage.admin.iter().map(|sockets| {
            let address = sockets.asked.to_string();
            (Place::Admin { address }, Arc::clone(sockets))
        });
        listeners.chain(admin).collect()
    }

    /// Every listener has a socket for each worker.
    fn give(&self, successor: &Successor, places: &[(Place, Arc<Sockets>)]) -> io::Result<()> {
        let channel = &successor.channel;
        for (place, sockets) in places {
            let sockets = sockets.all()?;
            for sockets in sockets.chunks(MAX_DESCRIPTORS) {
                let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
                channel.send(&Offer::Sockets { place: place.clone() }, &descriptors)?;
            }
        }
        if let Some((lock, control)) = &self.heritage.state {
            channel.send(&Offer::Lock, &[lock.as_fd()])?;
            channel.send(&Offer::Control, &[control.as_fd()])?;
        }
        channel.send(&Offer::All, &[])
    }

    fn go_on(&self, next: impl FnOnce(&Phase) -> Result<Phase, &'static str>) -> Result<(), String> {
        let mut phase = self.phase();
        *phase = next(&phase)?;
        Ok(())
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that was started; ended when this is dropped before it was let go.
struct Successor {
    program: PathBuf,
    pid: u32,
    child: Arc<Mutex<Child>>,
    channel: Channel,
    word: Word,
    is_let_go: bool,
}

/// Whether a program has shown what it is.
#[derive(Clone, Copy)]
enum Word {
    None,
    /// It is a Tamis, which has a log.
    Hello,
}

/// What is handed over: each address once.
struct Listeners<'a>(&'a [(Place, Arc<Sockets>)]);

impl std::fmt::Display for Listeners<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |(place, sockets): &(Place, Arc<Sockets>)| match place {
            Place::Listener { .. } => sockets.bound.to_string(),
            Place::Admin { .. } => format!("{} (admin)", sockets.bound),
        };
        let addresses: BTreeSet<String> = self.0.iter().map(shown).collect();
        let count = addresses.len();
        let addresses: Vec<String> = addresses.into_iter().collect();
        let plural = if count == 1 { "" } else { "es" };
        write!(
            formatter,
            "the sockets of {count} address{plural}: {}",
            addresses.join(", ")
        )
    }
}

impl Successor {
    /// Starts it as this process was started: arguments, environment, folder, user, output.
    fn start(order: &Order) -> Result<Self, String> {
        let started_as = || std::env::args_os().next().unwrap_or_default().into();
        let program = order.program.clone().unwrap_or_else(started_as);
        let cannot = |error: io::Error| format!("{} cannot be started: {error}", program.display());
        let (channel, end) = Channel::pair().map_err(cannot)?;
        let child = Command::new(&program)
            .args(std::env::args_os().skip(1))
            .env(VARIABLE, PROTOCOL.to_string())
            .stdin(Stdio::from(end))
            .spawn()
            .map_err(cannot)?;
        Ok(Self {
            program,
            pid: child.id(),
            child: Arc::new(Mutex::new(child)),
            channel,
            word: Word::None,
            is_let_go: false,
        })
    }

    /// Its version.
    fn hello(&mut self, deadline: Instant) -> Result<String, String> {
        match self.hear(deadline.min(Instant::now() + HELLO_TIMEOUT))? {
            Answer::Hello {
                protocol: PROTOCOL,
                version,
            } => {
                self.word = Word::Hello;
                Ok(version)
            }
            Answer::Hello { protocol, version } => Err(format!(
                "process {} is Tamis {version}, which takes over in another way ({protocol} and not {PROTOCOL}); restart",
                self.pid
            )),
            other => Err(self.confused(&other)),
        }
    }

    /// Where it will listen.
    fn prepared(&mut self, deadline: Instant) -> Result<HashSet<Place>, String> {
        let mut taken = HashSet::new();
        loop {
            match self.hear(deadline)? {
                Answer::Taken { place } => drop(taken.insert(place)),
                Answer::Prepared => return Ok(taken),
                other => return Err(self.confused(&other)),
            }
        }
    }

    /// From here on it may have accepted.
    fn serve(&mut self) -> Result<(), String> {
        let told = self.channel.send(&Offer::Serve, &[]);
        told.map_err(|error| self.fault(&error))?;
        match self.hear(Instant::now() + SERVE_TIMEOUT)? {
            Answer::Serving => Ok(()),
            other => Err(self.confused(&other)),
        }
    }

    fn hear(&mut self, deadline: Instant) -> Result<Answer, String> {
        let answer = self.channel.receive(deadline.saturating_duration_since(Instant::now()));
        match answer {
            Ok((Answer::Refused { message }, _)) => Err(format!("process {} refuses: {message}", self.pid)),
            Ok((answer, _)) => Ok(answer),
            Err(error) => Err(self.fault(&error)),
        }
    }

    fn fault(&mut self, error: &io::Error) -> String {
        let pid = self.pid;
        match error.kind() {
            ErrorKind::TimedOut => format!("process {pid} was not ready in time"),
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => match (self.status(), self.word) {
                (Some(status), Word::Hello) => {
                    format!("process {pid} ended before it had taken over ({status}); its log says why")
                }
                (Some(status), Word::None) => format!(
                    "process {pid} ended with {status} and never said that it takes over: {} is no Tamis, or one that \
                     cannot be started with the arguments of the running process",
                    self.program.display()
                ),
                (None, _) => format!("process {pid} does not take over; is it Tamis?"),
            },
            _ => format!("process {pid} cannot be spoken with: {error}"),
        }
    }

    fn confused(&self, answer: &Answer) -> String {
        format!("process {} said {answer:?} where that makes no sense", self.pid)
    }

    fn status(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + STATUS_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = lock(&self.child).try_wait() {
                return Some(status);
            }
            std::thread::sleep(STATUS_LOOK);
        }
        None
    }

    fn let_go(mut self) {
        self.is_let_go = true;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_let_go {
            // It may have ended by itself.
            let mut child = lock(&self.child);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listener { name, address } if name.is_empty() => formatter.write_str(address),
            Self::Listener { name, .. } => formatter.write_str(name),
            Self::Admin { address } => write!(formatter, "{address} (admin)"),
        }
    }
}
