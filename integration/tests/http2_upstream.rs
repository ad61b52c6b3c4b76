//! HTTP/2 towards upstreams: many requests on one connection, within what the server allows, and nothing that is no
//! response. Row 97 of the faults.

use std::collections::BTreeSet;

use serde_json::Value;
use tamis_integration::http2::*;
use tamis_integration::nginx::Nginx;
use tamis_integration::origin::{Answer, Asked, Conversation, Origin, Scripted};
use tamis_integration::socket::Address;
use tamis_integration::{Client, Folder, Gate, Message, Proxy};

use crate::certificates::site;
use crate::support::{ADDED, Configuration, apply, each, folder_with, wait_until};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const OK: [(&str, &str); 1] = [(":status", "200")];
const LOG: &str = "access_log: { file: access.log, format: json }";

fn yaml(endpoint: &Address, cluster: &str) -> String {
    let cluster = format!("protocol: http2, {cluster}");
    Configuration {
        top: LOG,
        cluster: &cluster,
        ..Default::default()
    }
    .with(&[endpoint])
}

fn start(endpoint: &Address, cluster: &str) -> Proxy {
    Proxy::start(&yaml(endpoint, cluster))
}

fn echo() -> Origin {
    Origin::start(100, |asked| Answer::ok(asked.body.clone()))
}

/// A server that does this on each connection, and answers all further requests with `ok`.
fn scripted(script: impl Fn(usize, &mut Conversation) + Send + Sync + 'static) -> Scripted {
    Scripted::start(&[], move |index, peer| {
        script(index, peer);
        serve(peer);
    })
}

fn serve(peer: &mut Conversation) {
    while let Some(frame) = peer.next() {
        if frame.kind == HEADERS {
            peer.head(frame.stream, &OK, 0).data(frame.stream, b"ok", END_STREAM);
        }
    }
}

fn get() -> &'static str {
    "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
}

fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn reasons(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines = proxy.folder().wait_lines("access.log", count);
    let reason = |line: &String| serde_json::from_str::<Value>(line).expect("a record is JSON")["reason"].clone();
    lines.iter().map(reason).collect()
}

fn opened(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("tamis_upstream_connections_opened_total", &[])
}

/// Fields without those that the proxy adds to every request.
fn told(asked: &Asked) -> BTreeSet<String> {
    let fields = asked.headers.iter();
    let fields = fields.filter(|(name, _)| !ADDED.contains(&name.as_str()));
    fields
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .collect()
}

