//! Surroundings that fail: ports, memory, disks, pipes, clocks, threads. Rows 105 and 124 to 128 of the faults.
//!
//! What a test must not do to the machine that it runs on, it does to namespaces of the proxy's own. Where the machine
//! grants none, such a test is skipped with a line, unless `CI=true`.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tamis_integration::proxy::{CONFIGURATION, binary};
use tamis_integration::socket::Address;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, DEADLINE, Folder, Gate, Proxy, Step, Upstream};

use crate::certificates::{Authority, TlsClient, Trust, Wish, site};
use crate::support::{Bystander, Configuration, apply, saying, wait_until};
use crate::tls::listening;

/// Whether processes may have namespaces of their own here.
fn has_namespaces(kinds: &[&str]) -> bool {
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .args(kinds)
        .arg("true")
        .stderr(Stdio::null())
        .status();
    let has = status.is_ok_and(|status| status.success());
    if !has {
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "unshare {kinds:?}");
        println!("skipped, because there are no namespaces: unshare {kinds:?}");
    }
    has
}

/// Row 105: each connection to the upstream takes one of eight ports, and leaves it in TIME_WAIT. Whoever finds none is
/// told at once, and when the kernel gives them again all is as before.
#[test]
fn fault_105_ports_that_have_run_out_are_said_and_come_back() {
    if !has_namespaces(&["--net"]) {
        return;
    }
    let folder = Folder::new();
    let (web, admin) = (folder.path("web.sock"), folder.path("admin.sock"));
    folder.write(
        "origin.yaml",
        "workers: 1\nadmin: off\nlisteners:\n  \
         origin: { address: 127.0.0.1:9000, proxy_protocol: { from: [127.0.0.1] } \
         }\nroutes: [{ respond: { status: 200, body: ok } }]\n",
    );
    folder.write(
        CONFIGURATION,
        format!(
            "workers: 1\nadmin: {{ address: \"unix:{}\" }}\naccess_log: {{ file: access.log }}\nlisteners:\n  web: {{ \
             address: \"unix:{}\" }}\nclusters:\n  app: {{ endpoints: [127.0.0.1:9000], proxy_protocol: v1 \
             }}\nroutes: [{{ cluster: app }}]\n",
            admin.display(),
            web.display()
        ),
    );
    let inside = "ip link set lo up && echo 50000 50007 > /proc/sys/net/ipv4/ip_local_port_range && \
                  { \"$0\" run -c origin.yaml 2>/dev/null & } && exec \"$0\" \"$@\"";
    let namespaces = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
    ];
    let words = [&namespaces[..], &["sh", "-c", inside]].concat();
    let proxy = Proxy::launch_through(&words, &folder, &[]);
    let mut client = Client::connect(&Address::Unix(web));
    wait_until("the origin is there", || client.get("/first").status() == 200);
    let begun = Instant::now();
    let statuses: Vec<u16> = (0..32).map(|n| client.get(&format!("/{n}")).status()).collect();
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert!(refused > 0, "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    wait_until("there are ports again", || client.get("/again").status() == 200);
    let lines = folder.wait_lines("access.log", 32 + refused);
    let overload = lines.iter().filter(|line| line.contains(r#""reason":"overload""#));
    assert!(overload.count() >= refused, "{lines:?}");
    drop(proxy);
}

/// A process has as many descriptors as it may have, and says when these are few.
#[test]
fn the_limit_on_descriptors_is_raised() {
    let upstream = Upstream::saying("ok");
    for (allowed, connections, is_enough) in [(512, 256, true), (512, 257, false)] {
        let folder = Folder::new();
        let limits = format!("max_connections: {connections}");
        let configuration = Configuration {
            limits: &limits,
            ..Default::default()
        };
        folder.write(CONFIGURATION, configuration.to(&upstream));
        let limits = format!("--nofile=128:{allowed}");
        let proxy = Proxy::launch_through(&["prlimit", &limits], &folder, &[]);
        assert_eq!(proxy.get("/").text(), "ok");
        let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.pid().as_raw_nonzero())).expect("it runs");
        let of_files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .expect("a line");
        let words: Vec<_> = of_files.split_whitespace().collect();
        assert_eq!(words[3], allowed.to_string(), "{of_files}");
        let warned = proxy
            .log()
            .lines()
            .iter()
            .any(|line| line.message().starts_with("fewer descriptors"));
        assert_eq!(warned, !is_enough, "{allowed}, {connections}");
    }
}

