//! What the standard leaves open, and Tamis has decided for components that serve: one test for each rule of the table in
//! README.md, where no other has it (`wasi_http` has heads, bodies, faults and those who leave).

use std::time::Duration;

use tamis_integration::http2::Http2;

use crate::support::{assert_own_reply, each, wait_until};
use crate::wasi_http::{RUST, post, start, state};

#[test]
fn fields_of_the_connection_are_the_hosts() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let tried = start(name, "").get("/forbidden").text();
            let (allowed, refused): (Vec<_>, Vec<_>) = tried.lines().partition(|line| line.ends_with(": allowed"));
            assert_eq!(allowed, ["content-length: allowed", "x-own: allowed"], "{tried}");
            assert_eq!(refused.len(), 10, "{tried}");
        },
    );
}

#[test]
fn a_length_that_the_body_does_not_keep_cuts_the_response() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            for (target, most) in [("/short", 6), ("/long", 2)] {
                let mut client = proxy.client();
                client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
                let broken = client.try_response().expect_err("it is never whole");
                let bytes = String::from_utf8_lossy(&broken.bytes).into_owned();
                // Where the fault was known before anything had left, nothing has.
                let (head, body) = bytes.split_once("\r\n\r\n").unwrap_or(("HTTP/1.1 200 OK", ""));
                assert!(head.starts_with("HTTP/1.1 200 OK"), "{name} {target}: {bytes}");
                assert!(body.len() <= most, "{name} {target}: {bytes}");
            }
            assert_eq!(proxy.get("/hello").text(), "hello\n", "{name}");
        },
    );
}

#[test]
fn only_final_statuses_are_answers() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            for status in [100, 101, 103, 199] {
                let response = proxy.get(&format!("/status/{status}"));
                assert_own_reply(&response, 502, &format!("{name}: {status}"));
            }
            assert_eq!(proxy.get("/status/299").status(), 299, "{name}");
        },
    );
}

#[test]
fn the_host_says_continue_when_the_guest_reads() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            let mut client = proxy.client();
            let expect = "Content-Length: 4\r\nExpect: 100-continue\r\n";
            client.send(post("/echo", expect, ""));
            assert!(client.read(25).starts_with(b"HTTP/1.1 100 Continue\r\n\r\n"), "{name}");
            client.send("four");
            assert_eq!(client.response().text(), "four", "{name}");
        },
    );
}

#[test]
fn an_upgrade_is_a_request_without_one() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            let seen = proxy.client().exchange(
                "GET /headers HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            );
            assert_eq!(seen.status(), 200, "{name}: {seen:?}");
            let text = seen.text();
            assert!(
                !text.contains("\nupgrade:") && !text.contains("\nconnection:"),
                "{name}: {text}"
            );
        },
    );
}

#[test]
fn trailers_come_where_they_can() {
    each(
        RUST,
        |name| (*name).to_owned(),
        |name| {
            let proxy = start(name, "");
            let mut client = proxy.client();
            client.send("GET /trailers HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\n\r\n");
            client.read_head();
            assert_eq!(
                String::from_utf8_lossy(&client.read(29)),
                "8\r\ntrailed\n\r\n0\r\nx-last: 1\r\n\r\n",
                "{name}"
            );
            let trailed = Http2::connect(&proxy.address("web")).get("/trailers");
            let trailers = trailed.trailers.expect("there are trailers");
            assert_eq!(
                trailers.get("x-last").map(|value| value.as_bytes()),
                Some(&b"1"[..]),
                "{name}"
            );
            // What belongs into a head is left out of trailers (RFC 9110 6.5.1).
            let mut client = proxy.client();
            client.send(post(
                "/echo",
                "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: x-last, te\r\n",
                "1\r\na\r\n0\r\nX-Last: 1\r\nTE: trailers\r\n\r\n",
            ));
            client.read_head();
            assert_eq!(
                String::from_utf8_lossy(&client.read(22)).to_lowercase(),
                "1\r\na\r\n0\r\nx-last: 1\r\n\r\n",
                "{name}"
            );
        },
    );
}

/// Of an instance that is shared, whoever leaves takes nothing from the others.
#[test]
fn who_leaves_a_shared_instance_leaves_it_to_the_others() {
    let proxy = start(
        "rust-service-03",
        ", instances: { concurrent: 4 }, limits: { wall: 200ms }",
    );
    let mut stays = proxy.client();
    stays.send(post("/echo", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n"));
    stays.read_head();
    assert_eq!(stays.read(6), b"1\r\na\r\n");
    // It waits for ever, and nobody for it.
    let mut leaves = proxy.client();
    leaves.send("GET /silent HTTP/1.1\r\nHost: a.example\r\n\r\n");
    leaves.assert_silent(Duration::from_millis(50), "it never answers");
    assert_eq!(state(&proxy)["instances"], 1, "they share one");
    leaves.reset();
    wait_until("another instance takes what comes", || {
        assert_eq!(proxy.get("/hello").text(), "hello\n");
        state(&proxy)["instances"] == 2
    });
    stays.send("1\r\nb\r\n0\r\n\r\n");
    assert_eq!(stays.read(11), b"1\r\nb\r\n0\r\n\r\n");
    wait_until("the one with the straggler is gone", || state(&proxy)["instances"] == 1);
}
