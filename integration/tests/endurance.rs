//! What is no longer wanted comes to an end, and what still is does not: connections, listeners, exchanges, instances.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::Signal;
use serde_json::Value;
use tamis_integration::socket::{Address, Found, Socket};
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, DEADLINE, Folder, Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, assert_own_reply, plain, wait_until};

/// The longest that a connection with `idle_timeout: 1s` may last after its answer: that, the 2 s of lingering, and
/// time for a busy machine.
const OVER: Duration = Duration::from_secs(8);
const TO_FILE: &str = "access_log: { file: access.log, format: json }";

/// What as many connections again may add to the resident memory for each; hyper's two buffers alone are 16 KiB.
const NEXT_TO_NOTHING: u64 = 12 << 10;
const PLAIN: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// An upstream whose first `count` connections answer `late` once the gate is open; later ones answer `ok` at once.
fn gated(count: usize) -> (Upstream, Gate) {
    let gate = Gate::new();
    let late = vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send(ok("late")),
        Step::serve(ok("ok")),
    ];
    let mut scripts = vec![late; count];
    scripts.push(vec![Step::serve(ok("ok"))]);
    (Upstream::each(scripts), gate)
}

/// A request that waits before the gate, as the `count`th.
fn in_flight(address: &Address, target: &str, gate: &Gate, count: usize) -> Client {
    let mut client = Client::connect(address);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    gate.wait_arrived(count);
    client
}

fn wait_not_ready(proxy: &Proxy) {
    wait_until("not ready", || proxy.admin("GET", "/ready").status() == 503);
}

/// A port that is free and that the kernel gives to nobody who asks for any: below the ephemeral ones.
fn free_address() -> Address {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 15_000).expect("it is below 15,000");
    let free = (0..1000).find_map(|_| {
        let port = first + NEXT.fetch_add(1, Ordering::SeqCst);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).ok().map(|_| address)
    });
    Address::Tcp(free.expect("one of a thousand ports is free"))
}

/// Chunked bodies that hyper can follow further than the proxy's own scanner wants to, in one piece with the head and
/// when the exchange is under way: it may succeed or be refused, the connection may not stay.
#[test]
fn bodies_that_only_hyper_follows_leave_no_connection_behind() {
    for (name, body) in [
        ("extension", format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(5000))),
        ("size", "000000000000000000005\r\nhello\r\n0\r\n\r\n".to_owned()),
        (
            "trailer",
            format!("5\r\nhello\r\n0\r\nx-a: {}\r\n\r\n", "t".repeat(9000)),
        ),
    ] {
        for under_way in [false, true] {
            let context = format!("{name}, under way: {under_way}");
            let upstream = Upstream::saying("ok");
            let proxy = Proxy::start(
                &Configuration {
                    limits: "idle_timeout: 1s",
                    ..Default::default()
                }
                .to(&upstream),
            );
            let mut client = proxy.client();
            let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
            if under_way {
                client.send(head);
                upstream.wait_connections(1);
                client.send(&body);
            } else {
                client.send(format!("{head}{body}"));
            }
            let response = client.response();
            assert!([200, 400].contains(&response.status()), "{context}: {response:?}");
            let answered = Instant::now();
            client.assert_closed(&context);
            assert!(answered.elapsed() < OVER, "{context}: {:?}", answered.elapsed());
            assert_eq!(proxy.get("/").text(), "ok", "{context}");
        }
    }
}

/// What the client does with its upload once the upstream has refused it.
#[derive(Clone, Copy, Debug)]
enum Upload {
    /// A part of it was sent, and nothing more comes.
    Stalled,
    /// So much was sent that neither side takes any more.
    Blocked,
}

