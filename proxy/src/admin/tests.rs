//! The endpoint over real sockets: bytes in, bytes out.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::address::Address;

const SOON: Duration = Duration::from_secs(20);

/// What a test sets, and what the endpoint did.
struct Process {
    readiness: Mutex<Readiness>,
    reload: Report,
    /// What the reloads expected.
    expected: Mutex<Vec<Option<u64>>>,
    /// One for each reload that may end.
    may_reload: Notify,
    reloads: AtomicUsize,
    drains: AtomicUsize,
}

#[async_trait::async_trait]
impl Operations for Process {
    async fn ready(&self) -> Readiness {
        *self.readiness.lock().expect("no panic")
    }

    async fn metrics(&self) -> String {
        "tamis_ready 1\n".to_owned()
    }

    async fn config(&self) -> Value {
        json!({ "generation": 3 })
    }

    async fn routes(&self) -> Value {
        json!([{ "name": "api" }])
    }

    async fn clusters(&self) -> Value {
        json!([])
    }

    async fn filters(&self) -> Value {
        panic!("on purpose")
    }

    async fn reload(&self, expected: Option<u64>) -> Report {
        self.may_reload.notified().await;
        self.expected.lock().expect("no panic").push(expected);
        self.reloads.fetch_add(1, Ordering::SeqCst);
        self.reload.clone()
    }

    async fn drain(&self) {
        self.drains.fetch_add(1, Ordering::SeqCst);
        *self.readiness.lock().expect("no panic") = Readiness::Draining;
    }
}

struct Server {
    runtime: Runtime,
    address: Address,
    process: Arc<Process>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    fn tcp() -> Self {
        Self::start(LIMITS, applied(), Door::Tcp)
    }

    fn start(limits: Limits, reload: Report, door: Door) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let entered = runtime.enter();
        let (listener, address, folder) = match door {
            Door::Tcp => {
                let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
                let address = Address::Tcp(listener.local_addr().expect("an address"));
                (Listener::Tcp(listener), address, None)
            }
            Door::Unix => {
                let folder = tempfile::tempdir().expect("a folder");
                let path = folder.path().join("admin.sock");
                let listener = UnixListener::bind(&path).expect("a socket");
                (Listener::Unix(listener), Address::Unix(path), Some(folder))
            }
        };
        let process = Arc::new(Process {
            readiness: Mutex::new(Readiness::Starting),
            reload,
            expected: Mutex::default(),
            may_reload: Notify::new(),
            reloads: AtomicUsize::new(0),
            drains: AtomicUsize::new(0),
        });
        let (stop, shutdown) = watch::channel(false);
        let served = runtime.spawn(serve_within(limits, listener, process.clone(), shutdown));
        drop(entered);
        Self {
            runtime,
            address,
            process,
            stop,
            served,
            _folder: folder,
        }
    }

    fn socket(&self) -> TcpStream {
        let Address::Tcp(address) = &self.address else {
            panic!("not on TCP")
        };
        connect(*address)
    }

    /// Sends bytes as they are and returns the whole answer.
    fn exchange(&self, request: &str) -> String {
        let mut socket = self.socket();
        socket.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer and a close");
        answer
    }

    fn ask(&self, method: &str, path: &str) -> String {
        self.exchange(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }
}

