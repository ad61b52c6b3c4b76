//! Components that serve `wasi:http`, in the place of servers: what they answer, and what they cannot do to others.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use tamis_integration::proxy::check;
use tamis_integration::upstream::ok;
use tamis_integration::wasmtime::Wasmtime;
use tamis_integration::{Client, Folder, Message, Proxy, Upstream};

use crate::support::{ADDED_TO_RESPONSES, apply, assert_own_reply, each, wait_until, wasi_component};

/// Rust for WASI 0.2 and for 0.3; both serve the same paths (`filters/wasi/README.md`).
pub const RUST: [&str; 2] = ["rust-service-02", "rust-service-03"];

/// Everything to one component, called `app`, with these entries besides; routes before the last one, and clusters.
pub fn configuration(name: &str, cluster: &str, clusters: &str, routes: &str) -> String {
    let path = wasi_component(name).expect("`make wasi` builds those in Rust");
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
access_log: {{ file: access.log }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
clusters:
  app: {{ component: {}{cluster} }}
{clusters}
routes:
{routes}
  - {{ name: all, cluster: app }}
",
        path.display()
    )
}

pub fn start(name: &str, cluster: &str) -> Proxy {
    Proxy::start(&configuration(name, cluster, "", ""))
}

/// The component's part of the cluster `app` in the admin endpoint's list.
pub fn state(proxy: &Proxy) -> Value {
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/clusters").body).expect("JSON");
    let app = shown
        .as_array()
        .into_iter()
        .flatten()
        .find(|cluster| cluster["name"] == "app");
    app.expect("it is listed")["component"].clone()
}

pub fn post(target: &str, fields: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")
}

#[test]
fn a_component_answers_like_a_server() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            let mut client = proxy.client();
            let hello = client.get("/hello");
            assert_eq!((hello.status(), hello.text().as_str()), (200, "hello\n"));
            assert_eq!(hello.value("content-length"), Some("6"));
            for status in [201, 204, 304, 404, 500] {
                let response = client.get(&format!("/status/{status}"));
                assert_eq!((response.status(), response.body.len()), (status, 0), "{response:?}");
            }
            let large = client.get("/large?bytes=1000000");
            assert_eq!(large.body.len(), 1_000_000);
            assert!(large.text().starts_with("0123456789abcdef0123"));
            client.send("HEAD /hello HTTP/1.1\r\nHost: a.example\r\n\r\n");
            let head = client.response_to_head();
            assert_eq!(
                (head.status(), head.value("content-length")),
                (200, Some("6")),
                "{head:?}"
            );
            assert_eq!(client.get("/nowhere").status(), 404, "the connection goes on");
        },
    );
}

#[test]
fn it_sees_what_filters_have_left_and_nothing_of_the_connection() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            let request = "GET /headers?a=b HTTP/1.1\r\nHost: a.example\r\nX-Own: 1\r\nConnection: x-hop\r\nX-Hop: 2\r\nTE: trailers\r\n\r\n";
            let seen = proxy.client().exchange(request).text();
            let lines: Vec<_> = seen.lines().collect();
            assert_eq!(
                lines[..4],
                ["GET /headers?a=b", "scheme: http", "authority: a.example", ""],
                "{seen}"
            );
            for expected in ["x-own: 1", "x-forwarded-proto: http"] {
                assert!(lines.contains(&expected), "{expected}: {seen}");
            }
            for name in ["x-hop:", "connection:", "te:", "host:", "transfer-encoding:"] {
                assert!(!lines.iter().any(|line| line.starts_with(name)), "{name} {seen}");
            }
            assert!(lines.iter().any(|line| line.starts_with("x-request-id: ")), "{seen}");
        },
    );
}

