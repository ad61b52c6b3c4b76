//! Change after change while everything that must not notice goes on: keep-alive requests, streams of events, long
//! downloads, and calls that filters wait for.
//!
//! A hundred-odd changes by default; `TAMIS_SOAK_CHANGES=1200` (`make soak`) for minutes of them; every sixth is bad.
//! What is changed is drawn from a seed that is printed, and `TAMIS_SOAK_SEED` repeats it.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use tamis_integration::proxy::CONFIGURATION;
use tamis_integration::socket::Address;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::{AppendRequestHeader, SetResponseHeader};
use tamis_integration::wat::Guest;
use tamis_integration::{Client, DEADLINE, Folder, Message, Proxy, Upstream, wait_for};

use crate::support::{Bystander, component, wait_until};

const CHANGES: usize = 120;
/// One change in so many is one that must be refused.
const BAD: usize = 6;
/// Before the first look at what the process holds; by then, everything has been used.
const WARM: usize = 60;
/// What it may hold more in the end, in percent.
const GROWTH: u64 = 5;
/// A stream of events has so many of them, so far apart: one outlives many changes.
const EVENTS: usize = 200;
const PACE: Duration = Duration::from_millis(5);
/// A download comes in so many pieces of so many bytes.
const PIECES: usize = 100;
const PIECE: usize = 64 << 10;
/// How long a filter waits for the service that it asks.
const THOUGHT: Duration = Duration::from_millis(100);

/// What one generation is made of; drawn anew, piece by piece.
#[derive(Clone)]
struct Set {
    /// Set as a field of responses, by a built-in filter.
    mark: u64,
    /// Set as a field of responses, by a component.
    guest: u64,
    /// The components' order in the chain; each appends to a field of requests.
    order: [&'static str; 2],
    /// Which of two upstreams answers.
    upstream: usize,
    /// A route that answers by itself is there.
    has_extra: bool,
    /// A second listener is there.
    has_side: bool,
    timeout: u64,
    instances: u64,
}

/// What stays the same.
struct World {
    upstreams: [Upstream; 2],
    streams: String,
    service: Upstream,
    side: Address,
}

#[test]
fn changes_never_harm_traffic() {
    let changes = number("TAMIS_SOAK_CHANGES").map_or(CHANGES, |changes| changes as usize);
    let seed = number("TAMIS_SOAK_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64)
    });
    eprintln!("{changes} changes, TAMIS_SOAK_SEED={seed}");
    let mut random = Random(seed | 1);

    let world = World::start();
    let folder = Folder::new();
    folder.copy(&component("ext-auth"), "ext-auth.wasm");
    folder.write("last.wasm", order_guest("last").build());
    let mut set = Set::first();
    folder.write("first.wasm", set.guest().build());
    let proxy = Proxy::start_in(&folder, &set.yaml(&world));

    let traffic = Traffic::start(&proxy, &world);
    for _ in 0..WARM {
        change(&proxy, &world, &mut set, &mut random);
    }
    wait_until("there was traffic of every kind", || traffic.has_all());
    traffic.finish();
    set.leave_side(&proxy, &world);
    let before = Held::of(&proxy);

    let traffic = Traffic::start(&proxy, &world);
    let mut refused = 0;
    for number in 0..changes {
        if number % BAD == BAD - 1 {
            refuse(&proxy, &world, &set, &mut random);
            refused += 1;
        } else {
            change(&proxy, &world, &mut set, &mut random);
        }
    }
    wait_until("there was traffic of every kind", || traffic.has_all());
    let served = traffic.finish();
    set.leave_side(&proxy, &world);
    eprintln!("{refused} of {changes} were refused; meanwhile {served}");
    wait_for(&format!("back at {before:?}"), DEADLINE, || {
        let after = Held::of(&proxy);
        after.is_within(&before).then_some(()).ok_or(after)
    });
}

/// Draws a change, has it applied, and sees it with the next request.
fn change(proxy: &Proxy, world: &World, set: &mut Set, random: &mut Random) {
    match random.below(8) {
        0 => set.mark = random.below(1_000_000),
        1 | 2 => {
            set.guest = random.below(1_000_000);
            proxy.folder().replace("first.wasm", set.guest().build());
        }
        3 => set.order.reverse(),
        4 => set.upstream = 1 - set.upstream,
        5 => set.has_extra = !set.has_extra,
        6 => set.has_side = !set.has_side,
        _ => (set.timeout, set.instances) = (5 + random.below(20), 20 + random.below(20)),
    }
    set.apply(proxy, world);
}