/// An upstream may answer before it has the whole request, and read no more (RFC 9112 9.3): nobody else will ever end
/// the two connections.
#[test]
fn a_refused_upload_ends_both_connections() {
    for upload in [Upload::Stalled, Upload::Blocked] {
        let (asked, read) = (Gate::new(), Gate::new());
        let upstream = Upstream::each([vec![
            Step::Head,
            Step::Pass(asked.clone()),
            Step::send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
            Step::Pass(read.clone()),
            Step::Hold,
        ]]);
        let proxy = Proxy::start(
            &Configuration {
                limits: "idle_timeout: 1s, body_timeout: 10m, write_timeout: 10m",
                cluster: "read_timeout: 10m",
                route: "timeout: off",
                ..Default::default()
            }
            .to(&upstream),
        );
        // The start is over, with all that it opens, when the reloader answers.
        assert_eq!(proxy.admin("POST", "/reload").status(), 200);
        let mut client = proxy.address("web").connect(DEADLINE).expect("the proxy listens");
        send_upload(&mut client, upload);
        asked.wait_arrived(1);
        let with_both = proxy.descriptors();
        let start = Instant::now();
        asked.open();
        // The client neither reads nor sends meanwhile, and the upstream does not read.
        wait_until(&format!("{upload:?}: both sockets are closed"), || {
            proxy.descriptors() <= with_both - 2
        });
        assert!(start.elapsed() < OVER, "{upload:?}: {:?}", start.elapsed());
        read.open();
        assert_ne!(upstream.wait_ended(0), "Nothing", "{upload:?}");
        assert_refusal(&mut client, &format!("{upload:?}"));
    }
}

fn send_upload(client: &mut Socket, upload: Upload) {
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1073741824\r\n\r\n";
    client.write_all(head.as_bytes()).expect("the proxy takes the head");
    let piece = [b'a'; 64 * 1024];
    match upload {
        Upload::Stalled => client.write_all(&piece).expect("the proxy takes a piece"),
        Upload::Blocked => {
            let patience = Duration::from_secs(1);
            client.set_write_timeout(patience).expect("a deadline can be set");
            let taken = (0..1024).take_while(|_| client.write(&piece).is_ok()).count();
            assert!(taken < 1024, "64 MiB were taken for nobody");
        }
    }
}

/// The connection holds the upstream's 403, which announces its end, and its end.
fn assert_refusal(client: &mut Socket, context: &str) {
    let (deadline, mut bytes) = (Instant::now() + DEADLINE, Vec::new());
    let how = loop {
        match client.read_some(&mut bytes, deadline) {
            Found::Bytes(_) => (),
            how => break how,
        }
    };
    let shown = bytes.escape_ascii().to_string();
    assert_ne!(how, Found::Nothing, "{context}: still open: {shown}");
    assert!(shown.starts_with("HTTP/1.1 403 "), "{context}: {shown}");
    assert!(shown.to_lowercase().contains("connection: close"), "{context}: {shown}");
    assert!(shown.ends_with("no"), "{context}: {shown}");
}

