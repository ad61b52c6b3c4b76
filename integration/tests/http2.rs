//! HTTP/2 from clients: every exchange as over HTTP/1, many at once, and an end to whatever asks for more than it gives.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use http::Request;
use rustix::process::Signal;
use serde_json::Value;
use tamis_integration::http2::*;
use tamis_integration::upstream::{Script, ok};
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, apply, component, each, forwarded, plain, wait_until};

const LOG: &str = "access.log";
const TO_FILE: &str = "access_log: { file: access.log, format: json }";

fn limited(upstream: &Upstream, limits: &str) -> Proxy {
    Proxy::start(
        &Configuration {
            top: TO_FILE,
            limits,
            ..Default::default()
        }
        .to(upstream),
    )
}

fn records(folder: &Folder, count: usize) -> Vec<Value> {
    let lines = folder.wait_lines(LOG, count);
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn cut(proxy: &Proxy, reason: &str) -> f64 {
    proxy
        .metrics()
        .sum("tamis_http2_connections_cut_total", &[("reason", reason)])
}

fn resets(proxy: &Proxy, reason: &str) -> f64 {
    proxy
        .metrics()
        .sum("tamis_http2_streams_reset_total", &[("reason", reason)])
}

fn with_fields(fields: &[(&str, &str)]) -> Request<()> {
    let mut request = request("GET", "/");
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().expect("a name");
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    request
}

#[test]
fn a_request_goes_upstream_as_if_it_had_come_over_http1() {
    let upstream = Upstream::repeating(
        "HTTP/1.1 201 Created\r\nX-A: 1\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    );
    let proxy = limited(&upstream, "");
    let mut client = Http2::connect(&proxy.address("web"));
    let mut request = with_fields(&[("cookie", "a=1"), ("x-b", "2"), ("cookie", "b=2"), ("te", "trailers")]);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = "http://A.example:80/a/../b?c=d".parse().expect("a target");
    let response = client.exchange(request, b"abc");
    assert_eq!((response.status.as_u16(), response.text().as_str()), (201, "hello"));
    assert_eq!(response.headers["x-a"], "1");
    assert_eq!(response.headers["content-length"], "5");
    assert!(
        response.headers.contains_key("date"),
        "RFC 9110 6.6.1: {:?}",
        response.headers
    );
    assert!(!response.headers.contains_key("connection"), "{:?}", response.headers);
    let seen = upstream.take_request("one request");
    assert!(
        seen.value("via").is_some_and(|via| via.starts_with("2 tamis-")),
        "{seen:?}"
    );
    assert_eq!(
        forwarded(&seen),
        "POST /b?c=d HTTP/1.1\nconnection: te\ncookie: a=1; b=2\nhost: a.example:80\nte: trailers\n\
         transfer-encoding: chunked\nx-b: 2\n\nabc"
    );
    let record = records(proxy.folder(), 1).remove(0);
    for (name, value) in [
        ("protocol", "HTTP/2"),
        ("method", "POST"),
        ("authority", "a.example:80"),
        ("path", "/b?c=d"),
    ] {
        assert_eq!(record[name], value, "{record}");
    }
    assert_eq!(
        (&record["request_bytes"], &record["response_bytes"]),
        (&3.into(), &5.into())
    );
    assert_eq!(record["reason"], Value::Null, "{record}");
}

#[test]
fn kinds_of_responses() {
    let upstream = Upstream::answering(|request| match request.target() {
        "/204" => b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n".to_vec(),
        "/trailers" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
            3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
            .to_vec(),
        _ if request.method() == "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(),
        _ => ok(""),
    });
    let proxy = limited(&upstream, "");
    let mut client = Http2::connect(&proxy.address("web"));
    assert_eq!(client.get("/204").status, 204);
    let unchanged = client.get("/304");
    assert_eq!(
        (
            unchanged.status.as_u16(),
            unchanged.headers["content-length"].as_bytes()
        ),
        (304, &b"7"[..])
    );
    let trailers = client.get("/trailers");
    assert_eq!(trailers.text(), "abc");
    assert!(!trailers.headers.contains_key("transfer-encoding"));
    assert_eq!(trailers.trailers.expect("trailers")["x-t"], "1");
    let head = client.exchange(request("HEAD", "/"), b"");
    assert_eq!(
        (head.headers["content-length"].as_bytes(), head.body.len()),
        (&b"5"[..], 0)
    );
    assert_eq!(client.get("/empty").body, b"");
    for record in records(proxy.folder(), 5) {
        assert_eq!(record["reason"], Value::Null, "{record}");
    }
    assert_eq!(upstream.connections(), 1, "every response was whole");
}

#[test]
fn streams_do_not_wait_for_each_other() {
    let gate = Gate::new();
    let upstream = Upstream::each([
        vec![
            Step::Message,
            Step::Pass(gate.clone()),
            Step::send(ok("late")),
            Step::Hold,
        ],
        vec![Step::serve(ok("early"))],
    ]);
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = Http2::connect(&proxy.address("web"));
    let late = client.begin(request("GET", "/late"), b"");
    gate.wait_arrived(1);
    for _ in 0..10 {
        assert_eq!(client.get("/early").text(), "early");
    }
    gate.open();
    assert_eq!(client.finish(late).text(), "late");
}

/// Large bodies both ways, through windows much smaller than they are.
#[test]
fn bodies_pass_the_windows() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = limited(
        &upstream,
        "http2: { stream_window: 1KiB, connection_window: 65535B, send_buffer: 16KiB }",
    );
    let mut client = Http2::connect(&proxy.address("web"));
    let body: Vec<u8> = (0..3_000_000u32).map(|at| b'a' + (at % 23) as u8).collect();
    let response = client.exchange(request("POST", "/"), &body);
    assert!(response.body == body, "{} of {} bytes", response.body.len(), body.len());
}

/// One target at a time: curl 7.88 cannot use such a connection again, whatever the server.
#[test]
fn curl_knows_it_beforehand() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = Proxy::start(&plain(&upstream));
    let url = format!("http://{}/", proxy.address("web"));
    for body in ["hello", &"x".repeat(300_000)] {
        let folder = Folder::new();
        let file = folder.write("body", body);
        let output = Command::new("curl")
            .args([
                "-sS",
                "--http2-prior-knowledge",
                "-w",
                " %{http_version} %{http_code}",
                "--data-binary",
            ])
            .args([format!("@{}", file.display()), url.clone()])
            .output()
            .expect("curl is there");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(printed == format!("{body} 2 200"), "{output:?}");
    }
}

