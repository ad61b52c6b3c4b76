//! What outlives a process: the last good generation, and what becomes of it when the process is killed.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Output;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tamis_integration::proxy::{CONFIGURATION, run_to_end};
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, Folder, Proxy};

use crate::support::wait_until;

const STATE: [&str; 4] = ["--state", "state", "--good-after", "0s"];
const FALLBACK: [&str; 5] = ["--state", "state", "--good-after", "0s", "--fallback"];
const KEPT: &str = "kept as the last good generation";
const FALLEN_BACK: &str = "the current files do not load; the last good generation is served instead";

/// Marks every response, in the place of two components and of the text: a mixed generation shows.
fn yaml(mark: &str) -> String {
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
filters:
  a: {{ component: a.wasm }}
  b: {{ component: b.wasm }}
routes:
  - {{ name: all, filters: [a, b], respond: {{ status: 200, body: \"{mark}\" }} }}
"
    )
}

fn guest(name: &'static str, mark: &str) -> Vec<u8> {
    Guest::new()
        .on_response([SetResponseHeader(name, mark.as_bytes().to_vec())])
        .build()
}

/// A set of files, the configuration last.
fn write(folder: &Folder, into: &str, mark: &str) {
    folder.replace(&format!("{into}a.wasm"), guest("x-a", mark));
    folder.replace(&format!("{into}b.wasm"), guest("x-b", mark));
    folder.replace(&format!("{into}{CONFIGURATION}"), yaml(mark));
}

/// What every part of the answer says.
fn mark(proxy: &Proxy) -> String {
    let response = Client::connect(&proxy.address("web")).get("/");
    let text = response.text();
    let marks = (response.value("x-a"), response.value("x-b"));
    assert_eq!(
        marks,
        (Some(text.as_str()), Some(text.as_str())),
        "a mixed generation: {response:?}"
    );
    text
}

fn wait_kept(proxy: &Proxy, generation: u64) {
    let generation = generation.to_string();
    proxy.log().wait_from(0, KEPT, |line| {
        line.message() == KEPT && line.field("generation") == generation
    });
}

/// "Rollback after the artifact file was deleted", over a restart: loud in the log, and told by readiness and metrics,
/// until the files load again.
#[test]
fn what_served_last_serves_again_when_the_files_do_not_load() {
    let folder = Folder::new();
    write(&folder, "", "one");
    let mut proxy = Proxy::launch(&folder, &STATE);
    wait_kept(&proxy, 1);
    write(&folder, "", "two");
    assert_eq!(proxy.admin("POST", "/reload").status(), 200);
    wait_until("the second generation is live", || mark(&proxy) == "two");
    wait_kept(&proxy, proxy.generation());
    assert_eq!(proxy.metrics().sum("tamis_last_good", &[]), 0.0);
    proxy.kill();

    for broken in ["listeners: [", &yaml("three").replace("b.wasm", "missing.wasm")] {
        folder.replace(CONFIGURATION, broken);
        for component in ["a.wasm", "b.wasm"] {
            fs::remove_file(folder.path(component)).ok();
        }
        let output = run(&folder, &STATE);
        assert_eq!(output.status.code(), Some(1), "without --fallback it is no start");
        let mut proxy = Proxy::launch(&folder, &FALLBACK);
        assert_eq!(proxy.log().wait_message(FALLEN_BACK).level(), "ERROR");
        assert_eq!(mark(&proxy), "two");
        let ready = proxy.admin("GET", "/ready");
        assert_eq!(ready.status(), 200);
        assert!(ready.text().contains("last good"), "{}", ready.text());
        assert_eq!(proxy.metrics().sum("tamis_last_good", &[]), 1.0);
        assert_eq!(proxy.metrics().sum("tamis_ready", &[]), 1.0);
        proxy.kill();
    }

    // The same files again, by content, after a start from their copies.
    let mut proxy = Proxy::launch(&folder, &FALLBACK);
    write(&folder, "", &mark(&proxy));
    let (status, report) = proxy.reload(&yaml(&mark(&proxy)));
    assert_eq!(status, 200, "{report}");
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    let report = &shown["last_reload"];
    assert_eq!(report["outcome"], "applied", "{report}");
    let filters = &report["difference"]["filters"];
    assert_eq!(
        (&filters["changed"], &filters["unchanged"]),
        (&json!([]), &json!(2)),
        "{report}"
    );
    proxy.kill();
    folder.replace(CONFIGURATION, "listeners: [");

    let mut proxy = Proxy::launch(&folder, &FALLBACK);
    write(&folder, "", "four");
    assert_eq!(proxy.admin("POST", "/reload").status(), 200);
    wait_until("the files count again", || mark(&proxy) == "four");
    assert_eq!(proxy.admin("GET", "/ready").text(), "ready\n");
    assert_eq!(proxy.metrics().sum("tamis_last_good", &[]), 0.0);
    wait_kept(&proxy, proxy.generation());
    proxy.kill();
}

/// A start that is to fail.
fn run(folder: &Folder, arguments: &[&str]) -> Output {
    let file = folder.path(CONFIGURATION).display().to_string();
    run_to_end(folder, &[&["run", "-c", &file], arguments].concat())
}

/// Both reasons are told when there is nothing to fall back to, or nothing sound.
#[test]
fn a_state_that_is_not_sound_is_refused() {
    let folder = Folder::new();
    folder.write(CONFIGURATION, "listeners: [");
    let start = || {
        let output = run(&folder, &FALLBACK);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let none = start();
    assert!(
        none.contains("tamis.yaml:1:") && none.contains("no generation has been kept yet"),
        "{none}"
    );
    write(&folder, "", "one");
    let mut proxy = Proxy::launch(&folder, &STATE);
    wait_kept(&proxy, 1);
    proxy.kill();
    folder.replace(CONFIGURATION, "listeners: [");
    let kept = fs::read(folder.path("state/last-good")).expect("it was kept");
    folder.write("state/last-good", &kept[..kept.len() / 2]);
    let cut = start();
    assert!(cut.contains("it is not sound"), "{cut}");
    folder.write("state/last-good", &kept);
    for object in fs::read_dir(folder.path("state/objects"))
        .expect("there are components")
        .flatten()
    {
        fs::write(object.path(), "something else").expect("it is ours");
    }
    let foreign = start();
    assert!(foreign.contains("is not sound"), "{foreign}");
}

/// One that is not live for long enough may be the reason why the process ended.
#[test]
fn a_generation_counts_as_good_after_a_while() {
    let folder = Folder::new();
    write(&folder, "", "one");
    let arguments = ["--state", "state", "--good-after", "10m"];
    let mut proxy = Proxy::launch(&folder, &arguments);
    assert_eq!(mark(&proxy), "one");
    assert!(!folder.path("state/last-good").exists());
    proxy.kill();
    let mut proxy = Proxy::launch(&folder, &STATE);
    wait_kept(&proxy, 1);
    proxy.kill();
    write(&folder, "", "two");
    let mut proxy = Proxy::launch(&folder, &arguments);
    assert_eq!(mark(&proxy), "two");
    proxy.kill();
    folder.replace(CONFIGURATION, "listeners: [");
    let mut proxy = Proxy::launch(&folder, &FALLBACK);
    assert_eq!(mark(&proxy), "one", "the one that was live for long enough");
    proxy.kill();
}

/// Two processes do not share a folder.
#[test]
fn a_folder_is_used_by_one_process() {
    let folder = Folder::new();
    write(&folder, "", "one");
    let proxy = Proxy::launch(&folder, &STATE);
    let second = run(&folder, &STATE);
    let printed = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{printed}");
    assert!(printed.contains("another process uses it"), "{printed}");
    assert_eq!(mark(&proxy), "one");
}

/// Kills of the ordinary test; `TAMIS_KILLS=200` is the long one (`make soak`).
fn kills() -> u64 {
    let asked = std::env::var("TAMIS_KILLS").ok();
    asked.map_or(20, |kills| kills.parse().expect("TAMIS_KILLS is a number"))
}

/// "A crash between swap steps (kill -9)": the files change all the time, as a set, from one whole to the next and to
/// one that does not load; the process is killed at any moment of that, and always comes up with the set that is
/// configured or with the last good one, never with parts of two.
#[test]
fn a_kill_at_any_moment_restarts_into_a_whole_generation() {
    let folder = Folder::new();
    for mark in ["v0", "v1", "v2"] {
        write(&folder, &format!("{mark}/"), mark);
    }
    write(&folder, "broken/", "v3");
    folder.write("broken/b.wasm", &guest("x-b", "v3")[..100]);
    let configure = |set: &str| {
        let fresh = folder.path("current.new");
        symlink(set, &fresh).expect("a link can be made");
        fs::rename(&fresh, folder.path("current")).expect("a link can be replaced");
    };
    configure("v0");
    let path = format!("current/{CONFIGURATION}");
    let launch = || Proxy::launch_file(&folder, &path, &FALLBACK);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut proxy = launch();
    wait_kept(&proxy, 1);
    let (mut configured, mut fallen_back) = ("v0", 0);
    for kill in 1..=kills() {
        for _ in 0..=random(3) {
            configured = ["v0", "v1", "v2", "broken"][random(4) as usize];
            configure(configured);
            proxy.signal(rustix::process::Signal::HUP);
            thread::sleep(Duration::from_micros(random(40_000)));
        }
        proxy.kill();
        proxy = launch();
        let served = mark(&proxy);
        let fell_back = proxy.log().lines().iter().any(|line| line.message() == FALLEN_BACK);
        assert_eq!(fell_back, configured == "broken", "kill {kill}, {configured}");
        let is_whole = if fell_back {
            ["v0", "v1", "v2"].contains(&served.as_str())
        } else {
            served == configured
        };
        assert!(is_whole, "kill {kill}: {configured} was configured, {served} is served");
        fallen_back += u64::from(fell_back);
    }
    assert!(fallen_back > 0, "never");
    proxy.kill();
}
