//! Who the client is: what the PROXY protocol and trusted proxies say, and what anybody else says in vain.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;
use tamis_integration::proxy::check;
use tamis_integration::socket::Address;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, Folder, Message, Proxy, Step, Upstream};

use crate::support::{Configuration, each, wait_until};

const LOG: &str = "access_log: { file: access.log, format: json }";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// A listener with these entries besides its address.
fn yaml(upstream: &Upstream, listener: &str, limits: &str) -> String {
    let configuration = Configuration {
        top: LOG,
        limits,
        ..Default::default()
    };
    configuration
        .to(upstream)
        .replace("    filters: []\n", &format!("    {listener}\n"))
}

/// X-Forwarded-For, -Proto and -Host.
fn told(request: &Message) -> [Option<&str>; 3] {
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].map(|name| request.value(name))
}

fn clients(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines = proxy.folder().wait_lines("access.log", count);
    let client = |line: &String| serde_json::from_str::<Value>(line).expect("a record is JSON")["client"].clone();
    lines.iter().map(client).collect()
}

fn refused(proxy: &Proxy) -> f64 {
    let labels = [("listener", "web"), ("reason", "proxy_protocol")];
    proxy.metrics().sum("tamis_connections_refused_total", &labels)
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("it is short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, rest].concat()
}

/// Fault 114: nobody is believed unless the configuration says so, and a client cannot write its own address.
#[test]
fn fault_114_forwarded_fields_are_believed_of_trusted_proxies_alone() {
    let upstream = Upstream::saying("ok");
    let spoof = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
                 Forwarded: for=192.0.2.1;proto=https;host=evil.example\r\n";
    let own = [Some("127.0.0.1"), Some("http"), Some("a.example")];
    type Case<'a> = (&'a str, &'a str, &'a str, [Option<&'a str>; 3], &'a str);
    let cases: &[Case] = &[
        ("by default", "", spoof, own, "127.0.0.1"),
        (
            "others are trusted",
            "trusted_proxies: [10.0.0.0/8]",
            spoof,
            own,
            "127.0.0.1",
        ),
        (
            "Unix sockets are trusted",
            "trusted_proxies: [unix]",
            spoof,
            own,
            "127.0.0.1",
        ),
        (
            "trusted",
            "trusted_proxies: [127.0.0.1]",
            spoof,
            [Some("192.0.2.1, 127.0.0.1"), Some("https"), Some("evil.example")],
            "192.0.2.1",
        ),
        (
            "what stands before the client is its own",
            "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]",
            "X-Forwarded-For: 10.1.1.1, 192.0.2.66\r\nX-Forwarded-For: 192.0.2.7, 10.0.0.2\r\n",
            [Some("192.0.2.7, 10.0.0.2, 127.0.0.1"), Some("http"), Some("a.example")],
            "192.0.2.7",
        ),
        (
            "by Forwarded",
            "trusted_proxies: [127.0.0.1]",
            "Forwarded: for=192.0.2.66, for=\"[2001:db8::7]:1\";proto=https;host=\"b.example:8443\"\r\n",
            [Some("2001:db8::7, 127.0.0.1"), Some("https"), Some("b.example:8443")],
            "2001:db8::7",
        ),
        ("nothing is said", "trusted_proxies: [127.0.0.1]", "", own, "127.0.0.1"),
        (
            "nothing that can be read",
            "trusted_proxies: [127.0.0.1]",
            "X-Forwarded-For: 192.0.2.1, unknown\r\n",
            own,
            "127.0.0.1",
        ),
        (
            "nominated",
            "trusted_proxies: [127.0.0.1]",
            "Connection: x-forwarded-for\r\n",
            own,
            "127.0.0.1",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, listener, fields, expected, client)| {
            let proxy = Proxy::start(&yaml(&upstream, listener, ""));
            upstream.take_requests();
            let response = proxy
                .client()
                .exchange(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
            assert_eq!(response.status(), 200, "{name}");
            let request = upstream.take_request(name);
            assert_eq!(told(&request), *expected, "{name}");
            assert!(request.values("forwarded").is_empty(), "{name}");
            assert_eq!(clients(&proxy, 1), [*client], "{name}");
        },
    );
}

/// What is believed holds for each exchange, for redirects, and for filters.
#[test]
fn who_is_believed_to_ask_is_so_everywhere() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    folder.write(
        "facts.wasm",
        Guest::new()
            .on_response([SetResponseHeader("x-passed", b"1".to_vec())])
            .build(),
    );
    let configuration = Configuration {
        top: &format!("{LOG}\nfilters:\n  facts: {{ component: facts.wasm }}"),
        routes: "  - { name: moved, match: { path: { exact: /moved } }, redirect: { path: /new } }",
        route: "filters: [facts]",
        ..Default::default()
    };
    let text = configuration
        .to(&upstream)
        .replace("    filters: []\n", "    trusted_proxies: [127.0.0.0/8]\n");
    let proxy = Proxy::start_in(&folder, &text);
    let mut client = proxy.client();
    for address in ["192.0.2.1", "192.0.2.2"] {
        let fields = format!("Host: a.example\r\nX-Forwarded-For: {address}\r\nX-Forwarded-Proto: https\r\n");
        let moved = client.exchange(format!("GET /moved HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(moved.value("location"), Some("https://a.example/new"));
        let passed = client.exchange(format!("GET / HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(passed.value("x-passed"), Some("1"));
    }
    assert_eq!(client.get("/").status(), 200, "the next one is for nobody else");
    assert_eq!(
        clients(&proxy, 5),
        ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "127.0.0.1"]
    );
}

/// Both versions, with the request in the same packet or not; the client is the one that is named, in all places.
#[test]
fn the_proxy_protocol_names_the_client() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml(&upstream, "proxy_protocol: { from: [127.0.0.0/8] }", ""));
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x13, 0x88, 0, 80];
    let extended = [v4.as_slice(), b"\x04\x00\x02\x00\x00", b"\x01\x00\x02h2"].concat();
    let v6 = [
        [0x20, 1, 0x0d, 0xb8].as_slice(),
        &[0; 11],
        &[9],
        &[0; 15],
        &[1],
        &[0x13, 0x88, 0, 80],
    ]
    .concat();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        (
            "a line",
            b"PROXY TCP4 192.0.2.5 10.0.0.1 5000 80\r\n".to_vec(),
            "192.0.2.5",
        ),
        (
            "a line, IPv6",
            b"PROXY TCP6 2001:db8::5 ::1 5000 80\r\n".to_vec(),
            "2001:db8::5",
        ),
        ("unknown", b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        ("binary", binary(0x21, 0x11, &v4), "192.0.2.7"),
        ("binary, extended", binary(0x21, 0x11, &extended), "192.0.2.7"),
        ("binary, IPv6", binary(0x21, 0x21, &v6), "2001:db8::9"),
        ("the proxy itself", binary(0x20, 0x00, b""), "127.0.0.1"),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(name, header, expected)| {
            upstream.take_requests();
            let mut together = proxy.client();
            let response = together.exchange([header.as_slice(), GET].concat());
            assert_eq!(response.status(), 200, "{name}");
            assert_eq!(
                upstream.take_request(name).value("x-forwarded-for"),
                Some(*expected),
                "{name}"
            );
            assert_eq!(together.get("/").status(), 200, "the connection goes on");
            upstream.take_requests();
            let mut apart = proxy.client();
            for byte in header {
                apart.send([*byte]);
            }
            assert_eq!(apart.exchange(GET).status(), 200, "{name}, byte by byte");
            assert_eq!(
                upstream.take_request(name).value("x-forwarded-for"),
                Some(*expected),
                "{name}"
            );
        },
    );
    let seen = clients(&proxy, 3 * cases.len());
    for (index, (name, _, expected)) in cases.iter().enumerate() {
        assert_eq!(seen[3 * index..3 * index + 3], [*expected; 3], "{name}");
    }
    assert_eq!(refused(&proxy), 0.0);
}

/// Fault 114: without its header, with half of one, or with another, a connection of a balancer ends unanswered.
#[test]
fn fault_114_a_header_that_is_none_ends_the_connection() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml(
        &upstream,
        "proxy_protocol: { from: [127.0.0.1] }",
        "head_timeout: 300ms",
    ));
    let whole = binary(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x13, 0x88, 0, 80]);
    let cases: &[(&str, &[u8])] = &[
        ("a request", GET),
        (
            "a line that is too long",
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 120]].concat(),
        ),
        ("another line end", b"PROXY TCP4 192.0.2.5 10.0.0.1 5000 80\n"),
        ("no addresses", &binary(0x21, 0x11, b"")),
        ("another version", &binary(0x31, 0x11, b"")),
        ("half of it, and no more", &whole[..20]),
        ("half a line, and no more", b"PROXY TCP4 192."),
        ("silence after a byte", b"\r"),
    ];
    for (count, (name, bytes)) in cases.iter().enumerate() {
        let mut client = proxy.client();
        client.send(bytes);
        client.assert_closed(name);
        wait_until(name, || refused(&proxy) == (count + 1) as f64);
    }
    // Whoever only looks whether somebody listens is no fault.
    proxy.client().finish().assert_closed("a look");
    assert_eq!(refused(&proxy), cases.len() as f64);
    assert_eq!(upstream.connections(), 0);
    let mut client = proxy.client();
    assert_eq!(
        client.exchange([whole.as_slice(), GET].concat()).status(),
        200,
        "others are served"
    );
}