/// With the default limits: each connection has its thousand requests. h2load makes no second one.
#[test]
fn h2load_has_no_failure_through_a_filter() {
    let (folder, _) = crate::certificates::site(&["127.0.0.1"]);
    load_through_a_filter(&folder, "http", "");
}

/// The same, and the protocol is agreed upon in the handshake.
#[test]
fn h2load_has_no_failure_over_tls() {
    let (folder, _) = crate::certificates::site(&["127.0.0.1"]);
    load_through_a_filter(&folder, "https", &format!("    tls: {{ {} }}\n", crate::tls::SITE));
}

fn load_through_a_filter(folder: &Folder, scheme: &str, tls: &str) {
    let upstream = Upstream::saying("hello");
    folder.copy(&component("tenant"), "tenant.wasm");
    let configuration = Configuration {
        top: "filters:\n  tenant: { component: tenant.wasm, config: { header: x-tenant, allow: [acme] }, grants: [metrics], \
              limits: { wait: 20s, wall: 20s, cpu: 1s, exchange_cpu: 10s } }",
        listener_filters: "tenant",
        ..Default::default()
    };
    let web = "    address: 127.0.0.1:0\n    limits:";
    let configuration = configuration.to(&upstream);
    assert!(configuration.contains(web), "{configuration}");
    let proxy = Proxy::start_in(folder, &configuration.replace(web, &format!("{tls}{web}")));
    let url = format!("{scheme}://{}/", proxy.address("web"));
    let output = Command::new("h2load")
        .args(["-n", "100000", "-c", "100", "-m", "2", "-H", "x-tenant: acme", &url])
        .output()
        .expect("h2load is there");
    let printed = String::from_utf8_lossy(&output.stdout);
    let done = "100000 total, 100000 started, 100000 done, 100000 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(printed.contains(done) && printed.contains("100000 2xx"), "{printed}");
    assert_eq!(
        proxy.metrics().sum("tamis_requests_total", &[("code", "200")]),
        100_000.0
    );
}

/// The first bytes decide, however they come; a listener may allow one protocol alone.
#[test]
fn the_preface_decides() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    for split in [1, 3, 14, 15, 23] {
        let mut client = proxy.client();
        let request = "PRI /* HTTP/1.1\r\nHost: a.example\r\n\r\n";
        client.send(&request[..split.min(4)]);
        client.assert_silent(Duration::from_millis(20), "an unfinished head");
        assert_eq!(
            client.send(&request[split.min(4)..]).response().status(),
            200,
            "PRI is a method too"
        );
        let mut frames = Frames::silent(&proxy.address("web"));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        frames.client.send(&preface[..split]);
        frames
            .client
            .assert_silent(Duration::from_millis(20), "an unfinished preface");
        frames.client.send(&preface[split..]);
        frames.send(SETTINGS, 0, 0, &[]).get(1, "/");
        assert_eq!(frames.end_of(1), (End::Stream, b"ok".to_vec()), "split at {split}");
    }
    let only =
        |protocol: &str| plain(&upstream).replace("limits: {", &format!("protocols: [{protocol}]\n    limits: {{"));
    let one = Proxy::start(&only("http1"));
    let mut frames = Frames::connect(&one.address("web"));
    let ending = frames.client.ending();
    let is_http1 = ending.bytes.is_empty() || ending.bytes.starts_with(b"HTTP/1.1 4");
    assert!(is_http1, "{}", ending.bytes.escape_ascii());
    let two = Proxy::start(&only("http2"));
    let mut client = two.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let ending = client.ending();
    assert!(!ending.bytes.starts_with(b"HTTP/"), "{}", ending.bytes.escape_ascii());
    assert_eq!(Http2::connect(&two.address("web")).get("/").status, 200);
}