/// A balancer that has not noticed yet learns it from the kernel, instead of from a connection that nobody serves.
#[test]
fn a_draining_proxy_refuses_connections() {
    let (upstream, gate) = gated(1);
    let mut proxy = Proxy::start(&plain(&upstream));
    let web = proxy.address("web");
    let mut client = in_flight(&web, "/", &gate, 1);
    proxy.signal(Signal::TERM);
    wait_not_ready(&proxy);
    wait_until("the listener refuses", || match web.connect(DEADLINE) {
        Err(_) => true,
        Ok(mut caught) => {
            // Connected before the listener was closed: it may end, but not hang.
            let mut bytes = Vec::new();
            let found = caught.read_some(&mut bytes, Instant::now() + OVER);
            assert!(
                matches!(found, Found::Fin | Found::Reset),
                "{found:?}: accepted while draining"
            );
            false
        }
    });
    gate.open();
    assert_eq!(client.response().text(), "late");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// Two listeners, `web` anywhere and others where they are told.
fn listening(upstream: &Upstream, others: &[(&str, &Address)]) -> String {
    let lines = others
        .iter()
        .map(|(name, address)| format!("  {name}: {{ address: \"{address}\" }}\n"));
    let lines: String = lines.collect();
    plain(upstream).replacen("clusters:\n", &format!("{lines}clusters:\n"), 1)
}

/// An old generation that is still in use holds no port.
#[test]
fn a_removed_listener_is_gone_while_its_exchanges_finish() {
    let (upstream, gate) = gated(1);
    let address = free_address();
    let with = listening(&upstream, &[("extra", &address)]);
    let proxy = Proxy::start(&with);
    let mut client = in_flight(&address, "/", &gate, 1);
    assert_eq!(proxy.reload(&listening(&upstream, &[])).0, 200);
    assert!(address.connect(DEADLINE).is_err(), "the removed listener still listens");
    let (status, answer) = proxy.reload(&with);
    assert_eq!(status, 200, "its own port is taken: {answer}");
    assert_eq!(Client::connect(&address).get("/").text(), "ok");
    gate.open();
    assert_eq!(client.response().text(), "late");
    assert_eq!(proxy.get("/").status(), 200);
}

/// Its file goes with it, and its workers go on.
#[test]
fn a_removed_unix_listener_is_gone() {
    let (upstream, gate) = gated(1);
    let folder = Folder::new();
    let address = Address::Unix(folder.path("extra.sock"));
    let with = listening(&upstream, &[("extra", &address)]);
    let proxy = Proxy::start_in(&folder, &with);
    let mut client = in_flight(&address, "/", &gate, 1);
    for _ in 0..2 {
        assert_eq!(proxy.reload(&listening(&upstream, &[])).0, 200);
        assert!(address.connect(DEADLINE).is_err(), "the removed listener still listens");
        assert_eq!(proxy.get("/").text(), "ok");
        assert_eq!(proxy.reload(&with).0, 200);
        assert_eq!(Client::connect(&address).get("/").text(), "ok");
    }
    gate.open();
    assert_eq!(client.response().text(), "late");
}

/// The address stays while its name changes: so does the socket.
#[test]
fn a_renamed_listener_keeps_serving() {
    let upstream = Upstream::saying("ok");
    let address = free_address();
    let proxy = Proxy::start(&listening(&upstream, &[("name-0", &address)]));
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, to) = (stop.clone(), address.clone());
    let callers = thread::spawn(move || {
        let mut served = 0;
        while !stopped.load(Ordering::SeqCst) || served == 0 {
            assert_eq!(Client::connect(&to).get("/").text(), "ok");
            served += 1;
        }
    });
    for n in 1..=10 {
        let (status, answer) = proxy.reload(&listening(&upstream, &[(&format!("name-{n}"), &address)]));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(Client::connect(&address).get("/").text(), "ok", "renamed {n} times");
    }
    stop.store(true, Ordering::SeqCst);
    callers.join().expect("nobody was refused");
}

/// Progress is what counts: a piece that stays in the kernel's buffers for longer than the timeout is no stall while
/// the client goes on reading. Bodies below and above what these buffers hold.
#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let piece = 64 * 1024;
    thread::scope(|scope| {
        for pieces in [64, 192] {
            scope.spawn(move || {
                let size = pieces * piece;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
                let upstream = Upstream::each([vec![Step::Message, Step::send(head), Step::Pour(size as u64)]]);
                let configuration = Configuration {
                    limits: "write_timeout: 1s",
                    route: "timeout: off",
                    ..Default::default()
                };
                let proxy = Proxy::start(&configuration.to(&upstream));
                let mut client = proxy.client();
                client.send("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
                assert_eq!(client.read_head().status(), 200);
                for n in 0..pieces {
                    thread::sleep(Duration::from_millis(50));
                    let read = client.read(piece).len();
                    assert_eq!(read, piece, "cut in piece {n} of {pieces}");
                }
                client.assert_closed("all was read");
            });
        }
    });
}

/// The last bytes of an answer wait for a client that pauses for longer than a connection is kept for its end: whatever
/// the size, and so wherever in it the socket was full.
#[test]
fn a_client_that_pauses_gets_the_end() {
    let upstream = Upstream::answering(|request| {
        let size: usize = request.target()[1..].parse().expect("a size");
        ok(&"x".repeat(size))
    });
    let proxy = Proxy::start(&plain(&upstream));
    let Address::Tcp(address) = proxy.address("web") else {
        panic!("no TCP address")
    };
    let ask = |(size, rest): (usize, &str)| {
        let mut client = with_small_buffer(&address);
        write!(client, "GET /{size} {rest}\r\n\r\n").expect("sent");
        thread::sleep(Duration::from_millis(2500));
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("no reset");
        let head = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a head");
        assert_eq!(answer.len() - head - 4, size, "{rest}");
    };
    let rests = ["HTTP/1.0\r\nHost: a", "HTTP/1.1\r\nHost: a\r\nConnection: close"];
    thread::scope(|scope| {
        for size in (120_000..160_000).step_by(1000) {
            for rest in rests {
                scope.spawn(move || ask((size, rest)));
            }
        }
    });
}

