//! Extended CONNECT (RFC 8441): another protocol on a stream of HTTP/2, of the client's or to the upstream.

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, StatusCode};
use serde_json::Value;
use tamis_integration::http2::*;
use tamis_integration::origin::{Answer, Conversation, Origin, Scripted};
use tamis_integration::socket::Address;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, each, forwarded, wait_until};
use crate::tunnels::{LOG, Peer, records};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\nx-a: 1\r\n\r\n";
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// RFC 9113 7.
const CONNECT_ERROR: u32 = 10;
/// RFC 8441 3.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

fn yaml<'a>(limits: &'a str, route: &'a str) -> Configuration<'a> {
    Configuration {
        top: LOG,
        limits,
        route,
        ..Default::default()
    }
}

/// A proxy before an upstream that changes to `tcp` on each connection, and then follows the steps.
fn switching(limits: &str, steps: impl IntoIterator<Item = Step>) -> (Proxy, Upstream) {
    let begin = [Step::Message, Step::send(SWITCH)];
    let upstream = Upstream::each([begin.into_iter().chain(steps).collect::<Vec<_>>()]);
    let proxy = Proxy::start(&yaml(limits, "upgrades: [websocket, tcp]").to(&upstream));
    (proxy, upstream)
}

/// A connection on which the proxy has said that it takes such requests.
fn connect(proxy: &Proxy) -> Http2 {
    let client = Http2::connect(&proxy.address("web"));
    wait_until("the proxy's SETTINGS", || {
        client.sender.is_extended_connect_protocol_enabled()
    });
    client
}

fn ask(client: &Http2, protocol: &str, fields: &[(&'static str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::builder().method("CONNECT").uri("http://a.example/chat");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.extension(Protocol::from(protocol)).body(()).expect("a request");
    let mut sender = client.sender.clone();
    client.block_on(async { sender.send_request(request, false).expect("it is sent") })
}

struct Tunnel {
    client: Http2,
    source: RecvStream,
    sink: SendStream<Bytes>,
}

impl Tunnel {
    fn over(client: Http2) -> Self {
        let (response, sink) = ask(&client, "tcp", &[]);
        let response = client.block_on(response).expect("a response");
        assert_eq!(response.status(), 200);
        Self {
            client,
            source: response.into_body(),
            sink,
        }
    }

    fn send(&mut self, bytes: &'static str) {
        self.client.block_on(async {
            self.sink
                .send_data(Bytes::from(bytes), false)
                .expect("the stream is open");
        });
    }

    fn finish(&mut self) {
        self.client.block_on(async {
            self.sink.send_data(Bytes::new(), true).expect("the stream is open");
        });
    }

    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let piece = self.client.block_on(self.source.data());
            let piece = piece.expect("more").expect("the stream is whole");
            self.source
                .flow_control()
                .release_capacity(piece.len())
                .expect("it came");
            bytes.extend(&piece);
        }
        bytes
    }

    /// What is left, and how it ends.
    fn rest(&mut self) -> Result<Vec<u8>, Option<Reason>> {
        let read = self.client.block_on(read(&mut self.source));
        read.map_err(|error| error.reason())
    }
}

/// The request as HTTP/1.1 has it, the answer as HTTP/2 has it, all that passes, and one record of it at its end.
#[test]
fn fault_99_a_stream_passes_every_byte_both_ways() {
    let (proxy, upstream) = switching(
        "",
        [
            Step::send("early"),
            Step::Bytes(9),
            Step::send("\x00\x01late"),
            Step::Bytes(3),
            Step::Close,
        ],
    );
    let client = connect(&proxy);
    let (response, mut sink) = ask(
        &client,
        "tcp",
        &[("cookie", "a=1"), ("expect", "100-continue"), ("x-b", "2")],
    );
    // The client does not wait for the answer: nothing is lost, and nothing is sent before its time.
    client.block_on(async { sink.send_data(Bytes::from("premature"), false).expect("it is open") });
    let response = client.block_on(response).expect("a response");
    assert_eq!(response.status(), 200);
    let names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-a", "via", "date"], "{response:?}");
    let mut tunnel = Tunnel {
        client,
        source: response.into_body(),
        sink,
    };
    assert_eq!(tunnel.read(11), b"early\x00\x01late");
    tunnel.send("bye");
    assert_eq!(tunnel.rest(), Ok(Vec::new()));
    tunnel.finish();
    let request = upstream.take_request("the request");
    assert_eq!(
        forwarded(&request),
        "GET /chat HTTP/1.1\nconnection: upgrade\ncookie: a=1\nhost: a.example\nupgrade: tcp\nx-b: 2"
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
        (&record["request_bytes"], &record["response_bytes"], &record["protocol"]),
        (&12.into(), &11.into(), &"HTTP/2".into()),
        "{record}"
    );
}