/// Fault 95: what is malformed ends its stream, and no upstream ever sees it.
#[test]
fn fault_95_malformed_requests() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let base = get("/");
    let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
    let replaced = |name: &str, value: &'static str| {
        let field = |field: &(&'static str, &'static str)| if field.0 == name { (field.0, value) } else { *field };
        base.iter().map(field).collect::<Vec<_>>()
    };
    let without = |name: &str| base.iter().copied().filter(|field| field.0 != name).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("host disagrees", with(&[("host", "b.example")])),
        ("host twice", with(&[("host", "a.example"), ("host", "a.example")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "gzip")])),
        ("te with more", with(&[("te", "trailers, gzip")])),
        ("upper case", with(&[("X-A", "1")])),
        ("leading blank", with(&[("x-a", " 1")])),
        ("trailing tab", with(&[("x-a", "1\t")])),
        ("line feed", with(&[("x-a", "1\nx-b: 2")])),
        ("carriage return", with(&[("x-a", "1\rx")])),
        ("NUL", with(&[("x-a", "1\0")])),
        ("space in a name", with(&[("x a", "1")])),
        ("colon in a name", with(&[("x:a", "1")])),
        ("empty name", with(&[("", "1")])),
        ("line end in a name", with(&[("x-a\r\nx-b", "1")])),
        ("space in the path", replaced(":path", "/a b")),
        ("line end in the path", replaced(":path", "/ HTTP/1.1\r\nX: y")),
        ("empty path", replaced(":path", "")),
        ("space in the method", replaced(":method", "GET / HTTP/1.1\r\n")),
        ("empty method", replaced(":method", "")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("path twice", with(&[(":path", "/b")])),
        ("authority twice", with(&[(":authority", "a.example")])),
        ("unknown pseudo field", with(&[(":a", "b")])),
        ("status", with(&[(":status", "200")])),
        ("late pseudo field", [&base[..3], &[("x-a", "1")], &base[3..]].concat()),
        ("length of no body", with(&[("content-length", "5")])),
        ("length with a sign", with(&[("content-length", "+0")])),
        (
            "differing lengths",
            with(&[("content-length", "0"), ("content-length", "1")]),
        ),
        ("protocol", with(&[(":protocol", "websocket")])),
    ];
    each(
        &cases,
        |case| case.0.to_owned(),
        |(name, fields)| {
            let mut frames = Frames::connect(&proxy.address("web"));
            frames.request(1, fields, END_STREAM);
            let (end, _) = frames.end_of(1);
            assert!(
                matches!(end, End::Reset(PROTOCOL_ERROR) | End::GoAway(PROTOCOL_ERROR)),
                "{name}: {end:?}"
            );
            if end == End::Reset(PROTOCOL_ERROR) {
                frames.get(3, "/after");
                assert_eq!(frames.end_of(3).0, End::Stream, "{name}: the connection goes on");
            }
        },
    );
    assert!(
        upstream
            .take_requests()
            .iter()
            .all(|request| request.target() == "/after")
    );
    let answered: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("userinfo", replaced(":authority", "me@a.example")),
        ("no authority", without(":authority")),
        ("empty authority", replaced(":authority", "")),
        ("path above the root", replaced(":path", "/../a")),
        ("path without a slash", replaced(":path", "a")),
        ("encoded NUL", replaced(":path", "/%00")),
        ("unknown scheme", replaced(":scheme", "gopher")),
        ("underscore twin", with(&[("content_length", "1")])),
        ("connect", vec![(":method", "CONNECT"), (":authority", "a.example:80")]),
    ];
    each(
        &answered,
        |case| case.0.to_owned(),
        |(name, fields)| {
            let mut frames = Frames::connect(&proxy.address("web"));
            frames.request(1, fields, END_STREAM);
            let (end, body) = frames.end_of(1);
            match end {
                End::Stream => assert!(
                    body.starts_with(b"400 ") || body.starts_with(b"501 "),
                    "{name}: {body:?}"
                ),
                end => assert_eq!(end, End::Reset(PROTOCOL_ERROR), "{name}"),
            }
        },
    );
    assert!(upstream.take_requests().is_empty(), "no upstream has seen any of it");
}

/// Fault 95: a body is as long as its head says.
#[test]
fn fault_95_lengths_of_bodies() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = limited(&upstream, "");
    let post = [&[(":method", "POST")], &get("/")[1..], &[("content-length", "5")]].concat();
    for (name, pieces) in [("too much", ["hell", "o!"]), ("too little", ["he", "ll"])] {
        let mut frames = Frames::connect(&proxy.address("web"));
        frames.request(1, &post, 0);
        frames.send(DATA, 0, 1, pieces[0].as_bytes());
        frames.send(DATA, END_STREAM, 1, pieces[1].as_bytes());
        assert_eq!(frames.end_of(1).0, End::Reset(PROTOCOL_ERROR), "{name}");
        frames.get(3, "/after");
        assert_eq!(frames.end_of(3).0, End::Stream, "{name}: the connection goes on");
    }
    let mut frames = Frames::connect(&proxy.address("web"));
    frames.request(1, &post, 0);
    frames.send(DATA, 0, 1, b"hel").send(DATA, END_STREAM, 1, b"lo");
    assert_eq!(frames.end_of(1), (End::Stream, b"hello".to_vec()));
    let whole = upstream.take_requests();
    assert!(
        whole
            .iter()
            .all(|request| request.target() == "/after" || request.text() == "hello"),
        "{whole:?}"
    );
}

