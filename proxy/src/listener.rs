//! A listener's sockets, and the loop that accepts from one of them.
//!
//! The control plane binds, all or nothing, before a generation goes live; each worker accepts from a socket of its
//! own (`SO_REUSEPORT`), so that the kernel spreads connections and no worker waits for another. A Unix socket is one
//! queue that all workers take from. Sockets can be another process's before they are ours, and go to another one after
//! us; as long as a process does not own them, it neither shuts them down nor removes their file. It knows nothing of
//! HTTP.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use crate::address::Address;
use crate::census::Census;
use crate::descriptors::{self, Taker};
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
    /// As it was asked for: port 0 is port 0.
    pub asked: Address,
    /// As bound: with the port that the kernel chose for port 0.
    pub bound: Address,
    /// Who is connected to them.
    pub census: Census,
    /// None once they were closed or released.
    sockets: Mutex<Vec<Socket>>,
    workers: usize,
    /// Not another process's, and not closed yet: only then are they ours to shut down, and the file to remove.
    owned: AtomicBool,
}

impl Sockets {
    /// Binds and listens.
    pub fn bind(address: &Address, workers: usize) -> io::Result<Self> {
        let (bound, sockets) = match address {
            Address::Tcp(address) => bind_tcp(*address, workers)?,
            Address::Unix(path) => (address.clone(), vec![bind_unix(path)?]),
            Address::Component(_) => return Err(address.no_socket()),
        };
        Ok(Self::new(address.clone(), bound, sockets, workers, true))
    }

    /// Takes the place of another process at sockets that it has bound. They stay that process's until
    /// [`Sockets::own`].
    pub fn adopt(asked: Address, descriptors: Vec<OwnedFd>, workers: usize) -> io::Result<Self> {
        let sockets: Vec<Socket> = descriptors.into_iter().map(Socket::from).collect();
        let first = sockets.first().ok_or_else(|| io::Error::other("no socket came"))?;
        let bound = match &asked {
            Address::Tcp(_) => Address::Tcp(tcp_address(first)?),
            Address::Unix(path) => Address::Unix(path.clone()),
            Address::Component(_) => return Err(asked.no_socket()),
        };
        for socket in &sockets {
            check_adopted(socket, &bound)?;
        }
        Ok(Self::new(asked, bound, sockets, workers, false))
    }