/// Fault 114: who is not listed is the client, and a header of its own is a request that makes no sense.
#[test]
fn fault_114_a_header_from_anybody_else_is_no_header() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml(&upstream, "proxy_protocol: { from: [192.0.2.0/24, unix] }", ""));
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(
        upstream.take_request("plain").value("x-forwarded-for"),
        Some("127.0.0.1")
    );
    for header in [
        b"PROXY TCP4 192.0.2.5 10.0.0.1 5000 80\r\n".to_vec(),
        binary(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x13, 0x88, 0, 80]),
    ] {
        let mut client = proxy.client();
        client.send([header.as_slice(), GET].concat());
        assert_eq!(client.response().status(), 400);
    }
    assert!(upstream.take_requests().is_empty());
}

/// Balancers beside the proxy speak to a Unix socket; then the client may be believed of proxies before that.
#[test]
fn a_unix_socket_has_peers_too() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let text = yaml(
        &upstream,
        "proxy_protocol: { from: [unix] }\n    trusted_proxies: [192.0.2.0/24]",
        "",
    );
    let address = folder.path("web.sock");
    let text = text.replacen(
        "  web:\n    address: 127.0.0.1:0",
        &format!("  web:\n    address: unix:{}", address.display()),
        1,
    );
    let proxy = Proxy::start_in(&folder, &text);
    let mut client = Client::connect(&Address::Unix(address));
    let line = "PROXY TCP4 192.0.2.5 10.0.0.1 5000 80\r\n";
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    assert_eq!(client.exchange(format!("{line}{request}")).status(), 200);
    let request = upstream.take_request("both");
    assert_eq!(request.value("x-forwarded-for"), Some("203.0.113.9, 192.0.2.5"));
    assert_eq!(clients(&proxy, 1), ["203.0.113.9"]);
}