fn applied() -> Report {
    Report::new(Outcome::Applied, 4, "admin")
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {answer:?}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head").1
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n").expect("a head");
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn each_page_answers() {
    let server = Server::tcp();
    for (path, code, content_type, content) in [
        ("/live", 200, TEXT, "live\n"),
        ("/ready", 503, TEXT, "starting\n"),
        ("/metrics", 200, METRICS, "tamis_ready 1\n"),
        ("/config", 200, JSON, "{\n  \"generation\": 3\n}\n"),
        ("/routes?x=y", 200, JSON, "[\n  {\n    \"name\": \"api\"\n  }\n]\n"),
        ("/clusters", 200, JSON, "[]\n"),
        ("/filters", 500, TEXT, "failed; the log says why\n"), // it panics
        ("/filter", 404, TEXT, "not found; GET / lists what there is\n"),
        ("/live/", 404, TEXT, "not found; GET / lists what there is\n"),
        ("/../live", 404, TEXT, "not found; GET / lists what there is\n"),
    ] {
        let answer = server.ask("GET", path);
        assert_eq!((status(&answer), body(&answer)), (code, content), "{path}");
        assert_eq!(field(&answer, "content-type"), Some(content_type), "{path}");
        assert_eq!(field(&answer, "x-content-type-options"), Some("nosniff"), "{path}");
    }
    let index = server.ask("GET", "/");
    assert!(PAGES.iter().all(|page| body(&index).contains(page.path)), "{index}");
}

#[test]
fn a_wrong_method_is_told_the_right_one() {
    let server = Server::tcp();
    for (method, path, code, allow) in [
        ("HEAD", "/live", 200, None),
        ("POST", "/live", 405, Some("GET, HEAD")),
        ("OPTIONS", "/metrics", 405, Some("GET, HEAD")),
        ("GET", "/reload", 405, Some("POST")),
        ("HEAD", "/drain", 405, Some("POST")),
        ("PUT", "/drain", 405, Some("POST")),
        ("BREW", "/config", 405, Some("GET, HEAD")),
    ] {
        let answer = server.ask(method, path);
        assert_eq!(
            (status(&answer), field(&answer, "allow")),
            (code, allow),
            "{method} {path}"
        );
        assert!(method != "HEAD" || body(&answer).is_empty(), "{answer}");
    }
    assert_eq!(server.process.drains.load(Ordering::SeqCst), 0);
}

#[test]
fn readiness_follows_the_process_and_the_endpoint_outlives_a_drain() {
    let server = Server::tcp();
    *server.process.readiness.lock().expect("no panic") = Readiness::Ready;
    let answer = server.ask("GET", "/ready");
    assert_eq!((status(&answer), body(&answer)), (200, "ready\n"));
    assert_eq!(
        post(&server.address, "/drain", SOON).expect("a reply"),
        (202, "draining\n".to_owned())
    );
    assert_eq!(server.process.drains.load(Ordering::SeqCst), 1);
    let answer = server.ask("GET", "/ready");
    assert_eq!((status(&answer), body(&answer)), (503, "draining\n"));
    assert_eq!(status(&server.ask("GET", "/live")), 200);
}

#[test]
fn a_reload_says_what_came_of_it() {
    let errors = || vec!["tamis.yaml:3:5: no".to_owned(), "\"quoted\"\n".to_owned()];
    for (door, outcome, expected) in [
        (Door::Tcp, Outcome::Applied, 200),
        (Door::Unix, Outcome::Unchanged, 200),
        (Door::Unix, Outcome::Refused, 422),
        (Door::Tcp, Outcome::Conflict, 409),
        (Door::Unix, Outcome::Unavailable, 503),
    ] {
        let report = Report::failed(outcome, u64::MAX, "admin", errors());
        let server = Server::start(LIMITS, report.clone(), door);
        server.process.may_reload.notify_one();
        let (status, body) = post(&server.address, "/reload", SOON).expect("a reply");
        let said: Report = serde_json::from_str(&body).expect("a report");
        assert_eq!((status, said), (expected, report));
    }
}

/// A condition that is misspelt is not taken for none.
#[test]
fn a_reload_may_expect_a_generation() {
    let server = Server::tcp();
    for query in [
        "?expected=4",
        "?expect=",
        "?expect=-1",
        "?expect=4&expect=5",
        "?force",
        "?expect=4x",
    ] {
        let (status, body) = post(&server.address, &format!("/reload{query}"), SOON).expect("a reply");
        assert_eq!(status, 400, "{query}: {body}");
    }
    for query in ["", "?", "?expect=7"] {
        server.process.may_reload.notify_one();
        let (status, _) = post(&server.address, &format!("/reload{query}"), SOON).expect("a reply");
        assert_eq!(status, 200, "{query}");
    }
    assert_eq!(
        *server.process.expected.lock().expect("no panic"),
        [None, None, Some(7)]
    );
}

#[test]
fn a_reload_goes_on_when_its_client_is_gone() {
    let server = Server::tcp();
    let error = post(&server.address, "/reload", Duration::from_millis(250)).expect_err("it waits for the test");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    server.process.may_reload.notify_one();
    server.runtime.block_on(async {
        let counted = async {
            while server.process.reloads.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, counted).await.expect("reloaded");
    });
}

#[test]
fn strangers_are_refused_before_anything_happens() {
    let server = Server::tcp();
    for (request, code) in [
        ("GET /config HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        ("GET /config HTTP/1.1\r\n\r\n", 403),
        ("GET /config HTTP/1.0\r\n\r\n", 403),
        (
            "GET http://evil.example/config HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
        ),
        (
            "GET /config HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            403,
        ),
        ("POST /drain HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (
            "POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n",
            403,
        ),
        ("POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", 403),
        ("GET /unknown HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    ] {
        assert_eq!(status(&server.exchange(request)), code, "{request}");
    }
    assert_eq!(server.process.drains.load(Ordering::SeqCst), 0);
    let own = "POST /drain HTTP/1.1\r\nHost: 127.0.0.1:9901\r\nOrigin: http://127.0.0.1:9901\r\n\r\n";
    assert_eq!(status(&server.exchange(own)), 202);
}

#[test]
fn heads_and_bodies_are_bounded() {
    let server = Server::tcp();
    let head = format!(
        "GET /live HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(32 << 10)
    );
    let declared = "POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n".to_owned();
    let chunk = format!("{:x}\r\n{}\r\n", 65_537, "x".repeat(65_537));
    let chunked = format!("POST /drain HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
    for (request, code) in [(head, 431), (declared, 413), (chunked, 413)] {
        // A server that closes on unread bytes may reset the connection behind its answer.
        let mut socket = server.socket();
        drop(socket.write_all(request.as_bytes()));
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, *format!("HTTP/1.1 {code}").as_bytes());
    }
    assert_eq!(server.process.drains.load(Ordering::SeqCst), 0);
    let small = "POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(status(&server.exchange(small)), 202);
}

#[test]
fn slow_clients_are_let_go() {
    let limits = Limits {
        read: Duration::from_millis(250),
        ..LIMITS
    };
    let server = Server::start(limits, applied(), Door::Tcp);
    for (request, answered) in [
        ("", ""),
        ("GET /live HTT", ""),
        ("GET /live HTTP/1.1\r\nHost: local", ""),
        (
            "POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{",
            "HTTP/1.1 408 ",
        ),
    ] {
        let answer = server.exchange(request);
        assert_eq!(answer.get(..13).unwrap_or(&answer), answered, "{request}");
    }
    assert_eq!(server.process.drains.load(Ordering::SeqCst), 0);
}

#[test]
fn an_exchange_has_an_end_even_when_its_operation_has_none() {
    let limits = Limits {
        exchange: Duration::from_millis(250),
        ..LIMITS
    };
    let server = Server::start(limits, applied(), Door::Tcp);
    assert_eq!(server.ask("POST", "/reload"), "");
    assert_eq!(status(&server.ask("GET", "/live")), 200);
}

#[test]
fn connections_beyond_the_bound_wait_for_their_turn() {
    let server = Server::start(
        Limits {
            connections: 2,
            ..LIMITS
        },
        applied(),
        Door::Tcp,
    );
    let (one, two, mut third) = (server.socket(), server.socket(), server.socket());
    third
        .write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    third
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout");
    let error = third.read(&mut [0; 1]).expect_err("not its turn");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    third.set_read_timeout(Some(SOON)).expect("a timeout");
    drop(one);
    let mut answer = String::new();
    third.read_to_string(&mut answer).expect("an answer");
    assert_eq!(status(&answer), 200);
    drop(two);
}

#[test]
fn it_stops_when_told_or_when_nobody_can_tell_it() {
    for told in [true, false] {
        let limits = Limits {
            stop: Duration::from_millis(50),
            ..LIMITS
        };
        let Server {
            runtime,
            stop,
            served,
            address,
            ..
        } = Server::start(limits, applied(), Door::Tcp);
        let Address::Tcp(address) = address else {
            panic!("not on TCP")
        };
        let _idle = connect(address); // holds nothing up
        if told {
            stop.send(true).expect("somebody listens");
        } else {
            drop(stop);
        }
        runtime
            .block_on(async { timeout(SOON, served).await })
            .expect("in time")
            .expect("no panic");
        assert!(TcpStream::connect(address).is_err(), "nobody accepts");
    }
}

#[test]
fn what_is_under_way_is_answered_before_it_stops() {
    let server = Server::start(Limits { stop: SOON, ..LIMITS }, applied(), Door::Tcp);
    let mut socket = server.socket();
    socket
        .write_all(b"POST /reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    assert_eq!(status(&server.ask("GET", "/live")), 200); // the reload was accepted before this
    server.stop.send(true).expect("somebody listens");
    server.process.may_reload.notify_one();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    assert_eq!(status(&answer), 200);
    server
        .runtime
        .block_on(async { timeout(SOON, server.served).await })
        .expect("in time")
        .expect("no panic");
}
