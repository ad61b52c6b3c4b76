//! TLS towards clients, as `openssl`, `curl` and a client of our own see it. Rows 116, 117 and 120 of the faults.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tamis_integration::socket::Address;
use tamis_integration::{Client, DEADLINE, Folder, Proxy, Step, Upstream};

use crate::certificates::{Authority, Kind, Pair, TlsClient, Trust, Wish, curl, openssl, port, s_client, site};
use crate::support::{each, folder_with, wait_until};

/// A listener `web` that speaks TLS, with these entries of `tls`, of `limits`, and of the listener.
pub fn listening(upstream: &Upstream, tls: &str, limits: &str, listener: &str) -> String {
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
access_log: {{ file: access.log }}
listeners:
  web:
    address: 127.0.0.1:0
    tls: {{ {tls} }}
    limits: {{ {limits} }}
    {listener}
clusters:
  app: {{ endpoints: [\"{}\"] }}
routes:
  - {{ name: all, cluster: app }}
",
        upstream.address()
    )
}

pub const SITE: &str = "certificates: [{ cert: site.pem, key: site.key }]";

fn start_site(folder: &Folder, upstream: &Upstream) -> Proxy {
    Proxy::start_in(folder, &listening(upstream, SITE, "", ""))
}

fn last_record(folder: &Folder, count: usize) -> serde_json::Value {
    let lines = folder.wait_lines("access.log", count);
    serde_json::from_str(&lines[count - 1]).unwrap()
}

/// Row 116.
#[test]
fn the_certificate_is_the_one_for_the_name() {
    let (folder, authority) = site(&["first.example"]);
    authority.issue(&["a.example", "b.example"]).put(&folder, "ab");
    authority.issue(&["*.wild.example"]).put(&folder, "wild");
    let upstream = Upstream::saying("ok");
    let pairs = ["site", "ab", "wild"].map(|name| format!("{{ cert: {name}.pem, key: {name}.key }}"));
    let tls = format!("certificates: [{}]", pairs.join(", "));
    let proxy = Proxy::start_in(&folder, &listening(&upstream, &tls, "", ""));
    let address = proxy.address("web");
    each(
        [
            ("a.example", "a.example"),
            ("b.example", "a.example"),
            ("A.Example", "a.example"),
            ("a.example.", "a.example"),
            ("x.wild.example", "*.wild.example"),
            ("X.WILD.EXAMPLE", "*.wild.example"),
            ("x.y.wild.example", "first.example"),
            ("wild.example", "first.example"),
            ("first.example", "first.example"),
            ("unknown.example", "first.example"),
            ("", "first.example"),
        ],
        |(name, _)| format!("`{name}`"),
        |(name, subject)| {
            let asked = if name.is_empty() {
                vec!["-noservername"]
            } else {
                vec!["-servername", *name]
            };
            let printed = s_client(&folder, &address, &asked);
            assert!(printed.contains(&format!("subject=CN = {subject}")), "{printed}");
            assert!(printed.contains("Verify return code: 0 (ok)"), "{printed}");
            assert!(printed.contains("HTTP/1.1 200 OK"), "{printed}");
        },
    );
}

/// One name, two kinds of keys: who cannot verify the first gets the second.
#[test]
fn the_certificate_is_one_that_the_client_can_verify() {
    let (folder, authority) = site(&["a.example"]);
    let rsa = Wish {
        kind: Kind::Rsa,
        ..Wish::of(&["a.example"])
    };
    authority.grant(&rsa).put(&folder, "rsa");
    let upstream = Upstream::saying("ok");
    let tls = "certificates: [{ cert: site.pem, key: site.key }, { cert: rsa.pem, key: rsa.key }]";
    let proxy = Proxy::start_in(&folder, &listening(&upstream, tls, "", ""));
    let address = proxy.address("web");
    for (arguments, kind) in [
        (&["-servername", "a.example"][..], "ECDSA"),
        (
            &["-servername", "a.example", "-sigalgs", "rsa_pss_rsae_sha256:ECDSA+SHA1"],
            "RSA-PSS",
        ),
        (&["-noservername"], "ECDSA"),
        (&["-noservername", "-sigalgs", "RSA-PSS+SHA256", "-tls1_2"], "RSA-PSS"),
    ] {
        let printed = s_client(&folder, &address, arguments);
        assert!(
            printed.contains(&format!("Peer signature type: {kind}")),
            "{arguments:?}: {printed}"
        );
    }
}

#[test]
fn versions_and_protocols_are_agreed_on() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, SITE, "", "");
    let modern =
        format!("  modern:\n    address: 127.0.0.1:0\n    tls: {{ {SITE}, min_version: tls1.3 }}\nclusters:\n");
    let proxy = Proxy::start_in(&folder, &yaml.replace("clusters:\n", &modern));
    let (web, modern) = (proxy.address("web"), proxy.address("modern"));
    each(
        [
            (&web, vec!["-tls1_2"], "New, TLSv1.2"),
            (&web, vec!["-tls1_3"], "New, TLSv1.3"),
            (&web, vec![], "New, TLSv1.3"),
            (
                &web,
                vec!["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
                "alert handshake failure",
            ),
            (&modern, vec!["-tls1_2"], "alert protocol version"),
            (&modern, vec!["-tls1_3"], "New, TLSv1.3"),
            (&web, vec!["-alpn", "spdy/3,http/1.1"], "ALPN protocol: http/1.1"),
            (&web, vec![], "No ALPN negotiated"),
            (&web, vec!["-alpn", "spdy/3"], "alert no application protocol"),
        ],
        |(address, arguments, _)| format!("{address} {arguments:?}"),
        |(address, arguments, says)| {
            let printed = s_client(
                &folder,
                address,
                &[&["-servername", "a.example"], &arguments[..]].concat(),
            );
            assert!(printed.contains(says), "{printed}");
        },
    );
    let metrics = proxy.metrics();
    let count = |labels: &[(&str, &str)]| metrics.sum("tamis_tls_handshakes_total", labels);
    assert_eq!(
        count(&[("listener", "web"), ("outcome", "full"), ("version", "TLSv1.2")]),
        1.0
    );
    assert_eq!(
        count(&[("listener", "web"), ("outcome", "full"), ("version", "TLSv1.3")]),
        4.0
    );
    assert_eq!(count(&[("listener", "modern"), ("outcome", "incompatible")]), 1.0);
    assert_eq!(count(&[("listener", "web"), ("outcome", "incompatible")]), 2.0);
    assert_eq!(
        metrics.sum("tamis_tls_handshake_duration_seconds_count", &[("listener", "web")]),
        7.0
    );
}

/// Row 118: keys of tickets live longer than generations, and are of one listener.
#[test]
fn sessions_are_resumed_where_they_were_begun() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let twin = format!("  twin:\n    address: 127.0.0.1:0\n    tls: {{ {SITE} }}\nclusters:\n");
    let yaml = listening(&upstream, SITE, "", "").replace("clusters:\n", &twin);
    let proxy = Proxy::start_in(&folder, &yaml);
    for version in ["-tls1_3", "-tls1_2"] {
        let ask = |listener: &str, more: &[&str]| {
            let arguments = [&["-servername", "a.example", version], more].concat();
            s_client(&folder, &proxy.address(listener), &arguments)
        };
        let printed = ask("web", &["-sess_out", "session"]);
        assert!(printed.contains("New, TLS"), "{version}: {printed}");
        let printed = ask("web", &["-sess_in", "session"]);
        assert!(
            printed.contains("Reused, TLS") && printed.contains("200 OK"),
            "{version}: {printed}"
        );
        let printed = ask("twin", &["-sess_in", "session"]);
        assert!(printed.contains("New, TLS"), "another listener: {version}: {printed}");
        let changed = yaml.replace("name: all", &format!("name: all{}", version.replace('-', "")));
        let generation = crate::support::apply(&proxy, &changed)["generation"].clone();
        let printed = ask("web", &["-sess_in", "session"]);
        assert!(
            printed.contains("Reused, TLS"),
            "generation {generation}: {version}: {printed}"
        );
    }
    let resumed = proxy
        .metrics()
        .sum("tamis_tls_handshakes_total", &[("outcome", "resumed")]);
    assert_eq!(resumed, 4.0);
}

