//! A new process in the place of a running one: nothing refused, nothing cut, and nothing changed when it fails.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Signal, geteuid};
use rustix::thread::set_thread_uid;
use tamis_integration::proxy::{CONFIGURATION, binary, run_to_end};
use tamis_integration::socket::Address;
use tamis_integration::upstream::ok;
use tamis_integration::{Client, DEADLINE, Folder, Gate, Proxy, Step, Upstream};

use crate::support::{Configuration, folder_with, saying, wait_until};

const STATE: [&str; 4] = ["--state", "state", "--good-after", "0s"];

fn start(folder: &Folder, yaml: &str) -> Proxy {
    folder.write(CONFIGURATION, yaml);
    Proxy::launch(folder, &STATE)
}

/// `tamis upgrade` with more arguments: whether it succeeded, and all that it printed.
fn upgrade(folder: &Folder, arguments: &[&str]) -> (bool, String) {
    let output = run_to_end(folder, &[&["upgrade", "--state", "state"], arguments].concat());
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

fn upgraded(folder: &Folder) -> String {
    let (done, printed) = upgrade(folder, &[]);
    assert!(done, "{printed}");
    printed
}

/// Lines of all processes that say of themselves that something is wrong.
fn complaints(proxy: &Proxy) -> Vec<String> {
    let lines = proxy.log().lines().into_iter();
    let wrong = lines.filter(|line| ["WARN", "ERROR"].contains(&line.level()) || line.json.is_null());
    wrong.map(|line| line.text).collect()
}

/// Somebody who asks all the time, and to whom everything but an answer is an error.
struct Caller {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// How long a connection is used.
#[derive(Clone, Copy)]
enum Connections {
    /// Until an answer says that it ends.
    KeptAlive,
    OneEach,
}

impl Caller {
    fn start(address: &Address, connections: Connections) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (address, stopped, count) = (address.clone(), stop.clone(), served.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let mut client = Client::connect(&address);
                loop {
                    let response = client.get("/");
                    assert_eq!(response.text(), "ok");
                    count.fetch_add(1, Ordering::SeqCst);
                    let is_last = response.closes() || stopped.load(Ordering::SeqCst);
                    if is_last || matches!(connections, Connections::OneEach) {
                        break;
                    }
                }
            }
        });
        Self { stop, served, thread }
    }

    fn wait_for_more(&self) {
        let before = self.served.load(Ordering::SeqCst);
        wait_until("more is served", || self.served.load(Ordering::SeqCst) > before + 10);
    }

    fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("somebody was refused, or cut");
    }
}