/// Fault 99: who has said all goes on listening, whichever side it is, and other streams go their own way.
#[test]
fn fault_99_the_end_of_one_side_of_a_stream_is_passed_on() {
    let gate = Gate::new();
    let (proxy, _upstream) = switching(
        "",
        [
            Step::Bytes(8),
            Step::Pass(gate.clone()),
            Step::send("answer"),
            Step::Close,
        ],
    );
    let mut tunnel = Tunnel::over(connect(&proxy));
    tunnel.send("question");
    tunnel.finish();
    gate.wait_arrived(1);
    assert_eq!(
        tunnel.client.get("/nowhere").status,
        502,
        "the upstream has one connection"
    );
    gate.open();
    assert_eq!(tunnel.rest(), Ok(b"answer".to_vec()));

    let (proxy, upstream) = switching("", [Step::send("all"), Step::Finish, Step::Bytes(4), Step::Hold]);
    let mut tunnel = Tunnel::over(connect(&proxy));
    assert_eq!(tunnel.rest(), Ok(b"all".to_vec()));
    tunnel.send("thanks");
    tunnel.finish();
    assert_eq!(upstream.wait_ended(0), "Fin");
    assert!(upstream.received(0).ends_with(b"thanks"));
    assert_eq!(records(&proxy, 1)[0]["reason"], Value::Null);
}

/// Whoever goes without a word, the other learns it, and the record says who it was.
#[test]
fn who_breaks_a_stream_is_recorded() {
    let (proxy, upstream) = switching("", [Step::Hold]);
    let mut tunnel = Tunnel::over(connect(&proxy));
    tunnel.client.block_on(async { tunnel.sink.send_reset(Reason::CANCEL) });
    upstream.wait_ended(0);
    assert_eq!(records(&proxy, 1)[0]["reason"], "client_closed");

    let (proxy, upstream) = switching("", [Step::Hold]);
    // With its connection.
    drop(Tunnel::over(connect(&proxy)));
    upstream.wait_ended(0);
    assert_eq!(records(&proxy, 1)[0]["reason"], "client_closed");

    let (proxy, _upstream) = switching("", [Step::Bytes(1), Step::Reset]);
    let mut tunnel = Tunnel::over(connect(&proxy));
    tunnel.send("x");
    assert_eq!(tunnel.rest(), Err(Some(CONNECT_ERROR.into())));
    assert_eq!(records(&proxy, 1)[0]["reason"], "upstream_reset");
    let resets = proxy
        .metrics()
        .sum("tamis_http2_streams_reset_total", &[("reason", "upstream_reset")]);
    assert_eq!(resets, 1.0);
}

/// Fault 99: silence in both directions ends it; so does a client that takes nothing (fault 103), which stops the other side.
#[test]
fn fault_99_a_stream_at_rest_is_ended() {
    let (proxy, upstream) = switching(
        "tunnel_idle_timeout: 700ms",
        [Step::Bytes(1), Step::send("y"), Step::Hold],
    );
    let mut tunnel = Tunnel::over(connect(&proxy));
    tunnel.send("x");
    assert_eq!(tunnel.read(1), b"y");
    assert_eq!(tunnel.rest(), Err(Some(Reason::CANCEL)));
    upstream.wait_ended(0);
    assert_eq!(records(&proxy, 1)[0]["reason"], "tunnel_idle");

    let (proxy, upstream) = switching("write_timeout: 500ms", [Step::Pour(1 << 30)]);
    let tunnel = Tunnel::over(connect(&proxy));
    assert_eq!(records(&proxy, 1)[0]["reason"], "write_timeout");
    upstream.wait_ended(0);
    assert!(upstream.poured(0) < 64 << 20, "{}", upstream.poured(0));
    drop(tunnel);
}