/// Row 120: what comes before the handshake's end is not taken.
#[test]
fn there_is_no_early_data() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    let address = proxy.address("web");
    let printed = s_client(&folder, &address, &["-servername", "a.example", "-sess_out", "session"]);
    assert!(printed.contains("Max Early Data: 0"), "{printed}");
    folder.write("early", "GET /early HTTP/1.1\r\nHost: a.example\r\n\r\n");
    upstream.take_requests();
    s_client(
        &folder,
        &address,
        &[
            "-servername",
            "a.example",
            "-sess_in",
            "session",
            "-early_data",
            "early",
        ],
    );
    let early = upstream
        .take_requests()
        .into_iter()
        .filter(|request| request.target() == "/early");
    assert_eq!(early.count(), 0);
}

#[test]
fn the_key_exchange_is_hybrid_where_the_client_knows_it() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    let mut client = TlsClient::connect(&proxy.address("web"), "a.example", &Trust::in_authority(&authority));
    client.get("/").unwrap();
    assert_eq!(client.key_exchange(), "X25519MLKEM768");
    let printed = s_client(&folder, &proxy.address("web"), &["-servername", "a.example"]);
    assert!(printed.contains("Server Temp Key: X25519"), "{printed}");
}

#[test]
fn exchanges_know_of_it() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    let address = proxy.address("web");
    let mut client = TlsClient::connect(&address, "a.example", &Trust::in_authority(&authority));
    let forged = "GET /x HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Client-Cert: Hash=1\r\n\
        X-Forwarded-Proto: http\r\n\r\n";
    assert_eq!(client.exchange(forged.as_bytes()).unwrap().0, 200);
    let request = upstream.take_request("one request");
    assert_eq!(request.value("x-forwarded-proto"), Some("https"));
    assert_eq!(request.value("x-forwarded-client-cert"), None);
    let record = last_record(&folder, 1);
    assert_eq!(
        (&record["tls_version"], &record["sni"]),
        (&"TLSv1.3".into(), &"a.example".into())
    );
    assert!(record["client_subject"].is_null(), "{record}");
    // Two requests in one record, answered in order.
    client
        .write(b"GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .unwrap();
    assert_eq!((client.response().unwrap().0, client.response().unwrap().0), (200, 200));
    let targets: Vec<_> = upstream
        .take_requests()
        .iter()
        .map(|request| request.target().to_owned())
        .collect();
    assert_eq!(targets, ["/1", "/2"]);
}

