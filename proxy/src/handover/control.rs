//! Where `tamis upgrade` asks: a Unix socket in the state folder.
//!
//! Whoever can write to it has this process start a program, so it is not the admin endpoint: the folder is this user's
//! alone, and so is whoever may ask; root, who may do anything, too. One line of JSON asks, lines of JSON answer.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::successor::{Order, Upgrader};

/// Its name in the state folder.
pub const NAME: &str = "control.sock";
/// At once: one that upgrades, and some that are told so.
const MAX_CONNECTIONS: usize = 8;
/// A path and a number.
const MAX_REQUEST_BYTES: u64 = 16 << 10;
/// For the request, which is one write from the same machine.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// After an accept that failed, mostly for want of descriptors: trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Upgrade { program: Option<PathBuf>, timeout_ms: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Step(String),
    Failed(String),
    /// The last one: this process ends when what has begun is over, or after so long.
    Draining {
        pid: u32,
        timeout_ms: u64,
    },
}

/// The bound socket. Whoever is not relieved removes its file at the end.
pub struct Control {
    listener: StdListener,
    path: PathBuf,
}

impl Control {
    /// Takes the predecessor's socket, or makes one in place of what an earlier process has left; the folder's lock is
    /// held by the caller.
    pub fn open(folder: &Path, inherited: Option<OwnedFd>) -> Result<Self, String> {
        let path = folder.join(NAME);
        let listener = inherited.map(StdListener::from).map_or_else(|| bind(&path), Ok);
        let control = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Self {
                listener,
                path: path.clone(),
            })
        });
        control.map_err(|error| {
            format!(
                "{}: cannot listen: {error}; name another folder with --state",
                path.display()
            )
        })
    }

    /// For the successor.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Answers for ever. Within a runtime only.
    pub async fn serve(&self, upgrader: Arc<Upgrader>, drain_timeout: impl Fn() -> Duration) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (upgrader, drain_timeout) = (Arc::clone(&upgrader), drain_timeout());
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, upgrader, drain_timeout).await {
                            tracing::debug!(%error, "whoever asked for an upgrade is gone");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Nobody comes after this process.
    pub fn remove(&self) {
        // Somebody else may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<StdListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, upgrader: Arc<Upgrader>, drain_timeout: Duration) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let user = stream.get_ref().peer_cred()?.uid();
    // In any case: the answer would be lost on one who is still writing.
    let asked = request(&mut stream).await;
    let refusal = match asked {
        _ if !is_allowed(user) => {
            tracing::warn!(user, "another user asked for something, and was refused");
            format!("refused: user {user} may not ask this process for anything")
        }
        Ok(Request::Upgrade { program, timeout_ms }) => {
            let timeout = Duration::from_millis(timeout_ms);
            return upgrade(stream.into_inner(), upgrader, Order { program, timeout }, drain_timeout).await;
        }
        Err(error) => format!("the request cannot be read: {error}"),
    };
    say(stream.get_mut(), &Reply::Failed(refusal)).await
}

fn is_allowed(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

async fn request(stream: &mut BufReader<UnixStream>) -> io::Result<Request> {
    let mut line = String::new();
    timeout(READ_TIMEOUT, stream.take(MAX_REQUEST_BYTES).read_line(&mut line)).await??;
    Ok(serde_json::from_str(&line)?)
}

/// Goes on when whoever asked has gone: an upgrade is not broken off half way.
async fn upgrade(
    mut stream: UnixStream,
    upgrader: Arc<Upgrader>,
    order: Order,
    drain_timeout: Duration,
) -> io::Result<()> {
    // A handful of steps, and one more for each listener that is gone.
    let (steps, mut told) = mpsc::unbounded_channel();
    let telling = upgrader.tell();
    let done = tokio::task::spawn_blocking(move || {
        upgrader.upgrade(&order, &mut |step| {
            tracing::info!(step, "upgrade");
            // Nobody may be listening.
            let _ = steps.send(step);
        })
    });
    while let Some(step) = told.recv().await {
        say(&mut stream, &Reply::Step(step)).await?;
    }
    match done.await.map_err(io::Error::other)? {
        Ok(()) => {
            let timeout_ms = u64::try_from(drain_timeout.as_millis()).unwrap_or(u64::MAX);
            let pid = std::process::id();
            say(&mut stream, &Reply::Draining { pid, timeout_ms }).await?;
            drop(telling);
            // The connection ends with this process, which is what the other side waits for.
            stream.read_u8().await.map(drop)
        }
        Err(error) => {
            tracing::error!(error, "no upgrade; this process serves on");
            say(&mut stream, &Reply::Failed(error)).await
        }
    }
}

async fn say(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
