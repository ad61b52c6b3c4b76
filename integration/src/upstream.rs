//! A server that does exactly what a test says, byte for byte, and remembers what it was sent.
//!
//! One thread a connection. The recording is of raw bytes for each connection, and of whole requests in the order in
//! which they were complete.

use std::fmt;
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

use crate::DEADLINE;
use crate::gate::Gate;
use crate::message::{Broken, Cause, Kind, Message, Reader};
use crate::socket::{Address, Found, Socket};

/// How long a connection may be idle before the upstream gives it up: longer than any test waits for anything.
const PATIENCE: Duration = Duration::from_secs(90);

/// One thing that a connection's script does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads up to and with the head's empty line.
    Head,
    /// Reads one whole request and records it.
    Message,
    /// Reads that many bytes more.
    Bytes(usize),
    Send(Vec<u8>),
    /// Answers every further request with these bytes, until the peer ends the connection.
    Serve(Vec<u8>),
    /// Goes on when the test opens the gate.
    Pass(Gate),
    /// Sends zero bytes until that many are sent or the peer takes no more; what was taken is counted.
    Pour(u64),
    /// Says that nothing more will be sent (FIN), and goes on.
    Finish,
    /// Closes in both directions.
    Close,
    /// Breaks the connection with an RST.
    Reset,
    /// Reads and records until the peer ends it.
    Hold,
}

impl Step {
    pub fn send(bytes: impl AsRef<[u8]>) -> Self {
        Self::Send(bytes.as_ref().to_vec())
    }

    pub fn serve(bytes: impl AsRef<[u8]>) -> Self {
        Self::Serve(bytes.as_ref().to_vec())
    }
}

/// What connections do.
#[derive(Clone)]
pub enum Script {
    /// The first connection does the first list, and so on; the last list serves all later ones too. After its list a
    /// connection holds.
    Each(Vec<Vec<Step>>),
    /// Every request gets the function's bytes.
    Answer(Arc<Answer>),
}

/// What a request is answered with.
pub type Answer = dyn Fn(&Message) -> Vec<u8> + Send + Sync;

#[derive(Debug)]
pub struct Upstream {
    address: Address,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<Connection>,
    requests: Vec<Message>,
}

#[derive(Debug)]
struct Connection {
    received: Arc<Mutex<Vec<u8>>>,
    /// For ending it from outside.
    socket: Socket,
    /// How the peer ended it, once it has.
    ended: Option<Found>,
    poured: u64,
}

