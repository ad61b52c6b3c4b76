//! One `tamis` process, started from a YAML text, seen only from outside.
//!
//! A proxy that dies, or says that it panicked, fails its test even when every reply was right: [`Proxy`] looks for
//! both when it is dropped. When the test fails, the log goes to the test's output.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::DEADLINE;
use crate::client::Client;
use crate::folder::Folder;
use crate::log::{Line, Log};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::socket::Address;

/// The configuration's name in the proxy's folder.
pub const CONFIGURATION: &str = "tamis.yaml";

#[derive(Debug)]
pub struct Proxy {
    child: Child,
    folder: Folder,
    log: Log,
    /// Set when the test has seen it end, so that its absence is no surprise.
    ended: Option<ExitStatus>,
    /// The test wants panics.
    may_panic: bool,
}

/// The binary under test: `TAMIS_BIN`, or beside the test's own executable.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("TAMIS_BIN") {
        return PathBuf::from(path);
    }
    let test = env::current_exe().expect("the test has a path");
    let profile = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("target/<profile>/deps/<test>");
    let path = profile.join("tamis");
    assert!(
        path.exists(),
        "{}: run `make test`, or cargo build -p tamis first",
        path.display()
    );
    path
}

/// Runs `tamis ARGUMENTS` in the folder to its end.
pub fn run_to_end(folder: &Folder, arguments: &[&str]) -> Output {
    run_to_end_within(folder, arguments, DEADLINE)
}

fn run_to_end_within(folder: &Folder, arguments: &[&str], deadline: Duration) -> Output {
    let child = Command::new(binary())
        .args(arguments)
        .current_dir(folder.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the proxy's binary can be started");
    let pid = Pid::from_child(&child);
    let (done, end) = std::sync::mpsc::channel();
    let waiter = thread::spawn(move || done.send(child.wait_with_output()));
    let output = end.recv_timeout(deadline).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).ok();
        panic!("tamis {arguments:?} did not end");
    });
    waiter
        .join()
        .expect("the waiter does not panic")
        .expect("the channel is still open");
    output.expect("the output can be read")
}

/// `tamis check -c` on this text: its exit status and all that it printed.
pub fn check(folder: &Folder, yaml: &str) -> (i32, String) {
    check_within(folder, yaml, DEADLINE)
}

/// The same, for components that take longer to compile than anything else takes.
pub fn check_within(folder: &Folder, yaml: &str, deadline: Duration) -> (i32, String) {
    folder.write(CONFIGURATION, yaml);
    let output = run_to_end_within(folder, &["check", "-c", CONFIGURATION], deadline);
    let printed = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("check ends by itself");
    (code, String::from_utf8_lossy(&printed).into_owned())
}

impl Proxy {
    /// Starts in a folder of its own and waits until the first generation is live.
    pub fn start(yaml: &str) -> Self {
        Self::start_in(&Folder::new(), yaml)
    }

    /// The same in a folder that already holds components or sockets.
    pub fn start_in(folder: &Folder, yaml: &str) -> Self {
        Self::start_within(folder, yaml, DEADLINE)
    }

    /// The same, for components that take longer to compile than anything else takes.
    pub fn start_within(folder: &Folder, yaml: &str, deadline: Duration) -> Self {
        folder.write(CONFIGURATION, yaml);
        let proxy = Self::launch_within(folder, CONFIGURATION, &[], deadline);
        let names = yaml_listeners(yaml);
        names.iter().for_each(|name| drop(proxy.address(name)));
        proxy
    }

    /// Starts on what is in the folder, with further arguments of `tamis run`.
    pub fn launch(folder: &Folder, arguments: &[&str]) -> Self {
        Self::launch_file(folder, CONFIGURATION, arguments)
    }

    /// The same with a configuration of another name.
    pub fn launch_file(folder: &Folder, file: &str, arguments: &[&str]) -> Self {
        Self::launch_within(folder, file, arguments, DEADLINE)
    }

    fn launch_within(folder: &Folder, file: &str, arguments: &[&str], deadline: Duration) -> Self {
        Self::launch_command(Command::new(binary()), folder, file, arguments, deadline)
    }

    /// The same through a program that ends as the proxy, such as `prlimit`, with its arguments.
    pub fn launch_through(words: &[&str], folder: &Folder, arguments: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(binary());
        Self::launch_command(command, folder, CONFIGURATION, arguments, DEADLINE)
    }

    /// The same under a service manager that listens at this socket of the folder.
    pub fn launch_supervised(folder: &Folder, socket: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.env("NOTIFY_SOCKET", folder.path(socket));
        Self::launch_command(command, folder, CONFIGURATION, arguments, DEADLINE)
    }