/// What a process with so much address space does: whether it serves, and what it says if it does not.
fn start_within(folder: &Folder, bytes: u64) -> Result<(), String> {
    let mut child = Command::new("prlimit")
        .arg(format!("--as={bytes}"))
        .arg(binary())
        .args(["run", "-c", CONFIGURATION])
        .current_dir(folder.root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prlimit is installed");
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("it is a pipe"));
    let mut serves = false;
    while !serves && lines.read_line(&mut said).is_ok_and(|count| count > 0) {
        serves = said.contains("generation live");
    }
    if serves {
        child.kill().expect("it runs");
    }
    lines.read_to_string(&mut said).expect("text");
    let status = child.wait().expect("it ends");
    assert!(!said.contains("panicked"), "{bytes}: {said}");
    match serves {
        true => Ok(()),
        false => {
            assert_eq!(status.code(), Some(1), "{bytes}: {said}");
            Err(said)
        }
    }
}

/// Row 124: with too little address space the start is refused in words that say what to change, and to change that
/// helps.
#[test]
fn fault_124_too_little_address_space_is_said_at_the_start() {
    let folder = Folder::new();
    let yaml = saying("ok");
    let small = format!("wasm: {{ max_instances: 1, max_memory: 1MiB }}\n{yaml}");
    let mut least = [0; 2];
    for (least, yaml) in least.iter_mut().zip([&yaml, &small]) {
        folder.write(CONFIGURATION, yaml);
        *least = (29..=47)
            .find(|shift| match start_within(&folder, 1 << shift) {
                Ok(()) => true,
                Err(said) => {
                    assert!(said.starts_with("tamis: "), "{shift}: {said}");
                    assert!(
                        said.contains("`wasm.max_instances`") && said.contains("ulimit -v"),
                        "{shift}: {said}"
                    );
                    false
                }
            })
            .expect("there is enough for it");
    }
    assert!(least[1] < least[0], "less is not enough for less: {least:?}");
}

/// Row 125: what cannot be written is lost and counted, and nobody waits for it; when there is room again, records go
/// on.
#[test]
fn fault_125_a_disk_that_takes_nothing_costs_records_alone() {
    // The one has no space left, the other fails in itself (EIO): at its address 0 no process has memory.
    for disk in ["/dev/full", "/proc/self/mem"] {
        a_disk_that_takes_nothing(disk);
    }
}

fn a_disk_that_takes_nothing(disk: &str) {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    std::os::unix::fs::symlink(disk, folder.path("access.log")).expect("a link can be made");
    let configuration = Configuration {
        top: "access_log: { file: access.log, format: \"{path}\" }",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let mut client = proxy.client();
    let long = "x".repeat(4_000);
    for _ in 0..100 {
        assert_eq!(client.get(&format!("/{long}")).text(), "ok");
    }
    let count = |name: &str| proxy.metrics().sum(&format!("tamis_access_log_{name}_total"), &[]);
    wait_until("failures are counted", || {
        count("errors") > 0.0 && count("dropped") > 0.0
    });
    assert_eq!(client.get("/still").text(), "ok");
    fs::remove_file(folder.path("access.log")).expect("it is there");
    proxy.signal(Signal::HUP);
    wait_until("the log is opened again", || folder.path("access.log").exists());
    client.get("/after");
    wait_until("records go on", || {
        folder.wait_lines("access.log", 1).iter().any(|line| line == "/after")
    });
}

/// Row 125: a cache that cannot be written to is one that has nothing.
#[test]
fn fault_125_a_full_disk_under_the_cache_costs_time_alone() {
    if !has_namespaces(&["--mount"]) {
        return;
    }
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    folder.write("cache/.keep", "");
    let value = b"seen".to_vec();
    folder.write(
        "guest.wasm",
        Guest::new().on_response([SetResponseHeader("x-guest", value)]).build(),
    );
    let configuration = Configuration {
        top: "wasm: { cache: cache }\nfilters:\n  guest: { component: guest.wasm }",
        route: "filters: [guest]",
        ..Default::default()
    };
    folder.write(CONFIGURATION, configuration.to(&upstream));
    let inside = "mount -t tmpfs -o size=8k,mode=700 none cache && exec \"$0\" \"$@\"";
    let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside];
    let proxy = Proxy::launch_through(&words, &folder, &[]);
    let line = proxy.log().wait_message("wasm.cache cannot be written");
    assert!(line.field("error").contains("space"), "{}", line.text);
    assert_eq!(proxy.get("/").value("x-guest"), Some("seen"));
    let compiled = [("from", "compiled")];
    assert_eq!(proxy.metrics().sum("tamis_components_total", &compiled), 1.0);
    // The next one, too, and on the fly.
    let value = b"anew".to_vec();
    folder.write(
        "guest.wasm",
        Guest::new().on_response([SetResponseHeader("x-guest", value)]).build(),
    );
    assert_eq!(proxy.admin("POST", "/reload").status(), 200);
    assert_eq!(proxy.get("/").value("x-guest"), Some("anew"));
}