/// Draws a change that must not be applied.
fn refuse(proxy: &Proxy, world: &World, set: &Set, random: &mut Random) {
    let yaml = set.yaml(world);
    let generation = || proxy.metrics().sum("tamis_generation", &[]);
    let live = generation();
    let bad = match random.below(5) {
        0 => yaml.replace("cluster: app", "cluster: nowhere"),
        1 => yaml[..yaml.len() / 2].to_owned() + "\n  - {",
        2 => yaml.replace("workers: 2", "workers: 3"),
        3 => yaml.replace("native: headers", "native: nothing"),
        _ => {
            let whole = set.guest().build();
            proxy.folder().replace("first.wasm", &whole[..whole.len() / 2]);
            yaml.clone()
        }
    };
    let (status, report) = proxy.reload(&bad);
    assert_eq!(status, 422, "{report}");
    assert_eq!(generation(), live, "{report}");
    set.assert_live(proxy, world);
    proxy.folder().replace("first.wasm", set.guest().build());
    proxy.folder().replace(CONFIGURATION, yaml);
}

impl Set {
    fn first() -> Self {
        Self {
            mark: 0,
            guest: 0,
            order: ["first", "last"],
            upstream: 0,
            has_extra: false,
            has_side: false,
            timeout: 10,
            instances: 20,
        }
    }

    fn guest(&self) -> Guest {
        order_guest("first").on_response([SetResponseHeader("x-guest", self.guest.to_string().into())])
    }