#[test]
fn bodies_and_trailers_stream_both_ways() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            for target in ["/echo", "/relay"] {
                let mut client = proxy.client();
                client.send(post(
                    target,
                    "Transfer-Encoding: chunked\r\nTE: trailers\r\n",
                    "5\r\nfirst\r\n",
                ));
                client.read_head();
                // What was sent comes back before there is an end.
                assert_eq!(client.read(10), b"5\r\nfirst\r\n", "{target}");
                client.send("6\r\nsecond\r\n0\r\n\r\n");
                assert_eq!(client.read(16), b"6\r\nsecond\r\n0\r\n\r\n", "{target}");
                // An answer that overtakes its request is the last on its connection.
                let whole = proxy.client().exchange(post(target, "Content-Length: 4\r\n", "four"));
                assert_eq!(whole.text(), "four", "{target}");
            }
            let request = "GET /trailers HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\n\r\n";
            let trailed = proxy.client().exchange(request);
            assert_eq!(trailed.text(), "trailed\n");
        },
    );
}

/// RFC 9112 9.3: what came with the head is no reason to end the connection, read by the component or not.
#[test]
fn a_small_request_that_nobody_reads_keeps_its_connection() {
    for name in RUST {
        let proxy = start(name, "");
        let mut client = proxy.client();
        for (target, status) in [("/hello", 200), ("/status/204", 204), ("/echo", 200)] {
            let answer = client.exchange(post(target, "Content-Length: 4\r\n", "four"));
            assert_eq!((answer.status(), answer.closes()), (status, false), "{name}: {target}");
        }
        assert_eq!(client.get("/hello").text(), "hello\n", "{name}");
        // Nobody is asked for what nobody reads.
        client.send(post("/hello", "Content-Length: 4\r\nExpect: 100-continue\r\n", ""));
        let answer = client.response();
        assert_eq!((answer.text().as_str(), answer.closes()), ("hello\n", true), "{name}");
        assert_eq!(client.interim, [], "{name}");
    }
}

#[test]
fn instances_are_shared_as_it_is_written() {
    for (instances, served, left) in [
        ("", 40, 1),
        (", instances: fresh", 40, 0),
        (", instance_reuse: 10", 40, 0),
        (", instances: { concurrent: 4 }", 40, 1),
    ] {
        let proxy = start("rust-service-03", instances);
        let mut client = proxy.client();
        for _ in 0..served {
            assert_eq!(client.get("/hello").text(), "hello\n", "{instances}");
            // While a guest is still putting its things away, the next exchange has another.
            wait_until(&format!("{instances}: it is at rest"), || {
                let state = state(&proxy);
                state["instances"] == state["instances_idle"]
            });
        }
        wait_until(&format!("{instances}: {left} instances are left"), || {
            state(&proxy)["instances"] == left
        });
    }
}

#[test]
fn one_instance_serves_many_at_once() {
    let proxy = start("rust-service-03", ", instances: { concurrent: 16 }");
    // The first have it started, and the others wait for it.
    let mut clients: Vec<_> = (0..16).map(|_| proxy.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(post(
            "/echo",
            "Transfer-Encoding: chunked\r\n",
            &format!("2\r\n{index:02}\r\n"),
        ));
    }
    for (index, client) in clients.iter_mut().enumerate() {
        client.read_head();
        assert_eq!(client.read(7), format!("2\r\n{index:02}\r\n").as_bytes());
    }
    assert_eq!(state(&proxy)["instances"], 1);
    for client in &mut clients {
        client.send("0\r\n\r\n");
        assert_eq!(client.read(5), b"0\r\n\r\n");
    }
    assert_eq!(state(&proxy)["instances"], 1);
}

#[test]
fn what_goes_wrong_before_the_head_is_told_by_a_status() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, ", limits: { cpu: 50ms }, read_timeout: 1s");
            let mut client = proxy.client();
            let silent = if *name == "rust-service-02" {
                (502, "service_silent")
            } else {
                (504, "upstream_timeout")
            };
            let cases = [
                ("/trap", (502, "service_trap")),
                ("/error", (500, "service_error")),
                ("/spin", (504, "service_cpu")),
                ("/silent", silent),
            ];
            for (target, (status, reason)) in cases {
                assert_own_reply(&client.get(target), status, &format!("{name} {target}"));
                let labels = [("cluster", "app"), ("kind", reason)];
                wait_until(&format!("{name}: {reason} is counted"), || {
                    proxy.metrics().sum("tamis_upstream_failures_total", &labels) >= 1.0
                });
                assert_eq!(client.get("/hello").text(), "hello\n", "{name}: after {target}");
            }
        },
    );
}