fn pipe(folder: &Folder, name: &str) -> fs::File {
    let made = Command::new("mkfifo").arg(folder.path(name)).status();
    assert!(made.expect("mkfifo is installed").success());
    // For both ways, so that opening waits for nobody.
    let options = fs::OpenOptions::new().read(true).write(true).open(folder.path(name));
    options.expect("it was just made")
}

/// Row 126: who should read the log does not. Exchanges go on, what finds no place is counted, and the end comes in time.
#[test]
fn fault_126_a_reader_that_is_stuck_holds_up_nobody() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let reader = pipe(&folder, "log.pipe");
    let configuration = Configuration {
        top: "access_log: { file: log.pipe, format: \"{path}\", queue: 16 }",
        ..Default::default()
    };
    let mut proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let bystander = Bystander::start(&proxy.address("web"), "/bystander");
    let (mut client, long) = (proxy.client(), "x".repeat(4_000));
    let dropped = |proxy: &Proxy| proxy.metrics().sum("tamis_access_log_dropped_total", &[]);
    wait_until("records are dropped", || {
        assert_eq!(client.get(&format!("/{long}")).text(), "ok");
        dropped(&proxy) > 0.0
    });
    // The first may have met a burst; a hundred more are longer than all that the pipe and the queue hold.
    let before = dropped(&proxy);
    for _ in 0..100 {
        assert_eq!(client.get(&format!("/{long}")).text(), "ok");
    }
    assert!(dropped(&proxy) > before, "somebody reads");
    bystander.finish();
    let begun = Instant::now();
    drop(client);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    drop(reader);
}

/// Row 126: a pipe that nobody reads at all is refused at once, by a start and by a reload, and neither waits for a reader.
#[test]
fn fault_126_a_pipe_without_a_reader_is_refused() {
    let upstream = Upstream::saying("ok");
    let proxy = Proxy::start(&Configuration::default().to(&upstream));
    drop(pipe(proxy.folder(), "log.pipe"));
    let configuration = Configuration {
        top: "access_log: { file: log.pipe }",
        ..Default::default()
    };
    let (status, report) = proxy.reload(&configuration.to(&upstream));
    assert_eq!(status, 422, "{report}");
    assert!(report.to_string().contains("log.pipe cannot be written"), "{report}");
    assert_eq!(proxy.get("/").text(), "ok");
}