    fn launch_command(
        mut command: Command,
        folder: &Folder,
        file: &str,
        arguments: &[&str],
        deadline: Duration,
    ) -> Self {
        let mut child = command
            .args(["run", "--log-format", "json", "-c"])
            .arg(folder.path(file))
            .args(arguments)
            .current_dir(folder.root())
            // So that tests see what the proxy holds: the kernel fills up the allocator's memory to huge pages whenever it comes
            // to it, megabytes at once.
            .env("MIMALLOC_ALLOW_THP", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the proxy's binary can be started");
        let log = Log::follow(child.stderr.take().expect("stderr is a pipe"));
        let proxy = Self {
            child,
            folder: folder.clone(),
            log,
            ended: None,
            may_panic: false,
        };
        proxy.log.wait_within(deadline, 0, "generation live", |line| {
            line.message() == "generation live"
        });
        proxy
    }

    /// From here on a panic is what the test wants.
    pub fn expect_panics(&mut self) {
        self.may_panic = true;
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Where the listener listens, by its name; the latest when it has moved.
    pub fn address(&self, listener: &str) -> Address {
        let is_it = |line: &Line| line.message() == "listening" && line.field("listener") == listener;
        self.log.wait_from(0, &format!("listening, listener {listener}"), is_it);
        let lines = self.log.lines();
        let latest = lines.iter().rev().find(|line| is_it(line)).expect("it was just found");
        Address::parse(&latest.field("address"))
    }

    /// A connection to the listener `web`.
    pub fn client(&self) -> Client {
        Client::connect(&self.address("web"))
    }

    /// One GET on a connection of its own to the listener `web`.
    pub fn get(&self, target: &str) -> Message {
        self.client().get(target)
    }

    pub fn admin_address(&self) -> Address {
        Address::parse(&self.log.wait_message("admin listening").field("address"))
    }

    pub fn admin(&self, method: &str, path: &str) -> Message {
        let mut client = Client::connect(&self.admin_address());
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        client.exchange(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}Connection: close\r\n\r\n"
        ))
    }

    pub fn metrics(&self) -> Metrics {
        let reply = self.admin("GET", "/metrics");
        assert_eq!(reply.status(), 200, "GET /metrics");
        Metrics::parse(&reply.text())
    }

    /// Replaces the configuration and asks for it over the admin endpoint; the reply's status and JSON.
    pub fn reload(&self, yaml: &str) -> (u16, Value) {
        self.folder.replace(CONFIGURATION, yaml);
        let reply = self.admin("POST", "/reload");
        let json = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.text()));
        (reply.status(), json)
    }

    /// Waits until that generation, or a later one, is live.
    pub fn wait_generation(&self, generation: u64) -> Line {
        self.log
            .wait_from(0, &format!("generation live, generation {generation}"), |line| {
                line.message() == "generation live"
                    && line.field("generation").parse().is_ok_and(|n: u64| n >= generation)
            })
    }

    /// The generation that went live last.
    pub fn generation(&self) -> u64 {
        self.metrics().sum("tamis_generation", &[]) as u64
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the proxy is there to take a signal");
    }

    /// Ends it as nobody can prevent.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    /// The processes that took over, each from the one before; they write to the same log.
    pub fn heirs(&self) -> Vec<Pid> {
        let lines = self.log.lines();
        let took_over = lines.iter().filter(|line| line.message() == "took over");
        let pid = |line: &Line| Pid::from_raw(line.field("pid").parse().ok()?);
        took_over.filter_map(pid).collect()
    }

    /// Waits for the process to end by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("the process can be waited for") {
                self.ended = Some(status);
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the proxy did not end");
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.status_value("VmRSS:") * 1024
    }

    pub fn threads(&self) -> u64 {
        self.status_value("Threads:")
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .expect("the process has descriptors")
            .count()
    }

    /// Ranges of its address space.
    pub fn mappings(&self) -> usize {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id())).expect("the process has a memory");
        maps.lines().count()
    }

    /// How long its threads have run, and how long they have waited for a processor that others had.
    pub fn run_and_wait(&self) -> (Duration, Duration) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process has threads");
        // A thread that is just ending has none.
        let text = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok();
        let texts: Vec<String> = tasks.filter_map(|task| text(task.ok()?)).collect();
        let total = |column: usize| {
            let nanoseconds = |text: &String| {
                text.split(' ')
                    .nth(column)
                    .and_then(|number| number.parse::<u64>().ok())
            };
            Duration::from_nanos(texts.iter().filter_map(nanoseconds).sum())
        };
        (total(0), total(1))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn status_value(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process has a status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .expect("the status has the key");
        line.split_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
            .expect("the key has a number")
    }

    /// What is wrong with the process although the test has passed.
    fn fault(&mut self) -> Option<String> {
        let gone = self.child.try_wait().ok().flatten().filter(|_| self.ended.is_none());
        let panicked = self
            .log
            .lines()
            .into_iter()
            .find(|line| line.text.contains("panicked at") && !self.may_panic);
        gone.map(|status| format!("the proxy ended by itself: {status}"))
            .or_else(|| panicked.map(|line| format!("the proxy panicked: {}", line.text)))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let fault = self.fault();
        if thread::panicking() {
            // The last lines are the ones that say why; the proxy may still be writing them.
            thread::sleep(Duration::from_millis(100));
        }
        for heir in self.heirs() {
            kill_process(heir, Signal::KILL).ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
        self.log.wait_end();
        if fault.is_some() || thread::panicking() {
            let lines: Vec<_> = self.log.lines().into_iter().map(|line| line.text).collect();
            eprintln!(
                "--- log of the proxy in {} ---\n{}\n---",
                self.folder.root().display(),
                lines.join("\n")
            );
        }
        if !thread::panicking() {
            assert_eq!(fault, None);
        }
    }
}

/// The listeners' names, as far as an indentation of two can tell: the harness waits for each before the test begins.
fn yaml_listeners(yaml: &str) -> Vec<String> {
    let lines = yaml.lines().skip_while(|line| !line.starts_with("listeners:")).skip(1);
    let block = lines.take_while(|line| line.is_empty() || line.starts_with(' '));
    let name = |line: &str| {
        line.strip_prefix("  ")
            .filter(|rest| !rest.starts_with([' ', '#']))
            .map(str::to_owned)
    };
    block
        .filter_map(name)
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.to_owned()))
        .collect()
}