#[test]
fn filters_know_of_it() {
    let folder = folder_with(&["everything"]);
    let authority = Authority::new("Test Authority");
    authority.issue(&["a.example", "refused.example"]).put(&folder, "site");
    folder.write("ca.pem", authority.pem());
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, SITE, "", "filters: [everything]").replace(
        "clusters:\n",
        "filters:\n  everything: { component: everything.wasm, grants: [metrics, clock, random, key_value, \
         { outbound: [] }] }\nclusters:\n",
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let address = proxy.address("web");
    let ask = |name: &str| {
        let mut client = TlsClient::connect(&address, name, &Trust::in_authority(&authority));
        client.exchange(b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Act: peer\r\n\r\n")
    };
    let (status, head, body) = ask("a.example").unwrap();
    let told = format!("{head}{}", String::from_utf8_lossy(&body));
    assert_eq!(status, 200, "{told}");
    let expected = format!("127.0.0.1:{} Some(\"a.example\") None 0", port(&address));
    assert!(told.contains(&expected), "{told}");
    // The filter's connection hook refuses this name.
    assert!(ask("refused.example").is_err());
}

#[test]
fn a_listener_may_only_redirect() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let plain = "  plain: { address: 127.0.0.1:0, redirect: https }\n  \
        other: { address: 127.0.0.1:0, redirect: { port: 8443, status: 301 } }\nclusters:\n";
    let yaml = listening(&upstream, SITE, "", "").replace("clusters:\n", plain);
    let proxy = Proxy::start_in(&folder, &yaml);
    for (listener, host, status, location) in [
        ("plain", "a.example", 308, "https://a.example/x?y=%20z"),
        ("plain", "a.example:80", 308, "https://a.example/x?y=%20z"),
        ("other", "[::1]:8080", 301, "https://[::1]:8443/x?y=%20z"),
    ] {
        let mut client = Client::connect(&proxy.address(listener));
        for method in ["GET", "DELETE"] {
            let response = client.exchange(format!("{method} /x?y=%20z HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(
                (response.status(), response.value("location")),
                (status, Some(location)),
                "{host}"
            );
        }
        let response = client.exchange("GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n");
        assert_eq!(response.status(), 400, "{response:?}");
    }
    assert_eq!(upstream.connections(), 0);
    // All the way, as curl goes it.
    let yaml = yaml.replace(
        "port: 8443, status: 301",
        &format!("port: {}", port(&proxy.address("web"))),
    );
    crate::support::apply(&proxy, &yaml);
    let (other, web) = (port(&proxy.address("other")), port(&proxy.address("web")));
    let (code, printed) = curl(
        &folder,
        &[
            "--cacert",
            "ca.pem",
            "--location",
            "--resolve",
            &format!("a.example:{other}:127.0.0.1"),
            "--resolve",
            &format!("a.example:{web}:127.0.0.1"),
            "--write-out",
            " %{scheme} %{http_version} %{num_redirects}",
            &format!("http://a.example:{other}/x"),
        ],
    );
    assert_eq!((code, &*printed), (0, "ok HTTPS 2 1"));
}

/// By agreement alone, and only for hosts that the certificate is for (RFC 9113 9.1.2).
#[test]
fn http2_is_agreed_on_and_kept_to_its_hosts() {
    let (folder, _) = site(&["a.example", "*.b.example"]);
    let upstream = Upstream::saying("ok");
    let old = format!("  old:\n    address: 127.0.0.1:0\n    protocols: [http1]\n    tls: {{ {SITE} }}\nclusters:\n");
    let yaml = listening(&upstream, SITE, "", "").replace("clusters:\n", &old);
    let proxy = Proxy::start_in(&folder, &yaml);
    let ask = |listener: &str, version: &str, host: &str| {
        let port = port(&proxy.address(listener));
        let (resolve, host) = (format!("a.example:{port}:127.0.0.1"), format!("Host: {host}"));
        let url = format!("https://a.example:{port}/");
        let arguments = ["--cacert", "ca.pem", "--resolve", &resolve, version, "--header", &host];
        let shown = [
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{http_code}",
            &url,
        ];
        let (code, printed) = curl(&folder, &[&arguments[..], &shown].concat());
        assert_eq!(code, 0, "{printed}");
        printed
    };
    for (listener, version, host, expected) in [
        ("web", "--http2", "a.example", "2 200"),
        ("web", "--http2", "A.Example:443", "2 200"),
        ("web", "--http2", "x.b.example", "2 200"),
        ("web", "--http2", "b.example", "2 421"),
        ("web", "--http2", "other.example", "2 421"),
        ("web", "--http2", "127.0.0.1", "2 421"),
        ("web", "--http1.1", "other.example", "1.1 200"),
        ("old", "--http2", "a.example", "1.1 200"),
    ] {
        assert_eq!(ask(listener, version, host), expected, "{listener} {version} {host}");
    }
    let requests = upstream.take_requests();
    assert_eq!(requests.len(), 5);
    assert!(
        requests
            .iter()
            .all(|request| request.value("x-forwarded-proto") == Some("https"))
    );
    let printed = s_client(&folder, &proxy.address("web"), &["-alpn", "h2,http/1.1", "-no_ign_eof"]);
    assert!(printed.contains("ALPN protocol: h2"), "{printed}");
    let records: Vec<serde_json::Value> = folder.wait_lines("access.log", 8)[..8]
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let misdirected = records.iter().filter(|record| record["reason"] == "misdirected");
    assert_eq!(misdirected.count(), 3, "{records:?}");
}

/// Whoever speaks plain HTTP to it is told so, and whoever speaks nothing of the kind learns nothing.
#[test]
fn what_is_not_tls_is_refused() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    let response = Client::connect(&proxy.address("web")).get("/");
    assert_eq!(
        (response.status(), &*response.text()),
        (400, "this port speaks HTTPS\r\n")
    );
    for garbage in [
        &b"\x80\x80\x01"[..],
        &[0; 64],
        b"SSH-2.0-x\r\n",
        &[22, 3, 1, 0xff, 0xff],
        &[22, 3, 3, 0, 1, 0xff],
    ] {
        let mut client = Client::connect(&proxy.address("web"));
        client.send(garbage).finish();
        let ending = client.ending();
        let is_alert = ending.bytes.first().is_none_or(|first| *first == 21);
        assert!(
            is_alert || ending.bytes.starts_with(b"HTTP/1.1 400 "),
            "{}",
            ending.bytes.escape_ascii()
        );
    }
    let outcome = |outcome| {
        proxy
            .metrics()
            .sum("tamis_tls_handshakes_total", &[("outcome", outcome)])
    };
    assert_eq!(outcome("plain_http"), 2.0);
    wait_until("all are counted", || outcome("malformed") + outcome("closed") == 4.0);
}