/// Row 126: rotation by copying and cutting. What is written next begins the file anew.
#[test]
fn fault_126_a_log_that_is_cut_begins_anew() {
    let upstream = Upstream::saying("ok");
    let configuration = Configuration {
        top: "access_log: { file: access.log, format: \"{path}\" }",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut client = proxy.client();
    for n in 0..10 {
        client.get(&format!("/before/{n}"));
    }
    proxy.folder().wait_lines("access.log", 10);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(proxy.folder().path("access.log"));
    file.and_then(|file| file.set_len(0)).expect("it can be cut");
    client.get("/after");
    assert_eq!(proxy.folder().wait_lines("access.log", 1), ["/after"]);
}

/// What a C library says of the time, off by as many seconds as the first line of a file says.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <stdio.h>
#include <time.h>
#include <sys/time.h>

static long off(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += off();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A proxy whose wall clock is the test's to set.
struct Clock {
    folder: Folder,
}

impl Clock {
    fn new(folder: &Folder) -> Self {
        let source = folder.write("clock.c", CLOCK);
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.path("clock.so"))
            .arg(source)
            .arg("-ldl")
            .status();
        assert!(made.expect("cc is installed").success());
        folder.write("clock", "0\n");
        Self { folder: folder.clone() }
    }

    fn start(&self) -> Proxy {
        let [library, file] = ["clock.so", "clock"].map(|name| self.folder.path(name).display().to_string());
        let (preload, file) = (format!("LD_PRELOAD={library}"), format!("CLOCK_FILE={file}"));
        Proxy::launch_through(&["env", &preload, &file], &self.folder, &[])
    }

    /// Off the true one by so much.
    fn set(&self, seconds: i64) {
        self.folder.replace("clock", format!("{seconds}\n"));
    }

    /// At this time, in seconds since 1970.
    fn set_to(&self, seconds: i64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.set(seconds - i64::try_from(now.expect("after 1970").as_secs()).expect("before the end of time"));
    }
}

/// Row 127: nothing that waits looks at the wall clock, and nothing that is written waits for it.
#[test]
fn fault_127_jumps_of_the_clock_harm_nobody() {
    let folder = Folder::new();
    let clock = Clock::new(&folder);
    let gate = Gate::new();
    let held = [
        Step::Message,
        Step::Pass(gate.clone()),
        Step::send(tamis_integration::upstream::ok("late")),
        Step::serve(tamis_integration::upstream::ok("ok")),
    ];
    let upstream = Upstream::each([held.to_vec(), vec![Step::serve(tamis_integration::upstream::ok("ok"))]]);
    let configuration = Configuration {
        top: "access_log: { file: access.log }",
        ..Default::default()
    };
    folder.write(CONFIGURATION, configuration.to(&upstream));
    let proxy = clock.start();
    let (mut waiting, mut idle) = (proxy.client(), proxy.client());
    waiting.send("GET /late HTTP/1.1\r\nHost: a.example\r\n\r\n");
    gate.wait_arrived(1);
    assert_eq!(idle.get("/first").text(), "ok");
    let hour = 3_600;
    for (n, off) in [hour, -hour, 30 * 24 * hour, 0].into_iter().enumerate() {
        clock.set(off);
        assert_eq!(idle.get(&format!("/{n}")).text(), "ok", "{off}");
        waiting.assert_silent(Duration::from_millis(50), "it waits for the upstream");
    }
    gate.open();
    assert_eq!(waiting.response().text(), "late");
    // The last seconds of two kinds of counters, and the first behind them.
    for (at, written) in [
        (0x7fff_ffff, "2038-01-19T03:14:0"),
        (0x8000_0001, "2038-01-19T03:14:"),
        (0xffff_ffff_i64, "2106-02-07T06:28:1"),
        (0x1_0000_0001, "2106-02-07T06:28:"),
    ] {
        clock.set_to(at);
        assert_eq!(idle.get("/epoch").text(), "ok", "{at}");
        let has = |line: &String| line.contains(&format!("\"time\":\"{written}"));
        wait_until(written, || folder.wait_lines("access.log", 7).iter().any(has));
    }
    clock.set(0);
    let lines = folder.wait_lines("access.log", 10);
    let durations = lines.iter().map(|line| {
        let record: Value = serde_json::from_str(line).expect("a record is JSON");
        record["duration_ms"].as_f64().expect("a number")
    });
    assert!(
        durations.into_iter().all(|ms| (0.0..60_000.0).contains(&ms)),
        "{lines:?}"
    );
}

/// Row 127: certificates, in turn, are good or bad by the wall clock.
#[test]
fn fault_127_certificates_go_by_the_wall_clock() {
    let (folder, site) = site(&["a.example"]);
    let clients = Authority::new("Clients");
    folder.write("clients.pem", clients.pem());
    let upstream = Upstream::saying("ok");
    let tls = "certificates: [{ cert: site.pem, key: site.key }], client_ca: clients.pem";
    folder.write(CONFIGURATION, listening(&upstream, tls, "", ""));
    let clock = Clock::new(&folder);
    let proxy = clock.start();
    let pair = clients.grant(&Wish::of(&["web.example"]).ends_in(10));
    let ask = || {
        // A new client each time: none resumes a session.
        let trust = Trust::showing(&site, &pair);
        let mut client = TlsClient::connect(&proxy.address("web"), "a.example", &trust);
        client.get("/").is_ok()
    };
    assert!(ask());
    clock.set(11 * 24 * 3_600);
    assert!(!ask(), "it has ended");
    clock.set(-3 * 24 * 3_600);
    assert!(!ask(), "it has not begun");
    clock.set(0);
    assert!(ask());
}

/// Row 127: a machine that has run for a hundred years, or was just begun.
#[test]
fn fault_127_the_other_clock_may_stand_anywhere() {
    if !has_namespaces(&["--time"]) {
        return;
    }
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let limits = "idle_timeout: 300ms, head_timeout: 300ms";
    let configuration = Configuration {
        limits,
        ..Default::default()
    };
    folder.write(CONFIGURATION, configuration.to(&upstream));
    let century = (100_u64 * 365 * 24 * 3_600).to_string();
    let namespaces = [
        "unshare",
        "--user",
        "--map-root-user",
        "--time",
        "--fork",
        "--kill-child",
        "--monotonic",
        &century,
    ];
    let proxy = Proxy::launch_through(&namespaces, &folder, &[]);
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "ok");
    client.assert_closed("its idle time is over");
}