/// Fault 92: fields are counted, crumbs of cookies among them, and their bytes.
#[test]
fn fault_92_many_fields() {
    let upstream = Upstream::saying("ok");
    let proxy = limited(&upstream, "");
    let mut client = Http2::connect(&proxy.address("web"));
    let crumbs = |count| vec![("cookie", "a=1"); count];
    assert_eq!(client.exchange(with_fields(&crumbs(90)), b"").status, 200);
    assert_eq!(upstream.take_request("crumbs").values("cookie").len(), 1);
    assert_eq!(client.exchange(with_fields(&crumbs(101)), b"").status, 431);
    assert_eq!(
        client
            .exchange(with_fields(&[("x-a", &"a".repeat(17 << 10))]), b"")
            .status,
        431
    );
    let long = "a".repeat(900);
    let mut frames = Frames::connect(&proxy.address("web"));
    let fields = [&get("/")[..], &vec![("x-a", long.as_str()); 70]].concat();
    let block = block(&fields);
    let (first, rest) = block.split_at(16_000);
    frames.send(HEADERS, END_STREAM, 1, first);
    let pieces: Vec<_> = rest.chunks(16_000).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let flags = if at + 1 == pieces.len() { END_HEADERS } else { 0 };
        frames.send(CONTINUATION, flags, 1, piece);
    }
    let (end, _) = frames.end_of(1);
    assert!(matches!(end, End::Stream | End::Reset(_)), "{end:?}");
    assert!(upstream.take_requests().is_empty());
    assert_eq!(client.get("/").status, 200, "others are not concerned");
}

/// Fault 92: a few indexed bytes that stand for much.
#[test]
fn fault_92_a_bomb_of_references() {
    let upstream = Upstream::saying("ok");
    let proxy = limited(&upstream, "");
    let mut frames = Frames::connect(&proxy.address("web"));
    let mut bomb = block(&get("/"));
    // A field of nearly 4 KiB into the dynamic table, and then references to it.
    bomb.extend([0x40, 3]);
    bomb.extend(b"x-a");
    bomb.extend([0x7f, 0x81, 0x1e]);
    bomb.extend(vec![b'a'; 127 + 1 + 30 * 128]);
    bomb.extend(vec![0xbe; 8_000]);
    frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &bomb);
    let (end, _) = frames.end_of(1);
    assert!(
        matches!(end, End::Stream | End::Reset(_) | End::GoAway(ENHANCE_YOUR_CALM)),
        "{end:?}"
    );
    assert!(upstream.take_requests().is_empty());
}

/// Fault 91: header blocks that never end.
#[test]
fn fault_91_continuations() {
    let upstream = Upstream::saying("ok");
    let proxy = limited(&upstream, "head_timeout: 500ms");
    let mut flood = Frames::connect(&proxy.address("web"));
    flood.send(HEADERS, END_STREAM, 1, &block(&get("/")));
    for _ in 0..10_000 {
        flood.try_send(CONTINUATION, 0, 1, &block(&[("x-a", "1")]));
    }
    assert!(matches!(flood.ending(), End::GoAway(ENHANCE_YOUR_CALM) | End::Closed));
    let mut slow = Frames::connect(&proxy.address("web"));
    slow.send(HEADERS, END_STREAM, 1, &block(&get("/")));
    assert_eq!(slow.ending(), End::GoAway(ENHANCE_YOUR_CALM));
    assert_eq!(cut(&proxy, "head_timeout"), 1.0);
    let mut trickle = Frames::connect(&proxy.address("web"));
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&get("/")));
    let since = Instant::now();
    for byte in &request[..20] {
        if !trickle.client.try_send([*byte]) {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(trickle.ending(), End::GoAway(ENHANCE_YOUR_CALM));
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(upstream.take_requests().is_empty());
}

/// Faults 89 and 90: resets cost, whoever makes them.
#[test]
fn fault_89_rapid_reset() {
    let folder = Folder::new();
    folder.write("count.wasm", Guest::new().on_request([Count(1)]).build());
    let upstream = Upstream::each([vec![Step::Hold]]);
    let proxy = Proxy::start_in(
        &folder,
        &Configuration {
            top: "filters:\n  count: { component: count.wasm, grants: [metrics] }",
            listener_filters: "count",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut frames = Frames::connect(&proxy.address("web"));
    let mut streams = 0;
    for stream in (1..4_001).step_by(2) {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("/")));
        let reset = frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
        if !frames.client.try_send([request, reset].concat()) {
            break;
        }
        streams += 1;
    }
    assert_eq!(
        frames.ending(),
        End::GoAway(ENHANCE_YOUR_CALM),
        "after {streams} streams"
    );
    let cut_before = cut(&proxy, "resets");
    // One at a time, each accepted before it is reset.
    let mut paced = Frames::connect(&proxy.address("web"));
    let before = upstream.connections();
    let mut begun = 0;
    for stream in (1..2_001).step_by(2) {
        if !paced
            .client
            .try_send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("/"))))
        {
            break;
        }
        begun += 1;
        let expected = before + begun;
        let reached = Instant::now();
        while upstream.connections() < expected && reached.elapsed() < Duration::from_millis(500) {
            thread::sleep(Duration::from_millis(1));
        }
        if upstream.connections() < expected {
            break;
        }
        paced.try_send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    }
    assert!((100..160).contains(&begun), "{begun} streams were begun");
    assert_eq!(paced.ending(), End::GoAway(ENHANCE_YOUR_CALM));
    assert_eq!(cut(&proxy, "resets"), cut_before + 1.0);
    wait_until("all exchanges are over", || {
        proxy.metrics().sum("tamis_upstream_connections", &[]) == 0.0
    });
    assert_eq!(
        Http2::connect(&proxy.address("web"))
            .begin(request("GET", "/"), b"")
            .stream_id()
            .as_u32(),
        1
    );
}