/// Row 117: the deadline is for the whole handshake, however the client spreads it.
#[test]
fn a_handshake_has_a_deadline() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, SITE, "tls_handshake_timeout: 400ms", "");
    let proxy = Proxy::start_in(&folder, &yaml);
    let address = proxy.address("web");
    let begun = Instant::now();
    let mut silent = Client::connect(&address);
    silent.assert_closed("a silent one");
    assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
    let mut slow = Client::connect(&address);
    // The head of a record that never comes whole.
    let mut sent = 0;
    for byte in [22, 3, 1, 2, 0, 1, 0, 1, 0xfc].into_iter().chain([3; 500]) {
        if !slow.try_send([byte]) {
            break;
        }
        sent += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!((3..300).contains(&sent), "{sent} bytes were taken");
    let outcome = |outcome| {
        proxy
            .metrics()
            .sum("tamis_tls_handshakes_total", &[("outcome", outcome)])
    };
    wait_until("both are counted", || outcome("timeout") == 2.0);
}

/// Rows 102 and 117: those who wait for nothing do not keep others out.
#[test]
fn a_crowd_of_silent_clients_keeps_nobody_out() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, SITE, "max_handshakes: 3, tls_handshake_timeout: 60s", "");
    let proxy = Proxy::start_in(&folder, &yaml);
    let address = proxy.address("web");
    let mut silent: Vec<_> = (0..3).map(|_| Client::connect(&address)).collect();
    let open = || proxy.metrics().sum("tamis_connections", &[("listener", "web")]);
    wait_until("all three are there", || open() == 3.0);
    let mut client = TlsClient::connect(&address, "a.example", &Trust::in_authority(&authority));
    assert_eq!(client.get("/").unwrap().0, 200);
    silent.remove(0).assert_closed("the oldest");
    for mut other in silent {
        other.assert_silent(Duration::from_millis(50), "the others stay");
    }
    let crowded = proxy
        .metrics()
        .sum("tamis_tls_handshakes_total", &[("outcome", "crowded_out")]);
    assert_eq!(crowded, 1.0);
}

