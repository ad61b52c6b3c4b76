//! A DNS server that says what a test tells it to, over UDP and TCP on one port of the loopback, and counts what it is
//! asked.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::DEADLINE;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Without extensions, a message over UDP has no more (RFC 1035 4.2.1); the rest is asked for over TCP.
const MAX_UDP: usize = 512;

/// What there is of a name; kinds that are not named have no records.
#[derive(Clone, Debug)]
pub enum Says {
    /// With the time to live in seconds.
    Addresses(u32, Vec<IpAddr>),
    /// Priority, weight, port, server.
    Servers(u32, Vec<(u16, u16, u16, String)>),
    Alias(String),
    /// There is no such name.
    Nothing,
    Failure,
    /// No answer ever comes.
    Silence,
}

#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
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
    zone: HashMap<String, Says>,
    asked: HashMap<String, usize>,
}

impl Dns {
    pub fn start() -> Self {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        udp.set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a read deadline can be set");
        let over_udp = shared.clone();
        thread::spawn(move || over_udp.serve_udp(&udp));
        let over_tcp = shared.clone();
        thread::spawn(move || over_tcp.serve_tcp(&tcp));
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn says(&self, name: &str, says: Says) {
        self.shared.state().zone.insert(name.to_owned(), says);
    }

    /// Addresses on the loopback by their last byte, with a time to live in seconds.
    pub fn leads_to(&self, name: &str, ttl: u32, last: &[u8]) {
        let address = |last: &u8| IpAddr::V4(Ipv4Addr::new(127, 0, 0, *last));
        self.says(name, Says::Addresses(ttl, last.iter().map(address).collect()));
    }

    /// How often the name was asked for, of any kind.
    pub fn asked(&self, name: &str) -> usize {
        self.shared.state().asked.get(name).copied().unwrap_or(0)
    }

    /// Waits until it was asked for so often.
    pub fn wait_asked(&self, name: &str, count: usize) {
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.state(), DEADLINE, |state| {
                state.asked.get(name).copied().unwrap_or(0) < count
            })
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        assert!(!waited.timed_out(), "{name}: {} of {count} questions", self.asked(name));
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Its accept loop looks.
        TcpStream::connect_timeout(&self.address, DEADLINE).ok();
    }
}

/// Of the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = udp.local_addr().expect("a bound socket has an address");
        if let Ok(tcp) = TcpListener::bind(address) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut question = [0; 4096];
        while !self.stopped.load(Ordering::SeqCst) {
            let Ok((length, peer)) = socket.recv_from(&mut question) else {
                continue;
            };
            let Some(mut answer) = self.answer(&question[..length]) else {
                continue;
            };
            if answer.len() > MAX_UDP {
                // Truncated, with nothing but the question.
                answer.truncate(question_end(&question[..length]));
                answer[2] |= 0x02;
                answer[6..8].copy_from_slice(&[0, 0]);
            }
            socket.send_to(&answer, peer).ok();
        }
    }

    fn serve_tcp(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let shared = Arc::clone(self);
            thread::spawn(move || shared.serve_connection(stream));
        }
    }

    fn serve_connection(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).ok()?;
            let Some(answer) = self.answer(&question) else { continue };
            let length = u16::try_from(answer.len()).expect("an answer of the test fits");
            stream.write_all(&length.to_be_bytes()).ok()?;
            stream.write_all(&answer).ok()?;
        }
    }

    /// `None` is silence.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let end = question_end(question);
        let (name, kind) = asked(&question[12..end]);
        let mut state = self.state();
        *state.asked.entry(name.clone()).or_default() += 1;
        self.changed.notify_all();
        let mut answer = question[..end].to_vec();
        // An answer, recursion available, one question and nothing else so far.
        (answer[2], answer[3]) = (0x81, 0x80);
        answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        let mut records = 0_u16;
        let mut owner = name;
        // A chain of aliases is followed for as long as a resolver would believe it.
        for _ in 0..16 {
            match state.zone.get(&owner).cloned().unwrap_or(Says::Nothing) {
                Says::Alias(to) => {
                    records += 1;
                    put(&mut answer, &owner, CNAME, 60, &encoded(&to));
                    owner = to;
                    continue;
                }
                Says::Addresses(ttl, addresses) => {
                    for address in addresses {
                        let (its, bytes) = match address {
                            IpAddr::V4(address) => (A, address.octets().to_vec()),
                            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
                        };
                        if its == kind {
                            records += 1;
                            put(&mut answer, &owner, kind, ttl, &bytes);
                        }
                    }
                }
                Says::Servers(ttl, servers) if kind == SRV => {
                    for (priority, weight, port, server) in servers {
                        records += 1;
                        let numbers = [priority, weight, port].map(u16::to_be_bytes).concat();
                        put(&mut answer, &owner, SRV, ttl, &[numbers, encoded(&server)].concat());
                    }
                }
                Says::Servers(..) => {}
                Says::Nothing => answer[3] |= 3,
                Says::Failure => answer[3] |= 2,
                Says::Silence => return None,
            }
            break;
        }
        answer[6..8].copy_from_slice(&records.to_be_bytes());
        Some(answer)
    }
}

/// Behind the header's twelve bytes, the name and four more.
fn question_end(message: &[u8]) -> usize {
    let name = message[12..].iter().position(|byte| *byte == 0).expect("a name ends");
    12 + name + 5
}

/// In lower case, without the final dot; resolvers vary the case to know their answers again.
fn asked(question: &[u8]) -> (String, u16) {
    let (mut labels, mut rest) = (Vec::new(), question);
    while rest[0] != 0 {
        let length = usize::from(rest[0]);
        labels.push(String::from_utf8_lossy(&rest[1..=length]).to_ascii_lowercase());
        rest = &rest[length + 1..];
    }
    (labels.join("."), u16::from_be_bytes([rest[1], rest[2]]))
}

fn encoded(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    let mut bytes: Vec<u8> = name.split('.').flat_map(label).collect();
    bytes.push(0);
    bytes
}

fn put(answer: &mut Vec<u8>, owner: &str, kind: u16, ttl: u32, data: &[u8]) {
    // The name of the question, which is at byte 12, in short.
    let question = asked(&answer[12..]).0 == owner;
    match question {
        true => answer.extend([0xc0, 12]),
        false => answer.extend(encoded(owner)),
    }
    answer.extend(kind.to_be_bytes());
    answer.extend([0, 1]);
    answer.extend(ttl.to_be_bytes());
    answer.extend((data.len() as u16).to_be_bytes());
    answer.extend(data);
}