/// The guest for 0.3 returns before it traps. That for 0.2 does not, and its head may have left by then or not.
#[test]
fn what_goes_wrong_after_the_head_cuts_the_response() {
    let proxy = start("rust-service-03", "");
    let mut client = proxy.client();
    client.send("GET /trap-late HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let broken = client.try_response().expect_err("the response has no end");
    let is_cut = |bytes: &[u8]| bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && !bytes.ends_with(b"0\r\n\r\n");
    assert!(is_cut(&broken.bytes), "{broken:?}");
    assert_eq!(proxy.get("/hello").text(), "hello\n");
    let proxy = start("rust-service-02", "");
    let mut client = proxy.client();
    client.send("GET /trap-late HTTP/1.1\r\nHost: a.example\r\n\r\n");
    match client.try_response() {
        Ok(response) => assert_own_reply(&response, 502, "nothing was sent"),
        Err(broken) => assert!(is_cut(&broken.bytes), "{broken:?}"),
    }
    assert_eq!(proxy.get("/hello").text(), "hello\n");
}

#[test]
fn whoever_leaves_takes_the_guest_along() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            let mut client = proxy.client();
            client.send(post("/echo", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n"));
            client.read_head();
            assert_eq!(state(&proxy)["instances"], 1);
            client.reset();
            wait_until("the guest is gone", || state(&proxy)["instances"] == 0);
        },
    );
}

#[test]
fn a_service_takes_part_in_what_clusters_do() {
    let upstream = Upstream::saying("server\n");
    let clusters = format!("  servers: {{ endpoints: [\"{}\"] }}", upstream.address());
    let routes = "  - { name: split, match: { path: { exact: /hello } }, \
                  clusters: [{ name: app, weight: 1 }, { name: servers, weight: 1 }] }";
    let proxy = Proxy::start(&configuration(
        "rust-service-03",
        ", limits: { max_requests: 1 }",
        &clusters,
        routes,
    ));
    let mut client = proxy.client();
    let answers: Vec<_> = (0..60).map(|_| client.get("/hello").text()).collect();
    let of = |text: &str| answers.iter().filter(|answer| *answer == text).count();
    assert_eq!(of("hello\n") + of("server\n"), 60);
    assert!(of("hello\n") > 5 && of("server\n") > 5, "{answers:?}");
    // One request at a time.
    let mut first = proxy.client();
    first.send(post("/echo", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n"));
    first.read_head();
    assert_own_reply(&client.get("/large?bytes=1"), 503, "over max_requests");
    first.send("0\r\n\r\n");
    let lines = proxy.folder().wait_lines("access.log", 60);
    assert!(
        lines.iter().any(|line| line.contains("component:wasi-rust-service-03")),
        "{}",
        lines[0]
    );
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let middleware = wasi_component("rust-pass-03").expect("it is built");
    let filter = crate::support::component("pass");
    let app = wasi_component("rust-service-02").expect("it is built");
    let caller = wasi_component("rust-caller-03").expect("it is built");
    let cases = [
        (
            format!("component: {}", caller.display()),
            "add `http: [CLUSTER]` to the cluster's `grants`",
        ),
        (format!("component: {}", middleware.display()), "is a middleware"),
        (format!("component: {}", filter.display()), "is a filter"),
        (
            format!("component: {}, instances: {{ concurrent: 4 }}", app.display()),
            "serve one exchange at a time",
        ),
        (
            format!("component: {}, tls: {{}}", app.display()),
            "tls: is about servers",
        ),
        (
            format!("component: {}, outlier_ejection: {{}}", app.display()),
            "outlier_ejection: is about servers",
        ),
        (
            "endpoints: [127.0.0.1:1], grants: [clocks]".to_owned(),
            "grants: is about a `component`",
        ),
        ("component: nowhere.wasm".to_owned(), "nowhere.wasm"),
    ];
    for (cluster, expected) in cases {
        let yaml = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nclusters: {{ app: {{ {cluster} }} }}\nroutes: [{{ cluster: app }}]\n"
        );
        let (status, errors) = check(&Folder::new(), &yaml);
        assert_eq!(status, 1, "{cluster}: {errors}");
        assert!(errors.contains(expected), "{cluster}: {errors}");
    }
}

#[test]
fn a_reload_replaces_it_and_a_bad_one_does_not() {
    let folder = Folder::new();
    folder.copy(&wasi_component("rust-service-02").expect("it is built"), "app.wasm");
    let yaml = "workers: 1\nadmin: { address: 127.0.0.1:0 }\nlisteners: { web: { address: 127.0.0.1:0 } }\n\
                clusters: { app: { component: app.wasm } }\nroutes: [{ cluster: app }]\n";
    let proxy = Proxy::start_in(&folder, yaml);
    assert_eq!(proxy.get("/hello").text(), "hello\n");
    assert_eq!(state(&proxy)["speaks"], "wasi:http/incoming-handler@0.2");
    folder.replace("app.wasm", "no component");
    let (status, report) = proxy.reload(yaml);
    assert_eq!(status, 422, "{report}");
    assert_eq!(proxy.get("/hello").text(), "hello\n", "what was there goes on");
    folder.copy(&wasi_component("rust-service-03").expect("it is built"), "app.wasm");
    apply(&proxy, yaml);
    assert_eq!(proxy.get("/hello").text(), "hello\n");
    assert_eq!(state(&proxy)["speaks"], "wasi:http/handler@0.3");
}

/// 64 MiB each way, with the client slower than the component.
#[test]
fn a_large_body_takes_no_room() {
    const BYTES: usize = 64 << 20;
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            assert_eq!(proxy.get("/hello").text(), "hello\n");
            let before = proxy.resident();
            let mut client = proxy.client();
            let mut sender = client.sender();
            client.send(post("/echo", &format!("Content-Length: {BYTES}\r\n"), ""));
            let sending = std::thread::spawn(move || {
                let piece = vec![b'x'; 64 << 10];
                for _ in 0..BYTES / piece.len() {
                    sender.write_all(&piece).expect("it is taken");
                }
            });
            let head = client.read_head();
            assert_eq!(head.status(), 200, "{name}");
            let mut read = 0;
            let mut most = 0;
            while read < BYTES {
                let piece = client.read(1 << 20);
                read += piece.len();
                most = most.max(proxy.resident());
            }
            sending.join().expect("it was sent");
            let growth = most.saturating_sub(before);
            assert!(growth < 16 << 20, "{name}: {growth} bytes");
        },
    );
}