#[test]
fn fault_90_made_you_reset() {
    let upstream = Upstream::each([vec![Step::Hold]]);
    let proxy = limited(&upstream, "http2: { max_resets: 20 }");
    let mut frames = Frames::connect(&proxy.address("web"));
    let mut streams = 0;
    for stream in (1..2_001).step_by(2) {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("/")));
        // A window of more than 2^31-1 is the stream's error (RFC 9113 6.9.1).
        let overflow = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
        if !frames.client.try_send([request, overflow].concat()) {
            break;
        }
        streams += 1;
    }
    assert_eq!(
        frames.ending(),
        End::GoAway(ENHANCE_YOUR_CALM),
        "after {streams} streams"
    );
    assert!(cut(&proxy, "flood") + cut(&proxy, "resets") >= 1.0);
}

/// Fault 93: frames that carry nothing.
#[test]
fn fault_93_floods() {
    let upstream = Upstream::saying("ok");
    let proxy = limited(&upstream, "http2: { max_control_frames: 200 }");
    let one = 1u32.to_be_bytes();
    let priority = [0, 0, 0, 0, 16];
    let post = [&[(":method", "POST")], &get("/")[1..]].concat();
    let cases: &[(&str, u8, u32, &[u8])] = &[
        ("PING", PING, 0, &[0; 8]),
        ("SETTINGS", SETTINGS, 0, &[]),
        ("WINDOW_UPDATE", WINDOW_UPDATE, 0, &one),
        ("PRIORITY", PRIORITY, 3, &priority),
        ("unknown", 0xbb, 0, &[1, 2, 3]),
        ("empty DATA", DATA, 1, &[]),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, kind, stream, payload)| {
            let mut frames = Frames::connect(&proxy.address("web"));
            if *kind == DATA {
                frames.request(1, &post, 0);
            }
            let flood = frame(*kind, 0, *stream, payload).repeat(100);
            let mut sent = 0;
            while sent < 5_000 && frames.client.try_send(&flood) {
                sent += 100;
            }
            assert_eq!(
                frames.ending(),
                End::GoAway(ENHANCE_YOUR_CALM),
                "{name}: after {sent} frames"
            );
        },
    );
    assert!(cut(&proxy, "control_frames") + cut(&proxy, "flood") >= cases.len() as f64);
    let mut tiny = Frames::connect(&proxy.address("web"));
    tiny.request(1, &post, 0);
    let ones = frame(DATA, 0, 1, b"a").repeat(30_000);
    tiny.client.try_send(&ones);
    tiny.try_send(DATA, END_STREAM, 1, b"");
    let (end, _) = tiny.end_of(1);
    assert!(
        matches!(end, End::Stream | End::GoAway(ENHANCE_YOUR_CALM)),
        "one byte at a time: {end:?}"
    );
}

/// A client that sends what its traffic explains is left alone.
#[test]
fn busy_clients_are_no_flood() {
    let upstream = Upstream::saying("ok");
    let proxy = limited(&upstream, "http2: { max_control_frames: 20, max_resets: 5 }");
    let mut frames = Frames::connect(&proxy.address("web"));
    for stream in (1..401).step_by(2) {
        frames.get(stream, "/");
        frames
            .send(WINDOW_UPDATE, 0, 0, &100u32.to_be_bytes())
            .send(PING, 0, 0, &[0; 8]);
        assert_eq!(frames.end_of(stream).0, End::Stream, "stream {stream}");
    }
}

/// Go's client updates both windows for every 4 KiB.
#[test]
fn downloads_are_no_flood() {
    let upstream = Upstream::repeating(ok(&"x".repeat(3_000_000)));
    let proxy = limited(&upstream, "http2: { max_control_frames: 20 }");
    let mut frames = Frames::connect(&proxy.address("web"));
    frames.get(1, "/");
    let (mut received, mut updated) = (0, 0);
    while received < 3_000_000 {
        let frame = frames.next_frame().expect("more of it");
        assert_ne!(frame.kind, GOAWAY, "after {received} bytes");
        if frame.kind == DATA {
            received += frame.payload.len();
        }
        while received - updated >= 4_096 {
            updated += 4_096;
            for stream in [0, 1] {
                frames.send(WINDOW_UPDATE, 0, stream, &4_096u32.to_be_bytes());
            }
        }
    }
}