/// Keep-alive and new connections all the time at a TCP and a Unix listener, a long download, and a filter that waits
/// for an answer: three upgrades in a row, of which the first finds a download and a call under way.
#[test]
fn an_upgrade_under_load_loses_nothing() {
    let (download, call) = (Gate::new(), Gate::new());
    let chunk = "5\r\nhello\r\n";
    let slow = Upstream::each([vec![
        Step::Message,
        Step::send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")),
        Step::Pass(download.clone()),
        Step::send(format!("{chunk}0\r\n\r\n")),
        Step::Hold,
    ]]);
    let side = Upstream::each([vec![
        Step::Message,
        Step::Pass(call.clone()),
        Step::send(ok("side")),
        Step::Hold,
    ]]);
    let upstream = Upstream::saying("ok");
    let configuration = Configuration {
        top: "filters:\n  everything: { component: everything.wasm, limits: { wall: 60s }, \
              grants: [metrics, clock, random, key_value, { outbound: [side] }] }",
        clusters: &format!(
            "  slow: {{ endpoints: [\"{}\"] }}\n  side: {{ endpoints: [\"{}\"] }}",
            slow.address(),
            side.address()
        ),
        routes: "  - { match: { path: { exact: /slow } }, cluster: slow, timeout: off }\n  \
                 - { match: { path: { exact: /call } }, filters: [everything], cluster: app, timeout: off }",
        ..Default::default()
    };
    let yaml = configuration
        .to(&upstream)
        .replace("workers: 1", "workers: 2")
        .replace("clusters:\n", "  unix: { address: \"unix:web.sock\" }\nclusters:\n");
    let folder = folder_with(&["everything"]);
    let mut proxy = start(&folder, &yaml);
    let (web, unix) = (proxy.address("web"), proxy.address("unix"));
    let callers: Vec<_> = [Connections::KeptAlive, Connections::OneEach, Connections::KeptAlive]
        .into_iter()
        .flat_map(|connections| [&web, &unix].map(|address| Caller::start(address, connections)))
        .collect();
    let (mut downloading, mut calling) = (Client::connect(&web), Client::connect(&web));
    downloading.send("GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n");
    calling.send("GET /call HTTP/1.1\r\nHost: a.example\r\nX-Act: call side /x\r\n\r\n");
    download.wait_arrived(1);
    call.wait_arrived(1);
    let mut idle = Client::connect(&web);
    assert_eq!(idle.get("/").text(), "ok");

    let asking = folder.clone();
    let first = thread::spawn(move || upgraded(&asking));
    proxy.log().wait_message("draining");
    callers.iter().for_each(Caller::wait_for_more);
    assert_eq!(proxy.admin("GET", "/ready").status(), 200, "the new one answers");
    download.open();
    assert_eq!(downloading.response().text(), "hellohello", "cut in the middle");
    call.open();
    assert_eq!(calling.response().status(), 200, "the call came to nothing");
    let printed = first.join().expect("the first upgrade");
    assert_eq!(proxy.wait_exit().code(), Some(0), "the old process");
    idle.assert_closed("it had no request for a second");
    for step in [
        "started process",
        "it is Tamis",
        "it has the sockets of 3 addresses: 127.0.0.1:",
        "web.sock",
        "it serves",
        "has ended",
    ] {
        assert!(printed.contains(step), "{step}: {printed}");
    }

    for again in 2..=3 {
        upgraded(&folder);
        callers.iter().for_each(Caller::wait_for_more);
        wait_until("the log says so", || proxy.heirs().len() == again);
    }
    callers.into_iter().for_each(Caller::finish);
    assert_eq!(proxy.address("web"), web, "the port has not changed");
    assert_eq!(complaints(&proxy), Vec::<String>::new());
}

/// Files that only root may run as another user, and everybody may run.
fn script(folder: &Folder, name: &str, text: &str) -> String {
    let path = folder.write(name, format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path.display().to_string()
}

/// The children of a process, zombies too.
fn children(proxy: &Proxy) -> Vec<String> {
    let parent = proxy.pid().as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let stat = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("stat")).ok();
    // `pid (name) state parent ...`, and a name may hold anything.
    let is_child = |stat: &String| {
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1) == Some(parent.as_str())
    };
    processes.filter_map(stat).filter(is_child).collect()
}