/// The same component in another host, byte for byte but for what a proxy adds.
#[test]
fn it_answers_as_in_wasmtime() {
    for name in [
        "rust-service-02",
        "rust-service-03",
        "js-fetch-02",
        "js-service-03",
        "python-service-02",
    ] {
        let Some(component) = wasi_component(name) else {
            continue;
        };
        let Some(wasmtime) = Wasmtime::serve(&component) else {
            return;
        };
        let proxy = Proxy::start_within(
            &Folder::new(),
            &configuration(name, ", grants: [clocks, random]", "", ""),
            Duration::from_secs(120),
        );
        let requests = [
            "GET /hello HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
            "GET /nowhere HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
            "GET /large?bytes=100000 HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
            "GET /status/418 HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
            post("/echo", "Content-Length: 5\r\nContent-Type: text/x-own\r\n", "bytes"),
        ];
        for request in requests {
            let ours = proxy.client().exchange(&request);
            let theirs = Client::connect(wasmtime.address()).exchange(&request);
            // Where a guest does not say how long its answer is, that is for the host to frame.
            let mut without = ADDED_TO_RESPONSES.to_vec();
            if !name.starts_with("rust") {
                without.extend(["content-length", "transfer-encoding"]);
            }
            let canonical = |message: &Message| message.canonical(&without);
            assert_eq!(canonical(&ours), canonical(&theirs), "{name}: {request}");
        }
    }
}

