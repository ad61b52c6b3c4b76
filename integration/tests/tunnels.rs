//! Changes of protocol: what makes a tunnel and what does not, what passes through it, and how it ends.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tamis_integration::proxy::check;
use tamis_integration::socket::Found;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, Folder, Gate, Message, Proxy, Step, Upstream};

use crate::certificates::site;
use crate::support::{Configuration, assert_own_reply, each, folder_with, forwarded, relayed, wait_until};
use crate::tls::SITE;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: k\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
pub const LOG: &str = "access_log: { file: access.log, format: json }";

fn yaml(upstream: &Upstream, limits: &str, route: &str) -> String {
    Configuration {
        top: LOG,
        limits,
        route,
        ..Default::default()
    }
    .to(upstream)
}

/// An upstream that changes the protocol on each connection, and then follows the steps.
fn switching(steps: impl IntoIterator<Item = Step>) -> Upstream {
    let begin = [Step::Message, Step::send(SWITCH)];
    Upstream::each([begin.into_iter().chain(steps).collect()])
}

/// A client whose connection has become a tunnel.
fn tunnel(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(ASK);
    assert_eq!(client.read_head().status(), 101);
    client
}

/// The proxy's records so far, of which there are so many.
pub fn records(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines = proxy.folder().wait_lines("access.log", count);
    assert_eq!(lines.len(), count, "{lines:#?}");
    let parse = |line: &String| serde_json::from_str(line).expect("a record is JSON");
    lines.iter().map(parse).collect()
}

/// Both heads byte for byte, all that passes, what came before the other side was ready, and one record of it at its end.
#[test]
fn fault_99_a_tunnel_passes_every_byte_both_ways() {
    let early = [Step::Message, Step::send([SWITCH.as_bytes(), b"early"].concat())];
    let rest = [Step::Bytes(9), Step::send("\x00\x01late"), Step::Bytes(3), Step::Close];
    let upstream = Upstream::each([early.into_iter().chain(rest).collect::<Vec<_>>()]);
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    let mut client = proxy.client();
    // The client does not wait for the answer, as it should: nothing is lost, and nothing is sent before its time.
    client.send([ASK.as_bytes(), b"premature"].concat());
    let response = client.read_head();
    assert_eq!(
        relayed(&response),
        "HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: websocket"
    );
    assert_eq!(client.read(11), b"early\x00\x01late");
    client.send("bye");
    assert!(client.ending().bytes.is_empty());
    client.finish();
    let request = upstream.take_request("the request");
    assert_eq!(
        forwarded(&request),
        "GET /chat HTTP/1.1\nconnection: upgrade\nhost: a.example\nsec-websocket-key: k\nupgrade: websocket"
    );
    let received = upstream.received(0);
    assert!(
        received.ends_with(b"\r\n\r\nprematurebye"),
        "{}",
        received.escape_ascii()
    );
    let record = &records(&proxy, 1)[0];
    assert_eq!(
        (&record["status"], &record["reason"]),
        (&101.into(), &Value::Null),
        "{record}"
    );
    assert_eq!(
        (&record["request_bytes"], &record["response_bytes"]),
        (&12.into(), &11.into()),
        "{record}"
    );
    assert_eq!(
        proxy.get("/").status(),
        502,
        "the connection of the tunnel is never used again"
    );
}

