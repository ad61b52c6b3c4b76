//! gRPC through HTTP/2 on both sides: calls of all four kinds by grpcio, and a status for every failure. Row 98 of the
//! faults.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;
use tamis_integration::http2::*;
use tamis_integration::origin::{Answer, Conversation, Origin, Scripted};
use tamis_integration::socket::Address;
use tamis_integration::upstream::Refusing;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Gate, Proxy, Step, Upstream};

use crate::balancing::example;
use crate::certificates::site;
use crate::support::{Configuration, component, each, folder_with, wait_until, wasi_component};

const LOG: &str = "access_log: { file: access.log, format: json }";
const CLUSTER: &str = "protocol: http2";
const HEAD: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];
/// A message of two bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

/// A program with the package `grpcio` from PyPI.
struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// `None` where there is no grpcio: not every machine has it, but the one that decides has.
    fn start(arguments: &[&str]) -> Option<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let tools = root.join("../filters/target/tools");
        if !tools.join("grpc.installed").exists() {
            assert_ne!(env::var("CI").as_deref(), Ok("true"), "grpcio: run `.ci/setup test`");
            println!("skipped, because there is no grpcio: run `.ci/setup test`");
            return None;
        }
        let mut child = Command::new(tools.join("venv/bin/python"))
            .arg(root.join("peers/grpc_peer.py"))
            .args(arguments)
            .env_remove("http_proxy")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python is there");
        Some(Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("it is a pipe")),
            child,
        })
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it is text");
        line.trim_end().to_owned()
    }

    /// What comes of a command.
    fn ask(&mut self, command: &str) -> String {
        let input = self.input.as_mut().expect("it was not told the end");
        writeln!(input, "{command}").expect("it listens");
        self.line()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sees heads alone; `pass` sees the bodies of responses, however large.
fn heads(number: u32) -> Vec<u8> {
    let value = format!("{number}").into_bytes();
    Guest::new()
        .on_request([SetRequestHeader("x-filter", value)])
        .on_response([SetResponseHeader("x-filtered", b"yes".to_vec())])
        .build()
}

/// Sees heads and bodies in both directions.
fn filter(number: u32) -> Vec<u8> {
    let value = format!("{number}").into_bytes();
    Guest::new()
        .on_request([SetRequestHeader("x-filter", value)])
        .on_request_body([])
        .on_response([SetResponseHeader("x-filtered", b"yes".to_vec())])
        .on_response_body([])
        .build()
}

fn served(server: &mut Peer) -> Address {
    let port = server.line();
    Address::parse(&format!("127.0.0.1:{port}"))
}

fn filtered(endpoint: &Address, cluster: &str) -> String {
    let top = format!("{LOG}\nfilters:\n  filter: {{ component: filter.wasm }}");
    Configuration {
        top: &top,
        cluster,
        route: "filters: [filter], timeout: 60s",
        ..Default::default()
    }
    .with(&[endpoint])
}

fn with_pass(yaml: &str) -> String {
    yaml.replace("filters: [filter]", "filters: [filter, pass]").replace(
        "filters:\n",
        "filters:\n  pass: { component: pass.wasm, limits: { exchange_cpu: 10s } }\n",
    )
}

fn all_kinds(client: &mut Peer, seen: &str) {
    let end = format!("OK, seen {seen}, trailer there");
    for (command, expected) in [
        ("unary hello", "5 bytes same, "),
        ("from_client 5 1000", "5 messages, 5000 bytes, "),
        ("from_client 0 1", "0 messages, 0 bytes, "),
        ("from_server 5 1000", "5 messages, 5000 bytes, "),
        ("from_server 0 1", "0 messages, 0 bytes, "),
        ("from_server 3000 1000", "3000 messages, 3000000 bytes, "),
        ("from_client 3000 1000", "3000 messages, 3000000 bytes, "),
        ("large 4194304", "4194304 bytes same, "),
    ] {
        assert_eq!(client.ask(command), format!("{expected}{end}"), "{command}");
    }
    assert_eq!(client.ask("open"), "open");
    for text in ["one", "two", "three"] {
        assert_eq!(client.ask(&format!("send {text}")), format!("{text}, seen {seen}"));
    }
    assert_eq!(client.ask("close"), format!("0 more, {end}"));
    assert_eq!(client.ask("unary fail 5"), "NOT_FOUND: as told");
}

fn records(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines = proxy.folder().wait_lines("access.log", count);
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn all_four_kinds_pass_a_filter() {
    let Some(mut server) = Peer::start(&["serve"]) else {
        return;
    };
    let folder = folder_with(&["pass"]);
    folder.write("filter.wasm", heads(7));
    let proxy = Proxy::start_in(&folder, &with_pass(&filtered(&served(&mut server), CLUSTER)));
    let target = proxy.address("web").to_string();
    let mut client = Peer::start(&["call", &target]).expect("the server was started");
    all_kinds(&mut client, "7");
    assert_eq!(
        client.ask("within 0.3 hang").split(": ").next(),
        Some("DEADLINE_EXCEEDED"),
        "the client's own, or ours, which says the same"
    );
    let records = records(&proxy, 11);
    assert_eq!(records[0]["grpc_status"], 0, "{}", records[0]);
    assert_eq!(records[9]["grpc_status"], 5, "{}", records[9]);
    let calls = |status| proxy.metrics().sum("tamis_grpc_calls_total", &[("status", status)]);
    assert_eq!((calls("ok"), calls("not_found")), (9.0, 1.0));
}

/// Between two filters of the contract, one middleware hands bodies on and one takes them through its memory.
#[test]
fn all_four_kinds_pass_middlewares() {
    let Some(mut server) = Peer::start(&["serve"]) else {
        return;
    };
    let folder = folder_with(&["pass"]);
    folder.write("filter.wasm", heads(7));
    for name in ["rust-stamp-03", "rust-odd-03"] {
        let component = wasi_component(name).expect("`make wasi` builds those in Rust");
        folder.copy(&component, &format!("{name}.wasm"));
    }
    let yaml = filtered(&served(&mut server), CLUSTER)
        .replace("filters: [filter]", "filters: [pass, odd, copy, stamp, filter]")
        .replace(
            "filters:\n",
            "filters:\n  pass: { component: pass.wasm, limits: { exchange_cpu: 10s } }\n  \
             odd: { native: headers, config: { request: { set: { x-odd: copy } } } }\n  \
             copy: { component: rust-odd-03.wasm, grants: [clocks, { http: [] }] }\n  \
             stamp: { component: rust-stamp-03.wasm }\n",
        );
    let proxy = Proxy::start_in(&folder, &yaml);
    let target = proxy.address("web").to_string();
    let mut client = Peer::start(&["call", &target]).expect("the server was started");
    all_kinds(&mut client, "7");
    let records = records(&proxy, 10);
    assert_eq!(
        (&records[0]["grpc_status"], &records[9]["grpc_status"]),
        (&0.into(), &5.into())
    );
}

#[test]
fn all_four_kinds_pass_through_tls() {
    let (folder, authority) = site(&["a.example"]);
    authority.issue(&["origin.example"]).put(&folder, "origin");
    let path = |name: &str| folder.path(name).display().to_string();
    let Some(mut server) = Peer::start(&["serve", &path("origin.pem"), &path("origin.key")]) else {
        return;
    };
    folder.write("filter.wasm", heads(8));
    folder.copy(&component("pass"), "pass.wasm");
    let cluster = "protocol: auto, tls: { ca: ca.pem, server_name: origin.example }";
    let yaml = with_pass(&filtered(&served(&mut server), cluster)).replace(
        "    filters: []\n",
        "    filters: []\n    tls: { certificates: [{ cert: site.pem, key: site.key }] }\n",
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let target = proxy.address("web").to_string();
    let mut client = Peer::start(&["call", &target, &path("ca.pem")]).expect("the server was started");
    all_kinds(&mut client, "8");
    let opened = proxy.metrics().sum("tamis_upstream_connections_opened_total", &[]);
    assert_eq!(opened, 1.0);
}

/// Row 66 for gRPC: a stream keeps its generation, and new calls take the newest.
#[test]
fn fault_66_a_stream_outlives_twenty_swaps() {
    let Some(mut server) = Peer::start(&["serve"]) else {
        return;
    };
    let folder = Folder::new();
    folder.write("filter.wasm", filter(0));
    let yaml = filtered(&served(&mut server), CLUSTER).replace("timeout: 60s", "timeout: off");
    let proxy = Proxy::start_in(&folder, &yaml);
    let target = proxy.address("web").to_string();
    let mut client = Peer::start(&["call", &target]).expect("the server was started");
    assert_eq!(client.ask("open"), "open");
    assert_eq!(client.ask("send 0"), "0, seen 0");
    for swap in 1..=20 {
        folder.write("filter.wasm", filter(swap));
        assert_eq!(proxy.reload(&yaml).0, 200);
        assert_eq!(client.ask(&format!("send {swap}")), format!("{swap}, seen 0"));
        let other = client.ask("unary hello");
        assert_eq!(other, format!("5 bytes same, OK, seen {swap}, trailer there"));
    }
    assert_eq!(client.ask("close"), "0 more, OK, seen 0, trailer there");
    assert_eq!(proxy.metrics().sum("tamis_upstream_connections_opened_total", &[]), 1.0);
}

fn health(proxy: &Proxy) -> String {
    let clusters: Value = serde_json::from_slice(&proxy.admin("GET", "/clusters").body).expect("JSON");
    clusters[0]["endpoints"][0]["health"]
        .as_str()
        .expect("a word")
        .to_owned()
}

/// Asked in gRPC, and by GET in HTTP/2.
#[test]
fn health_checks_are_calls() {
    let Some(mut server) = Peer::start(&["serve"]) else {
        return;
    };
    let address = served(&mut server);
    let gone = Refusing::new();
    let good = scripted_service(b"\0\0\0\0\x02\x08\x01", "0");
    let unknown = scripted_service(b"", "5");
    for (endpoint, check, expected) in [
        (&address, "grpc: {}", "healthy"),
        (&address, "grpc: { service: tamis.Test }", "healthy"),
        (&address, "grpc: { service: sick }", "unhealthy"),
        (gone.address(), "grpc: {}", "unhealthy"),
        (good.address(), "grpc: { service: x }", "healthy"),
        (unknown.address(), "grpc: { service: x }", "unhealthy"),
        (good.address(), "http: { path: /healthz }", "healthy"),
        (good.address(), "http: { path: /healthz, statuses: [204] }", "unhealthy"),
    ] {
        let cluster = format!("protocol: http2, health_check: {{ {check}, interval: 5s, jitter: 0% }}");
        let configuration = Configuration {
            cluster: &cluster,
            ..Default::default()
        };
        let proxy = Proxy::start(&configuration.with(&[endpoint]));
        wait_until(&format!("{check} at {endpoint}"), || health(&proxy) != "unknown");
        assert_eq!(health(&proxy), expected, "{check} at {endpoint}");
    }
}

/// Answers every call with this message and this status.
fn scripted_service(message: &'static [u8], status: &'static str) -> Origin {
    Origin::start(100, move |asked| {
        assert!(asked.method == "GET" || asked.headers["te"] == "trailers", "{asked:?}");
        Answer::ok(message).trailing("grpc-status", status)
    })
}

#[test]
fn the_example_of_grpc_does_what_it_says() {
    let greet = |name: &'static str| {
        Origin::start(100, move |asked| match asked.uri.path() {
            "/helloworld.Greeter/SayHello" => Answer::ok([MESSAGE, name.as_bytes()].concat())
                .with("content-type", "application/grpc")
                .trailing("grpc-status", "0"),
            // `{ service: helloworld.Greeter }`, and SERVING.
            _ => match asked.body.ends_with(b"\x0a\x12helloworld.Greeter") {
                true => Answer::ok(b"\0\0\0\0\x02\x08\x01").trailing("grpc-status", "0"),
                false => Answer::ok("").with("grpc-status", "3"),
            },
        })
    };
    let (one, two) = (greet("one"), greet("two"));
    let yaml = example(
        "grpc.yaml",
        &[("127.0.0.1:50051", one.address()), ("127.0.0.1:50052", two.address())],
    );
    let proxy = Proxy::start(&yaml);
    wait_until("a check", || health(&proxy) != "unknown");
    assert_eq!(health(&proxy), "healthy");
    let mut client = Http2::connect(&proxy.address("web"));
    let said = client.exchange(a_call("/helloworld.Greeter/SayHello"), MESSAGE);
    assert!(
        ["one", "two"].contains(&&*String::from_utf8_lossy(&said.body[7..])),
        "{said:?}"
    );
    assert_eq!(said.trailers.expect("trailers")["grpc-status"], "0");
    let nobody = outcome(&mut client, a_call("/helloworld.Nobody/SayHello"), MESSAGE);
    assert_eq!((nobody.0, &*nobody.1), (200, "12"));
}

/// What a call that ends with its head, or with trailers, comes to: HTTP status, gRPC status, content type.
fn outcome(client: &mut Http2, request: http::Request<()>, body: &[u8]) -> (u16, String, String) {
    let response = client.exchange(request, body);
    let fields = response.trailers.as_ref().unwrap_or(&response.headers);
    let text = |name: &str| {
        let value = fields.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("none").to_owned()
    };
    let kind = response.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    (
        response.status.as_u16(),
        text("grpc-status"),
        kind.unwrap_or("none").to_owned(),
    )
}

fn a_call(path: &str) -> http::Request<()> {
    let mut call = request("POST", path);
    let headers = call.headers_mut();
    headers.insert("content-type", "application/grpc+proto".parse().expect("a value"));
    headers.insert("te", "trailers".parse().expect("a value"));
    call
}

/// Every failure that is ours is said as a status, in a head alone.
#[test]
fn fault_98_every_failure_has_a_status() {
    let refused = Refusing::new();
    let silent = Upstream::each([vec![Step::Hold]]);
    let garbage = Upstream::repeating("SSH-2.0-OpenSSH\r\n\r\n");
    let closes = Upstream::each([vec![Step::Message, Step::Close]]);
    let plain = Upstream::repeating("HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno");
    let folder = Folder::new();
    folder.write("trap.wasm", Guest::new().on_request([Trap]).build());
    folder.write("deny.wasm", Guest::new().on_request([Reply(403, vec![], "no")]).build());
    let own = Reply(
        200,
        vec![("grpc-status", "9"), ("content-type", "application/grpc")],
        "",
    );
    folder.write("own.wasm", Guest::new().on_request([own]).build());
    folder.write("late.wasm", Guest::new().on_response([Trap]).build());
    folder.write(
        "peek.wasm",
        Guest::new().on_request([ReadBody(4)]).on_held_body([]).build(),
    );
    let clusters = format!(
        "  refused: {{ endpoints: [\"{}\"] }}\n  silent: {{ endpoints: [\"{}\"], read_timeout: 200ms }}\n  \
         garbage: {{ endpoints: [\"{}\"] }}\n  closes: {{ endpoints: [\"{}\"] }}\n  \
         full: {{ endpoints: [\"{}\"], limits: {{ max_requests: 1, max_connections: 1 }} }}\n",
        refused.address(),
        silent.address(),
        garbage.address(),
        closes.address(),
        silent.address(),
    );
    let filters: String = ["trap", "deny", "own", "late", "peek"]
        .map(|name| format!("  {name}: {{ component: {name}.wasm }}\n"))
        .concat();
    let mut routes = String::new();
    for name in ["refused", "silent", "garbage", "closes"] {
        routes += &format!("  - {{ match: {{ path: {{ exact: /{name} }} }}, cluster: {name} }}\n");
    }
    for name in ["trap", "deny", "own", "late", "peek"] {
        routes += &format!("  - {{ match: {{ path: {{ exact: /{name} }} }}, cluster: app, filters: [{name}] }}\n");
    }
    routes += "  - { match: { path: { exact: /slow } }, cluster: silent, timeout: 100ms }\n";
    routes += "  - { match: { path: { exact: /away } }, redirect: { host: b.example } }\n";
    routes += "  - { match: { path: { exact: /busy } }, respond: { status: 503 } }\n";
    routes += "  - { match: { path: { exact: /gone } }, respond: { status: 429 } }\n";
    let top = format!("{LOG}\nfilters:\n{filters}");
    let yaml = Configuration {
        top: &top,
        clusters: &clusters,
        routes: &routes,
        route: "match: { path: { exact: /plain } }",
        limits: "max_target_bytes: 256B",
        ..Default::default()
    }
    .to(&plain);
    let proxy = Proxy::start_in(&folder, &yaml);
    let long = format!("/{}", "x".repeat(300));
    let cases = [
        ("/nowhere", "12", "no_route"),
        ("/refused", "14", "connect_failed"),
        ("/silent", "4", "upstream_timeout"),
        ("/slow", "4", "route_timeout"),
        ("/garbage", "13", "upstream_protocol"),
        ("/closes", "14", "upstream_reset"),
        ("/trap", "13", "trap"),
        ("/late", "13", "trap"),
        ("/peek", "8", "body_too_large"),
        ("/deny", "7", ""),
        ("/own", "9", ""),
        ("/away", "2", ""),
        ("/busy", "14", ""),
        ("/gone", "14", ""),
        (&long, "8", "target_too_long"),
    ];
    let mut client = Http2::connect(&proxy.address("web"));
    each(
        cases,
        |case| case.0.to_owned(),
        |(path, status, reason)| {
            let mut client = Http2::connect(&proxy.address("web"));
            let outcome = outcome(&mut client, a_call(path), MESSAGE);
            assert_eq!(
                outcome,
                (200, (*status).to_owned(), "application/grpc".to_owned()),
                "{path}"
            );
            let found = || {
                let text = fs::read_to_string(proxy.folder().path("access.log")).unwrap_or_default();
                let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                lines.into_iter().find(|record| record["path"] == **path)
            };
            wait_until("its record", || found().is_some());
            let record = found().expect("it was just there");
            assert_eq!(record["reason"].as_str().unwrap_or_default(), *reason, "{record}");
            assert_eq!(record["grpc_status"].to_string(), *status, "{record}");
        },
    );
    // An upstream's answer is its own, and so is one to a request that is no call.
    assert_eq!(
        outcome(&mut client, a_call("/plain"), MESSAGE),
        (404, "none".to_owned(), "text/html".to_owned())
    );
    let other = client.exchange(request("POST", "/nowhere"), b"x");
    assert_eq!(
        (other.status.as_u16(), other.headers.contains_key("grpc-status")),
        (404, false)
    );
}

/// A server of gRPC that does this with the first call.
fn scripted(script: impl Fn(&mut Conversation) + Send + Sync + 'static) -> Scripted {
    Scripted::start(&[], move |_, peer| {
        peer.wait(HEADERS, 1);
        script(peer);
    })
}

/// How a call ends: its status, from the trailers or the head, or the code of its reset; and the body.
fn ends(proxy: &Proxy, more: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut client = Http2::connect(&proxy.address("web"));
    let mut call = a_call("/tamis.Test/Both");
    for (name, value) in more {
        let name: http::HeaderName = name.parse().expect("a name");
        call.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let response = client.begin(call, MESSAGE);
    client.block_on(async {
        let (head, mut stream) = match response.await {
            Ok(response) => response.into_parts(),
            Err(error) => return (format!("{:?}", error.reason()), Vec::new()),
        };
        let mut body = Vec::new();
        while let Some(piece) = stream.data().await {
            match piece {
                Ok(piece) => body.extend(&piece),
                Err(error) => return (format!("{:?}", error.reason()), body),
            }
        }
        match stream.trailers().await {
            Ok(trailers) => {
                let fields = trailers.as_ref().unwrap_or(&head.headers);
                let status = fields.get("grpc-status").and_then(|value| value.to_str().ok());
                (status.unwrap_or("none").to_owned(), body)
            }
            Err(error) => (format!("{:?}", error.reason()), body),
        }
    })
}

/// What a server does wrong in the middle of a response: a status behind whole messages, a reset behind others.
#[test]
fn fault_98_what_breaks_off_has_a_status() {
    type Script = fn(&mut Conversation);
    let cases: [(&str, Script, &str, &[u8]); 12] = [
        (
            "trailers alone",
            |peer| {
                let fields = [&HEAD[..], &[("grpc-status", "5")]].concat();
                peer.head(1, &fields, END_STREAM);
            },
            "5",
            b"",
        ),
        (
            "a whole call",
            |peer| {
                peer.head(1, &HEAD, 0).data(1, MESSAGE, 0);
                peer.head(1, &[("grpc-status", "0")], END_STREAM);
            },
            "0",
            MESSAGE,
        ),
        (
            "no trailers",
            |peer| {
                peer.head(1, &HEAD, 0).data(1, MESSAGE, END_STREAM);
            },
            "13",
            MESSAGE,
        ),
        (
            "neither trailers nor messages",
            |peer| {
                peer.head(1, &HEAD, END_STREAM);
            },
            "13",
            b"",
        ),
        (
            "trailers without a status",
            |peer| {
                peer.head(1, &HEAD, 0).data(1, MESSAGE, 0);
                peer.head(1, &[("x-t", "1")], END_STREAM);
            },
            "13",
            MESSAGE,
        ),
        (
            "no trailers behind half a message",
            |peer| {
                peer.head(1, &HEAD, 0).data(1, &MESSAGE[..6], END_STREAM);
            },
            "Some(INTERNAL_ERROR)",
            b"\0\0\0\0\x02h",
        ),
        (
            "reset behind a message",
            |peer| {
                peer.head(1, &HEAD, 0).data(1, MESSAGE, 0).reset(1, ENHANCE_YOUR_CALM);
            },
            "8",
            MESSAGE,
        ),
        (
            "reset behind half a message",
            |peer| {
                peer.head(1, &HEAD, 0)
                    .data(1, &MESSAGE[..6], 0)
                    .reset(1, ENHANCE_YOUR_CALM);
            },
            "Some(ENHANCE_YOUR_CALM)",
            b"\0\0\0\0\x02h",
        ),
        (
            "reset before the head",
            |peer| {
                peer.reset(1, CANCEL);
            },
            "1",
            b"",
        ),
        (
            "reset before the head for an error",
            |peer| {
                peer.reset(1, INTERNAL_ERROR);
            },
            "13",
            b"",
        ),
        (
            "the connection ends behind a message",
            |peer| {
                peer.head(1, &HEAD, 0).data(1, MESSAGE, 0);
                peer.frames.client.finish();
            },
            "14",
            MESSAGE,
        ),
        (
            "silence behind a message",
            |peer| {
                peer.head(1, &HEAD, 0).data(1, MESSAGE, 0);
            },
            "4",
            MESSAGE,
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, script, status, body)| {
            let origin = scripted(*script);
            let proxy = Proxy::start(
                &Configuration {
                    top: LOG,
                    cluster: "protocol: http2, read_timeout: 500ms",
                    ..Default::default()
                }
                .with(&[origin.address()]),
            );
            let (end, came) = ends(&proxy, &[]);
            assert_eq!(end, *status, "{name}");
            // What is on its way when a stream is reset may be lost.
            let is_reset = status.starts_with("Some");
            assert!(came == *body || is_reset && body.starts_with(&came), "{name}: {came:?}");
            let record = records(&proxy, 1).remove(0);
            if let Ok(status) = status.parse::<u8>() {
                assert_eq!(record["grpc_status"], status, "{name}: {record}");
            }
            let is_fine = ["trailers alone", "a whole call"].contains(name);
            assert_eq!(record["reason"].is_null(), is_fine, "{name}: {record}");
        },
    );
}

/// A filter that fails in the middle of a response.
#[test]
fn fault_98_a_trap_in_the_middle_has_a_status() {
    for (bytes, status, body) in [(MESSAGE, "13", &b""[..]), (&MESSAGE[..6], "13", b"")] {
        let origin = scripted(move |peer| {
            peer.head(1, &HEAD, 0).data(1, bytes, 0);
        });
        let folder = Folder::new();
        folder.write("filter.wasm", Guest::new().on_response_body([Trap]).build());
        let proxy = Proxy::start_in(&folder, &filtered(origin.address(), CLUSTER));
        assert_eq!(ends(&proxy, &[]), (status.to_owned(), body.to_vec()));
        assert_eq!(records(&proxy, 1)[0]["reason"], "trap");
    }
}

/// The client's deadline is the call's, unless the route says that it is not.
#[test]
fn fault_98_deadlines() {
    let origin = scripted(|_| {});
    // Answers no pings.
    let gate = Gate::new();
    let passed = gate.clone();
    let deaf = Scripted::start(&[], move |_, peer| {
        peer.wait(HEADERS, 1);
        passed.pass();
    });
    for (route, timeout, status) in [
        ("timeout: off", "200m", "4"),
        ("timeout: 60s", "200000u", "4"),
        ("timeout: 200ms", "60S", "4"),
        ("timeout: 200ms, grpc_timeout: ignore", "1m", "4"),
        ("timeout: off, grpc_timeout: ignore", "1m", "14"),
    ] {
        let cluster = match status {
            // Only then the server's silence matters.
            "14" => "protocol: http2, http2: { ping_interval: 200ms, ping_timeout: 200ms }",
            _ => CLUSTER,
        };
        let proxy = Proxy::start(
            &Configuration {
                top: LOG,
                cluster,
                route,
                ..Default::default()
            }
            .with(&[match status {
                "14" => deaf.address(),
                _ => origin.address(),
            }]),
        );
        assert_eq!(
            ends(&proxy, &[("grpc-timeout", timeout)]).0,
            status,
            "{route}, {timeout}"
        );
    }
}

/// The rules of a call hold for HTTP/1.1 too, as far as that carries it.
#[test]
fn a_call_over_http1_is_answered_as_one() {
    let upstream = Upstream::saying("no");
    let yaml = Configuration {
        route: "match: { path: { exact: /x } }",
        ..Default::default()
    }
    .to(&upstream);
    let proxy = Proxy::start(&yaml);
    let response = proxy
        .client()
        .exchange("POST /y HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((response.status(), response.value("grpc-status")), (200, Some("12")));
    let message = response.value("grpc-message").expect("a message");
    assert!(message.starts_with("404 not found, request id: "), "{message}");
}
