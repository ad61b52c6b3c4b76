//! Rules 1 to 6 of HTTP/1.1 request heads: what is refused before anything is forwarded, and what goes through.
//!
//! Every refused case is followed in the same write by a request that must reach nobody.

use tamis_integration::message::latin1;
use tamis_integration::socket::Found;
use tamis_integration::{Proxy, Upstream};

use crate::support::{Configuration, each, forwarded, plain};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// Name, bytes, statuses that will do.
type Refused = (&'static str, String, &'static [u16]);

/// Each case is answered with one of its statuses and a close; nothing reaches the upstream, and the pipelined request
/// behind it reaches nobody.
fn refuse(cases: Vec<Refused>) {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, bytes, statuses)| {
            let mut client = proxy.client();
            client.try_send(format!("{bytes}{SMUGGLED}"));
            let response = client.response();
            assert!(statuses.contains(&response.status()), "{name}: {response:?}");
            assert!(response.closes(), "{name}: no `connection: close`: {response:?}");
            client.assert_closed(name);
            assert_eq!(
                upstream.received_all().escape_ascii().to_string(),
                "",
                "{name}: reached the upstream"
            );
        },
    );
    assert_eq!(proxy.get("/after").status(), 200);
    assert_eq!(upstream.take_request("after").target(), "/after");
}

fn bad(name: &'static str, bytes: impl Into<String>) -> Refused {
    (name, bytes.into(), &[400])
}

fn with_host(host: &str) -> String {
    format!("GET / HTTP/1.1\r\n{host}\r\n\r\n")
}

fn with_field(field: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{field}\r\n\r\n")
}

fn with_target(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n\r\n{body}")
}

/// Fault 83.
#[test]
fn rule_1_host() {
    refuse(vec![
        bad("none", "GET / HTTP/1.1\r\n\r\n"),
        bad("twice, equal", with_host("Host: a.example\r\nHost: a.example")),
        bad("twice, different", with_host("Host: a.example\r\nHost: b.example")),
        bad("twice, other case", with_host("Host: a.example\r\nhOST: a.example")),
        bad("empty", with_host("Host:")),
        bad("blank", with_host("Host:  \t ")),
        bad("list", with_host("Host: a.example, b.example")),
        bad("comma", with_host("Host: a.example,b.example")),
        bad("userinfo", with_host("Host: user@a.example")),
        bad("userinfo with password", with_host("Host: user:secret@a.example")),
        bad("path", with_host("Host: a.example/x")),
        bad("query", with_host("Host: a.example?x")),
        bad("fragment", with_host("Host: a.example#x")),
        bad("scheme", with_host("Host: http://a.example")),
        bad("space", with_host("Host: a.example b.example")),
        bad("port without digits", with_host("Host: a.example:http")),
        bad("port too large", with_host("Host: a.example:65536")),
        bad("two ports", with_host("Host: a.example:80:80")),
        bad("only a port", with_host("Host: :80")),
        bad("IPv6 without brackets", with_host("Host: ::1")),
        bad("IPv6 without its end", with_host("Host: [::1")),
        bad("brackets around a name", with_host("Host: [a.example]")),
        bad("backslash", with_host("Host: a.example\\b.example")),
        bad("beyond ASCII", with_host("Host: \u{e4}.example")),
        bad("angle brackets", with_host("Host: <a.example>")),
    ]);
}

#[test]
fn rule_2_absolute_form() {
    let absolute = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\n{host}\r\n");
    refuse(vec![
        bad("no host field", absolute("http://a.example/", "")),
        bad(
            "disagrees with host",
            absolute("http://a.example/", "Host: b.example\r\n"),
        ),
        bad(
            "disagrees in the port",
            absolute("http://a.example:81/", "Host: a.example:82\r\n"),
        ),
        bad("userinfo", absolute("http://user@a.example/", "Host: a.example\r\n")),
        bad("no authority", absolute("http:///x", "Host: a.example\r\n")),
        bad("no scheme", absolute("a.example/x", "Host: a.example\r\n")),
    ]);
}