/// Fault 94: windows that stay closed, or open byte by byte.
#[test]
fn fault_94_stalled_windows() {
    let upstream = Upstream::repeating(ok(&"x".repeat(100_000)));
    let proxy = limited(&upstream, "write_timeout: 1s");
    let mut frames = Frames::silent(&proxy.address("web"));
    frames.open(&[(4, 0)]);
    for stream in (1..41).step_by(2) {
        frames.get(stream, "/");
    }
    let since = Instant::now();
    for round in 0..20u32 {
        for stream in (1..41).step_by(2) {
            frames.try_send(WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes());
        }
        if round > 12 {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let (end, body) = frames.end_of(1);
    assert_eq!(end, End::Reset(CANCEL));
    assert!(body.len() < 100, "{} bytes", body.len());
    assert!(since.elapsed() < Duration::from_secs(10));
    wait_until("every stream is reset", || resets(&proxy, "write_timeout") == 20.0);
    for record in records(proxy.folder(), 20) {
        assert_eq!(record["reason"], "write_timeout", "{record}");
    }
    let mut client = Http2::connect(&proxy.address("web"));
    assert_eq!(client.get("/").body.len(), 100_000);
}

/// Fault 94: what is not read yet, in frames of one byte, ends neither the connection nor its other streams.
#[test]
fn fault_94_small_frames_that_wait() {
    const COUNT: usize = 60_000;
    let gate = Gate::new();
    let late = vec![Step::Head, Step::Pass(gate.clone()), Step::Close];
    let upstream = Upstream::each([late.clone(), late.clone(), late, vec![Step::serve(ok("early"))]]);
    let proxy = limited(&upstream, "");
    let mut frames = Frames::connect(&proxy.address("web"));
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a.example"),
        ("sec-websocket-version", "13"),
    ];
    for (stream, arrived) in [(1, 1), (3, 2), (5, 3)] {
        frames.request(stream, &fields, 0);
        gate.wait_arrived(arrived);
        // No protocol has been agreed on, so nobody reads.
        let crumbs = (0..COUNT).flat_map(|_| frame(DATA, 0, stream, b"x"));
        frames.client.send(crumbs.collect::<Vec<u8>>());
    }
    frames.get(7, "/");
    assert_eq!(frames.end_of(7), (End::Stream, b"early".to_vec()));
    gate.open();
    assert_eq!(cut(&proxy, "flood"), 0.0);
}

/// `h2` bears a hundred empty frames in a connection's life, so the client is asked for another one before.
#[test]
fn empty_frames_end_a_connection_in_peace() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = limited(&upstream, "");
    let mut frames = Frames::connect(&proxy.address("web"));
    let post = [&[(":method", "POST")], &get("/")[1..]].concat();
    frames.request(1, &post, 0);
    for _ in 0..60 {
        frames.send(DATA, 0, 1, b"").send(DATA, 0, 1, b"x");
    }
    assert_eq!(frames.wait_goaway().code(4), NO_ERROR);
    frames.send(DATA, END_STREAM, 1, b"");
    let mut body = Vec::<u8>::new();
    while let Some(frame) = frames.next_frame() {
        if frame.kind == DATA {
            body.extend(&frame.payload);
        }
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(body, [b'x'; 60]);
}

/// The first SETTINGS, the time between requests, and a client that is not there any more.
#[test]
fn deadlines_of_connections() {
    let upstream = Upstream::each([vec![Step::Hold]]);
    let limits = "head_timeout: 500ms, idle_timeout: 800ms, http2: { ping_interval: 300ms, ping_timeout: 300ms }";
    let proxy = limited(&upstream, limits);
    let address = proxy.address("web");
    let mut mute = Frames::silent(&address);
    mute.client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(mute.ending(), End::GoAway(SETTINGS_TIMEOUT));
    assert_eq!(cut(&proxy, "settings_timeout"), 1.0);
    let since = Instant::now();
    let mut idle = Frames::connect(&address);
    idle.send(PING, 0, 0, &[0; 8]);
    assert_eq!(idle.ending(), End::GoAway(NO_ERROR));
    assert!(since.elapsed() >= Duration::from_millis(700), "{:?}", since.elapsed());
    let mut gone = Frames::connect(&address);
    gone.get(1, "/");
    upstream.wait_connections(1);
    assert_eq!(gone.ending(), End::GoAway(NO_ERROR));
    assert_eq!(cut(&proxy, "ping_timeout"), 1.0);
    assert_eq!(upstream.wait_ended(0), "Fin");
    let mut silent = Frames::silent(&address);
    assert_eq!(silent.ending(), End::Closed, "one that says nothing");
    // One that waits and answers is there.
    let mut patient = Frames::connect(&address);
    patient.get(1, "/");
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1_500) {
        let ping = patient.wait(PING, 0);
        if ping.flags & ACK == 0 {
            patient.send(PING, ACK, 0, &ping.payload);
        }
    }
}

#[test]
fn the_time_for_bodies() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = limited(&upstream, "body_timeout: 500ms");
    let mut frames = Frames::connect(&proxy.address("web"));
    let post = [&[(":method", "POST")], &get("/")[1..]].concat();
    frames.request(1, &post, 0).send(DATA, 0, 1, b"abc");
    let (_, body) = frames.end_of(1);
    assert!(body.starts_with(b"408 "), "{}", body.escape_ascii());
    frames.get(3, "/");
    assert_eq!(frames.end_of(3).0, End::Stream, "the connection goes on");
    assert_eq!(records(proxy.folder(), 2)[0]["reason"], "body_timeout");
}

