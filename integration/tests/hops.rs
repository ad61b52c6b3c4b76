//! Rule 8: what belongs to one hop ends there, in both directions; what the proxy says of itself and its client.

use std::collections::HashSet;

use tamis_integration::upstream::{Script, ok};
use tamis_integration::{Folder, Gate, Message, Proxy, Step, Upstream};

use crate::support::{each, forwarded, plain, relayed};

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

#[test]
fn rule_8_requests() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let bare = "GET / HTTP/1.1\nhost: a.example";
    let cases: &[(&str, &str, &str)] = &[
        ("connection alone", "Connection: keep-alive\r\n", bare),
        (
            "keep-alive",
            "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
            bare,
        ),
        ("keep-alive, not named", "Keep-Alive: timeout=5\r\n", bare),
        ("proxy-connection", "Proxy-Connection: keep-alive\r\n", bare),
        ("named field", "Connection: X-Hop\r\nX-Hop: 1\r\n", bare),
        (
            "named field, other case",
            "connection: x-HOP\r\nX-Hop: 1\r\nX-HOP: 2\r\n",
            bare,
        ),
        (
            "several named in several fields",
            "Connection: X-A, X-B\r\nConnection: X-C\r\nX-A: 1\r\nX-B: 1\r\nX-C: 1\r\n",
            bare,
        ),
        ("empty members", "Connection: , ,X-A,\r\nX-A: 1\r\n", bare),
        ("named but absent", "Connection: X-A\r\n", bare),
        ("TE", "TE: gzip\r\nConnection: TE\r\n", bare),
        ("TE, not named", "TE: gzip;q=0.5\r\n", bare),
        ("upgrade, not asked for", "Upgrade: h2c\r\n", bare),
        (
            "h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
            bare,
        ),
        ("unknown protocol", "Connection: Upgrade\r\nUpgrade: teapot/1\r\n", bare),
        ("host named", "Connection: Host\r\n", bare),
        (
            "host named with others",
            "Connection: close, host, X-A\r\nX-A: 1\r\n",
            bare,
        ),
        (
            "end-to-end field stays",
            "Connection: X-A\r\nX-A: 1\r\nX-B: 2\r\n",
            "GET / HTTP/1.1\nhost: a.example\nx-b: 2",
        ),
        (
            "credentials stay",
            "Authorization: Basic YTpi\r\nCookie: a=b\r\n",
            "GET / HTTP/1.1\nauthorization: Basic YTpi\ncookie: a=b\nhost: a.example",
        ),
        (
            "length named",
            "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
            "GET / HTTP/1.1\ncontent-length: 5\nhost: a.example\n\nhello",
        ),
        (
            "coding named",
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            "GET / HTTP/1.1\nhost: a.example\ntransfer-encoding: chunked\n\nhello",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, fields, expected)| {
            upstream.take_requests();
            // The cases with a body bring the empty line along.
            let bytes = get(fields);
            let bytes = if fields.contains("hello") && !fields.contains("chunked") {
                bytes.trim_end()
            } else {
                &bytes
            };
            let response = proxy.client().exchange(bytes);
            assert_eq!(response.status(), 200, "{name}: {response:?}");
            assert_eq!(forwarded(&upstream.take_request(name)), *expected, "{name}");
        },
    );
}

/// Whether `TE: trailers` is passed on is free; anything more is not, and it is then named (RFC 9110 10.1.4).
#[test]
fn rule_8_te_is_trailers_or_nothing() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    for te in ["trailers", "trailers, gzip", "gzip, trailers"] {
        proxy.client().exchange(get(&format!("Connection: TE\r\nTE: {te}\r\n")));
        let request = upstream.take_request(te);
        match request.value("te") {
            None => assert_eq!(request.list("connection"), Vec::<String>::new(), "{te}"),
            Some(passed) => {
                assert_eq!(passed, "trailers", "{te}");
                assert!(
                    request
                        .list("connection")
                        .iter()
                        .all(|option| option.eq_ignore_ascii_case("te")),
                    "{te}"
                );
            }
        }
    }
}