/// Faults 66 and 99: a stream stays on its generation, and ends with it; its connection does not.
#[test]
fn fault_99_a_stream_ends_with_its_generation() {
    let upstream = Upstream::each([vec![Step::Message, Step::send(SWITCH), Step::Hold]]);
    let change = |n: u32, age: &str| {
        let top = format!("{LOG}\nreload: {{ max_age: {age} }}\ndrain_timeout: {n}s");
        let configuration = Configuration {
            top: &top,
            route: "upgrades: [tcp]",
            routes: "  - { match: { path: { exact: /here } }, respond: { status: 200 } }",
            ..Default::default()
        };
        configuration.to(&upstream)
    };
    let proxy = Proxy::start(&change(1, "1h"));
    let mut tunnel = Tunnel::over(connect(&proxy));
    assert_eq!(proxy.reload(&change(2, "1h")).0, 200);
    assert_eq!(tunnel.client.get("/here").status, 200);
    assert_eq!(proxy.reload(&change(3, "1s")).0, 200);
    assert_eq!(tunnel.rest(), Err(Some(Reason::CANCEL)));
    upstream.wait_ended(0);
    assert_eq!(tunnel.client.get("/here").status, 200, "the connection goes on");
    let records = records(&proxy, 3);
    let ended = records.iter().find(|record| record["status"] == 101).expect("a record");
    assert_eq!(ended["reason"], "generation_max_age");
}

/// Fault 84 over HTTP/2: no answer of anybody makes a client believe that it has what it asked for, but the upstream's.
#[test]
fn fault_84_what_makes_no_tunnel_of_a_stream() {
    let websocket = SWITCH.replace("tcp", "websocket");
    let another = websocket.replace("x-a: 1", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let elsewhere = "HTTP/1.1 307 T\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n";
    let plain = String::from_utf8(ok("yes")).expect("text");
    let cases: &[(&str, &str, &str, u16)] = &[
        ("not listed", "teapot", &plain, 501),
        ("without case", "TCP", SWITCH, 200),
        ("no change", "tcp", &plain, 502),
        ("no content", "tcp", "HTTP/1.1 204 No Content\r\n\r\n", 502),
        ("refused", "tcp", refusal, 403),
        ("elsewhere", "tcp", elsewhere, 307),
        ("another protocol", "websocket", SWITCH, 502),
        ("no key accepted", "websocket", &websocket, 502),
        ("another key accepted", "websocket", &another, 502),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, protocol, answer, status)| {
            let upstream = Upstream::each([vec![Step::Message, Step::send(answer), Step::Hold]]);
            let proxy = Proxy::start(&yaml("", "upgrades: [websocket, tcp]").to(&upstream));
            let client = connect(&proxy);
            let (response, _sink) = ask(&client, protocol, &[]);
            let response = client.block_on(response).expect("a response");
            assert_eq!(response.status(), *status, "{name}");
            if *name == "refused" {
                assert_eq!(client.block_on(read(&mut response.into_body())).expect("a body"), b"no");
            }
            if *status >= 500 {
                assert_eq!(records(&proxy, 1)[0]["status"], *status, "{name}");
            }
            if *status == 501 {
                assert_eq!(upstream.connections(), 0, "{name}");
            }
        },
    );
    // An answer of the proxy's own.
    let fixed = Configuration {
        routes: "  - { match: { path: { exact: /chat } }, respond: { status: 200, body: hello } }",
        ..Default::default()
    };
    let proxy = Proxy::start(&fixed.to(&Upstream::saying("ok")));
    let client = connect(&proxy);
    let (response, _sink) = ask(&client, "websocket", &[]);
    assert_eq!(client.block_on(response).expect("a response").status(), 502);
}