/// A connection whose client holds little of what it has not read.
pub fn with_small_buffer(address: &SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a size can be set");
    rustix::net::connect(&socket, address).expect("the proxy accepts");
    socket.into()
}

/// An idle connection holds next to nothing ("10 k idle connections", row 102), and gives the rest back. It goes on
/// wherever its client does: with a whole request, with several, with the begin of one; and it is told when the
/// process ends.
#[test]
fn connections_that_rest_hold_little_and_go_on() {
    const CONNECTIONS: usize = 400;
    let upstream = Upstream::saying("ok");
    let clock = "  clock: { address: \"127.0.0.1:0\", limits: { idle_timeout: 2s } }\nclusters:\n";
    let mut proxy = Proxy::start(&plain(&upstream).replacen("clusters:\n", clock, 1));
    let open = |listener: &str| {
        let mut client = Client::connect(&proxy.address(listener));
        assert_eq!(client.get("/").text(), "ok");
        client
    };
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| open("web")).collect();
    // Whoever was there before this one has been idle for as long as it was.
    open("clock").assert_closed("it was idle for long enough");
    let before = proxy.resident();
    let others: Vec<Client> = (0..CONNECTIONS).map(|_| open("web")).collect();
    let each = || proxy.resident().saturating_sub(before) / CONNECTIONS as u64;
    wait_until("as many more connections hold next to nothing", || {
        each() <= NEXT_TO_NOTHING
    });
    drop((others, clients.split_off(3)));

    for _ in 0..2 {
        clients[0].send(PLAIN.repeat(2));
        assert_eq!(
            [clients[0].response().text(), clients[0].response().text()],
            ["ok", "ok"]
        );
        clients[1].send(&PLAIN[..PLAIN.len() / 2]);
        assert_eq!(clients[2].get("/").text(), "ok");
        clients[1].send(&PLAIN[PLAIN.len() / 2..]);
        assert_eq!(clients[1].response().text(), "ok");
        open("clock").assert_closed("it was idle for long enough");
    }
    proxy.signal(Signal::TERM);
    clients
        .iter_mut()
        .for_each(|client| client.assert_closed("the process ends"));
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// An orchestrator asks for the drain first and sends its signal later.
#[test]
fn a_signal_after_a_drain_request_does_not_cut() {
    for again in [false, true] {
        let (upstream, gate) = gated(1);
        let mut proxy = Proxy::start(
            &Configuration {
                top: "drain_timeout: 10m",
                ..Default::default()
            }
            .to(&upstream),
        );
        let mut client = in_flight(&proxy.address("web"), "/", &gate, 1);
        assert_eq!(proxy.admin("POST", "/drain").status(), 202);
        wait_not_ready(&proxy);
        proxy.signal(Signal::TERM);
        client.assert_silent(Duration::from_millis(700), "the first signal");
        assert_eq!(proxy.admin("GET", "/live").status(), 200);
        let start = Instant::now();
        if again {
            proxy.signal(Signal::TERM);
            assert!(client.try_response().is_err(), "an answer out of nothing");
        } else {
            gate.open();
            assert_eq!(client.response().text(), "late");
        }
        assert_eq!(proxy.wait_exit().code(), Some(0), "again: {again}");
        assert!(start.elapsed() < DEADLINE, "again: {again}: {:?}", start.elapsed());
        gate.open();
    }
}

/// The records in the file once there are `count`.
fn records(folder: &Folder, count: usize) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    folder.wait_lines("access.log", count).iter().map(parse).collect()
}