/// Fault 84: what is not asked for as RFC 9110 7.8 demands, or not listed, ends here.
#[test]
fn fault_84_what_makes_no_request_for_a_tunnel() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    let cases: &[(&str, &str, &str)] = &[
        (
            "h2c",
            "HTTP/1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
        ),
        ("not listed", "HTTP/1.1", "Connection: Upgrade\r\nUpgrade: teapot/1\r\n"),
        (
            "a version of its own",
            "HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket/2\r\n",
        ),
        ("not in Connection", "HTTP/1.1", "Upgrade: websocket\r\n"),
        (
            "other options in Connection",
            "HTTP/1.1",
            "Connection: keep-alive\r\nUpgrade: websocket\r\n",
        ),
        ("no protocol", "HTTP/1.1", "Connection: Upgrade\r\n"),
        ("HTTP/1.0", "HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, version, fields)| {
            upstream.take_requests();
            let response = proxy
                .client()
                .exchange(format!("GET / {version}\r\nHost: a.example\r\n{fields}\r\n"));
            assert_eq!(response.status(), 200, "{name}: {response:?}");
            let request = upstream.take_request(name);
            assert_eq!(forwarded(&request), "GET / HTTP/1.1\nhost: a.example", "{name}");
        },
    );
    let none = Proxy::start(&yaml(&upstream, "", "upgrades: []"));
    upstream.take_requests();
    assert_eq!(none.client().exchange(ASK).status(), 200);
    assert!(upstream.take_request("none").values("upgrade").is_empty());
}

/// Of several protocols the first that may pass is asked for, and no other.
#[test]
fn a_listed_protocol_passes() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: close, Upgrade\r\nUpgrade: foo/2\r\n\
                  Content-Length: 0\r\n\r\nhello";
    let upstream = Upstream::each([vec![Step::Message, Step::send(answer), Step::Hold]]);
    let proxy = Proxy::start(&yaml(&upstream, "", "upgrades: [Foo/2]"));
    let mut client = proxy.client();
    client.send(
        "POST /attach HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nConnection: upgrade\r\n\
                 Upgrade: websocket, FOO/2\r\nTE: trailers\r\n\r\n",
    );
    assert_eq!(
        relayed(&client.read_head()),
        "HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: FOO/2"
    );
    assert_eq!(client.read(5), b"hello");
    let request = upstream.take_request("foo");
    assert_eq!((request.value("upgrade"), request.value("te")), (Some("FOO/2"), None));
}

/// Fault 84: with a body there is no telling where that ends and the other protocol begins.
#[test]
fn fault_84_a_request_with_a_body_makes_no_tunnel() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    let bodies = [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ];
    for body in bodies {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{body}"
        ));
        assert_own_reply(&client.response(), 400, body);
        client.assert_closed(body);
    }
    assert_eq!(upstream.connections(), 0);
    let reasons: Vec<Value> = records(&proxy, 2)
        .iter()
        .map(|record| record["reason"].clone())
        .collect();
    assert_eq!(reasons, ["upgrade_with_body", "upgrade_with_body"]);
}