impl Upstream {
    pub fn start(script: Script) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), script)
    }

    /// The same at an address that the test chooses: another one of the loopback, with a port that is taken elsewhere.
    pub fn start_at(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = Address::Tcp(listener.local_addr().expect("the listener has an address"));
        let accept = move || {
            let (stream, _) = listener.accept().ok()?;
            stream.set_nodelay(true).ok()?;
            Some(Socket::Tcp(stream))
        };
        Self::serve(address, accept, script)
    }

    /// The same at a Unix socket.
    pub fn start_unix(path: &Path, script: Script) -> Self {
        let listener = UnixListener::bind(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let accept = move || listener.accept().ok().map(|(stream, _)| Socket::Unix(stream));
        Self::serve(Address::Unix(path.to_owned()), accept, script)
    }

    /// One list of steps for each connection; the last list serves all later ones too.
    pub fn each(scripts: impl Into<Vec<Vec<Step>>>) -> Self {
        Self::start(Script::Each(scripts.into()))
    }

    /// Answers every request with these bytes.
    pub fn repeating(response: impl AsRef<[u8]>) -> Self {
        Self::each([vec![Step::serve(response)]])
    }

    /// Answers every request with `200` and this body.
    pub fn saying(body: &str) -> Self {
        Self::repeating(ok(body))
    }

    pub fn answering(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(Script::Answer(Arc::new(answer)))
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// The bytes that connection number `index` has received so far.
    pub fn received(&self, index: usize) -> Vec<u8> {
        let state = self.state();
        let connection = state
            .connections
            .get(index)
            .unwrap_or_else(|| panic!("there was no connection {index}"));
        connection
            .received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The bytes of all connections, one behind the other.
    pub fn received_all(&self) -> Vec<u8> {
        (0..self.connections()).flat_map(|index| self.received(index)).collect()
    }

    /// The whole requests so far.
    pub fn requests(&self) -> Vec<Message> {
        self.state().requests.clone()
    }

    /// The whole requests since the last call.
    pub fn take_requests(&self) -> Vec<Message> {
        std::mem::take(&mut self.state().requests)
    }

    /// The one request since the last call; panics when there were none or more.
    pub fn take_request(&self, context: &str) -> Message {
        let mut requests = self.take_requests();
        assert_eq!(requests.len(), 1, "{context}: {requests:#?}");
        requests.remove(0)
    }

    pub fn wait_requests(&self, count: usize) {
        self.wait(|state| state.requests.len() >= count, &format!("{count} requests"));
    }

    pub fn wait_connections(&self, count: usize) {
        self.wait(
            |state| state.connections.len() >= count,
            &format!("{count} connections"),
        );
    }

    /// Waits until the peer has ended connection `index`, and says how. A script must be reading then.
    pub fn wait_ended(&self, index: usize) -> String {
        let ended = |state: &State| {
            state
                .connections
                .get(index)
                .and_then(|it| it.ended.as_ref())
                .map(|it| format!("{it:?}"))
        };
        self.wait(
            |state| ended(state).is_some(),
            &format!("the end of connection {index}"),
        );
        ended(&self.state()).expect("it was just there")
    }

    /// Ends connection `index` in order, as a server does with an idle one.
    pub fn close(&self, index: usize) {
        self.state().connections[index].socket.shutdown(Shutdown::Both).ok();
    }

    /// Sends bytes that nobody asked for on connection `index`.
    pub fn send_unasked(&self, index: usize, bytes: &[u8]) {
        let mut socket = self.state().connections[index]
            .socket
            .try_clone()
            .expect("a socket can be cloned");
        socket.write_all(bytes).expect("the proxy takes the bytes");
    }

    /// Whether connection `index` has ended, or does within that time.
    pub fn wait_ended_within(&self, index: usize, time: Duration) -> bool {
        let has_not = |state: &mut State| state.connections.get(index).is_none_or(|it| it.ended.is_none());
        let waited = self.shared.changed.wait_timeout_while(self.state(), time, has_not);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.connections.get(index).is_some_and(|it| it.ended.is_some())
    }

    /// The bytes that connection `index` took from [`Step::Pour`].
    pub fn poured(&self, index: usize) -> u64 {
        self.state().connections[index].poured
    }

    fn serve(address: Address, accept: impl Fn() -> Option<Socket> + Send + 'static, script: Script) -> Self {
        let shared = Arc::new(Shared::default());
        let upstream = Self {
            address,
            shared: shared.clone(),
        };
        thread::spawn(move || {
            while let Some(socket) = accept() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Some((index, reader)) = shared.admit(&socket) else {
                    continue;
                };
                let peer = Peer {
                    socket,
                    reader,
                    index,
                    shared: shared.clone(),
                };
                let script = script.clone();
                thread::spawn(move || peer.play(&script));
            }
        });
        upstream
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn wait(&self, until: impl Fn(&State) -> bool, what: &str) {
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(self.state(), DEADLINE, |state| !until(state))
            .unwrap_or_else(PoisonError::into_inner);
        let (connections, requests) = (state.connections.len(), state.requests.len());
        drop(state);
        assert!(
            !waited.timed_out(),
            "no {what} at the upstream: {connections} connections, {requests} requests"
        );
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.address.connect(DEADLINE).ok();
        for connection in &self.state().connections {
            connection.socket.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, socket: &Socket) -> Option<(usize, Reader)> {
        let received = Arc::new(Mutex::new(Vec::new()));
        let connection = Connection {
            received: received.clone(),
            socket: socket.try_clone().ok()?,
            ended: None,
            poured: 0,
        };
        let mut state = self.state();
        state.connections.push(connection);
        self.changed.notify_all();
        Some((state.connections.len() - 1, Reader::tapped(received)))
    }
}

/// One connection's thread.
struct Peer {
    socket: Socket,
    reader: Reader,
    index: usize,
    shared: Arc<Shared>,
}

/// Nothing more can be done with the connection.
struct Over;

impl Peer {
    fn play(mut self, script: &Script) {
        self.socket.set_write_timeout(PATIENCE).ok();
        let played = match script {
            Script::Each(lists) => lists
                .get(self.index)
                .or(lists.last())
                .map_or(Ok(()), |list| self.play_list(list)),
            Script::Answer(answer) => self.answer(answer.as_ref()),
        };
        if played.is_ok() {
            self.step(&Step::Hold).ok();
        }
        // The handle that is kept for the test would hold the connection open.
        self.socket.shutdown(Shutdown::Both).ok();
    }

    fn play_list(&mut self, list: &[Step]) -> Result<(), Over> {
        list.iter().try_for_each(|step| self.step(step))
    }

    fn play_forever(&mut self, list: &[Step]) -> Result<(), Over> {
        loop {
            self.play_list(list)?;
        }
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), Over> {
        loop {
            let request = self.message()?;
            let response = answer(&request);
            self.record(request);
            self.step(&Step::Send(response))?;
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Over> {
        let deadline = Instant::now() + PATIENCE;
        match step {
            Step::Head => {
                let head = self.reader.read_head(&mut self.socket, deadline);
                let end = head.map_err(|broken| self.over(broken))?;
                self.reader.buffer.drain(..end);
                Ok(())
            }
            Step::Message => {
                let request = self.message()?;
                self.record(request);
                Ok(())
            }
            Step::Bytes(count) => {
                let filled = self.reader.fill(&mut self.socket, *count, deadline);
                filled.map_err(|broken| self.over(broken))?;
                self.reader.buffer.drain(..*count);
                Ok(())
            }
            // A peer that takes no more has ended the connection, and says so here first.
            Step::Send(bytes) => self.socket.write_all(bytes).map_err(|_| {
                self.ended(Found::Reset);
                Over
            }),
            Step::Serve(bytes) => self.play_forever(&[Step::Message, Step::Send(bytes.clone())]),
            Step::Pass(gate) => gate.pass().then_some(()).ok_or(Over),
            Step::Pour(most) => self.pour(*most),
            Step::Finish => self.socket.shutdown(Shutdown::Write).map_err(|_| Over),
            Step::Close => {
                self.socket.shutdown(Shutdown::Both).ok();
                Err(Over)
            }
            Step::Reset => self.reset(),
            Step::Hold => self.hold(deadline),
        }
    }

    fn message(&mut self) -> Result<Message, Over> {
        let deadline = Instant::now() + PATIENCE;
        self.reader
            .read(&mut self.socket, Kind::Request, deadline)
            .map_err(|broken| self.over(broken))
    }

    fn record(&self, request: Message) {
        self.shared.state().requests.push(request);
        self.shared.changed.notify_all();
    }

    fn pour(&mut self, most: u64) -> Result<(), Over> {
        let piece = [0; 64 * 1024];
        let mut left = most;
        while left > 0 {
            let size = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Ok(taken) = self.socket.write(&piece[..size]) else {
                self.ended(Found::Reset);
                return Err(Over);
            };
            left -= taken as u64;
            self.shared.state().connections[self.index].poured += taken as u64;
        }
        Ok(())
    }

    /// The RST goes out when the last handle is closed, so the one that is kept for the test goes first.
    fn reset(&mut self) -> Result<(), Over> {
        self.socket.reset_on_close();
        let (spare, _) = std::os::unix::net::UnixStream::pair().map_err(|_| Over)?;
        let spare = Socket::Unix(spare);
        let twin = spare.try_clone().map_err(|_| Over)?;
        self.shared.state().connections[self.index].socket = spare;
        self.socket = twin;
        Err(Over)
    }

    fn hold(&mut self, deadline: Instant) -> Result<(), Over> {
        loop {
            let length = self.reader.buffer.len();
            self.reader
                .fill(&mut self.socket, length + 1, deadline)
                .map_err(|broken| self.over(broken))?;
            self.reader.buffer.clear();
        }
    }

    fn over(&self, broken: Broken) -> Over {
        match broken.cause {
            Cause::Fin => self.ended(Found::Fin),
            Cause::Reset => self.ended(Found::Reset),
            Cause::Late => self.ended(Found::Nothing),
            Cause::Malformed(fault) => {
                eprintln!(
                    "the upstream was sent what no origin should accept: {fault}: {}",
                    broken.bytes.escape_ascii()
                );
                self.ended(Found::Reset);
            }
        }
        Over
    }

    fn ended(&self, how: Found) {
        self.shared.state().connections[self.index].ended = Some(how);
        self.shared.changed.notify_all();
    }
}

/// A port where nobody listens and nobody else can: connecting is refused for as long as this lives.
#[derive(Debug)]
pub struct Refusing {
    address: Address,
    _bound: OwnedFd,
}

impl Refusing {
    pub fn new() -> Self {
        let (bound, address) = bound_socket();
        Self {
            address: Address::Tcp(address),
            _bound: bound,
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Default for Refusing {
    fn default() -> Self {
        Self::new()
    }
}

/// A port where connecting neither succeeds nor fails: its accept queue is full for as long as this lives.
#[derive(Debug)]
pub struct BlackHole {
    address: Address,
    _bound: OwnedFd,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub fn new() -> Self {
        let (bound, address) = bound_socket();
        listen(&bound, 0).expect("a bound socket can listen");
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let queued: Vec<_> = (0..16).map_while(connect).collect();
        assert!(queued.len() < 16, "the accept queue never fills");
        Self {
            address: Address::Tcp(address),
            _bound: bound,
            _queued: queued,
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Default for BlackHole {
    fn default() -> Self {
        Self::new()
    }
}

fn bound_socket() -> (OwnedFd, SocketAddr) {
    let bound = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket can be made");
    bind(&bound, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port is free");
    let address = getsockname(&bound).expect("a bound socket has a name");
    let address = SocketAddr::try_from(address).expect("an IPv4 socket has an IPv4 address");
    (bound, address)
}

/// `200` with this body and its length.
pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl fmt::Debug for Script {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each(lists) => formatter.debug_tuple("Each").field(lists).finish(),
            Self::Answer(_) => formatter.write_str("Answer"),
        }
    }
}