/// A client that leaves takes its exchange with it.
#[test]
fn a_reset_ends_the_exchange() {
    let upstream = Upstream::each([vec![Step::Message, Step::Hold]]);
    let proxy = limited(&upstream, "");
    let mut frames = Frames::connect(&proxy.address("web"));
    frames.get(1, "/");
    upstream.wait_requests(1);
    frames.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
    assert_eq!(upstream.wait_ended(0), "Fin");
    let record = records(proxy.folder(), 1).remove(0);
    assert_eq!(
        (&record["status"], &record["reason"]),
        (&499.into(), &"client_closed".into())
    );
    assert_eq!(resets(&proxy, "client"), 1.0);
}

/// An answer before the end of the request ends the stream, not the connection, and nothing of the windows is lost.
#[test]
fn early_answers() {
    let upstream = Upstream::saying("ok");
    let yaml = Configuration {
        routes: "  - { name: no, match: { path: { prefix: /no } }, respond: { status: 403, body: no } }",
        limits: "max_requests: 10000",
        ..Default::default()
    };
    let proxy = Proxy::start(&yaml.to(&upstream));
    let mut frames = Frames::connect(&proxy.address("web"));
    let post = [&[(":method", "POST")], &get("/no")[1..3], &[(":path", "/no")]].concat();
    for stream in (1..121).step_by(2) {
        frames.request(stream, &post, 0);
        for _ in 0..3 {
            frames.send(DATA, 0, stream, &[0; 16_000]);
        }
        assert_eq!(frames.end_of(stream), (End::Stream, b"no".to_vec()), "stream {stream}");
        let reset = frames.wait(RST_STREAM, stream);
        assert_eq!(reset.payload, NO_ERROR.to_be_bytes(), "stream {stream}");
    }
    frames.get(121, "/");
    assert_eq!(frames.end_of(121).0, End::Stream);
}

/// A response that breaks off never looks whole.
#[test]
fn a_broken_response_is_reset() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let upstream = Upstream::each([
        vec![Step::Message, Step::send(head), Step::Close],
        vec![Step::serve(ok("ok"))],
    ]);
    let proxy = limited(&upstream, "");
    let mut frames = Frames::connect(&proxy.address("web"));
    frames.get(1, "/");
    let (end, body) = frames.end_of(1);
    assert_eq!(end, End::Reset(INTERNAL_ERROR));
    assert!(b"hello".starts_with(&body[..]), "{}", body.escape_ascii());
    frames.get(3, "/");
    assert_eq!(frames.end_of(3), (End::Stream, b"ok".to_vec()));
    assert_eq!(records(proxy.folder(), 2)[0]["reason"], "upstream_reset");
}

#[test]
fn expect_continue() {
    let upstream = Upstream::answering(|request| ok(&request.text()));
    let proxy = Proxy::start(&plain(&upstream));
    let mut frames = Frames::connect(&proxy.address("web"));
    let post = [&[(":method", "POST")], &get("/")[1..], &[("expect", "100-continue")]].concat();
    frames.request(1, &post, 0);
    let interim = frames.wait(HEADERS, 1);
    assert_eq!(interim.flags & END_STREAM, 0, "{interim:?}");
    frames.send(DATA, END_STREAM, 1, b"hello");
    assert_eq!(frames.end_of(1), (End::Stream, b"hello".to_vec()));
    assert_eq!(upstream.take_request("one").value("expect"), None);
}

/// Faults 67 and 96: the next stream takes the new generation, and one under way keeps the old.
#[test]
fn fault_67_swaps_under_an_open_connection() {
    let gate = Gate::new();
    let first = Upstream::each([
        vec![
            Step::Message,
            Step::Pass(gate.clone()),
            Step::send(ok("old")),
            Step::Hold,
        ],
        vec![Step::serve(ok("first"))],
    ]);
    let second = Upstream::saying("second");
    // A hundred swaps take longer than a request may, on a busy machine.
    let lasting = |upstream: &Upstream| {
        Configuration {
            route: "timeout: off",
            ..Default::default()
        }
        .to(upstream)
    };
    let proxy = Proxy::start(&lasting(&first));
    let mut client = Http2::connect(&proxy.address("web"));
    let late = client.begin(request("GET", "/"), b"");
    gate.wait_arrived(1);
    for _ in 0..50 {
        apply(&proxy, &lasting(&second));
        assert_eq!(client.get("/").text(), "second");
        apply(&proxy, &lasting(&first));
        assert_eq!(client.get("/").text(), "first");
    }
    gate.open();
    assert_eq!(client.finish(late).text(), "old");
}

/// Fault 68: a stream is ended when its generation has had its time, and the connection goes on.
#[test]
fn fault_68_generations_end() {
    let upstream = Upstream::each([vec![Step::Message, Step::Hold], vec![Step::serve(ok("ok"))]]);
    let top = |age: &str| format!("{TO_FILE}\nreload: {{ max_age: {age} }}");
    let yaml = |timeout: &str, top: &str| {
        let route = format!("timeout: {timeout}");
        Configuration {
            top,
            route: &route,
            ..Default::default()
        }
        .to(&upstream)
    };
    let age = top("500ms");
    let proxy = Proxy::start(&yaml("60s", &age));
    let mut frames = Frames::connect(&proxy.address("web"));
    frames.get(1, "/");
    upstream.wait_requests(1);
    apply(&proxy, &yaml("59s", &age));
    assert_eq!(frames.end_of(1).0, End::Reset(CANCEL));
    frames.get(3, "/");
    assert_eq!(frames.end_of(3).0, End::Stream, "the connection goes on");
    assert_eq!(records(proxy.folder(), 2)[0]["reason"], "generation_max_age");
}