/// Fault 84: a tunnel is made by the upstream's agreement to what was asked, and by nothing else.
#[test]
fn fault_84_an_upstream_that_changes_to_something_else_is_broken() {
    let plain = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let cases: &[(&str, &str, &str)] = &[
        ("nobody asked", plain, SWITCH),
        (
            "another protocol",
            ASK,
            "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ),
        (
            "one more",
            ASK,
            "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        ),
        ("no protocol", ASK, "HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n"),
        ("not in Connection", ASK, "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n"),
        (
            "HTTP/1.0",
            ASK,
            "HTTP/1.0 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            "two lengths",
            ASK,
            "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1, 2\r\n\r\n",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, request, answer)| {
            let upstream = Upstream::each([vec![Step::Message, Step::send(answer), Step::Hold]]);
            let proxy = Proxy::start(&yaml(&upstream, "", ""));
            let mut client = proxy.client();
            client.send([request.as_bytes(), b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n"].concat());
            assert_own_reply(&client.response(), 502, name);
            upstream.wait_ended(0);
            let received = upstream.received(0);
            assert!(!received.windows(5).any(|bytes| bytes == b"/next"), "{name}");
        },
    );
}

/// Fault 84, the smuggling that it is about: what a client sends behind a request that the upstream refuses to change is
/// a request like others, and sees the routes and filters.
#[test]
fn fault_84_what_follows_a_refusal_is_http() {
    let refusal =
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno";
    let upstream = Upstream::each([vec![Step::Message, Step::send(refusal), Step::Hold]]);
    let routes = "  - { name: guarded, match: { path: { exact: /internal } }, respond: { status: 418 } }";
    let configuration = Configuration {
        routes,
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut client = proxy.client();
    client.send([ASK.as_bytes(), b"GET /internal HTTP/1.1\r\nHost: a.example\r\n\r\n"].concat());
    let refused = client.response();
    assert_eq!(
        relayed(&refused),
        "HTTP/1.1 426 Upgrade Required\ncontent-length: 2\n\nno"
    );
    assert_eq!(client.response().status(), 418, "the route answers, not the upstream");
    assert!(!upstream.received_all().windows(9).any(|bytes| bytes == b"/internal"));
}

/// Garbage behind a refused change is answered like any other.
#[test]
fn fault_84_frames_behind_a_refusal_are_refused() {
    let upstream = Upstream::repeating("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    let mut client = proxy.client();
    client.send([ASK.as_bytes(), b"\x81\x85\x00\r\n\r\n\x01\x02hello"].concat());
    assert_eq!(client.response().status(), 403);
    assert_eq!(client.response().status(), 400);
    client.assert_closed("behind what cannot be understood");
    assert_eq!(upstream.requests().len(), 1);
}

/// Fault 99: who has said all goes on listening, whichever side it is.
#[test]
fn fault_99_the_end_of_one_side_is_passed_on() {
    let gate = Gate::new();
    let answer = [
        Step::Bytes(8),
        Step::Pass(gate.clone()),
        Step::send("answer"),
        Step::Close,
    ];
    let upstream = switching(answer);
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    let mut client = tunnel(&proxy);
    client.send("question").finish();
    client.assert_silent(Duration::from_millis(100), "the upstream has not ended yet");
    gate.open();
    let ending = client.ending();
    assert!(ending.is_clean() && ending.bytes == b"answer", "{ending:?}");

    let upstream = switching([Step::send("all"), Step::Finish, Step::Bytes(4), Step::Hold]);
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    let mut client = tunnel(&proxy);
    let ending = client.ending();
    assert!(ending.is_clean() && ending.bytes == b"all", "{ending:?}");
    client.send("thanks").finish();
    assert_eq!(upstream.wait_ended(0), "Fin");
    assert!(upstream.received(0).ends_with(b"thanks"));
    assert_eq!(records(&proxy, 1)[0]["reason"], Value::Null);
}

/// Whoever goes without a word, the other learns it, and the record says who it was.
#[test]
fn who_breaks_a_tunnel_is_recorded() {
    let upstream = switching([Step::Hold]);
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    tunnel(&proxy).reset();
    upstream.wait_ended(0);
    assert_eq!(records(&proxy, 1)[0]["reason"], "client_closed");

    let upstream = switching([Step::Bytes(1), Step::Reset]);
    let proxy = Proxy::start(&yaml(&upstream, "", ""));
    let mut client = tunnel(&proxy);
    client.send("x");
    assert_ne!(client.ending().how, Found::Nothing);
    assert_eq!(records(&proxy, 1)[0]["reason"], "upstream_reset");
    let failures = proxy
        .metrics()
        .sum("tamis_upstream_failures_total", &[("kind", "upstream_reset")]);
    assert_eq!(failures, 1.0);
}

/// Fault 99: silence in both directions ends it, and only that: the route's timeout is over with the 101.
#[test]
fn fault_99_an_idle_tunnel_is_ended() {
    let upstream = switching([Step::Bytes(1), Step::send("y"), Step::Hold]);
    let proxy = Proxy::start(&yaml(&upstream, "tunnel_idle_timeout: 3s", "timeout: 1s"));
    let mut client = tunnel(&proxy);
    client.assert_silent(Duration::from_millis(1700), "not idle for long enough");
    client.send("x");
    assert_eq!(client.read(1), b"y");
    client.assert_silent(Duration::from_millis(1700), "something moved since");
    assert_ne!(client.ending().how, Found::Nothing);
    upstream.wait_ended(0);
    assert_eq!(records(&proxy, 1)[0]["reason"], "tunnel_idle");
}

/// Fault 103 in a tunnel: who takes nothing stops the other side, and is ended.
#[test]
fn a_client_that_takes_nothing_stops_the_upstream() {
    const FLOOD: u64 = 1 << 30;
    let upstream = switching([Step::Pour(FLOOD)]);
    let proxy = Proxy::start(&yaml(&upstream, "write_timeout: 500ms", ""));
    let client = tunnel(&proxy);
    let record = &records(&proxy, 1)[0];
    assert_eq!(record["reason"], "write_timeout", "{record}");
    upstream.wait_ended(0);
    assert!(upstream.poured(0) < 64 << 20, "{}", upstream.poured(0));
    drop(client);
}

/// Fault 99 and 66: a tunnel stays on its generation, whatever comes after it, and holds no other.
#[test]
fn fault_99_a_tunnel_outlives_changes_and_ends_with_its_generation() {
    let upstream = switching([Step::Bytes(40), Step::send("still here"), Step::Hold]);
    let change = |n: u32, age: &str| {
        let top = format!("{LOG}\nreload: {{ max_age: {age} }}\ndrain_timeout: {n}s");
        let configuration = Configuration {
            top: &top,
            ..Default::default()
        };
        configuration.to(&upstream)
    };
    let proxy = Proxy::start(&change(1, "1h"));
    let alive = || proxy.metrics().sum("tamis_generations", &[]);
    let mut client = tunnel(&proxy);
    for n in 2..=21 {
        client.send("x");
        assert_eq!(proxy.reload(&change(n, "1h")).0, 200);
        client.send("y");
    }
    assert_eq!(client.read(10), b"still here");
    assert_eq!(alive(), 2.0, "its own and the newest");
    assert_eq!(proxy.reload(&change(22, "1s")).0, 200);
    assert_ne!(client.ending().how, Found::Nothing);
    upstream.wait_ended(0);
    assert_eq!(records(&proxy, 1)[0]["reason"], "generation_max_age");
    wait_until("nothing of it is left", || alive() == 1.0);
}

/// A drain lets a tunnel go on until its time is over.
#[test]
fn a_drain_ends_a_tunnel_at_its_deadline() {
    let upstream = switching([Step::Bytes(1), Step::send("y"), Step::Hold]);
    let top = format!("{LOG}\ndrain_timeout: 2s");
    let configuration = Configuration {
        top: &top,
        ..Default::default()
    };
    let mut proxy = Proxy::start(&configuration.to(&upstream));
    let mut client = tunnel(&proxy);
    proxy.signal(Signal::TERM);
    proxy.log().wait_message("draining");
    client.send("x");
    assert_eq!(client.read(1), b"y", "it is not idle, and the drain has begun");
    assert_ne!(client.ending().how, Found::Nothing);
    assert!(proxy.wait_exit().success());
    assert_eq!(records(&proxy, 1)[0]["status"], 101);
}

/// Filters see and edit both heads; the one that refuses the answer leaves no tunnel.
#[test]
fn filters_see_both_heads() {
    let folder = Folder::new();
    let edit = |name: &'static str| {
        Guest::new()
            .on_request([AppendRequestHeader("x-seen", name.into())])
            .on_response([SetResponseHeader("x-last", name.into())])
            .on_completion([])
            .build()
    };
    folder.write("first.wasm", edit("first"));
    folder.write("second.wasm", edit("second"));
    let no = Guest::new().on_response([Reply(403, vec![], "no")]).build();
    folder.write("no.wasm", no);
    let top = format!(
        "{LOG}\nfilters:\n  first: {{ component: first.wasm }}\n  second: {{ component: second.wasm }}\n  \
         no: {{ component: no.wasm }}"
    );
    let with = |route: &'static str, upstream: &Upstream| {
        let configuration = Configuration {
            top: &top,
            route,
            ..Default::default()
        };
        Proxy::start_in(&folder, &configuration.to(upstream))
    };
    let upstream = switching([Step::Bytes(2), Step::send("ok"), Step::Hold]);
    let proxy = with("filters: [first, second]", &upstream);
    let mut client = proxy.client();
    client.send(ASK);
    let answer: Message = client.read_head();
    assert_eq!(
        (answer.status(), answer.value("x-last")),
        (101, Some("first")),
        "in reverse order"
    );
    client.send("hi");
    assert_eq!(client.read(2), b"ok");
    assert_eq!(
        upstream.take_request("the request").values("x-seen"),
        ["first", "second"]
    );
    drop(proxy);

    let upstream = switching([Step::Hold]);
    let proxy = with("filters: [no]", &upstream);
    let mut client = proxy.client();
    client.send([ASK.as_bytes(), b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n"].concat());
    assert_eq!(client.response().status(), 403);
    upstream.wait_ended(0);
    assert!(!upstream.received(0).windows(5).any(|bytes| bytes == b"/next"));
    assert_eq!(
        client.response().status(),
        403,
        "what follows goes its own way through the filters"
    );
}

/// A filter that gives the request a body takes its change of protocol from it.
#[test]
fn a_filter_that_fills_the_request_makes_it_a_plain_one() {
    let folder = folder_with(&["everything"]);
    let grants = "[metrics, clock, random, key_value, { outbound: [app] }]";
    let top = format!("filters:\n  everything: {{ component: everything.wasm, grants: {grants} }}");
    let configuration = Configuration {
        top: &top,
        route: "filters: [everything]",
        ..Default::default()
    };
    let upstream = Upstream::repeating(ok("ok"));
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let acts = "Upgrade: websocket\r\nX-Act: capitals\r\nX-Act: hold 10\r\n";
    assert_eq!(
        proxy
            .client()
            .exchange(ASK.replace("Upgrade: websocket\r\n", acts))
            .status(),
        200
    );
    let request = upstream.take_request("filled");
    assert_eq!(request.value("x-held"), Some("whole 0"));
    assert_eq!(request.values("upgrade").len() + request.values("connection").len(), 0);
}

/// What would carry requests past the routes is refused, like what is no protocol at all.
#[test]
fn mistakes_in_protocols_are_told() {
    let upstream = Upstream::saying("ok");
    let cases = [
        ("[h2c]", "`h2c` would carry requests past the routes and filters"),
        ("[websocket, HTTP/2.0]", "`http/2.0` would carry requests"),
        ("['web socket']", "`web socket` is not a protocol"),
        ("[websocket, WebSocket]", "`websocket` stands here twice"),
    ];
    for (upgrades, expected) in cases {
        let (status, printed) = check(&Folder::new(), &yaml(&upstream, "", &format!("upgrades: {upgrades}")));
        assert_eq!(status, 1, "{upgrades}: {printed}");
        assert!(
            printed.contains(expected) && printed.contains("upgrades"),
            "{upgrades}: {printed}"
        );
    }
}

/// Two programs of Node's `ws`: 1 MiB in each message, echoed byte for byte while filters are swapped.
#[test]
fn fault_99_ws_echoes_through_swaps() {
    let Some(mut server) = Peer::start(&["serve"]) else {
        return;
    };
    let port = server.line();
    let folder = Folder::new();
    let filter = |n: u32| {
        let value = format!("{n}").into_bytes();
        Guest::new().on_response([SetResponseHeader("x-filter", value)]).build()
    };
    folder.write("filter.wasm", filter(0));
    let top = format!("{LOG}\nfilters:\n  filter: {{ component: filter.wasm }}");
    let address = tamis_integration::socket::Address::parse(&format!("127.0.0.1:{port}"));
    let configuration = Configuration {
        top: &top,
        route: "filters: [filter]",
        ..Default::default()
    };
    let yaml = configuration.with(&[&address]);
    let proxy = Proxy::start_in(&folder, &yaml);
    let url = format!("ws://{}/chat", proxy.address("web"));
    let mut client = Peer::start(&["send", &url, "1048576"]).expect("the server was started");
    assert_eq!(client.line(), "101 0");
    for n in 1..=20 {
        client.tell("one more");
        folder.write("filter.wasm", filter(n));
        assert_eq!(proxy.reload(&yaml).0, 200);
        assert_eq!(client.line(), "same", "swap {n}");
    }
    assert_eq!(proxy.metrics().sum("tamis_generations", &[]), 2.0);
    let mut newer = Peer::start(&["send", &url, "5"]).expect("the server was started");
    assert_eq!(newer.line(), "101 20", "a new one is on the newest");
    newer.end();
    assert_eq!(newer.line(), "closed 1000 done");
    client.end();
    assert_eq!(client.line(), "closed 1000 done");
    let old = records(&proxy, 2)
        .into_iter()
        .find(|record| record["request_bytes"].as_u64() > Some(1 << 20));
    let old = old.expect("the larger one");
    // Each message has a head of 10 bytes and a mask of 4; at the end each side sends a close frame.
    let close = 6 + "done".len() as u64;
    assert_eq!(
        (&old["status"], &old["reason"], &old["request_bytes"]),
        (&101.into(), &Value::Null, &(20 * ((1 << 20) + 14) + close + 2).into()),
        "{old}"
    );
}

/// The same through TLS, for the client: `wss:`.
#[test]
fn fault_99_ws_echoes_through_tls() {
    let Some(mut server) = Peer::start(&["serve"]) else {
        return;
    };
    let port = server.line();
    let (folder, _) = site(&["127.0.0.1"]);
    let address = tamis_integration::socket::Address::parse(&format!("127.0.0.1:{port}"));
    let yaml = Configuration::default().with(&[&address]);
    let tls = format!("address: 127.0.0.1:0\n    tls: {{ {SITE} }}\n    limits");
    let proxy = Proxy::start_in(&folder, &yaml.replacen("address: 127.0.0.1:0\n    limits", &tls, 1));
    let url = format!("wss://{}/chat", proxy.address("web"));
    let trusted = folder.path("ca.pem");
    let mut client = Peer::start_trusting(&["send", &url, "1048576"], Some(&trusted)).expect("the server was started");
    assert_eq!(client.line(), "101 undefined");
    for n in 0..5 {
        client.tell("one more");
        assert_eq!(client.line(), "same", "message {n}");
    }
    client.end();
    assert_eq!(client.line(), "closed 1000 done");
}

/// A program with the npm package `ws`.
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// `None` where there is no Node or no `ws`: not every machine has them, but the one that decides has.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_trusting(arguments, None)
    }

    /// The same, and it believes the authorities in this file.
    fn start_trusting(arguments: &[&str], authorities: Option<&Path>) -> Option<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("../filters/target/tools/peers/node_modules");
        if !Path::new(&modules.join("ws")).exists() {
            assert_ne!(env::var("CI").as_deref(), Ok("true"), "ws: run `.ci/setup test`");
            println!("skipped, because there is no ws: run `.ci/setup test`");
            return None;
        }
        let mut child = Command::new("node")
            .envs(authorities.map(|path| ("NODE_EXTRA_CA_CERTS", path)))
            .arg(root.join("peers/ws.cjs"))
            .args(arguments)
            .env("NODE_PATH", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed with ws");
        Some(Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("it is a pipe")),
            child,
        })
    }

    /// What it says next.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it is text");
        line.trim_end().to_owned()
    }

    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it was not told the end");
        writeln!(input, "{line}").expect("it listens");
    }

    pub fn end(&mut self) {
        self.input = None;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