/// Towards an upstream: a header for each connection, and no connection for two clients.
#[test]
fn an_upstream_is_told_whom_a_connection_is_for() {
    for version in ["v1", "v2"] {
        let answer = tamis_integration::upstream::ok("ok");
        let length = if version == "v1" {
            b"PROXY TCP4 192.0.2.5 10.0.0.1 5000 80\r\n".len()
        } else {
            28
        };
        let upstream = Upstream::each([vec![Step::Bytes(length), Step::serve(answer)]]);
        let configuration = Configuration {
            cluster: &format!("proxy_protocol: {version}"),
            ..Default::default()
        };
        let text = configuration
            .to(&upstream)
            .replace("    filters: []\n", "    proxy_protocol: { from: [127.0.0.1] }\n");
        let proxy = Proxy::start(&text);
        for last in [5, 6] {
            let mut client = proxy.client();
            let line = format!("PROXY TCP4 192.0.2.{last} 10.0.0.1 5000 80\r\n");
            assert_eq!(
                client.exchange([line.as_bytes(), GET].concat()).status(),
                200,
                "{version}"
            );
            assert_eq!(client.get("/again").status(), 200, "{version}");
        }
        assert_eq!(upstream.connections(), 4, "{version}");
        for (index, last) in [5, 5, 6, 6].into_iter().enumerate() {
            let received = upstream.received(index);
            let expected = match version {
                "v1" => format!("PROXY TCP4 192.0.2.{last} 10.0.0.1 5000 80\r\nGET /").into_bytes(),
                _ => {
                    let addresses = [192, 0, 2, last, 10, 0, 0, 1, 0x13, 0x88, 0, 80];
                    [binary(0x21, 0x11, &addresses).as_slice(), b"GET /"].concat()
                }
            };
            assert!(
                received.starts_with(&expected),
                "{version}: {}",
                received.escape_ascii()
            );
        }
    }
}