/// Row 128: a storm of reloads, each with components to compile and names to look up, makes no storm of threads, and
/// exchanges do not wait for it.
#[test]
fn fault_128_threads_are_bounded() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let proxy = Proxy::start_in(&folder, &Configuration::default().to(&upstream));
    let before = proxy.threads();
    let watch = Arc::new(AtomicBool::new(true));
    let (watching, status) = (Arc::clone(&watch), format!("/proc/{}/status", proxy.id()));
    let most = thread::spawn(move || {
        let mut most = 0;
        while watching.load(Ordering::SeqCst) {
            let text = fs::read_to_string(&status).expect("it runs");
            let line = text.lines().find_map(|line| line.strip_prefix("Threads:"));
            most = most.max(
                line.and_then(|count| count.trim().parse::<u64>().ok())
                    .expect("a number"),
            );
            thread::sleep(Duration::from_millis(1));
        }
        most
    });
    let bystander = Bystander::start(&proxy.address("web"), "/");
    for round in 0..4 {
        let (mut clusters, mut filters) = (String::new(), "filters:\n".to_owned());
        for n in 0..32 {
            clusters.push_str(&format!("  c{n}: {{ endpoints: [\"h{n}-{round}.example:80\"] }}\n"));
        }
        for n in 0..8 {
            let value = format!("{n} {round}").into_bytes();
            let guest = Guest::new().on_response([SetResponseHeader("x-guest", value)]);
            folder.replace(&format!("{n}.wasm"), guest.build());
            filters.push_str(&format!("  f{n}: {{ component: {n}.wasm }}\n"));
        }
        // Nobody answers there.
        let top = format!("dns: {{ servers: [\"127.0.0.1:9\"], timeout: 300ms }}\n{filters}");
        let configuration = Configuration {
            top: &top,
            clusters: &clusters,
            ..Default::default()
        };
        apply(&proxy, &configuration.to(&upstream));
    }
    bystander.finish();
    watch.store(false, Ordering::SeqCst);
    let most = most.join().expect("it only reads");
    assert!(most <= before + 16, "{most} threads, {before} before");
}