/// Row 121: who has said nothing yet does not hold up the end.
#[test]
fn a_silent_client_does_not_hold_up_a_drain() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let yaml = listening(&upstream, SITE, "tls_handshake_timeout: 60s", "");
    let mut proxy = Proxy::start_in(&folder, &yaml);
    let mut silent = Client::connect(&proxy.address("web"));
    wait_until("it is there", || proxy.metrics().sum("tamis_connections", &[]) == 1.0);
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    silent.assert_closed("the proxy leaves");
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
}

/// The peer can tell an answer that is whole from one that was cut off.
#[test]
fn an_end_is_a_proper_one_only_when_all_is_said() {
    let (folder, authority) = site(&["a.example"]);
    let cut = Upstream::each([
        vec![Step::Message, Step::send("HTTP/1.1 200 OK\r\n\r\nwhole"), Step::Finish],
        vec![
            Step::Message,
            Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
            Step::Close,
        ],
    ]);
    let yaml = listening(&cut, SITE, "idle_timeout: 300ms", "");
    let proxy = Proxy::start_in(&folder, &yaml);
    let (address, trust) = (proxy.address("web"), Trust::in_authority(&authority));
    let mut client = TlsClient::connect(&address, "a.example", &trust);
    let (status, head, _) = client.get("/").unwrap();
    assert!(
        status == 200 && head.to_ascii_lowercase().contains("transfer-encoding: chunked"),
        "{head}"
    );
    let mut rest = Vec::new();
    client
        .read_to_end(&mut rest)
        .expect("a proper end, after the idle time");
    assert_eq!(rest, b"5\r\nwhole\r\n0\r\n\r\n");
    let mut client = TlsClient::connect(&address, "a.example", &trust);
    client.write(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let mut got = Vec::new();
    let end = client.read_to_end(&mut got);
    assert!(end.is_err(), "what was cut off looks whole");
}

/// Row 117: what TLS itself has to say is answered, within its bounds.
#[test]
fn key_updates_are_followed_and_floods_of_them_are_not() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    let mut client = TlsClient::connect(&proxy.address("web"), "a.example", &Trust::in_authority(&authority));
    assert_eq!(client.get("/").unwrap().0, 200);
    for _ in 0..5 {
        client.refresh_keys();
        assert_eq!(client.get("/").unwrap().0, 200);
    }
    let mut flood = TlsClient::connect(&proxy.address("web"), "a.example", &Trust::in_authority(&authority));
    assert_eq!(flood.get("/").unwrap().0, 200);
    for _ in 0..200 {
        flood.refresh_keys();
    }
    assert!(flood.get("/").is_err(), "200 updates without a byte of data");
    assert_eq!(client.get("/").unwrap().0, 200);
}