/// Fault 88: a client cannot have the proxy's own fields removed by naming them.
#[test]
fn rule_8_named_fields_of_ours_are_sent_all_the_same() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    for name in [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Request-Id",
        "Via",
    ] {
        proxy
            .client()
            .exchange(get(&format!("Connection: {name}\r\n{name}: spoof\r\n")));
        let request = upstream.take_request(name);
        if name == "Via" {
            // What earlier hops say of themselves stays, whoever they are; ours stands behind it.
            assert_eq!(via(&request), "spoof, 1.1 tamis");
        } else {
            assert_eq!(request.values(name).len(), 1, "{name}: {request:?}");
            assert_ne!(request.value(name), Some("spoof"), "{name}");
        }
    }
}

#[test]
fn rule_8_responses() {
    let bare = "HTTP/1.1 200 OK\ncontent-length: 2\n\nok";
    let cases: &[(&str, &str, &str)] = &[
        (
            "keep-alive",
            "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
            bare,
        ),
        ("keep-alive, not named", "Keep-Alive: timeout=5\r\n", bare),
        ("proxy-connection", "Proxy-Connection: keep-alive\r\n", bare),
        ("named field", "Connection: X-Hop\r\nX-Hop: 1\r\n", bare),
        ("length named", "Connection: Content-Length\r\n", bare),
        ("upgrade", "Connection: Upgrade\r\nUpgrade: h2c\r\n", bare),
        ("TE", "TE: trailers\r\n", bare),
        ("close is the upstream's matter", "Connection: close\r\n", bare),
        (
            "end-to-end fields stay",
            "Connection: X-A\r\nX-A: 1\r\nX-B: 2\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 2\nx-b: 2\n\nok",
        ),
        (
            "cookies stay apart",
            "Set-Cookie: a=1, x\r\nSet-Cookie: b=2\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 2\nset-cookie: a=1, x\nset-cookie: b=2\n\nok",
        ),
        (
            "values as they came",
            "X-A: a\tb\u{e9}\r\nX-B:\r\nServer: other/1\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 2\nserver: other/1\nx-a: a\tb\u{c3}\u{a9}\nx-b: \n\nok",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, fields, expected)| {
            let upstream = Upstream::repeating(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"));
            let proxy = Proxy::start(&plain(&upstream));
            let mut client = proxy.client();
            for _ in 0..2 {
                assert_eq!(relayed(&client.get("/")), *expected, "{name}");
            }
        },
    );
}

/// The date is the origin's when it has one (RFC 9110 6.6.1).
#[test]
fn the_origins_date_is_kept() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let upstream = Upstream::repeating(format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 2\r\n\r\nok"
    ));
    let proxy = Proxy::start(&plain(&upstream));
    assert_eq!(proxy.get("/").values("date"), [date]);
}

#[test]
fn reason_phrases_do_not_break_anything() {
    for phrase in ["", "OK", "Sch\u{f6}n", "a b c"] {
        let mut bytes = b"HTTP/1.1 200 ".to_vec();
        bytes.extend(phrase.chars().map(|byte| byte as u32 as u8));
        bytes.extend(b"\r\nContent-Length: 2\r\n\r\nok");
        let upstream = Upstream::repeating(bytes);
        let proxy = Proxy::start(&plain(&upstream));
        let mut client = proxy.client();
        assert_eq!(
            (client.get("/").text(), client.get("/").text()),
            ("ok".into(), "ok".into()),
            "{phrase}"
        );
    }
}

#[test]
fn forwarded_fields_say_what_the_proxy_saw() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let spoofed = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: https\r\n\
                   X-Forwarded-Host: evil.example\r\n";
    for fields in ["", spoofed] {
        let response = proxy
            .client()
            .exchange(format!("GET / HTTP/1.1\r\nHost: a.example:8080\r\n{fields}\r\n"));
        assert_eq!(response.status(), 200);
        let request = upstream.take_request(fields);
        let all = |name: &str| request.values(name).join("|");
        assert_eq!(all("x-forwarded-for"), "127.0.0.1", "no proxy before us is trusted");
        assert_eq!(all("x-forwarded-proto"), "http");
        assert_eq!(all("x-forwarded-host"), "a.example:8080");
        assert_eq!(all("host"), "a.example:8080");
    }
}