/// Every mistake has its place and its fix.
#[test]
fn mistakes_in_networks_are_told() {
    let upstream = Upstream::saying("ok");
    let cases = [
        (
            "trusted_proxies: [10.0.0.1/8]",
            "10.0.0.1/8 has bits behind its prefix; write 10.0.0.0/8",
        ),
        (
            "trusted_proxies: [loopback]",
            "`loopback` is neither an address, nor a network",
        ),
        ("trusted_proxies: ['::ffff:10.0.0.0/104']", "holds addresses of IPv4"),
        ("proxy_protocol: { from: [] }", "nobody would be listened to"),
        ("proxy_protocol: {}", "missing field `from`"),
    ];
    for (listener, expected) in cases {
        let (status, printed) = check(&Folder::new(), &yaml(&upstream, listener, ""));
        assert_eq!(status, 1, "{listener}: {printed}");
        assert!(
            printed.contains(expected) && printed.contains("tamis.yaml:"),
            "{listener}: {printed}"
        );
    }
    let (status, printed) = check(
        &Folder::new(),
        &yaml(
            &upstream,
            "trusted_proxies: [10.0.0.0/8, '2001:db8::1', unix, 192.0.2.7]",
            "",
        ),
    );
    assert_eq!(status, 0, "{printed}");
}

/// Fault 102: one address has its share of a listener's connections, and others are served as before; who is trusted to
/// speak for many has no share.
#[test]
fn fault_102_an_address_has_its_share_of_connections() {
    let upstream = Upstream::saying("ok");
    let from = "proxy_protocol: { from: [127.0.0.1] }\n    trusted_proxies: [192.0.2.99]";
    let proxy = Proxy::start(&yaml(&upstream, from, "max_connections_per_address: 3"));
    let connect = |address: &str| {
        let mut client = proxy.client();
        client.send([format!("PROXY TCP4 {address} 10.0.0.1 5000 80\r\n").as_bytes(), GET].concat());
        client
    };
    let served = |address: &str| {
        let mut client = connect(address);
        assert_eq!(client.response().status(), 200, "{address}");
        client
    };
    let refused = || {
        let labels = [("listener", "web"), ("reason", "max_connections_per_address")];
        proxy.metrics().sum("tamis_connections_refused_total", &labels)
    };
    let mut greedy: Vec<Client> = (0..3).map(|_| served("192.0.2.1")).collect();
    for count in 1..=5 {
        connect("192.0.2.1").assert_closed("one too many");
        assert_eq!(refused(), f64::from(count));
    }
    let _others = [served("192.0.2.2"), served("192.0.2.3")];
    let _speaks_for_many: Vec<Client> = (0..5).map(|_| served("192.0.2.99")).collect();
    for client in &mut greedy {
        assert_eq!(client.get("/").status(), 200, "those that it has go on");
    }
    drop(greedy.pop());
    wait_until("its place is free again", || {
        connect("192.0.2.1").try_response().is_ok()
    });
}

/// A connection does not last for ever, however busy it is; the client is told in time.
#[test]
fn a_connection_has_so_many_requests() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml(&upstream, "filters: []", "max_requests: 3"));
    let mut client = proxy.client();
    for n in 1..=3 {
        let response = client.get("/");
        assert_eq!((response.status(), response.closes()), (200, n == 3), "request {n}");
    }
    client.assert_closed("after the last one");
    let mut pipelined = proxy.client();
    pipelined.send(GET.repeat(5));
    let closes: Vec<bool> = (0..3).map(|_| pipelined.response().closes()).collect();
    assert_eq!(closes, [false, false, true]);
    pipelined.assert_closed("what was sent behind the last one is not served");
    assert_eq!(upstream.requests().len(), 6);
}

/// Fault 123: without descriptors, accepting pauses and nothing spins; what is under way goes on, the administration
/// endpoint answers, and all is well when there are some again.
#[test]
fn fault_123_the_last_descriptors_are_not_for_clients() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&yaml(&upstream, "filters: []", ""));
    let mut first = proxy.client();
    assert_eq!(first.get("/").status(), 200);
    let most = proxy.descriptors() as u64 + 32;
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    prlimit(Some(proxy.pid()), Resource::Nofile, limit).expect("it is our child");
    let crowd: Vec<Client> = (0..128).map(|_| proxy.client()).collect();
    proxy.log().wait_message("accepting pauses");
    let (before, _) = proxy.run_and_wait();
    for _ in 0..10 {
        assert_eq!(
            proxy.admin("GET", "/ready").status(),
            200,
            "the administration endpoint answers"
        );
        assert_eq!(first.get("/").status(), 200, "who is connected is served");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (after, _) = proxy.run_and_wait();
    assert!(
        after - before < Duration::from_millis(300),
        "it spins: {:?}",
        after - before
    );
    drop(crowd);
    wait_until("others are served again", || proxy.client().try_get("/").is_some());
}
