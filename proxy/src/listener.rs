//! A listener's sockets, and the loop that accepts from one of them.
//!
//! The control plane binds, all or nothing, before a generation goes live; each worker accepts from a socket of its
//! own (`SO_REUSEPORT`), so that the kernel spreads connections and no worker waits for another. A Unix socket is one
//! queue that all workers take from. It knows nothing of HTTP.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::fs::FileTypeExt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::address::Address;
use crate::gateway;
use crate::stream::Stream;
use crate::worker::Worker;

/// Connections that the kernel holds until they are accepted; more are refused by it.
const BACKLOG: i32 = 4096;
/// How long a worker stops accepting when descriptors or memory have run out: long enough not to spin, short enough
/// not to be noticed once there are some again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Bound sockets, one for each worker. Kept from generation to generation while the name and address stay.
#[derive(Debug)]
pub struct Sockets {
    /// Unique in the process.
    id: u64,
    /// As bound: with the port that the kernel chose for port 0.
    pub bound: Address,
    sockets: Vec<Socket>,
    /// Its Unix socket's file is gone; a successor's must not be removed.
    closed: AtomicBool,
}

impl Sockets {
    /// Binds and listens.
    pub fn bind(address: &Address, workers: usize) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (bound, sockets) = match address {
            Address::Tcp(address) => bind_tcp(*address, workers)?,
            Address::Unix(path) => (address.clone(), vec![bind_unix(path)?]),
        };
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            bound,
            sockets,
            closed: AtomicBool::new(false),
        })
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Stops listening now, however long an exchange still holds on to its generation: on Linux, shutting a listening
    /// socket down takes it out of its port. Connections that nobody has accepted yet are reset.
    pub fn close(&self) {
        for socket in &self.sockets {
            // One that does not listen any more is what was wanted.
            let _ = socket.shutdown(std::net::Shutdown::Read);
        }
        self.remove_file();
    }

    fn remove_file(&self) {
        if let Address::Unix(path) = &self.bound
            && !self.closed.swap(true, Ordering::Relaxed)
        {
            // Somebody else may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }

    /// A worker's own socket, ready to be polled.
    pub fn socket(&self, worker: usize) -> io::Result<Socket> {
        self.sockets[worker % self.sockets.len()].try_clone()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.remove_file();
    }
}

fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<(Address, Vec<Socket>)> {
    // With `SO_REUSEPORT` a second process could share the port unnoticed; without it the kernel says so.
    let probe = tcp_socket(address)?;
    probe.bind(&address.into())?;
    let bound = probe
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("not an IP socket"))?;
    drop(probe);
    let sockets = (0..workers).map(|_| {
        let socket = tcp_socket(bound)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    });
    Ok((Address::Tcp(bound), sockets.collect::<io::Result<_>>()?))
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections in TIME_WAIT of an earlier process do not keep the port.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn bind_unix(path: &std::path::Path) -> io::Result<Socket> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A socket file that nobody listens on is left over from a process that was killed.
fn remove_stale(path: &std::path::Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens on it",
        )),
        Err(_) => std::fs::remove_file(path),
    }
}

/// Accepts for one worker until the task is dropped or the sockets are closed.
pub async fn accept(worker: Rc<Worker>, sockets: Arc<Sockets>) -> io::Result<()> {
    let socket = sockets.socket(worker.index)?;
    match &sockets.bound {
        Address::Tcp(_) => {
            let listener = TcpListener::from_std(socket.into())?;
            loop {
                let accepted = listener.accept().await;
                let accepted = accepted.map(|(stream, peer)| (stream.into(), Some(peer)));
                if admit(&worker, &sockets, accepted).await.is_break() {
                    return Ok(());
                }
            }
        }
        Address::Unix(_) => {
            let listener = UnixListener::from_std(socket.into())?;
            loop {
                let accepted = listener.accept().await;
                let accepted = accepted.map(|(stream, _)| (stream.into(), None));
                if admit(&worker, &sockets, accepted).await.is_break() {
                    return Ok(());
                }
            }
        }
    }
}

type Accepted = io::Result<(Stream, Option<SocketAddr>)>;

async fn admit(worker: &Rc<Worker>, sockets: &Arc<Sockets>, accepted: Accepted) -> ControlFlow<()> {
    match accepted {
        Ok((stream, peer)) => gateway::open(worker, sockets.id(), stream, peer),
        Err(error) if is_exhausted(&error) => {
            tracing::warn!(%error, "accepting pauses");
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
        }
        Err(error) if is_closed(&error) => return ControlFlow::Break(()),
        // The peer is gone again before it was accepted.
        Err(_) => {}
    }
    ControlFlow::Continue(())
}

/// `EINVAL`: the socket was shut down, so nothing will come any more.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

/// Out of descriptors (`EMFILE`, `ENFILE`) or of memory (`ENOBUFS`, `ENOMEM`).
fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [i32; 4] = [24, 23, 105, 12];
    error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code))
}