/// Fault 122, "binary upgrade: the new process crashes at start": the old one keeps serving, says why, and leaves nothing behind.
#[test]
fn a_process_that_fails_to_take_over_changes_nothing() {
    let folder = Folder::new();
    let proxy = start(&folder, &saying("old"));
    let caller = Client::connect(&proxy.address("web"));
    let real = binary().display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken_address = format!("127.0.0.1:{}", taken.local_addr().expect("an address").port());
    let with_taken = saying("new").replace(
        "routes:",
        &format!("  more: {{ address: \"{taken_address}\" }}\nroutes:"),
    );
    let unreadable = "listeners: [";
    for (name, program, yaml, why) in [
        ("missing", "./nowhere".to_owned(), saying("new"), "cannot be started"),
        (
            "fails",
            script(&folder, "fails", "exit 3"),
            saying("new"),
            "exit status: 3",
        ),
        (
            "ends",
            script(&folder, "ends", "exit 0"),
            saying("new"),
            "ended with exit status: 0 and never said that it takes over: ",
        ),
        (
            "silent",
            script(&folder, "silent", "exec sleep 60"),
            saying("new"),
            "was not ready in time",
        ),
        (
            "dies",
            script(&folder, "dies", &format!("{real} --version; kill -9 $$")),
            saying("new"),
            "signal: 9",
        ),
        (
            "other",
            script(&folder, "other", &format!("exec {real} check -c {CONFIGURATION}")),
            saying("new"),
            "exit status: 0",
        ),
        ("unreadable", real.clone(), unreadable.to_owned(), "tamis.yaml:1:"),
        ("taken", real.clone(), with_taken, "cannot listen"),
    ] {
        folder.replace(CONFIGURATION, yaml);
        let (done, printed) = upgrade(&folder, &["--binary", &program, "--timeout", "3s"]);
        assert!(!done, "{name}: {printed}");
        assert!(
            printed.contains(why) && printed.contains("the running process serves on"),
            "{name}: {printed}"
        );
        assert_eq!(proxy.get("/").status(), 200, "{name}");
        assert_eq!(proxy.admin("GET", "/ready").status(), 200, "{name}");
        assert_eq!(children(&proxy), Vec::<String>::new(), "{name}: left behind");
    }
    drop(caller);
    folder.replace(CONFIGURATION, saying("new"));
    upgraded(&folder);
    assert_eq!(proxy.get("/").text(), "new", "after all that, one that works");
    let mut proxy = proxy;
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// What a reload cannot change, a new process can: here the number of workers, and so how many sockets there are to
/// take and who accepts from them.
#[test]
fn a_new_process_may_have_another_number_of_workers() {
    let folder = Folder::new();
    let yaml = |workers: usize| saying("ok").replace("workers: 1", &format!("workers: {workers}"));
    let mut proxy = start(&folder, &yaml(1));
    let web = proxy.address("web");
    for workers in [3, 1, 2] {
        folder.replace(CONFIGURATION, yaml(workers));
        upgraded(&folder);
        // The kernel spreads connections over all the sockets: one without anybody behind would leave some waiting.
        for _ in 0..100 {
            assert_eq!(Client::connect(&web).get("/").text(), "ok", "{workers} workers");
        }
        assert_eq!(proxy.metrics().sum("tamis_workers", &[]), workers as f64);
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// Listeners that the new configuration has no more are closed, others stay as they are, new ones are there.
#[test]
fn listeners_may_come_and_go_with_a_process() {
    let folder = Folder::new();
    let listener = |name: &str| format!("  {name}: {{ address: \"unix:{name}.sock\" }}\n");
    let yaml = |listeners: &[&str]| {
        let listeners: String = listeners.iter().map(|name| listener(name)).collect();
        saying("ok").replace("routes:", &format!("{listeners}routes:"))
    };
    let mut proxy = start(&folder, &yaml(&["stays", "goes"]));
    let [stays, goes] = ["stays", "goes"].map(|name| proxy.address(name));
    folder.replace(CONFIGURATION, yaml(&["stays", "comes"]));
    let printed = upgraded(&folder);
    assert!(printed.contains("unix:"), "{printed}");
    assert!(goes.connect(DEADLINE).is_err(), "nobody is behind it");
    assert!(!folder.path("goes.sock").exists(), "left over");
    for address in [&stays, &proxy.address("comes")] {
        assert_eq!(Client::connect(address).get("/").text(), "ok");
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
    // The last one removes what is its own.
    wait_until("the new process says that it took over", || !proxy.heirs().is_empty());
    let heir = proxy.heirs()[0];
    rustix::process::kill_process(heir, Signal::TERM).expect("it is there");
    for name in ["stays.sock", "comes.sock", "state/control.sock"] {
        wait_until(&format!("{name} is gone"), || !folder.path(name).exists());
    }
}

/// SIGUSR2 needs no folder, and what comes of it is in the log.
#[test]
fn a_signal_upgrades_too() {
    let mut proxy = Proxy::start(&saying("one"));
    proxy.folder().replace(CONFIGURATION, "listeners: [");
    proxy.signal(Signal::USR2);
    let refused = proxy.log().wait_message("no upgrade; this process serves on");
    assert!(refused.field("error").contains("tamis.yaml:1:"), "{refused:?}");
    proxy.folder().replace(CONFIGURATION, saying("two"));
    proxy.signal(Signal::USR2);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert_eq!(proxy.get("/").text(), "two");
}

/// systemd's protocol: ready once, then the new process to follow, and the end when nobody comes after.
#[test]
fn a_service_manager_is_told_whom_to_follow() {
    let folder = Folder::new();
    let manager = UnixDatagram::bind(folder.path("notify")).expect("a socket can be made");
    manager.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
    let told = || {
        let mut bytes = [0; 1000];
        let count = manager.recv(&mut bytes).expect("something is told");
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    };
    folder.write(CONFIGURATION, saying("ok"));
    let mut proxy = Proxy::launch_supervised(&folder, "notify", &STATE);
    assert_eq!(told(), "READY=1");
    upgraded(&folder);
    wait_until("the new process says that it took over", || !proxy.heirs().is_empty());
    let heir = proxy.heirs()[0];
    assert_eq!(told(), format!("MAINPID={}", heir.as_raw_nonzero()));
    assert_eq!(proxy.wait_exit().code(), Some(0));
    rustix::process::kill_process(heir, Signal::TERM).expect("it is there");
    assert_eq!(told(), "STOPPING=1", "not from the one that was relieved");
}

/// The end of the running process is the end of the one that has not taken over yet.
#[test]
fn an_end_takes_nobody_with_it_and_leaves_nobody_behind() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = Folder::new();
        let mut proxy = start(&folder, &saying("ok"));
        let silent = script(&folder, "silent", "echo $$ > silent.pid; exec sleep 60");
        let asking = folder.clone();
        let asked = thread::spawn(move || upgrade(&asking, &["--binary", &silent]));
        let pid = folder.wait_lines("silent.pid", 1).remove(0);
        let (done, second) = upgrade(&folder, &[]);
        assert!(!done && second.contains("is being started already"), "{second}");
        proxy.signal(signal);
        assert_eq!(proxy.wait_exit().code(), Some(0), "{signal:?}");
        let (done, printed) = asked.join().expect("it ends with the process");
        assert!(!done, "{printed}");
        let stat = format!("/proc/{pid}/stat");
        // A zombie that nobody has fetched yet is gone too.
        let is_gone = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        wait_until("the half-started process is gone", is_gone);
    }
}

/// Fault 122, "stale or hijacked upgrade socket": a file that is left over is no obstacle, and another user is refused on either
/// side.
#[test]
fn another_user_neither_asks_nor_answers() {
    let folder = Folder::new();
    let mut proxy = start(&folder, &saying("ok"));
    proxy.kill();
    assert!(folder.path("state/control.sock").exists(), "left by a killed process");
    let (done, printed) = upgrade(&folder, &[]);
    assert!(!done && printed.contains("running?"), "nobody is there: {printed}");
    let proxy = Proxy::launch(&folder, &STATE);
    let socket = folder.path("state/control.sock");
    let mode = |path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(folder.path("state")), mode(socket.clone())), (0o700, 0o600));
    if geteuid().is_root() {
        for path in [folder.root().to_owned(), folder.path("state"), socket.clone()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("it is ours");
        }
        let reply = as_another_user(move || {
            let mut stream = UnixStream::connect(socket).expect("everybody may connect now");
            stream
                .write_all(b"{\"Upgrade\":{\"program\":\"/bin/true\",\"timeout_ms\":1000}}\n")
                .ok();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).expect("it answers and closes");
            reply
        });
        assert!(reply.contains("refused: user 65534"), "{reply}");
        let (done, printed) = upgrade(&folder, &[]);
        assert!(
            !done && printed.contains("not the folder of this user alone"),
            "{printed}"
        );
        assert!(children(&proxy).is_empty());
    }
    assert_eq!(proxy.get("/").text(), "ok");
}

/// One thread takes another user's place, and its process stays who it is.
fn as_another_user<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        set_thread_uid(rustix::process::Uid::from_raw(65534)).expect("root may be anybody");
        act()
    });
    thread.join().expect("the other user")
}

/// Whoever is told that there is something to take over, and finds nothing, says so and does not serve.
#[test]
fn nothing_is_taken_over_from_nobody() {
    let folder = Folder::new();
    folder.write(CONFIGURATION, saying("ok"));
    let output = Command::new(binary())
        .args(["run", "-c", CONFIGURATION])
        .env("TAMIS_HANDOVER", "1")
        .current_dir(folder.root())
        .stdin(Stdio::null())
        .output()
        .expect("it can be started");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("no process hands over"), "{printed}");
}