    fn new(asked: Address, bound: Address, sockets: Vec<Socket>, workers: usize, owned: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            asked,
            bound,
            census: Census::default(),
            sockets: Mutex::new(sockets),
            workers: workers.max(1),
            owned: AtomicBool::new(owned),
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// From now on they are this process's alone.
    pub fn own(&self) {
        self.owned.store(true, Ordering::Relaxed);
    }

    /// They are another process's now: lets go of them, and they listen on. Accept loops hold on to their own until
    /// they end.
    pub fn release(&self) {
        self.owned.store(false, Ordering::Relaxed);
        self.sockets().clear();
    }

    /// Stops listening now, however long an exchange still holds on to its generation: on Linux, shutting a listening
    /// socket down takes it out of its port. Connections that nobody has accepted yet are reset. A Unix socket is
    /// closed by its accept loops, which end; shut down, it would be readable for ever and never have a connection.
    pub fn close(&self) {
        let owned = self.owned.load(Ordering::Relaxed);
        for socket in self.sockets().drain(..) {
            if owned && matches!(self.bound, Address::Tcp(_)) {
                // One that does not listen any more is what was wanted.
                let _ = socket.shutdown(std::net::Shutdown::Read);
            }
        }
        self.remove_file();
    }

    fn remove_file(&self) {
        let owned = self.owned.swap(false, Ordering::Relaxed);
        if let (Address::Unix(path), true) = (&self.bound, owned) {
            // Somebody else may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }

    /// What a worker accepts from, ready to be polled: a socket of its own as a rule; one that it shares, or several,
    /// when they come from a process with another number of workers. None once they were let go.
    pub fn of_worker(&self, worker: usize) -> io::Result<Vec<Socket>> {
        let sockets = self.sockets();
        let first = worker % self.workers;
        if first < sockets.len() {
            let own = sockets.iter().skip(first).step_by(self.workers);
            return own.map(Socket::try_clone).collect();
        }
        let shared = first
            .checked_rem(sockets.len())
            .map(|shared| sockets[shared].try_clone());
        Ok(shared.transpose()?.into_iter().collect())
    }

    /// All of them, for another process.
    pub fn all(&self) -> io::Result<Vec<OwnedFd>> {
        let clone = |socket: &Socket| Ok(OwnedFd::from(socket.try_clone()?));
        self.sockets().iter().map(clone).collect()
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.remove_file();
    }
}

fn tcp_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::Error::other("not an IP socket"))
}

/// What came must listen where it was said to.
fn check_adopted(socket: &Socket, bound: &Address) -> io::Result<()> {
    let is_there = match bound {
        Address::Tcp(address) => tcp_address(socket)? == *address,
        Address::Unix(path) => socket.local_addr()?.as_pathname() == Some(path),
        Address::Component(_) => false,
    };
    if !is_there || !socket.is_listener()? {
        return Err(io::Error::other(format!(
            "a socket came that does not listen on {bound}"
        )));
    }
    socket.set_nonblocking(true)
}

fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<(Address, Vec<Socket>)> {
    // With `SO_REUSEPORT` a second process could share the port unnoticed; without it the kernel says so.
    let probe = tcp_socket(address)?;
    probe.bind(&address.into())?;
    let bound = tcp_address(&probe)?;
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
    let mut own = sockets.of_worker(worker.index)?;
    let first = own.pop();
    let mut others = JoinSet::new();
    for socket in own {
        others.spawn_local(accept_from(Rc::clone(&worker), Arc::clone(&sockets), socket));
    }
    if let Some(socket) = first {
        accept_from(worker, sockets, socket).await?;
    }
    while let Some(ended) = others.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn accept_from(worker: Rc<Worker>, sockets: Arc<Sockets>, socket: Socket) -> io::Result<()> {
    match &sockets.bound {
        Address::Tcp(_) => {
            let listener = TcpListener::from_std(socket.into())?;
            loop {
                let accepted = listener.accept().await;
                let accepted = accepted.and_then(|(stream, peer)| {
                    descriptors::leave_some(&stream, Taker::Client)?;
                    Ok((stream.into(), Some(peer)))
                });
                if admit(&worker, &sockets, accepted).await.is_break() {
                    return Ok(());
                }
            }
        }
        Address::Unix(_) => {
            let listener = UnixListener::from_std(socket.into())?;
            loop {
                let accepted = listener.accept().await;
                let accepted = accepted.and_then(|(stream, _)| {
                    descriptors::leave_some(&stream, Taker::Client)?;
                    Ok((stream.into(), None))
                });
                if admit(&worker, &sockets, accepted).await.is_break() {
                    return Ok(());
                }
            }
        }
        Address::Component(_) => Err(sockets.bound.no_socket()),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn loopback() -> Address {
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn inode(socket: &Socket) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        std::fs::metadata(path).expect("it is open").ino()
    }

    /// Whatever the numbers: no socket without a worker, no worker without a socket.
    #[test]
    fn every_socket_that_came_is_accepted_from() {
        for had in 1..5 {
            let theirs = Sockets::bind(&loopback(), had).expect("bound");
            for workers in 1..6 {
                let ours = Sockets::adopt(loopback(), theirs.all().expect("open"), workers).expect("adopted");
                assert_eq!(ours.bound, theirs.bound);
                let of_workers: Vec<Vec<u64>> = (0..workers)
                    .map(|worker| ours.of_worker(worker).expect("open").iter().map(inode).collect())
                    .collect();
                assert!(
                    of_workers.iter().all(|sockets| !sockets.is_empty()),
                    "{had} for {workers}"
                );
                let covered: BTreeSet<u64> = of_workers.into_iter().flatten().collect();
                assert_eq!(covered.len(), had, "{had} for {workers}");
            }
        }
    }

    #[test]
    fn what_listens_elsewhere_or_not_at_all_is_refused() {
        let there = Sockets::bind(&loopback(), 1).expect("bound");
        let elsewhere = Address::Unix("/nowhere".into());
        assert!(Sockets::adopt(elsewhere, there.all().expect("open"), 1).is_err());
        assert!(Sockets::adopt(loopback(), Vec::new(), 1).is_err());
        let deaf = tcp_socket(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
        assert!(Sockets::adopt(loopback(), vec![deaf.into()], 1).is_err());
    }

    #[test]
    fn a_file_is_its_owners() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web.sock");
        let address = Address::Unix(path.clone());
        let theirs = Sockets::bind(&address, 1).expect("bound");
        let adopt = || Sockets::adopt(address.clone(), theirs.all().expect("open"), 1).expect("adopted");
        drop(adopt());
        adopt().close();
        let ours = adopt();
        theirs.release();
        theirs.close();
        drop(theirs);
        UnixStream::connect(&path).expect("it listens on");
        ours.own();
        drop(ours);
        assert!(!path.exists());
    }
}