/// Row 117: a ClientHello in pieces, and one that is as large as they come.
#[test]
fn a_client_hello_may_come_in_pieces() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    let address = proxy.address("web");
    let Address::Tcp(target) = &address else {
        panic!("{address}")
    };
    // Between the two: hands the client's bytes on one by one.
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let front = Address::Tcp(relay.local_addr().unwrap());
    let target = *target;
    let thread = std::thread::spawn(move || {
        let (mut client, _) = relay.accept().unwrap();
        let mut server = TcpStream::connect(target).unwrap();
        server.set_nodelay(true).unwrap();
        let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut down, &mut client));
        let mut byte = [0];
        while up.read(&mut byte).is_ok_and(|count| count == 1) && server.write_all(&byte).is_ok() {}
    });
    let mut client = TlsClient::connect(&front, "a.example", &Trust::in_authority(&authority));
    assert_eq!(client.get("/").unwrap().0, 200);
    drop(client);
    thread.join().unwrap();
}

/// Row 117: 16 KiB in records of 64 bytes. All that one can say, 64 KiB, costs nothing that stays, taken or refused.
#[test]
fn a_client_hello_may_be_large_and_in_many_records() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    let ask = |protocols, record_bytes| {
        let trust = Trust::wordy(&authority, protocols, record_bytes);
        TlsClient::connect(&proxy.address("web"), "a.example", &trust).get("/")
    };
    for record_bytes in [16_384, 1_024, 64] {
        assert_eq!(ask(55, record_bytes).unwrap().0, 200, "{record_bytes}");
    }
    let before = proxy.resident();
    for _ in 0..20 {
        ask(240, 16_384).ok();
    }
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes of growth");
    assert_eq!(ask(1, 16_384).unwrap().0, 200);
}

