//! Ten thousand exchanges, each parked in an outbound call of its filter, on two worker threads: all at once, or as many
//! as the machine's limit of descriptors lets be open, and then the others.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tamis_integration::socket::Address;
use tamis_integration::{DEADLINE, Folder, Proxy};

use crate::support::{Bystander, component, wait_until};

const EXCHANGES: usize = 10_000;
/// Descriptors that a process has besides those of the exchanges.
const SPARE: usize = 500;
/// How long all of them are parked at once.
const PARKED: Duration = Duration::from_millis(200);
/// What one of them may cost in resident memory, with the connections on both its sides.
const BYTES_EACH: u64 = 128 << 10;
/// Answers to the bystander that a percentile is taken of.
const ENOUGH: usize = 300;
/// A round trip takes a fraction of a millisecond; on a busy machine of two cores, being scheduled takes longer.
const WAIT_FLOOR: Duration = Duration::from_millis(20);
const REQUEST: &[u8] = b"GET /asked HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// All of them wait at once, the memory that each takes is bounded, another route hardly notices, and all are answered.
#[test]
fn thousands_of_exchanges_wait_in_outbound_calls() {
    let count = room_for_exchanges();
    assert!(
        count * 2 >= EXCHANGES,
        "the limit of descriptors leaves room for {count} exchanges only"
    );
    let service = TcpListener::bind("127.0.0.1:0").expect("a port");
    // Those who find the usual queue full come back after seconds.
    rustix::net::listen(&service, 4096).expect("it listens already");
    let address = service.local_addr().expect("bound");
    let folder = Folder::new();
    folder.write("ext-auth.wasm", std::fs::read(component("ext-auth")).expect("built"));
    let proxy = Proxy::start_in(&folder, &configuration(count, &address.to_string()));
    let target = proxy.address("web");

    let bystander = Bystander::start(&target, "/free");
    wait_until("the bystander is served", || bystander.served() >= ENOUGH);
    let baseline = bystander.p99(0);
    let (resident, descriptors) = (proxy.resident(), proxy.descriptors());

    let first = Wave::park(&service, &target, count);
    let each = proxy.resident().saturating_sub(resident) / count as u64;
    let (since, seen) = (Instant::now(), bystander.served());
    wait_until("all are parked for long enough", || {
        since.elapsed() >= PARKED && bystander.served() >= seen + ENOUGH
    });
    let parked = bystander.p99(seen);
    first.answer();
    for done in (count..EXCHANGES).step_by(count) {
        Wave::park(&service, &target, count.min(EXCHANGES - done)).answer();
    }
    bystander.finish();

    eprintln!("{count} parked: {each} bytes each; p99 of another route {baseline:?}, meanwhile {parked:?}");
    assert!(each <= BYTES_EACH, "{each} bytes for each of {count}");
    let limit = baseline.mul_f64(1.5).max(WAIT_FLOOR);
    assert!(parked <= limit, "another route waits: {parked:?}, before {baseline:?}");
    wait_until("the descriptors are closed", || proxy.descriptors() <= descriptors + 2);
}

/// Exchanges that all wait.
struct Wave {
    clients: Vec<TcpStream>,
    /// What their filters have asked the service.
    questions: Vec<TcpStream>,
}

impl Wave {
    /// Returns when all of them wait.
    fn park(service: &TcpListener, target: &Address, count: usize) -> Self {
        thread::scope(|scope| {
            let asking = scope.spawn(|| (0..count).map(|_| ask(target)).collect());
            let service = service.try_clone().expect("it is open");
            let (arrived, arriving) = mpsc::channel();
            // Not of this scope: it would wait for questions that never come.
            thread::spawn(move || (0..count).try_for_each(|_| arrived.send(asked(&service))));
            let question = |number| match arriving.recv_timeout(DEADLINE) {
                Ok(question) => question,
                Err(_) => panic!("question {number} of {count} never came"),
            };
            Self {
                questions: (1..=count).map(question).collect(),
                clients: asking.join().expect("all clients have asked"),
            }
        })
    }

    /// Answers the filters, and sees all clients answered.
    fn answer(mut self) {
        for question in &mut self.questions {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            question.write_all(answer).expect("the question is still open");
        }
        let answered = self
            .clients
            .iter_mut()
            .filter_map(status)
            .filter(|status| *status == 200);
        assert_eq!(answered.count(), self.questions.len(), "exchanges that were answered");
    }
}

/// Raises the limit of descriptors, for the proxy too, which inherits it, and says how many exchanges fit: each takes
/// two in the proxy and two in here.
fn room_for_exchanges() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("a limit can be raised to the hard one");
    let descriptors = maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap_or(usize::MAX));
    (descriptors.saturating_sub(SPARE) / 2).min(EXCHANGES)
}

fn configuration(count: usize, service: &str) -> String {
    // The kernel does not give each worker the same share of connections, and what is limited is limited for each.
    let uneven = count + count / 16;
    format!(
        "\
wasm: {{ max_instances: {uneven} }}
workers: 2
admin: {{ address: \"127.0.0.1:0\" }}
listeners: {{ web: {{ address: \"127.0.0.1:0\", limits: {{ max_connections: {uneven} }} }} }}
filters:
  ask:
    component: ext-auth.wasm
    grants: [key_value, {{ outbound: [service] }}]
    limits: {{ instances: {uneven}, outbound_concurrent: {count}, wall: 60s, wait: 60s }}
    config: {{ cluster: service, path: /verify, timeout: 50s }}
clusters: {{ service: {{ endpoints: [\"{service}\"], connect_timeout: 50s }} }}
routes:
  - {{ name: asked, match: {{ path: {{ prefix: /asked }} }}, filters: [ask], respond: {{ status: 200, body: ok }}, timeout: 60s }}
  - {{ name: free, respond: {{ status: 200, body: ok }} }}
"
    )
}

/// A client with a request under way.
fn ask(proxy: &Address) -> TcpStream {
    let Address::Tcp(proxy) = proxy else {
        panic!("{proxy:?} is no TCP address")
    };
    let mut client = TcpStream::connect(proxy).expect("the proxy accepts");
    client.write_all(REQUEST).expect("the proxy reads");
    client
}

/// One question of a filter, read and not answered.
fn asked(service: &TcpListener) -> TcpStream {
    let (mut question, _) = service.accept().expect("a filter asks");
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let read = question.read(&mut buffer).expect("a question");
        assert!(read > 0, "a question breaks off");
        head.extend_from_slice(&buffer[..read]);
    }
    question
}

fn status(client: &mut TcpStream) -> Option<u16> {
    let mut buffer = [0; 1024];
    let read = client.read(&mut buffer).ok()?;
    let line = std::str::from_utf8(&buffer[..read]).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}