    fn yaml(&self, world: &World) -> String {
        let Self {
            mark,
            order: [one, two],
            timeout,
            instances,
            ..
        } = self;
        let side = match self.has_side {
            true => format!("  side: {{ address: \"{}\" }}\n", world.side),
            false => String::new(),
        };
        let extra = match self.has_extra {
            true => "  - { name: extra, match: { path: { exact: /extra } }, respond: { status: 204 } }\n",
            false => "",
        };
        let app = world.upstreams[self.upstream].address();
        let (streams, service) = (&world.streams, world.service.address());
        format!(
            "\
workers: 2
admin: {{ address: \"127.0.0.1:0\" }}
listeners:
  web: {{ address: \"127.0.0.1:0\" }}
{side}filters:
  mark: {{ native: headers, config: {{ response: {{ set: {{ x-mark: \"{mark}\" }} }} }} }}
  first: {{ component: first.wasm, limits: {{ instances: {instances} }} }}
  last: {{ component: last.wasm }}
  ask:
    component: ext-auth.wasm
    grants: [key_value, {{ outbound: [service] }}]
    limits: {{ wall: 10s }}
    config: {{ cluster: service, path: /verify, timeout: 9s }}
clusters:
  app: {{ endpoints: [\"{app}\"], idle_timeout: 1s }}
  streams: {{ endpoints: [\"{streams}\"], idle_timeout: 1s }}
  service: {{ endpoints: [\"{service}\"], idle_timeout: 1s }}
routes:
{extra}  - {{ name: asked, match: {{ path: {{ prefix: /asked }} }}, filters: [mark, ask], cluster: app }}
  - {{ name: streams, match: {{ path: {{ prefix: /stream }} }}, filters: [mark, {one}, {two}], cluster: streams }}
  - {{ name: all, filters: [mark, {one}, {two}], cluster: app, timeout: {timeout}s }}
"
        )
    }

    fn apply(&self, proxy: &Proxy, world: &World) {
        let (status, report) = proxy.reload(&self.yaml(world));
        assert_eq!(status, 200, "{report}");
        self.assert_live(proxy, world);
    }

    /// What the process holds is compared with one listener, before and after.
    fn leave_side(&mut self, proxy: &Proxy, world: &World) {
        self.has_side = false;
        self.apply(proxy, world);
    }

    fn assert_live(&self, proxy: &Proxy, world: &World) {
        let answer = proxy.get("/");
        let seen = (answer.value("x-mark"), answer.value("x-guest"), answer.text());
        let (mark, guest) = (self.mark.to_string(), self.guest.to_string());
        let text = format!("upstream {}: {}", self.upstream, self.order.join(", "));
        assert_eq!(seen, (Some(mark.as_str()), Some(guest.as_str()), text), "{answer:?}");
        let extra = proxy.get("/extra").status();
        assert_eq!(extra, if self.has_extra { 204 } else { 200 });
        match world.side.connect(Duration::from_secs(5)) {
            Ok(_) => assert!(self.has_side, "a listener that is gone still listens"),
            Err(error) => assert!(!self.has_side, "a listener does not listen: {error}"),
        }
    }
}

/// Says in the request that it was there.
fn order_guest(name: &'static str) -> Guest {
    Guest::new().on_request([AppendRequestHeader("x-order", name.into())])
}

impl World {
    fn start() -> Self {
        let upstream = |number: usize| {
            Upstream::answering(move |request: &Message| {
                ok(&format!("upstream {number}: {}", request.values("x-order").join(", ")))
            })
        };
        let service = Upstream::answering(|_| {
            thread::sleep(THOUGHT);
            ok("")
        });
        // Of an address where nobody else takes ports.
        let free = TcpListener::bind("127.77.0.1:0").and_then(|listener| listener.local_addr());
        Self {
            upstreams: [upstream(0), upstream(1)],
            streams: serve_streams(),
            service,
            side: Address::Tcp(free.expect("a free port")),
        }
    }
}

/// What goes on while changes are made.
struct Traffic {
    bystanders: Vec<Bystander>,
    stop: Arc<AtomicBool>,
    loops: Vec<(&'static str, Arc<AtomicUsize>, JoinHandle<()>)>,
}

impl Traffic {
    fn start(proxy: &Proxy, _world: &World) -> Self {
        let web = proxy.address("web");
        let stop = Arc::new(AtomicBool::new(false));
        let repeat = |name, one: fn(&Address)| {
            let (stop, web, done) = (Arc::clone(&stop), web.clone(), Arc::<AtomicUsize>::default());
            let counted = Arc::clone(&done);
            let running = thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    one(&web);
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
            (name, done, running)
        };
        Self {
            bystanders: (0..2).map(|_| Bystander::start(&web, "/")).collect(),
            loops: vec![
                repeat("new connections", |web| {
                    assert_eq!(Client::connect(web).get("/").status(), 200);
                }),
                repeat("streams of events", |web| {
                    read_stream(web, "/stream/events", event, EVENTS)
                }),
                repeat("downloads", |web| read_stream(web, "/stream/download", piece, PIECES)),
                repeat("waiting filters", |web| {
                    assert_eq!(Client::connect(web).get("/asked").status(), 200);
                }),
                repeat("waiting filters too", |web| {
                    assert_eq!(Client::connect(web).get("/asked").status(), 200);
                }),
            ],
            stop,
        }
    }

    fn has_all(&self) -> bool {
        self.loops
            .iter()
            .all(|(_, done, running)| running.is_finished() || done.load(Ordering::SeqCst) > 0)
    }

    /// Lets everything come to its end; panics when anything was harmed. What there was of each.
    fn finish(self) -> String {
        self.stop.store(true, Ordering::SeqCst);
        let requests: usize = self.bystanders.into_iter().map(Bystander::finish).sum();
        let mut served = format!("{requests} requests");
        for (name, done, running) in self.loops {
            assert!(running.join().is_ok(), "harmed: {name}");
            served += &format!(", {} {name}", done.load(Ordering::SeqCst));
        }
        served
    }
}

fn event(number: usize) -> Vec<u8> {
    format!("data: {number}\n\n").into_bytes()
}

fn piece(number: usize) -> Vec<u8> {
    vec![number as u8; PIECE]
}

/// Reads a whole answer, which must be these pieces and have a clean end.
fn read_stream(web: &Address, target: &str, part: fn(usize) -> Vec<u8>, count: usize) {
    let answer = Client::connect(web).get(target);
    assert_eq!(answer.status(), 200);
    let expected: Vec<u8> = (0..count).flat_map(part).collect();
    assert!(
        answer.body == expected,
        "{target}: {} of {} bytes",
        answer.body.len(),
        expected.len()
    );
}

/// Answers slowly, piece by piece, one thread a connection.
fn serve_streams() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with its connection.
            thread::spawn(move || while let Some(()) = answer_slowly(&stream) {});
        }
    });
    address
}

/// One request; `None` when there is no further one.
fn answer_slowly(mut stream: &TcpStream) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let is_download = head.windows(9).any(|window| window == b"/download");
    let (part, count, pace): (fn(usize) -> Vec<u8>, _, _) = match is_download {
        true => (piece, PIECES, PACE * 4),
        false => (event, EVENTS, PACE),
    };
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .ok()?;
    for number in 0..count {
        let part = part(number);
        let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), &part, b"\r\n"].concat();
        stream.write_all(&chunk).ok()?;
        thread::sleep(pace);
    }
    stream.write_all(b"0\r\n\r\n").ok()
}

/// What the process holds at rest.
#[derive(Debug)]
struct Held {
    resident: u64,
    descriptors: u64,
    mappings: u64,
    threads: u64,
}

impl Held {
    /// Once nothing of earlier generations is left, and no connection that waits to be used again: how many of these there
    /// are is a matter of chance.
    fn of(proxy: &Proxy) -> Self {
        wait_until("at most two generations are alive, and no connections", || {
            let metrics = proxy.metrics();
            let gauge = |name| metrics.sum(name, &[]);
            gauge("tamis_generations") <= 2.0 && gauge("tamis_upstream_connections") + gauge("tamis_connections") <= 0.0
        });
        Self {
            resident: proxy.resident(),
            descriptors: proxy.descriptors() as u64,
            mappings: proxy.mappings() as u64,
            threads: proxy.threads(),
        }
    }

    fn is_within(&self, before: &Self) -> bool {
        let within = |now: u64, before: u64| now * 100 <= before * (100 + GROWTH);
        within(self.resident, before.resident)
            && within(self.descriptors, before.descriptors)
            && within(self.mappings, before.mappings)
            && self.threads <= before.threads
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{variable}={text}: {error}")),
    )
}

/// The same numbers from the same seed (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