#[test]
fn a_request_goes_as_http2_has_it() {
    let origin = Origin::start(100, |asked| {
        Answer::ok(asked.body.clone())
            .with("x-a", "1")
            .with("trailer", "x-t")
            .trailing("x-t", "2")
            .trailing("content-length", "9")
    });
    let proxy = start(origin.address(), "");
    let response = proxy.client().exchange(
        "POST /a/../b?c=d HTTP/1.1\r\nHost: A.example:80\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
         TE: trailers\r\nUpgrade: h2c\r\nCookie: a=1\r\nCookie: b=2\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\
         \r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    assert_eq!((response.status(), &*response.text()), (200, "abc"));
    assert_eq!(response.value("x-a"), Some("1"));
    assert!(
        response.value("via").is_some_and(|via| via.starts_with("2 tamis-")),
        "{response:?}"
    );
    let asked = origin.take().remove(0);
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.uri, "http://a.example:80/b?c=d");
    let expected = ["te: trailers", "cookie: a=1", "cookie: b=2", "trailer: x-sum"];
    assert_eq!(told(&asked), expected.map(str::to_owned).into());
    assert!(
        asked.headers["via"]
            .to_str()
            .is_ok_and(|via| via.starts_with("1.1 tamis-")),
        "{asked:?}"
    );
    assert_eq!(asked.headers["x-forwarded-host"], "a.example:80");
    assert_eq!(asked.body, b"abc");
    assert_eq!(asked.trailers.expect("trailers")["x-sum"], "7");
    let mut client = Http2::connect(&proxy.address("web"));
    let response = client.exchange(request("POST", "/"), b"hello");
    assert_eq!(response.text(), "hello");
    let trailers = response.trailers.expect("trailers");
    assert_eq!(trailers["x-t"], "2");
    assert!(!trailers.contains_key("content-length"), "RFC 9110 6.5.1: {trailers:?}");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn kinds_of_requests_and_responses() {
    let origin = Origin::start(100, |asked| match asked.uri.path() {
        "/204" => Answer {
            status: 204,
            ..Answer::default()
        },
        "/304" => Answer {
            status: 304,
            ..Answer::default()
        }
        .with("content-length", "7"),
        "/sized" => Answer::ok("hello").with("content-length", "5"),
        "/empty" => Answer::ok(""),
        _ if asked.method == "HEAD" => Answer::ok("").with("content-length", "5"),
        _ => Answer::ok(format!("{} {}", asked.method, asked.uri)),
    });
    let proxy = start(origin.address(), "");
    let mut client = proxy.client();
    assert_eq!(client.get("/204").status(), 204);
    assert_eq!(client.get("/304").status(), 304);
    let sized = client.get("/sized");
    assert_eq!((&*sized.text(), sized.value("content-length")), ("hello", Some("5")));
    assert_eq!(client.get("/empty").text(), "");
    client.send("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let head = client.response_to_head();
    assert_eq!((head.status(), head.value("content-length")), (200, Some("5")));
    let all = client.exchange("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!((all.status(), &*all.text()), (200, "OPTIONS http://a.example*"));
    let posted = client.exchange("POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(posted.text(), "POST http://a.example/x");
    let asked = origin.take();
    assert_eq!(asked.last().expect("it came").headers["content-length"], "0");
    assert!(!asked[0].headers.contains_key("content-length"), "{:?}", asked[0]);
    let unchanged = Http2::connect(&proxy.address("web")).get("/304");
    assert_eq!(
        (unchanged.status.as_u16(), &unchanged.headers["content-length"]),
        (304, &"7".parse().expect("a value"))
    );
    assert_eq!(origin.connections(), 1);
    assert_eq!(opened(&proxy), 1.0);
}

/// A request for each of five streams, two of which the server allows on a connection.
#[test]
fn another_connection_is_opened_when_all_are_full() {
    let gate = Gate::new();
    let passed = gate.clone();
    let origin = Scripted::start(&[(MAX_CONCURRENT_STREAMS, 2)], move |index, peer| {
        let streams: Vec<u32> = (0..if index < 2 { 2 } else { 1 }).map(|at| 2 * at + 1).collect();
        for stream in &streams {
            peer.wait(HEADERS, *stream);
        }
        passed.pass();
        for stream in &streams {
            peer.head(*stream, &OK, 0).data(*stream, b"ok", END_STREAM);
        }
        serve(peer);
    });
    let proxy = start(origin.address(), "");
    let mut client = Http2::connect(&proxy.address("web"));
    let under_way: Vec<_> = (0..5).map(|_| client.begin(request("GET", "/"), b"")).collect();
    gate.wait_arrived(3);
    assert_eq!(origin.connections(), 3);
    gate.open();
    for response in under_way {
        assert_eq!(client.finish(response).text(), "ok");
    }
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.connections(), 3);
    let clusters: Value = serde_json::from_slice(&proxy.admin("GET", "/clusters").body).expect("JSON");
    assert_eq!(clusters[0]["protocol"], "http2", "{clusters}");
    assert_eq!(clusters[0]["endpoints"][0]["idle_connections"], 3, "{clusters}");
}

/// The cluster's limit is one connection, the setting one stream: the second request waits for the first.
#[test]
fn requests_wait_for_a_place_within_the_limits() {
    let gate = Gate::new();
    let passed = gate.clone();
    let origin = scripted(move |_, peer| {
        peer.wait(HEADERS, 1);
        passed.pass();
        peer.head(1, &OK, 0).data(1, b"first", END_STREAM);
    });
    let proxy = start(
        origin.address(),
        "http2: { max_streams: 1 }, limits: { max_connections: 1 }",
    );
    let mut client = Http2::connect(&proxy.address("web"));
    let first = client.begin(request("GET", "/"), b"");
    gate.wait_arrived(1);
    let second = client.begin(request("GET", "/"), b"");
    let pending = || {
        let clusters: Value = serde_json::from_slice(&proxy.admin("GET", "/clusters").body).expect("JSON");
        clusters[0]["endpoints"][0]["requests_in_flight"] == 2
    };
    wait_until("both requests", pending);
    gate.open();
    assert_eq!(client.finish(first).text(), "first");
    assert_eq!(client.finish(second).text(), "ok");
    assert_eq!(origin.connections(), 1);
}

/// Bodies pass in both directions through windows much smaller than they are.
#[test]
fn bodies_pass_the_windows() {
    let origin = echo();
    let proxy = start(origin.address(), "http2: { stream_window: 1KiB, send_buffer: 16KiB }");
    let body: Vec<u8> = (0..3_000_000u32).map(|at| b'a' + (at % 23) as u8).collect();
    let text = String::from_utf8(body).expect("letters");
    let response = proxy.client().exchange(post(&text));
    assert!(response.text() == text, "{} bytes", response.body.len());
    let mut client = Http2::connect(&proxy.address("web"));
    let response = client.exchange(request("POST", "/"), text.as_bytes());
    assert!(response.body == text.as_bytes(), "{} bytes", response.body.len());
}

#[test]
fn fault_97_what_a_server_has_not_touched_is_sent_again() {
    type Script = fn(usize, &mut Conversation);
    let cases: [(&str, String, Script, u16, usize); 8] = [
        (
            "refused, and not refused again",
            get().to_owned(),
            |_, peer| {
                peer.wait(HEADERS, 1);
                peer.reset(1, REFUSED_STREAM);
            },
            200,
            1,
        ),
        (
            "the first piece of a body goes back",
            post("hello"),
            |_, peer| {
                peer.wait(DATA, 1);
                peer.reset(1, REFUSED_STREAM);
            },
            200,
            1,
        ),
        (
            "refused again",
            get().to_owned(),
            |_, peer| {
                for stream in [1, 3] {
                    peer.wait(HEADERS, stream);
                    peer.reset(stream, REFUSED_STREAM);
                }
            },
            502,
            1,
        ),
        (
            "going away before it",
            get().to_owned(),
            |index, peer| {
                if index == 0 {
                    peer.wait(HEADERS, 1);
                    peer.goaway(0, NO_ERROR);
                }
            },
            200,
            2,
        ),
        (
            "going away after it",
            get().to_owned(),
            |_, peer| {
                peer.wait(HEADERS, 1);
                peer.goaway(1, NO_ERROR);
                peer.head(1, &OK, 0).data(1, b"ok", END_STREAM);
            },
            200,
            1,
        ),
        (
            "going away after it, without an answer",
            get().to_owned(),
            |_, peer| {
                peer.wait(HEADERS, 1);
                peer.goaway(1, NO_ERROR).reset(1, INTERNAL_ERROR);
            },
            502,
            1,
        ),
        (
            "reset",
            get().to_owned(),
            |_, peer| {
                peer.wait(HEADERS, 1);
                peer.reset(1, INTERNAL_ERROR);
            },
            502,
            1,
        ),
        (
            "the whole connection",
            get().to_owned(),
            |_, peer| {
                peer.wait(HEADERS, 1);
                peer.goaway(0, PROTOCOL_ERROR);
                peer.reset(1, REFUSED_STREAM);
            },
            200,
            2,
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, sent, script, status, connections)| {
            let script = *script;
            let origin = scripted(move |index, peer| {
                if index == 0 {
                    script(index, peer);
                }
            });
            let proxy = start(origin.address(), "");
            let mut client = proxy.client();
            let response = client.exchange(sent);
            assert_eq!(response.status(), *status, "{name}: {response:?}");
            assert_eq!(origin.connections(), *connections, "{name}");
            let reason = reasons(&proxy, 1).remove(0);
            let expected = if *status == 200 {
                Value::Null
            } else {
                "upstream_reset".into()
            };
            assert_eq!(reason, expected, "{name}");
            let next = client.get("/next");
            assert_eq!((next.status(), &*next.text()), (200, "ok"), "{name}");
        },
    );
}

/// A connection that is told to go away takes no more requests, and ends those that it has.
#[test]
fn fault_97_streams_outlive_a_goaway() {
    let gate = Gate::new();
    let passed = gate.clone();
    let origin = scripted(move |index, peer| {
        if index == 0 {
            peer.wait(HEADERS, 1);
            peer.head(1, &OK, 0).data(1, b"hel", 0).goaway(1, NO_ERROR);
            passed.pass();
            peer.data(1, b"lo", END_STREAM);
        }
    });
    let proxy = start(origin.address(), "");
    let mut client = Http2::connect(&proxy.address("web"));
    let long = client.begin(request("GET", "/"), b"");
    gate.wait_arrived(1);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(origin.connections(), 2);
    gate.open();
    assert_eq!(client.finish(long).text(), "hello");
}

#[test]
fn what_is_no_response_is_502() {
    type Script = fn(&mut Conversation);
    let cases: [(&str, Script); 17] = [
        ("an upper-case name", |peer| {
            peer.head(1, &[(":status", "200"), ("X-A", "1")], END_STREAM);
        }),
        ("a field of the connection", |peer| {
            peer.head(1, &[(":status", "200"), ("connection", "close")], END_STREAM);
        }),
        ("a transfer coding", |peer| {
            peer.head(1, &[(":status", "200"), ("transfer-encoding", "chunked")], END_STREAM);
        }),
        ("no status", |peer| {
            peer.head(1, &[("x-a", "1")], END_STREAM);
        }),
        ("a status that is none", |peer| {
            peer.head(1, &[(":status", "20")], END_STREAM);
        }),
        ("a pseudo-field that comes late", |peer| {
            peer.head(1, &[("x-a", "1"), (":status", "200")], END_STREAM);
        }),
        ("two statuses", |peer| {
            peer.head(1, &[(":status", "200"), (":status", "200")], END_STREAM);
        }),
        ("a length and no body", |peer| {
            peer.head(1, &[(":status", "200"), ("content-length", "5")], END_STREAM);
        }),
        ("two lengths", |peer| {
            let fields = [(":status", "200"), ("content-length", "5"), ("content-length", "6")];
            peer.head(1, &fields, 0).data(1, b"hello", END_STREAM);
        }),
        ("a length that is none", |peer| {
            peer.head(1, &[(":status", "200"), ("content-length", "+5")], 0);
        }),
        ("a line feed in a value", |peer| {
            peer.head(1, &[(":status", "200"), ("x-a", "b\nc")], END_STREAM);
        }),
        ("a blank before a value", |peer| {
            peer.head(1, &[(":status", "200"), ("x-a", " b")], END_STREAM);
        }),
        ("101", |peer| {
            peer.head(1, &[(":status", "101")], 0);
        }),
        ("a body before its head", |peer| {
            peer.data(1, b"hello", END_STREAM);
        }),
        ("too many fields", |peer| {
            let names: Vec<String> = (0..101).map(|at| format!("x-{at}")).collect();
            let fields = names.iter().map(|name| (name.as_str(), "1"));
            let all: Vec<_> = OK.into_iter().chain(fields).collect();
            peer.head(1, &all, END_STREAM);
        }),
        ("a head that is too large", |peer| {
            let value = "v".repeat(7_000);
            let all: Vec<_> = OK.into_iter().chain((0..2).map(|_| ("x-a", &*value))).collect();
            peer.head(1, &all, END_STREAM);
        }),
        ("interim responses without an end", |peer| {
            for _ in 0..70 {
                peer.head(1, &[(":status", "103"), ("link", "</x>")], 0);
            }
        }),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, script)| {
            let script = *script;
            let origin = scripted(move |index, peer| {
                if index == 0 {
                    peer.wait(HEADERS, 1);
                    script(peer);
                }
            });
            let proxy = start(origin.address(), "http2: { max_header_list: 8KiB }");
            let mut client = proxy.client();
            let response = client.exchange(get());
            assert_eq!(response.status(), 502, "{name}: {response:?}");
            assert_eq!(reasons(&proxy, 1), ["upstream_protocol"], "{name}");
            let next = client.get("/next");
            assert_eq!((next.status(), &*next.text()), (200, "ok"), "{name}");
        },
    );
}

/// A body that is not what its head has said breaks off, and never looks whole.
#[test]
fn bodies_that_break_off() {
    type Script = fn(&mut Conversation);
    let cases: [(&str, Script); 3] = [
        ("too short", |peer| {
            let head = [(":status", "200"), ("content-length", "9")];
            peer.head(1, &head, 0).data(1, b"hello", END_STREAM);
        }),
        ("too long", |peer| {
            let head = [(":status", "200"), ("content-length", "5")];
            peer.head(1, &head, 0)
                .data(1, b"hell", 0)
                .data(1, b"o and more", END_STREAM);
        }),
        ("reset", |peer| {
            peer.head(1, &OK, 0).data(1, b"hello", 0).reset(1, INTERNAL_ERROR);
        }),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, script)| {
            let script = *script;
            let origin = scripted(move |index, peer| {
                if index == 0 {
                    peer.wait(HEADERS, 1);
                    script(peer);
                }
            });
            let proxy = start(origin.address(), "");
            let mut frames = Frames::connect(&proxy.address("web"));
            frames.get(1, "/");
            let (end, body) = frames.end_of(1);
            assert_eq!(end, End::Reset(INTERNAL_ERROR), "{name}");
            assert!(b"hello".starts_with(&body[..]), "{name}: {}", body.escape_ascii());
            assert_eq!(reasons(&proxy, 1), ["upstream_reset"], "{name}");
            frames.get(3, "/");
            assert_eq!(frames.end_of(3), (End::Stream, b"ok".to_vec()), "{name}");
        },
    );
}

/// An answer may come before the request is whole (RFC 9113 8.1), and interim ones before it.
#[test]
fn early_and_interim_answers() {
    let origin = scripted(|_, peer| {
        peer.wait(HEADERS, 1);
        peer.head(1, &[(":status", "103"), ("link", "</x>")], 0);
        peer.head(1, &[(":status", "413")], 0).data(1, b"too much", END_STREAM);
        peer.reset(1, NO_ERROR);
    });
    let proxy = start(origin.address(), "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\nbegun");
    let response = client.response();
    assert_eq!((response.status(), &*response.text()), (413, "too much"));
    assert_eq!(proxy.get("/").text(), "ok");
    assert_eq!(origin.connections(), 1);
}

/// Whoever leaves takes the stream along, and nothing else.
#[test]
fn a_client_that_leaves_resets_its_stream() {
    let origin = scripted(|_, peer| {
        peer.wait(HEADERS, 1);
        peer.head(1, &OK, 0).data(1, b"hello", 0);
        peer.wait(RST_STREAM, 1);
    });
    let proxy = start(origin.address(), "");
    let mut client = proxy.client();
    client.send(get());
    assert_eq!(client.read_head().status(), 200);
    client.reset();
    let reset = origin.wait(0, RST_STREAM, 1);
    assert_eq!(u32::from_be_bytes(reset.payload.try_into().expect("a code")), CANCEL);
    assert_eq!(proxy.get("/").text(), "ok");
    assert_eq!(origin.connections(), 1);
}

/// A black hole is noticed while somebody waits, long before `read_timeout`.
#[test]
fn a_server_that_does_not_answer_pings_is_gone() {
    let (gate, count) = (Gate::new(), 3);
    let passed = gate.clone();
    let origin = Scripted::start(&[], move |index, peer| {
        if index > 0 {
            return serve(peer);
        }
        for at in 0..count {
            peer.wait(HEADERS, 2 * at + 1);
        }
        // Says nothing more, and acknowledges nothing.
        passed.pass();
        passed.wait_arrived(2);
    });
    let proxy = start(origin.address(), "http2: { ping_interval: 100ms, ping_timeout: 100ms }");
    let mut client = Http2::connect(&proxy.address("web"));
    let waiting: Vec<_> = (0..count).map(|_| client.begin(request("GET", "/"), b"")).collect();
    gate.wait_arrived(1);
    gate.open();
    for response in waiting {
        assert_eq!(client.finish(response).status, 502);
    }
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(origin.connections(), 2);
    gate.pass();
}

/// A server that answers pings is waited for.
#[test]
fn a_slow_server_is_not_gone() {
    let gate = Gate::new();
    let passed = gate.clone();
    let origin = scripted(move |_, peer| {
        peer.wait(HEADERS, 1);
        for _ in 0..3 {
            peer.wait(PING, 0);
        }
        passed.pass();
        peer.head(1, &OK, 0).data(1, b"late", END_STREAM);
    });
    gate.open();
    let proxy = start(origin.address(), "http2: { ping_interval: 50ms }");
    assert_eq!(proxy.get("/").text(), "late");
}

#[test]
fn floods_end_a_connection() {
    type Flood = fn(&mut Conversation) -> bool;
    let floods: [(&str, Flood); 4] = [
        ("PING", |peer| peer.frames.try_send(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", |peer| peer.frames.try_send(SETTINGS, 0, 0, &[])),
        ("empty DATA", |peer| peer.frames.try_send(DATA, 0, 1, &[])),
        ("CONTINUATION", |peer| peer.frames.try_send(CONTINUATION, 0, 1, &[])),
    ];
    each(
        floods,
        |case| case.0.to_owned(),
        |(name, flood)| {
            let flood = *flood;
            let origin = scripted(move |index, peer| {
                if index > 0 {
                    return;
                }
                peer.wait(HEADERS, 1);
                match flood(peer) {
                    // A block that is never ended.
                    _ if peer.frames.try_send(HEADERS, 0, 1, &block(&OK)) => {}
                    _ => return,
                }
                for _ in 0..100_000 {
                    if !flood(peer) {
                        return;
                    }
                }
            });
            let proxy = start(origin.address(), "http2: { max_control_frames: 50 }");
            let mut client = proxy.client();
            assert_eq!(client.exchange(get()).status(), 502, "{name}");
            assert_eq!(client.get("/").text(), "ok", "{name}");
            assert_eq!(origin.connections(), 2, "{name}");
        },
    );
}

/// One that never says what it allows is no HTTP/2 server.
#[test]
fn a_server_of_something_else() {
    let upstream = tamis_integration::Upstream::repeating("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    let proxy = start(upstream.address(), "connect_timeout: 300ms");
    let response = proxy.get("/");
    assert!([502, 504].contains(&response.status()), "{response:?}");
}

#[test]
fn connections_survive_reloads_and_end_with_their_endpoint() {
    let origin = echo();
    let proxy = start(origin.address(), "");
    let mut client = proxy.client();
    assert_eq!(client.exchange(post("one")).text(), "one");
    apply(&proxy, &yaml(origin.address(), "load_balancing: random"));
    assert_eq!(client.exchange(post("two")).text(), "two");
    assert_eq!(origin.connections(), 1, "the same connection");
    let other = echo();
    apply(&proxy, &yaml(other.address(), ""));
    assert_eq!(client.exchange(post("three")).text(), "three");
    assert_eq!(other.connections(), 1);
    let open = || proxy.metrics().sum("tamis_upstream_connections", &[]) == 1.0;
    wait_until("the end of the other connection", open);
}

#[test]
fn an_idle_connection_is_closed() {
    let origin = echo();
    let proxy = start(origin.address(), "idle_timeout: 200ms");
    assert_eq!(proxy.client().exchange(post("one")).text(), "one");
    let open = || proxy.metrics().sum("tamis_upstream_connections", &[]) == 0.0;
    wait_until("the end of the idle connection", open);
    assert_eq!(proxy.client().exchange(post("two")).text(), "two");
    assert_eq!(origin.connections(), 2);
}

fn from_nginx(folder: &Folder, listen: &str, cluster: &str) -> Message {
    let server = "ssl_certificate site.pem; ssl_certificate_key site.key; location / { return 200 $server_protocol; }";
    let nginx = Nginx::start_with(folder, listen, server);
    let cluster = format!("tls: {{ ca: ca.pem, server_name: origin.example }}, {cluster}");
    let configuration = Configuration {
        cluster: &cluster,
        ..Default::default()
    };
    let proxy = Proxy::start_in(folder, &configuration.with(&[nginx.address()]));
    let mut client: Client = proxy.client();
    let first = client.get("/");
    if first.status() == 200 {
        assert_eq!(client.get("/").text(), first.text());
    }
    assert_eq!(opened(&proxy), if first.status() == 200 { 1.0 } else { 0.0 });
    first
}

#[test]
fn over_tls_the_handshake_decides() {
    let (folder, _) = site(&["origin.example"]);
    for (listen, cluster, status, text) in [
        ("ssl http2", "protocol: http2", 200, "HTTP/2.0"),
        ("ssl http2", "protocol: auto", 200, "HTTP/2.0"),
        ("ssl http2", "protocol: http1", 200, "HTTP/1.1"),
        ("ssl", "protocol: auto", 200, "HTTP/1.1"),
        ("ssl", "protocol: http2", 502, "502 bad gateway"),
    ] {
        let response = from_nginx(&folder, listen, cluster);
        assert_eq!(response.status(), status, "{listen}, {cluster}");
        assert!(response.text().starts_with(text), "{listen}, {cluster}: {response:?}");
    }
}

/// What waits for the upstream waits no longer than it has to: the upload has its time too.
#[test]
fn a_window_that_never_opens_ends_at_the_read_timeout() {
    let origin = Scripted::start(&[(4, 0)], |_, peer| {
        peer.wait(HEADERS, 1);
    });
    let proxy = start(origin.address(), "read_timeout: 300ms");
    let response = proxy.client().exchange(post("hello"));
    assert_eq!(response.status(), 504);
    origin.wait(0, RST_STREAM, 1);
    assert_eq!(reasons(&proxy, 1), ["upstream_timeout"]);
    let data = origin.seen(0).into_iter().filter(|frame| frame.kind == DATA);
    assert_eq!(data.count(), 0);
}

/// A client may send all of its request before it reads any of the response.
#[test]
fn an_upload_goes_on_while_the_client_does_not_read() {
    let gate = Gate::new();
    let passed = gate.clone();
    let origin = scripted(move |_, peer| {
        peer.wait(HEADERS, 1);
        peer.head(1, &OK, 0).data(1, &[b'x'; 1_000], 0);
        let mut came = 0;
        loop {
            let frame = peer.next().expect("the rest of the body");
            came += if frame.kind == DATA { frame.payload.len() } else { 0 };
            if frame.kind == DATA && frame.flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(came, 5 * 8_192);
        passed.pass();
    });
    let proxy = start(origin.address(), "");
    let mut frames = Frames::silent(&proxy.address("web"));
    const INITIAL_WINDOW_SIZE: u16 = 4;
    frames.open(&[(INITIAL_WINDOW_SIZE, 0)]);
    let fields = [&[(":method", "POST")], &tamis_integration::http2::get("/")[1..]].concat();
    frames.request(1, &fields, 0);
    frames.wait(HEADERS, 1);
    for _ in 0..5 {
        frames.send(DATA, 0, 1, &[0; 8_192]);
    }
    frames.send(DATA, END_STREAM, 1, &[]);
    gate.wait_arrived(1);
    gate.open();
}

/// So many frames of one byte, which says where it belongs.
fn crumbs(stream: u32, count: usize) -> Vec<u8> {
    let crumb = |at: usize| frame(DATA, 0, stream, &[(at % 251) as u8]);
    (0..count).flat_map(crumb).collect()
}

/// A client that leaves when its answer has begun; its stream, if it is on the first connection, was broken off then.
fn leave(origin: &Scripted, proxy: &Proxy, stream: u32) {
    let mut client = proxy.client();
    client.send(get());
    assert_eq!(client.read_head().status(), 200);
    client.reset();
    let index = origin.connections() - 1;
    if index == 0 {
        origin.wait(0, RST_STREAM, stream);
    }
}

/// What somebody does not read fills its own windows, however small the frames are; nobody else notices.
#[test]
fn small_frames_that_wait_cost_others_nothing() {
    const COUNT: usize = 60_000;
    let origin = scripted(|_, peer| {
        peer.wait(HEADERS, 1);
        peer.head(1, &OK, 0).data(1, b"begin ", 0);
        for stream in [3, 5, 7] {
            peer.wait(HEADERS, stream);
            peer.head(stream, &OK, 0);
            peer.frames.client.send(crumbs(stream, COUNT));
            peer.data(stream, b"", END_STREAM);
        }
        // Answered when all that is read.
        peer.frames.send(PING, 0, 0, &[7; 8]);
        peer.wait(PING, 0);
        peer.data(1, b"end", END_STREAM);
    });
    let proxy = start(origin.address(), "outlier_ejection: {}");
    let mut bystander = proxy.client();
    bystander.send(get());
    origin.wait(0, HEADERS, 1);
    let mut frames = Frames::silent(&proxy.address("web"));
    const INITIAL_WINDOW_SIZE: u16 = 4;
    frames.open(&[(INITIAL_WINDOW_SIZE, 0)]);
    for stream in [1, 3, 5] {
        frames.get(stream, "/");
        frames.wait(HEADERS, stream);
    }
    assert_eq!(bystander.response().text(), "begin end");
    frames.send(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes());
    let expected: Vec<u8> = (0..COUNT).map(|at| (at % 251) as u8).collect();
    for stream in [1, 3, 5] {
        frames.send(WINDOW_UPDATE, 0, stream, &(1u32 << 20).to_be_bytes());
        let (end, body) = frames.end_of(stream);
        assert_eq!(end, End::Stream);
        assert!(body == expected, "{} bytes of stream {stream}", body.len());
    }
    assert_eq!(origin.connections(), 1);
}

/// `h2` bears a hundred of them in a connection's life.
#[test]
fn a_connection_with_many_empty_frames_is_replaced() {
    let origin = Scripted::start(&[], |index, peer| {
        while let Some(frame) = peer.next() {
            match (frame.kind, frame.stream) {
                (HEADERS, 1) if index == 0 => {
                    peer.head(1, &OK, 0).data(1, b"begin ", 0);
                }
                (HEADERS, stream) => {
                    peer.head(stream, &OK, 0)
                        .data(stream, b"", 0)
                        .data(stream, b"ok", END_STREAM);
                }
                _ => {}
            }
        }
    });
    let proxy = start(origin.address(), "");
    let mut bystander = proxy.client();
    bystander.send(get());
    assert_eq!(bystander.read_head().status(), 200);
    for _ in 0..140 {
        assert_eq!(proxy.get("/").text(), "ok");
    }
    assert_eq!(origin.connections(), 3);
    let failures = proxy.metrics().sum("tamis_upstream_failures_total", &[]);
    assert_eq!(failures, 0.0);
    assert_eq!(bystander.read(11), b"6\r\nbegin \r\n");
    bystander.assert_silent(std::time::Duration::from_millis(100), "its stream goes on");
}

/// What is on its way when a stream is broken off is charged by `h2` for ever.
#[test]
fn a_connection_with_many_late_frames_is_replaced() {
    let origin = Scripted::start(&[], |_, peer| {
        while let Some(frame) = peer.next() {
            match frame.kind {
                HEADERS => {
                    peer.head(frame.stream, &OK, 0).data(frame.stream, b"begin ", 0);
                }
                RST_STREAM => {
                    peer.frames.client.send(crumbs(frame.stream, 5_000));
                }
                _ => {}
            }
        }
    });
    let proxy = start(origin.address(), "");
    let mut bystander = proxy.client();
    bystander.send(get());
    assert_eq!(bystander.read_head().status(), 200);
    for stream in (3..43).step_by(2) {
        leave(&origin, &proxy, stream);
        if origin.connections() == 2 {
            break;
        }
    }
    assert_eq!(origin.connections(), 2);
    assert_eq!(bystander.read(11), b"6\r\nbegin \r\n");
    assert!(
        !origin
            .seen(0)
            .iter()
            .any(|frame| frame.kind == GOAWAY && frame.code(4) != NO_ERROR)
    );
}

/// Servers cut a connection on which too many streams are broken off, with all that is on it.
#[test]
fn clients_that_leave_do_not_add_up() {
    let origin = Scripted::start(&[], |_, peer| {
        while let Some(frame) = peer.next() {
            if frame.kind == HEADERS {
                peer.head(frame.stream, &OK, 0).data(frame.stream, b"begin ", 0);
            }
        }
    });
    let proxy = start(origin.address(), "");
    let mut bystander = proxy.client();
    bystander.send(get());
    assert_eq!(bystander.read_head().status(), 200);
    for stream in (3..203).step_by(2) {
        leave(&origin, &proxy, stream);
        if origin.connections() == 2 {
            break;
        }
    }
    assert_eq!(origin.connections(), 2);
    let resets = origin.seen(0).iter().filter(|frame| frame.kind == RST_STREAM).count();
    assert!((51..90).contains(&resets), "{resets} resets");
    assert_eq!(bystander.read(11), b"6\r\nbegin \r\n");
}

/// Filters' own calls share the connections of their cluster.
#[test]
fn filters_call_others_in_http2() {
    let folder = folder_with(&["ext-auth"]);
    let auth = Origin::start(100, |asked| match asked.headers.get("authorization") {
        Some(_) => Answer::ok("").with("x-user", "alice"),
        None => Answer {
            status: 403,
            body: b"no!".to_vec(),
            ..Answer::default()
        },
    });
    let origin = Origin::start(100, |asked| Answer::ok(asked.headers["x-user"].as_bytes()));
    let top = "filters:\n  ext-auth:\n    component: ext-auth.wasm\n    grants: [key_value, { outbound: [auth] }]\n    \
               config: { cluster: auth, path: /verify, upstream_headers: [x-user] }";
    let clusters = format!("  auth: {{ endpoints: [\"{}\"], protocol: http2 }}", auth.address());
    let yaml = Configuration {
        top,
        clusters: &clusters,
        cluster: "protocol: http2",
        route: "filters: [ext-auth]",
        ..Default::default()
    }
    .with(&[origin.address()]);
    let proxy = Proxy::start_in(&folder, &yaml);
    let mut client = proxy.client();
    for _ in 0..3 {
        let allowed = client.exchange("GET / HTTP/1.1\r\nHost: a.example\r\nAuthorization: good\r\n\r\n");
        assert_eq!((allowed.status(), &*allowed.text()), (200, "alice"));
    }
    assert_eq!(client.get("/").status(), 403);
    assert_eq!((auth.connections(), origin.connections()), (1, 1));
    assert_eq!(auth.take()[0].uri.path(), "/verify");
}