#[test]
fn rule_3_request_target() {
    refuse(vec![
        bad("control character", with_target("/a\u{1}b")),
        bad("NUL", with_target("/a\0b")),
        bad("DEL", with_target("/a\u{7f}b")),
        bad("beyond ASCII", with_target("/\u{e9}")),
        bad("space", with_target("/a b")),
        bad("tab", with_target("/a\tb")),
        bad("fragment", with_target("/a#b")),
        bad("asterisk with GET", with_target("*")),
        bad("no slash", with_target("a")),
        bad("query alone", with_target("?a")),
        bad("encoded NUL", with_target("/a%00b")),
        bad("half an escape", with_target("/a%2")),
        bad("no escape", with_target("/a%zz")),
        ("too long", with_target(&format!("/{}", "a".repeat(8 * 1024))), &[414]),
        (
            "far too long",
            with_target(&format!("/{}", "a".repeat(1024 * 1024))),
            &[414, 431],
        ),
        (
            "method too long",
            format!("{} / HTTP/1.1\r\nHost: a.example\r\n\r\n", "A".repeat(300)),
            &[400, 501],
        ),
        (
            "CONNECT",
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n".into(),
            &[400, 405, 501],
        ),
    ]);
}

/// Fault 77.
#[test]
fn rule_4_framing() {
    refuse(vec![
        bad(
            "both, chunked first",
            post("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
        ),
        bad(
            "both, length first",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        bad(
            "both, GET",
            with_field("Content-Length: 0\r\nTransfer-Encoding: chunked"),
        ),
        bad("identity", post("Transfer-Encoding: identity", "")),
        bad(
            "gzip before chunked",
            post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        ),
        bad(
            "chunked twice",
            post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
        ),
        bad(
            "chunked, then identity",
            post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
        ),
        bad(
            "unknown before chunked",
            post("Transfer-Encoding: cow, chunked", "0\r\n\r\n"),
        ),
        bad("empty member first", post("Transfer-Encoding: , chunked", "0\r\n\r\n")),
        bad("empty member last", post("Transfer-Encoding: chunked,", "0\r\n\r\n")),
        bad(
            "two fields",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        bad(
            "two fields, one unknown",
            post("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        bad("parameter", post("Transfer-Encoding: chunked;a=b", "0\r\n\r\n")),
        bad("prefix", post("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        bad("quoted", post("Transfer-Encoding: \"chunked\"", "0\r\n\r\n")),
        bad("vertical tab", post("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n")),
        bad("empty coding", post("Transfer-Encoding:", "")),
        bad(
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        bad("length with plus", post("Content-Length: +5", "hello")),
        bad("length with minus", post("Content-Length: -0", "")),
        bad("negative length", post("Content-Length: -5", "hello")),
        bad("hexadecimal length", post("Content-Length: 0x5", "hello")),
        bad("length with underscore", post("Content-Length: 5_0", "hello")),
        bad("length with space inside", post("Content-Length: 5 5", "hello")),
        bad("length as list", post("Content-Length: 5, 5", "hello")),
        bad("length as list without space", post("Content-Length: 5,5", "hello")),
        bad("length with comma behind", post("Content-Length: 5,", "hello")),
        bad("length with leading zero", post("Content-Length: 05", "hello")),
        bad("length with point", post("Content-Length: 5.0", "hello")),
        bad("empty length", post("Content-Length:", "")),
        bad(
            "length beyond 64 bits",
            post("Content-Length: 18446744073709551621", "hello"),
        ),
        bad(
            "two lengths, different",
            post("Content-Length: 5\r\nContent-Length: 6", "hello"),
        ),
        bad(
            "two lengths, equal",
            post("Content-Length: 5\r\nContent-Length: 5", "hello"),
        ),
    ]);
}

#[test]
fn rule_5_underscores() {
    refuse(vec![
        bad("transfer_encoding", with_field("Transfer_Encoding: chunked")),
        bad("content_length", with_field("Content_Length: 5")),
        bad("keep_alive", with_field("Keep_Alive: timeout=5")),
        bad("proxy_connection", with_field("proxy_connection: close")),
        bad(
            "x_forwarded_for is no framing field but ours",
            with_field("Transfer_encoding: x\r\nX_Forwarded_For: 1.2.3.4"),
        ),
    ]);
}

/// Fault 86.
#[test]
fn rule_6_limits() {
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let large: &[u16] = &[431];
    refuse(vec![
        (
            "one field too large",
            with_field(&format!("X-A: {}", "a".repeat(16 * 1024))),
            large,
        ),
        (
            "one field far too large",
            with_field(&format!("X-A: {}", "a".repeat(1024 * 1024))),
            large,
        ),
        (
            "one name too large",
            with_field(&format!("{}: 1", "a".repeat(16 * 1024))),
            large,
        ),
        ("too many fields", with_field(fields(100).trim_end()), large),
        ("far too many fields", with_field(fields(10_000).trim_end()), large),
        (
            "head too large",
            with_field(&format!("X-A: {}\r\n", "a".repeat(8000)).repeat(9)),
            large,
        ),
    ]);
}

/// The limits' other side: what is just allowed goes through.
#[test]
fn rule_6_limits_are_inclusive() {
    let upstream = Upstream::saying("ok");
    let limits = "max_fields: 10, max_field_bytes: 1KiB, max_target_bytes: 512B, max_head_bytes: 8KiB";
    let proxy = Proxy::start(
        &Configuration {
            limits,
            ..Default::default()
        }
        .to(&upstream),
    );
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let request = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
    let target = |size: usize| format!("/{}", "a".repeat(size - 1));
    let field = |size: usize| format!("x-a: {}\r\n", "a".repeat(size));
    each(
        [
            ("fields, all", request("/", &fields(9)), 200),
            ("fields, one more", request("/", &fields(10)), 431),
            ("target, all", request(&target(512), ""), 200),
            ("target, one more", request(&target(513), ""), 414),
            ("field, below", request("/", &field(1000)), 200),
            ("field, above", request("/", &field(1024)), 431),
            ("head, below", request("/", &field(900).repeat(7)), 200),
            ("head, above", request("/", &field(1000).repeat(9)), 431),
        ],
        |case| case.0.to_owned(),
        |(name, bytes, status)| assert_eq!(proxy.client().exchange(bytes).status(), *status, "{name}"),
    );
}

/// Fault 82: syntax that a lenient parser would let through (RFC 9112 2.2, 3, 5.1, 5.2).
#[test]
fn malformed_heads() {
    let version: &[u16] = &[400, 505];
    refuse(vec![
        bad("folded field", with_field("X-A: a\r\n b")),
        bad("folded first field", "GET / HTTP/1.1\r\n Host: a.example\r\n\r\n"),
        bad("space before colon", with_field("X-A : a")),
        bad("tab before colon", with_field("X-A\t: a")),
        bad("no colon", with_field("X-A")),
        bad("no name", with_field(": a")),
        bad("space in name", with_field("X A: a")),
        bad("control character in name", with_field("X\u{1}A: a")),
        bad("beyond ASCII in name", with_field("X\u{e9}: a")),
        bad("parenthesis in name", with_field("X(A): a")),
        bad("NUL in value", with_field("X-A: a\0b")),
        bad("bare CR in value", with_field("X-A: a\rb")),
        bad("bare CR before a name", with_field("X-A: a\r\rX-B: b")),
        bad("DEL in value", with_field("X-A: a\u{7f}b")),
        bad("control character in value", with_field("X-A: a\u{1}b")),
        bad("two spaces", "GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        bad(
            "tabs in the request line",
            "GET\t/\tHTTP/1.1\r\nHost: a.example\r\n\r\n",
        ),
        bad("space behind the version", "GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n"),
        bad("no method", " / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        bad("method with colon", "GET: / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("HTTP/0.9", "GET /\r\n".into(), version),
        ("no version", "GET / \r\nHost: a.example\r\n\r\n".into(), version),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a.example\r\n\r\n".into(), version),
        ("HTTP/3.0", "GET / HTTP/3.0\r\nHost: a.example\r\n\r\n".into(), version),
        (
            "HTTP/1.10",
            "GET / HTTP/1.10\r\nHost: a.example\r\n\r\n".into(),
            version,
        ),
        (
            "lower case",
            "GET / http/1.1\r\nHost: a.example\r\n\r\n".into(),
            version,
        ),
        (
            "another protocol",
            "GET / RTSP/1.0\r\nHost: a.example\r\n\r\n".into(),
            version,
        ),
        bad("TLS on a plain listener", "\u{16}\u{3}\u{1}\0\u{1}\0\0\r\n\r\n"),
    ]);
}

/// What goes through, and the exact request that reaches the upstream.
#[test]
fn accepted_requests() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let cases: &[(&str, &str, &str)] = &[
        (
            "plain",
            "GET /x?y=z HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /x?y=z HTTP/1.1\nhost: a.example",
        ),
        (
            "host with port",
            "GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
            "GET / HTTP/1.1\nhost: a.example:8080",
        ),
        (
            "host is IPv6",
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            "GET / HTTP/1.1\nhost: [::1]:80",
        ),
        (
            "rule 2: absolute form",
            "GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /x?y HTTP/1.1\nhost: a.example",
        ),
        (
            "rule 2: absolute form without a path",
            "GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\nhost: a.example",
        ),
        (
            "rule 2: absolute form with a query alone",
            "GET http://a.example?y HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /?y HTTP/1.1\nhost: a.example",
        ),
        // RFC 9112 3.2.4 asks the last proxy for the asterisk-form; `http::Uri` cannot tell this target from one that
        // ends in `/`, and asking for the root is the lesser mistake.
        (
            "rule 2: OPTIONS for a whole server",
            "OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "OPTIONS / HTTP/1.1\nhost: a.example",
        ),
        (
            "rule 3: OPTIONS *",
            "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "OPTIONS * HTTP/1.1\nhost: a.example",
        ),
        (
            "empty query",
            "GET /? HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /? HTTP/1.1\nhost: a.example",
        ),
        (
            "another method",
            "PROPFIND /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "PROPFIND /x HTTP/1.1\nhost: a.example",
        ),
        (
            "empty lines in front",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\nhost: a.example",
        ),
        (
            "values as they came",
            "GET / HTTP/1.1\r\nHost: a.example\r\nX-A:  a\tb  \r\nX-B:\r\nX-C: \u{e9}\r\n\r\n",
            "GET / HTTP/1.1\nhost: a.example\nx-a: a\tb\nx-b: \nx-c: \u{c3}\u{a9}",
        ),
        (
            "rule 4: length",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\ncontent-length: 5\nhost: a.example\n\nhello",
        ),
        (
            "rule 4: length of nothing",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\ncontent-length: 0\nhost: a.example",
        ),
        (
            "rule 4: chunked",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "POST / HTTP/1.1\nhost: a.example\ntransfer-encoding: chunked\n\nhello",
        ),
        (
            "rule 4: GET with a body",
            "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            "GET / HTTP/1.1\ncontent-length: 5\nhost: a.example\n\nhello",
        ),
        (
            "rule 5: an underscore that imitates nothing",
            "GET / HTTP/1.1\r\nHost: a.example\r\nX_Y: 1\r\n\r\n",
            "GET / HTTP/1.1\nhost: a.example\nx_y: 1",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, bytes, expected)| {
            upstream.take_requests();
            let mut client = proxy.client();
            let response = client.exchange(bytes);
            assert_eq!(response.status(), 200, "{name}: {response:?}");
            assert_eq!(forwarded(&upstream.take_request(name)), *expected, "{name}");
            assert_eq!(
                client.get("/next").status(),
                200,
                "{name}: the connection cannot be used again"
            );
        },
    );
}

#[test]
fn values_of_one_name_keep_their_order() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    proxy
        .client()
        .exchange("GET / HTTP/1.1\r\nHost: a.example\r\nX-A: 2\r\nX-B: 0\r\nx-a: 1\r\nX-A: 3\r\n\r\n");
    assert_eq!(upstream.take_request("order").values("x-a"), ["2", "1", "3"]);
}

/// Fault 87: one form of the path for routes and upstream. Each target is refused, or reaches the upstream in one of
/// the forms that mean the same to everybody.
#[test]
fn paths_are_normalised_or_refused() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let cases: &[(&str, &[&str])] = &[
        ("/a/../b", &["/b"]),
        ("/a/./b", &["/a/b"]),
        ("/../../b", &["/b"]),
        ("/a/..", &["/"]),
        ("/a/.", &["/a/"]),
        ("/a/%2e%2e/b", &["/b"]),
        ("/a/%2E./b", &["/b"]),
        ("/%61/b", &["/a/b"]),
        ("/a%2fb", &["/a%2fb", "/a%2Fb"]),
        ("/a\\..\\b", &["/b", "/a%5C..%5Cb"]),
        ("/a;b=c/d", &["/a;b=c/d"]),
        ("//a//b", &["//a//b", "/a/b"]),
        ("/a?b=/../c", &["/a?b=/../c"]),
        ("/a%20b", &["/a%20b"]),
        ("/caf%C3%A9", &["/caf%C3%A9"]),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(target, allowed)| {
            upstream.take_requests();
            let response = proxy.get(target);
            if response.status() == 400 {
                return assert_eq!(upstream.requests().len(), 0, "{target}: refused, and forwarded");
            }
            assert_eq!(response.status(), 200, "{target}: {response:?}");
            let request = upstream.take_request(target);
            assert!(
                allowed.contains(&request.target()),
                "{target} reached the upstream as {}",
                request.target()
            );
        },
    );
}

/// Fault 87: no spelling of a path gets past the route that guards it.
#[test]
fn no_spelling_evades_a_route() {
    let upstream = Upstream::saying("ok");
    let routes = "  - { name: guard, match: { path: { prefix: /admin/ } }, respond: { status: 403 } }";
    let proxy = Proxy::start(
        &Configuration {
            routes,
            ..Default::default()
        }
        .to(&upstream),
    );
    let targets = [
        "/admin/",
        "/admin",
        "/admin/x",
        "/x/../admin/",
        "/./admin/",
        "/%61dmin/",
        "/adm%69n/x",
        "/x/%2e%2e/admin/",
        "/x/.%2E/admin/",
        "/admin/.",
        "/admin/x/..",
        "/admin?x",
        "http://a.example/admin/",
    ];
    each(
        targets,
        |target| (*target).to_owned(),
        |target| {
            let status = proxy.get(target).status();
            assert!(
                [400, 403].contains(&status),
                "{target}: {status}, and {:?}",
                upstream.take_requests()
            );
        },
    );
}

/// Rule 7: what cannot be followed behind a head is seen when it comes, and the answer says that it is the last one.
#[test]
fn rule_7_a_late_fault_ends_the_connection() {
    for (name, rest) in [
        ("bare LF in a trailer", "0\r\nX-A: 1\n\r\n".to_owned()),
        ("long chunk extension", format!("0;{}\r\n\r\n", "a".repeat(5_000))),
        ("space behind a size", "1 \r\na\r\n0\r\n\r\n".to_owned()),
    ] {
        let upstream = Upstream::saying("ok");
        let proxy = Proxy::start(&plain(&upstream));
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        upstream.wait_connections(1);
        client.send(rest);
        let ending = client.ending();
        let text = latin1(&ending.bytes).to_lowercase();
        let is_told = text.contains("\r\nconnection: close\r\n");
        assert!(text.is_empty() || is_told, "{name}: {text}");
        assert_ne!(ending.how, Found::Nothing, "{name}: still open");
    }
}
