//! Defects of our own: what a panic ends, and what it does not. Row 129 of the faults.

use rustix::process::Signal;
use tamis_integration::http2::Http2;
use tamis_integration::proxy::CONFIGURATION;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Proxy, Upstream};

use crate::support::{Configuration, assert_own_reply, wait_until};

/// Row 129: a panic anywhere on the way of a request is the end of that request, and of nothing else.
#[test]
fn fault_129_a_panic_is_the_end_of_one_exchange() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let value = b"seen".to_vec();
    let guest = Guest::new()
        .on_response([SetResponseHeader("x-guest", value)])
        .on_completion([]);
    folder.write("guest.wasm", guest.build());
    let configuration = Configuration {
        top: "access_log: { file: access.log }\nfilters:\n  guest: { component: guest.wasm }",
        route: "filters: [guest]",
        ..Default::default()
    };
    folder.write(CONFIGURATION, configuration.to(&upstream));
    let file = folder.path("panic");
    let variable = format!("TAMIS_PANIC_FILE={}", file.display());
    let mut proxy = Proxy::launch_through(&["env", &variable], &folder, &[]);
    proxy.expect_panics();
    let mut other = proxy.client();
    assert_eq!(other.get("/other").text(), "ok");
    let (mut records, mut panicked) = (1, 0);
    // What the client sees of it.
    for (place, status) in [
        ("connection", None),
        ("head", Some(500)),
        ("request", Some(500)),
        ("upstream", Some(500)),
        ("response", Some(500)),
        ("body", None),
        ("completion", Some(200)),
    ] {
        folder.replace("panic", place);
        let mut client = proxy.client();
        client.try_send(format!("GET /{place} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        match (client.try_response(), status) {
            (Ok(answer), Some(500)) => {
                assert_own_reply(&answer, 500, place);
                assert!(answer.closes(), "{place}: nobody knows what of it was read");
            }
            (Ok(answer), Some(200)) => assert_eq!(answer.text(), "ok", "{place}"),
            (Err(_), None) => {}
            (got, _) => panic!("{place}: {got:?}"),
        }
        wait_until(place, || !file.exists());
        assert_eq!(
            other.get("/other").value("x-guest"),
            Some("seen"),
            "{place}: another client"
        );
        // One record of each, but for a connection that had no request yet.
        records += 1 + usize::from(place != "connection");
        panicked += usize::from(!["connection", "completion"].contains(&place));
        let lines = folder.wait_lines("access.log", records);
        let of_panics = lines.iter().filter(|line| line.contains(r#""reason":"panic""#));
        assert_eq!(
            (lines.len(), of_panics.count()),
            (records, panicked),
            "{place}: {lines:#?}"
        );
    }
    assert_eq!(proxy.metrics().sum("tamis_panics_total", &[]), 7.0);
    assert_eq!(
        proxy.metrics().sum("tamis_exchanges", &[]),
        0.0,
        "nothing is left behind"
    );
    wait_until("nobody is left", || {
        proxy.metrics().sum("tamis_connections", &[]) == 1.0
    });
    drop(other);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// Row 129, over HTTP/2: the connection and its other streams go on.
#[test]
fn fault_129_a_panic_is_the_end_of_one_stream() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    folder.write(CONFIGURATION, Configuration::default().to(&upstream));
    let file = folder.path("panic");
    let variable = format!("TAMIS_PANIC_FILE={}", file.display());
    let mut proxy = Proxy::launch_through(&["env", &variable], &folder, &[]);
    proxy.expect_panics();
    let mut client = Http2::connect(&proxy.address("web"));
    for place in ["head", "request", "upstream", "response"] {
        folder.replace("panic", place);
        let answer = client.get("/panic");
        assert_eq!(answer.status, 500, "{place}");
        assert!(answer.headers.get("connection").is_none(), "{place}");
        assert_eq!(client.get("/next").text(), "ok", "{place}");
    }
}