/// Fault 121 and 96: nobody is cut off, at a drain or when a connection has had its requests.
#[test]
fn fault_121_a_drain_says_so() {
    let gate = Gate::new();
    let upstream = Upstream::each([vec![
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send(ok("late")),
        Step::Hold,
    ]]);
    let mut proxy = Proxy::start(&plain(&upstream));
    let (mut busy, mut idle) = (
        Frames::connect(&proxy.address("web")),
        Frames::connect(&proxy.address("web")),
    );
    busy.get(1, "/");
    gate.wait_arrived(1);
    proxy.signal(Signal::TERM);
    let told = busy.wait_goaway();
    assert_eq!(
        told.payload[..4],
        0x7fff_ffffu32.to_be_bytes(),
        "the first says that there is an end"
    );
    let ping = busy.wait(PING, 0);
    busy.send(PING, ACK, 0, &ping.payload);
    assert_eq!(
        busy.wait_goaway().payload[..4],
        1u32.to_be_bytes(),
        "the second, which stream is the last"
    );
    gate.open();
    assert_eq!(busy.end_of(1), (End::Stream, b"late".to_vec()));
    assert_eq!(busy.ending(), End::Closed);
    assert_eq!(idle.ending(), End::GoAway(NO_ERROR));
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// Fault 96.
#[test]
fn fault_96_requests_of_a_connection() {
    let upstream = Upstream::saying("ok");
    let proxy = limited(&upstream, "max_requests: 10");
    let mut frames = Frames::connect(&proxy.address("web"));
    for stream in (1..19).step_by(2) {
        frames.get(stream, "/");
        assert_eq!(frames.end_of(stream).0, End::Stream, "stream {stream}");
    }
    frames.get(19, "/");
    let mut answered = false;
    let mut told = false;
    while let Some(frame) = frames.next_frame() {
        answered |= frame.stream == 19 && frame.flags & END_STREAM != 0;
        told |= frame.kind == GOAWAY;
        if frame.kind == PING && frame.flags & ACK == 0 {
            frames.send(PING, ACK, 0, &frame.payload);
        }
    }
    assert!(answered && told, "answered: {answered}, told: {told}");
    let mut client = proxy.client();
    for number in 1..=10 {
        let response = client.get("/");
        assert_eq!(
            response.closes(),
            number == 10,
            "number {number} over HTTP/1: {response:?}"
        );
    }
    client.assert_closed("it had its requests");
}

/// Streams at once: of a connection, and of an address.
#[test]
fn streams_at_once() {
    let upstream = Upstream::each([vec![Step::Hold]]);
    let proxy = limited(&upstream, "http2: { max_streams: 5, max_streams_per_address: 8 }");
    let mut frames = Frames::connect(&proxy.address("web"));
    for stream in (1..11).step_by(2) {
        frames.get(stream, "/");
    }
    upstream.wait_connections(5);
    frames.get(11, "/");
    assert_eq!(
        frames.end_of(11).0,
        End::Reset(REFUSED_STREAM),
        "a sixth of one connection"
    );
    let mut other = Frames::connect(&proxy.address("web"));
    for stream in (1..9).step_by(2) {
        other.get(stream, "/");
    }
    assert_eq!(other.end_of(7).0, End::Reset(REFUSED_STREAM), "a ninth of one address");
    assert_eq!(resets(&proxy, "max_streams_per_address"), 1.0);
    drop(frames);
    wait_until("there is room again", || {
        let mut third = Frames::connect(&proxy.address("web"));
        let before = upstream.connections();
        third.get(1, "/");
        thread::sleep(Duration::from_millis(50));
        upstream.connections() > before
    });
}

/// A filter sees the same as over HTTP/1.
#[test]
fn filters_of_all_kinds() {
    let folder = Folder::new();
    let guest = Guest::new()
        .on_request([SetRequestHeader("x-a", b"1".to_vec()), ReadBody(10)])
        .on_held_body([])
        .on_response([SetResponseHeader("x-b", b"2".to_vec())])
        .on_completion([TellRecord]);
    folder.write("all.wasm", guest.build());
    let upstream = Upstream::start(Script::Answer(std::sync::Arc::new(|request| ok(&request.text()))));
    let proxy = Proxy::start_in(
        &folder,
        &Configuration {
            top: "filters:\n  all: { component: all.wasm }",
            listener_filters: "all",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = Http2::connect(&proxy.address("web"));
    let response = client.exchange(request("POST", "/"), b"hello");
    assert_eq!((response.status.as_u16(), response.text().as_str()), (200, "hello"));
    assert_eq!(response.headers["x-b"], "2");
    assert_eq!(upstream.take_request("one").value("x-a"), Some("1"));
}