#[test]
fn request_ids_are_ours_and_fresh() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&plain(&upstream));
    let mut client = proxy.client();
    let mut seen = HashSet::new();
    for _ in 0..100 {
        client.exchange(get("X-Request-Id: spoofed\r\nX-Request-Id: twice\r\n"));
        let request = upstream.take_request("id");
        let id = request.value("x-request-id").expect("an id").to_owned();
        let hexadecimal = |digit: char| digit.is_ascii_digit() || ('a'..='f').contains(&digit);
        assert!(id.len() == 32 && id.chars().all(hexadecimal), "{id}");
        assert!(seen.insert(id), "the same id twice");
    }
}

/// The proxy's own entry is `1.1 tamis-` and eight digits that tell one process from another; here without them.
fn via(message: &Message) -> String {
    let plain = |member: String| match member.split_once(" tamis-") {
        Some((protocol, instance))
            if instance.len() == 8 && instance.chars().all(|digit| digit.is_ascii_hexdigit()) =>
        {
            format!("{protocol} tamis")
        }
        _ => member,
    };
    message
        .list("via")
        .into_iter()
        .map(plain)
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn via_grows_by_one_in_both_directions() {
    let upstream = Upstream::repeating("HTTP/1.1 200 OK\r\nVia: 1.0 origin\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::start(&plain(&upstream));
    for (fields, expected) in [
        ("", "1.1 tamis"),
        ("Via: 1.0 fred\r\n", "1.0 fred, 1.1 tamis"),
        (
            "Via: 1.0 fred, 1.1 p.example (Apache/1.1)\r\nVia: 1.1 q\r\n",
            "1.0 fred, 1.1 p.example (Apache/1.1), 1.1 q, 1.1 tamis",
        ),
    ] {
        let response = proxy.client().exchange(get(fields));
        assert_eq!(via(&upstream.take_request(fields)), expected);
        assert_eq!(via(&response), "1.0 origin, 1.1 tamis");
    }
}

/// Faults 14 and 114: a proxy that is its own upstream answers instead of eating itself.
#[test]
fn a_loop_is_answered_508() {
    let folder = Folder::new();
    let path = folder.path("self.sock");
    let yaml = format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web:
    address: 127.0.0.1:0
  self:
    address: \"unix:{path}\"
clusters:
  self: {{ endpoints: [\"unix:{path}\"] }}
routes:
  - {{ name: loop, cluster: self }}
",
        path = path.display()
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let response = proxy.get("/");
    assert_eq!(response.status(), 508, "{response:?}");
    assert_eq!(proxy.get("/again").status(), 508);
}

#[test]
fn unix_sockets_at_both_ends() {
    let folder = Folder::new();
    let upstream = Upstream::start_unix(
        &folder.path("app.sock"),
        Script::Each(vec![vec![Step::serve(ok("ok"))]]),
    );
    let yaml = plain(&upstream).replace(
        "address: 127.0.0.1:0\n    limits",
        &format!("address: \"unix:{}\"\n    limits", folder.path("web.sock").display()),
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let mut client = proxy.client();
    assert_eq!(
        (client.get("/1").text(), client.get("/2").text()),
        ("ok".into(), "ok".into())
    );
    assert_eq!(upstream.connections(), 1);
}

/// Two clients, one upstream connection: it must never carry the one's bytes to the other.
#[test]
fn interleaved_clients_share_upstream_connections_and_nothing_else() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::answering(move |request| {
        if request.target() == "/slow" {
            held.pass();
        }
        ok(request.target())
    });
    let proxy = Proxy::start(&plain(&upstream));
    let (mut slow, mut fast) = (proxy.client(), proxy.client());
    slow.send("GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    for n in 0..100 {
        let target = format!("/fast/{n}");
        assert_eq!(fast.get(&target).text(), target);
    }
    gate.open();
    assert_eq!(slow.response().text(), "/slow");
    assert_eq!(upstream.connections(), 2, "one for each request in flight");
}