/// Fault 84: CONNECT of the plain kind makes no tunnel, whoever it is for.
#[test]
fn fault_84_a_plain_connect_is_refused() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml("", "upgrades: [tcp]").to(&upstream));
    let client = connect(&proxy);
    let request = Request::builder()
        .method("CONNECT")
        .uri("a.example:80")
        .body(())
        .expect("a request");
    let mut sender = client.sender.clone();
    let (response, _sink) = client.block_on(async { sender.send_request(request, false).expect("it is sent") });
    assert_eq!(client.block_on(response).expect("a response").status(), 501);
    assert_eq!(upstream.connections(), 0);
}

/// Filters see and edit both heads, as they are in HTTP/1.1, and may refuse either.
#[test]
fn filters_see_the_heads_of_a_stream() {
    let folder = Folder::new();
    let edit = Guest::new()
        .on_request([AppendRequestHeader("x-seen", b"yes".to_vec())])
        .on_response([SetResponseHeader("x-last", b"yes".to_vec())])
        .build();
    folder.write("edit.wasm", edit);
    folder.write("no.wasm", Guest::new().on_response([Reply(403, vec![], "no")]).build());
    folder.write("yes.wasm", Guest::new().on_request([Reply(200, vec![], "yes")]).build());
    let top =
        "filters:\n  edit: { component: edit.wasm }\n  no: { component: no.wasm }\n  yes: { component: yes.wasm }";
    for (filter, status) in [("edit", 200), ("no", 403), ("yes", 502)] {
        let upstream = Upstream::each([vec![Step::Message, Step::send(SWITCH), Step::Hold]]);
        let route = format!("upgrades: [tcp], filters: [{filter}]");
        let configuration = Configuration {
            top,
            route: &route,
            ..Default::default()
        };
        let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
        let client = connect(&proxy);
        let (response, _sink) = ask(&client, "tcp", &[]);
        let response = client.block_on(response).expect("a response");
        assert_eq!(response.status(), status, "{filter}");
        if filter == "edit" {
            assert_eq!(response.headers()["x-last"], "yes");
            assert_eq!(upstream.take_request("edit").values("x-seen"), ["yes"]);
        }
        if filter == "no" {
            upstream.wait_ended(0);
        }
    }
}

/// A server of HTTP/2 that takes other protocols, and answers each request with this.
fn taking(fields: &'static [(&'static str, &'static str)], rest: fn(&mut Conversation, u32)) -> Scripted {
    Scripted::start(&[(ENABLE_CONNECT_PROTOCOL, 1)], move |_, peer| {
        while let Some(frame) = peer.next() {
            if frame.kind == HEADERS {
                assert_eq!(frame.flags & END_STREAM, 0);
                peer.head(frame.stream, fields, 0);
                rest(peer, frame.stream);
            }
        }
    })
}

fn to_http2(address: &Address) -> Proxy {
    let configuration = Configuration {
        top: LOG,
        cluster: "protocol: http2",
        ..Default::default()
    };
    Proxy::start(&configuration.with(&[address]))
}

