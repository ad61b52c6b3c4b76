//! A real origin: nginx behind the proxy, with bodies that no buffer holds and more requests than anybody counts.

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tamis_integration::Proxy;
use tamis_integration::nginx::Nginx;

use crate::support::Configuration;

const BLOCK: usize = 64 * 1024;
const BLOCKS: u64 = 1024;

/// Block number `index` of a body whose every eight bytes differ, so that no piece can be lost, moved or doubled.
fn block(index: u64) -> Vec<u8> {
    let first = index * (BLOCK as u64 / 8);
    // splitmix64
    let word = |n: u64| {
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    };
    (first..first + BLOCK as u64 / 8)
        .flat_map(|n| word(n).to_le_bytes())
        .collect()
}

/// Looks at the proxy's memory again and again while `work` runs; the most that it was.
fn highest_resident(proxy: &Proxy, work: impl FnOnce()) -> u64 {
    let (stop, highest) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                highest.fetch_max(proxy.resident(), Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
            }
        });
        // Also when the work panics, or the scope would wait for ever.
        let _stopper = Stopper(&stop);
        work();
    });
    highest.into_inner()
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn large_bodies_pass_unchanged_in_constant_memory() {
    let nginx = Nginx::start();
    let configuration = Configuration {
        route: "timeout: 5m",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.with(&[nginx.address()]));
    let mut client = proxy.client();
    assert_eq!(client.get("/small").text(), "ok");
    let before = proxy.resident();
    let size = BLOCKS * BLOCK as u64;
    for chunked in [false, true] {
        let name = format!("body-{chunked}");
        let highest = highest_resident(&proxy, || {
            let framing = if chunked {
                "Transfer-Encoding: chunked".to_owned()
            } else {
                format!("Content-Length: {size}")
            };
            client.send(format!(
                "PUT /upload/{name} HTTP/1.1\r\nHost: a.example\r\n{framing}\r\n\r\n"
            ));
            for index in 0..BLOCKS {
                if chunked {
                    client.send(format!("{BLOCK:x}\r\n")).send(block(index)).send("\r\n");
                } else {
                    client.send(block(index));
                }
            }
            if chunked {
                client.send("0\r\n\r\n");
            }
            assert!([201, 204].contains(&client.response().status()));
        });
        assert!(
            highest.saturating_sub(before) < 32 << 20,
            "upload, chunked {chunked}: {before} bytes, then {highest}"
        );
        let mut stored = File::open(nginx.folder().path(&format!("www/upload/{name}"))).expect("nginx has the body");
        let mut piece = vec![0; BLOCK];
        for index in 0..BLOCKS {
            stored.read_exact(&mut piece).expect("as long as what was sent");
            assert!(
                piece == block(index),
                "block {index} arrived changed, chunked {chunked}"
            );
        }
        assert_eq!(
            stored.read(&mut piece).expect("a readable file"),
            0,
            "longer than what was sent"
        );

        let highest = highest_resident(&proxy, || {
            client.send(format!("GET /upload/{name} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
            let head = client.read_head();
            assert_eq!(
                (head.status(), head.value("content-length")),
                (200, Some(size.to_string().as_str()))
            );
            for index in 0..BLOCKS {
                assert!(client.read(BLOCK) == block(index), "block {index} came back changed");
            }
        });
        assert!(
            highest.saturating_sub(before) < 32 << 20,
            "download: {before} bytes, then {highest}"
        );
        assert_eq!(client.get("/small").text(), "ok", "the connection is in step");
    }
}

/// Several at once, in both directions.
#[test]
fn large_bodies_side_by_side() {
    let nginx = Nginx::start();
    let configuration = Configuration {
        route: "timeout: 5m",
        ..Default::default()
    };
    let proxy = Arc::new(Proxy::start(&configuration.with(&[nginx.address()])));
    let blocks = 64;
    let workers: Vec<_> = (0..8_u64)
        .map(|worker| {
            let proxy = Arc::clone(&proxy);
            thread::spawn(move || {
                let mut client = proxy.client();
                let size = blocks * BLOCK;
                client.send(format!(
                    "PUT /upload/{worker} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {size}\r\n\r\n"
                ));
                for index in 0..blocks as u64 {
                    client.send(block(worker * 1000 + index));
                }
                assert!([201, 204].contains(&client.response().status()));
                client.send(format!("GET /upload/{worker} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
                assert_eq!(client.read_head().status(), 200);
                for index in 0..blocks as u64 {
                    assert!(
                        client.read(BLOCK) == block(worker * 1000 + index),
                        "worker {worker}, block {index}"
                    );
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("every worker gets its own bytes back");
    }
}

/// What `wrk` says after it ran for a second.
fn wrk(url: &str) -> String {
    let output = Command::new("wrk")
        .args(["-t", "1", "-c", "32", "-d", "1s", "--timeout", "10s", url])
        .output();
    let output = output.expect("wrk is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn twenty_thousand_requests_without_an_error() {
    let nginx = Nginx::start();
    let yaml = Configuration::default()
        .with(&[nginx.address()])
        .replace("workers: 1", "workers: 2");
    let proxy = Proxy::start(&yaml);
    let url = format!("http://{}/small", proxy.address("web"));
    let mut total = 0;
    for _ in 0..60 {
        let said = wrk(&url);
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        let count = said
            .lines()
            .find_map(|line| line.trim().split_once(" requests in "))
            .map(|(count, _)| count.trim());
        total += count
            .and_then(|count| count.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("no count: {said}"));
        if total >= 20_000 {
            break;
        }
    }
    assert!(total >= 20_000, "only {total} requests in a minute");
    let metrics = proxy.metrics();
    assert!(
        metrics.sum("tamis_requests_total", &[("code", "200")]) >= total as f64,
        "{metrics:?}"
    );
    // wrk drops its connections in the middle of their last requests.
    let others = metrics.sum("tamis_requests_total", &[]) - metrics.sum("tamis_requests_total", &[("code", "200")]);
    assert!(
        others <= metrics.sum("tamis_requests_total", &[("code", "499")]),
        "{metrics:?}"
    );
}