/// RFC 9110 9.3.2: the answer to HEAD has the fields of a body and is complete without it.
#[test]
fn the_record_of_a_head_request_is_complete() {
    let upstream = Upstream::saying("ok");
    let configuration = Configuration {
        top: TO_FILE,
        routes: "  - { name: static, match: { path: { exact: /static } }, respond: { status: 200, body: hello } }",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut client = proxy.client();
    client.send("HEAD /static HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let response = client.response_to_head();
    assert_eq!((response.status(), response.value("content-length")), (200, Some("5")));
    assert_eq!(client.get("/static").text(), "hello", "the connection is in step");
    for (record, method) in records(proxy.folder(), 2).iter().zip(["HEAD", "GET"]) {
        let seen = (&record["method"], &record["status"], &record["reason"]);
        assert_eq!(seen, (&method.into(), &200.into(), &Value::Null), "{record}");
    }
}

/// What the end of the process cuts was an exchange like any other.
#[test]
fn exchanges_cut_by_a_drain_leave_their_records() {
    let (upstream, gate) = gated(2);
    let top = format!("drain_timeout: 1s\n{TO_FILE}");
    let mut proxy = Proxy::start(
        &Configuration {
            top: &top,
            ..Default::default()
        }
        .to(&upstream),
    );
    let web = proxy.address("web");
    let mut clients = [1, 2].map(|n| in_flight(&web, &format!("/{n}"), &gate, n));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    for client in &mut clients {
        assert!(client.try_response().is_err(), "an answer out of nothing");
    }
    let records = records(proxy.folder(), 2);
    let mut paths: Vec<_> = records.iter().map(|record| record["path"].to_string()).collect();
    paths.sort();
    assert_eq!(paths, ["\"/1\"", "\"/2\""], "one record each");
    for record in &records {
        assert_ne!(record["reason"], Value::Null, "it was not complete: {record}");
    }
    gate.open();
}

/// A guest that marks both heads, so that it keeps its instance while the upstream works.
fn marking(mark: &str) -> Vec<u8> {
    Guest::new()
        .on_request([SetRequestHeader("x-mark", mark.as_bytes().to_vec())])
        .on_response([SetResponseHeader("x-mark", mark.as_bytes().to_vec())])
        .build()
}

/// Trying out a new filter needs an instance, and the old ones are not given back for it.
#[test]
fn a_reload_succeeds_when_no_instance_is_free() {
    for (name, waiting) in [("at rest", false), ("in use", true)] {
        let (upstream, gate) = gated(2);
        let yaml = |n: u64| {
            let filter = format!("{{ component: guest.wasm, config: {{ n: {n} }}, limits: {{ instances: 2 }} }}");
            let top = format!("wasm: {{ max_instances: 2 }}\nfilters:\n  guest: {filter}");
            Configuration {
                top: &top,
                route: "filters: [guest]",
                ..Default::default()
            }
            .to(&upstream)
        };
        let folder = Folder::new();
        folder.write("guest.wasm", marking("old"));
        let proxy = Proxy::start_in(&folder, &yaml(1));
        let web = proxy.address("web");
        let mut clients = [1, 2].map(|n| in_flight(&web, "/", &gate, n));
        let mut finish = || {
            gate.open();
            for client in &mut clients {
                let response = client.response();
                let seen = (response.value("x-mark"), response.text());
                assert_eq!(seen, (Some("old"), "late".to_owned()), "{name}");
            }
        };
        if !waiting {
            finish();
        }
        folder.replace("guest.wasm", marking("new"));
        let (status, answer) = proxy.reload(&yaml(2));
        assert_eq!(status, 200, "{name}: {answer}");
        if waiting {
            finish();
        }
        assert_eq!(proxy.get("/").value("x-mark"), Some("new"), "{name}");
    }
}

/// `limits.header_bytes` bounds what a guest answers as it bounds what it writes.
#[test]
fn a_reply_with_too_many_bytes_of_fields_is_500() {
    const EXACT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const MORE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    for (name, value) in [("exact", EXACT), ("more", MORE)] {
        let guest = Guest::new().on_request([Reply(200, vec![("x-a", value)], "reply")]);
        folder.write(&format!("{name}.wasm"), guest.build());
    }
    let filter = |name| format!("  {name}: {{ component: {name}.wasm, limits: {{ header_bytes: 32B }} }}\n");
    let route = |name| format!("  - {{ match: {{ path: {{ exact: /{name} }} }}, filters: [{name}], cluster: app }}\n");
    let top = format!("filters:\n{}{}", filter("exact"), filter("more"));
    let routes = format!("{}{}", route("exact"), route("more"));
    let configuration = Configuration {
        top: &top,
        routes: &routes,
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let exact = proxy.get("/exact");
    assert_eq!((exact.text().as_str(), exact.value("x-a")), ("reply", Some(EXACT)));
    let more = proxy.get("/more");
    assert_own_reply(&more, 500, "one byte more");
    assert_eq!(more.value("x-a"), None, "{more:?}");
    assert_eq!(upstream.connections(), 0);
}