#[test]
fn a_guest_that_computes_leaves_the_others_their_time() {
    let proxy = start("rust-service-02", ", limits: { cpu: 3s }");
    let mut spinning = proxy.client();
    spinning.send("GET /spin HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let since = Instant::now();
    let mut client = proxy.client();
    let mut slowest = Duration::ZERO;
    while since.elapsed() < Duration::from_millis(500) {
        let began = Instant::now();
        assert_eq!(client.get("/hello").text(), "hello\n");
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
    assert_own_reply(&spinning.response(), 504, "its time is over");
}

fn echoing() -> Upstream {
    Upstream::answering(|request| ok(&format!("{} {} {}", request.method(), request.target(), request.text())))
}

fn calling(upstream: &Upstream, cluster: &str) -> String {
    let clusters = format!("  servers: {{ endpoints: [\"{}\"] }}", upstream.address());
    let cluster = format!(", grants: [stdio, {{ http: [servers] }}]{cluster}");
    configuration("rust-caller-03", &cluster, &clusters, "")
}

#[test]
fn its_own_calls_go_to_granted_clusters_alone() {
    let upstream = echoing();
    let proxy = Proxy::start(&calling(&upstream, ""));
    let mut client = proxy.client();
    let answer = client.exchange(post("/call/servers/x?y", "Content-Length: 4\r\n", "four"));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "POST /x?y four"));
    let request = upstream.take_request("the call");
    assert_eq!(request.value("host"), Some("servers"));
    for target in ["/call/elsewhere/x", "/call/127.0.0.1:80/x", "/call/app/x"] {
        assert_own_reply(&client.get(target), 403, target);
    }
    assert_eq!(upstream.requests().len(), 0, "nobody else is asked");
}

#[test]
fn a_thousand_calls_are_no_more_than_it_may_make() {
    let upstream = echoing();
    let proxy = Proxy::start(&calling(&upstream, ", limits: { calls: 8, handles: 20000 }"));
    let answer = proxy.get("/many/servers?count=1000").text();
    let counts: Vec<u32> = answer.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(counts[0] >= 8 && counts[0] + counts[1] == 1000, "{answer}");
    assert!(upstream.connections() <= 8, "{} at once", upstream.connections());
    // With the usual number of handles there is no room for them, and that is the end of this instance alone.
    apply(&proxy, &calling(&upstream, ""));
    assert_own_reply(&proxy.get("/many/servers?count=1000"), 502, "too many handles");
    assert_eq!(proxy.get("/many/servers?count=3").text(), "3 answered, 0 failed\n");
}

/// Sixteen exchanges in one instance, all under way at the same time.
#[test]
fn what_it_says_and_asks_carries_the_id_of_its_exchange() {
    let upstream = echoing();
    let proxy = Proxy::start(&calling(&upstream, ", instances: { concurrent: 16 }"));
    let mut clients: Vec<_> = (0..16).map(|_| proxy.client()).collect();
    for round in 0..4 {
        for (index, client) in clients.iter_mut().enumerate() {
            let fields = format!("X-Mark: mark-{round}-{index}\r\nTransfer-Encoding: chunked\r\n");
            client.send(post(&format!("/call/servers/{round}-{index}"), &fields, "1\r\na\r\n"));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let said = format!("mark-{round}-{index}");
            proxy.log().wait_from(0, &said, |line| line.message() == said);
            client.send("0\r\n\r\n");
            assert_eq!(client.response().text(), format!("POST /{round}-{index} a"));
        }
    }
    assert_eq!(state(&proxy)["instances"], 1);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 64);
    let records = proxy.folder().wait_lines("access.log", 64);
    for record in records {
        let record: Value = serde_json::from_str(&record).expect("JSON");
        let (path, id) = (
            record["path"].as_str().expect("a path"),
            record["request_id"].as_str().expect("an id"),
        );
        let name = path.strip_prefix("/call/servers/").expect("its own");
        let mut called = requests.iter().filter(|request| request.target() == format!("/{name}"));
        assert_eq!(
            called.next().and_then(|request| request.value("x-request-id")),
            Some(id),
            "{name}"
        );
        let said = proxy
            .log()
            .wait_from(0, name, |line| line.message() == format!("mark-{name}"));
        assert_eq!(said.field("request_id"), id, "{name}");
    }
}