/// Row 117: TLS 1.2 lets a client begin anew at any time, and again; here it may not.
#[test]
fn nobody_begins_a_session_anew() {
    let (folder, _) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let proxy = start_site(&folder, &upstream);
    // `R` on a line of its own asks for it; without `-ign_eof` it would be sent as data.
    let Address::Tcp(address) = proxy.address("web") else {
        panic!("not TCP")
    };
    let address = address.to_string();
    let arguments = [
        "s_client",
        "-connect",
        &address,
        "-servername",
        "a.example",
        "-tls1_2",
        "-CAfile",
        "ca.pem",
    ];
    let output = openssl(&folder, &arguments, "R\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(printed.contains("RENEGOTIATING"), "{printed}");
    assert!(printed.contains("no renegotiation"), "{printed}");
    assert!(!printed.contains("200 OK"), "{printed}");
    assert!(upstream.requests().is_empty());
    let printed = s_client(&folder, &proxy.address("web"), &["-servername", "a.example", "-tls1_2"]);
    assert!(printed.contains("200 OK"), "{printed}");
}

/// A WebSocket through TLS: both heads, then every byte both ways, and a proper end.
#[test]
fn a_tunnel_passes_through_tls() {
    let (folder, authority) = site(&["a.example"]);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nearly";
    let steps = [
        Step::Message,
        Step::send(switch),
        Step::Bytes(1 << 20),
        Step::send(vec![b'b'; 1 << 20]),
        Step::Finish,
    ];
    let upstream = Upstream::each([steps.to_vec()]);
    let proxy = start_site(&folder, &upstream);
    let mut client = TlsClient::connect(&proxy.address("web"), "a.example", &Trust::in_authority(&authority));
    let ask = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (status, head, _) = client.exchange(ask.as_bytes()).unwrap();
    assert_eq!(status, 101, "{head}");
    assert_eq!(client.read(5).unwrap(), b"early");
    client.write(&vec![b'a'; 1 << 20]).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the end is a proper one");
    assert!(
        rest.len() == 1 << 20 && rest.iter().all(|byte| *byte == b'b'),
        "{}",
        rest.len()
    );
    assert_eq!(
        upstream.take_request("the handshake").value("x-forwarded-proto"),
        Some("https")
    );
    assert!(upstream.received(0).ends_with(&vec![b'a'; 1 << 20]));
}

/// A balancer that hands TLS on says first for whom it is; what it says is not part of the handshake, and whoever says
/// nothing has none.
#[test]
fn a_balancer_may_say_whose_tls_it_is() {
    let (folder, authority) = site(&["a.example"]);
    let upstream = Upstream::saying("ok");
    let listener = "proxy_protocol: { from: [127.0.0.1] }";
    let yaml = listening(
        &upstream,
        SITE,
        "head_timeout: 500ms, tls_handshake_timeout: 2s",
        listener,
    );
    let proxy = Proxy::start_in(&folder, &yaml);
    let (address, trust) = (proxy.address("web"), Trust::in_authority(&authority));
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x13\x88\x01\xbb";
    for (header, expected) in [
        (&b"PROXY TCP4 192.0.2.5 10.0.0.1 5000 443\r\n"[..], "192.0.2.5"),
        (binary, "192.0.2.7"),
    ] {
        let mut client = TlsClient::connect_after(header, &address, "a.example", &trust);
        assert_eq!(client.get("/").unwrap().0, 200);
        let request = upstream.take_request(expected);
        assert_eq!(request.value("x-forwarded-for"), Some(expected));
        assert_eq!(request.value("x-forwarded-proto"), Some("https"));
    }
    assert!(TlsClient::connect(&address, "a.example", &trust).get("/").is_err());
    // Inside of it a header is no header.
    let mut inside = TlsClient::connect_after(binary, &address, "a.example", &trust);
    let (status, ..) = inside
        .exchange(b"PROXY TCP4 192.0.2.5 10.0.0.1 5000 443\r\n\r\n")
        .unwrap();
    assert_eq!(status, 400);
    assert!(upstream.requests().is_empty());
}

#[test]
fn keys_come_in_every_usual_form() {
    let (folder, authority) = site(&["a.example"]);
    let rsa = Wish {
        kind: Kind::Rsa,
        ..Wish::of(&["a.example"])
    };
    let rsa: Pair = authority.grant(&rsa);
    rsa.put(&folder, "rsa");
    for (from, to, arguments) in [
        ("rsa", "pkcs1", &["rsa", "-traditional"][..]),
        ("site", "sec1", &["ec"]),
    ] {
        let (input, output) = (format!("{from}.key"), format!("{to}.key"));
        let all = [arguments, &["-in", &input, "-out", &output]].concat();
        let made = openssl(&folder, &all, "");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tls = format!("certificates: [{{ cert: {from}.pem, key: {to}.key }}]");
        let upstream = Upstream::saying("ok");
        let proxy = Proxy::start_in(&folder, &listening(&upstream, &tls, "", ""));
        let printed = s_client(&folder, &proxy.address("web"), &["-servername", "a.example"]);
        assert!(printed.contains("200 OK"), "{to}: {printed}");
    }
}

/// The examples with these files beside them, on free ports, in front of an upstream.
fn example(name: &str, pairs: &[(&str, Pair)], texts: &[(&str, String)]) -> (Folder, Upstream, Proxy) {
    let path = format!("{}/../config/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut yaml = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (folder, upstream) = (Folder::new(), Upstream::saying("ok"));
    for (name, pair) in pairs {
        pair.put(&folder, &format!("certificates/{name}"));
    }
    for (name, text) in texts {
        folder.write(name, text);
    }
    for port in ["8443", "8080"] {
        yaml = yaml.replace(&format!("address: 127.0.0.1:{port}"), "address: 127.0.0.1:0");
    }
    let yaml = yaml.replace("127.0.0.1:9000", &upstream.address().to_string());
    let proxy = Proxy::start_in(&folder, &format!("admin: {{ address: 127.0.0.1:0 }}\n{yaml}"));
    (folder, upstream, proxy)
}

#[test]
fn the_example_of_a_site_runs() {
    let authority = Authority::new("Test Authority");
    let pairs = [
        ("site", authority.issue(&["a.example"])),
        ("shop", authority.issue(&["shop.example.com"])),
    ];
    let (_folder, upstream, proxy) = example("tls-site.yaml", &pairs, &[]);
    let trust = Trust::in_authority(&authority);
    let mut client = TlsClient::connect(&proxy.address("web"), "a.example", &trust);
    assert_eq!(client.get("/").unwrap().0, 200);
    assert_eq!(upstream.take_request("one").value("x-forwarded-proto"), Some("https"));
    let mut shop = TlsClient::connect(&proxy.address("web"), "shop.example.com", &trust);
    assert_eq!(shop.get("/").unwrap().0, 200);
    assert_ne!(shop.shown(), client.shown());
    let moved = Client::connect(&proxy.address("plain")).get("/x");
    assert_eq!(moved.value("location"), Some("https://a.example:8443/x"));
}

#[test]
fn the_example_of_an_api_runs() {
    let (site, callers, internal) = (
        Authority::new("Site"),
        Authority::new("Callers"),
        Authority::new("Internal"),
    );
    let pairs = [
        ("api", site.issue(&["api.example"])),
        ("tamis", internal.issue(&["tamis.internal"])),
    ];
    let texts = [
        ("certificates/callers.pem", callers.pem()),
        ("certificates/internal.pem", internal.pem()),
    ];
    let (_folder, _upstream, proxy) = example("mtls-api.yaml", &pairs, &texts);
    let ask = |trust: &Trust| TlsClient::connect(&proxy.address("api"), "api.example", trust).get("/v1/x");
    assert!(ask(&Trust::in_authority(&site)).is_err());
    let caller = Trust::showing(&site, &callers.issue(&["caller.example"]));
    // Nobody listens behind it.
    assert_eq!(ask(&caller).unwrap().0, 502);
}