/// What a client of HTTP/1.1 is told of an upstream's 200, and what passes then.
#[test]
fn an_upstreams_stream_is_a_tunnel_of_the_client() {
    let origin = taking(&[(":status", "200"), ("x-a", "1")], |peer, stream| {
        peer.data(stream, b"early", 0).data(stream, b"", 0);
        let asked = peer.wait(DATA, stream).payload;
        peer.data(stream, &[b"got ", &*asked].concat(), END_STREAM);
    });
    let proxy = to_http2(origin.address());
    let mut client = proxy.client();
    client.send(ASK);
    let head = client.read_head();
    assert_eq!((head.status(), head.value("upgrade")), (101, Some("websocket")));
    assert_eq!(head.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((head.value("x-a"), head.value("content-length")), (Some("1"), None));
    assert_eq!(client.read(5), b"early");
    client.send("hello");
    assert_eq!(client.ending().bytes, b"got hello");
    client.finish();
    let record = &records(&proxy, 1)[0];
    assert_eq!(
        (&record["status"], &record["reason"]),
        (&101.into(), &Value::Null),
        "{record}"
    );
}

/// A refusal is the answer; a reset after the agreement breaks the tunnel, and an end of the client resets the stream.
#[test]
fn how_an_upstreams_stream_ends() {
    let refusing = taking(&[(":status", "403")], |peer, stream| {
        peer.data(stream, b"no", END_STREAM);
    });
    let proxy = to_http2(refusing.address());
    let response = proxy.client().exchange(ASK);
    assert_eq!((response.status(), &*response.text()), (403, "no"));

    let resetting = taking(&[(":status", "200")], |peer, stream| {
        peer.reset(stream, CONNECT_ERROR);
    });
    let proxy = to_http2(resetting.address());
    let mut client = proxy.client();
    client.send(ASK);
    client.ending();
    assert_eq!(records(&proxy, 1)[0]["reason"], "upstream_reset");

    let holding = taking(&[(":status", "200")], |_, _| {});
    let proxy = to_http2(holding.address());
    let mut client = proxy.client();
    client.send(ASK);
    assert_eq!(client.read_head().status(), 101);
    client.reset();
    assert_eq!(records(&proxy, 1)[0]["reason"], "client_closed");
    assert_eq!(holding.wait(0, RST_STREAM, 1).code(0), CANCEL);
}

/// A server that has not announced it gets a request like others, and its success makes no client believe in a tunnel.
#[test]
fn a_server_without_it_gets_a_plain_request() {
    let origin = Origin::start(100, |_| Answer::ok("plain"));
    let proxy = to_http2(origin.address());
    let response = proxy.client().exchange(ASK);
    assert_eq!((response.status(), &*response.text()), (200, "plain"));
    assert_eq!(origin.take()[0].method, "GET");
    let client = connect(&proxy);
    let (response, _sink) = ask(&client, "websocket", &[]);
    assert_eq!(
        client.block_on(response).expect("a response").status(),
        StatusCode::BAD_GATEWAY
    );
}

/// Node's `ws` at both ends, HTTP/2 on either side or on both: 1 MiB in each message, byte for byte, while filters are
/// swapped.
#[test]
fn fault_99_ws_echoes_over_streams() {
    for (serve, send, cluster) in [
        ("serve", "send2", "http1"),
        ("serve2", "send", "http2"),
        ("serve2", "send2", "http2"),
    ] {
        let Some(mut server) = Peer::start(&[serve]) else {
            return;
        };
        let address = Address::parse(&format!("127.0.0.1:{}", server.line()));
        let folder = Folder::new();
        let filter = |n: u32| {
            let value = n.to_string().into_bytes();
            Guest::new().on_response([SetResponseHeader("x-filter", value)]).build()
        };
        folder.write("filter.wasm", filter(0));
        let cluster = format!("protocol: {cluster}");
        let configuration = Configuration {
            top: &format!("{LOG}\nfilters:\n  filter: {{ component: filter.wasm }}"),
            cluster: &cluster,
            route: "filters: [filter]",
            ..Default::default()
        };
        let yaml = configuration.with(&[&address]);
        let proxy = Proxy::start_in(&folder, &yaml);
        let scheme = if send == "send" { "ws" } else { "http" };
        let url = format!("{scheme}://{}/chat", proxy.address("web"));
        let mut client = Peer::start(&[send, &url, "1048576"]).expect("the server was started");
        let status = if send == "send" { 101 } else { 200 };
        assert_eq!(client.line(), format!("{status} 0"), "{serve} {send}");
        for n in 1..=20 {
            client.tell("one more");
            folder.write("filter.wasm", filter(n));
            assert_eq!(proxy.reload(&yaml).0, 200);
            assert_eq!(client.line(), "same", "{serve} {send}: swap {n}");
        }
        client.end();
        assert_eq!(client.line(), "closed 1000 done", "{serve} {send}");
        let record = &records(&proxy, 1)[0];
        assert_eq!(
            (&record["status"], &record["reason"]),
            (&101.into(), &Value::Null),
            "{record}"
        );
    }
}
