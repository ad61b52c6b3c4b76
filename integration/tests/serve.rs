//! `tamis serve`: one component on a port, as whoever writes it tries it. And `tamis demo`, which serves as it does.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tamis_integration::log::Log;
use tamis_integration::proxy::{binary, run_to_end};
use tamis_integration::socket::Address;
use tamis_integration::upstream::ok;
use tamis_integration::{Client, Folder, Upstream, wait_for};

use crate::support::{assert_own_reply, component, each, wait_until, wasi_component};

/// A component is compiled at the lowest priority, behind whatever else the machine has to do.
const COMPILE: Duration = Duration::from_secs(120);

/// A process that greets whoever is at the terminal.
struct Serve {
    child: Child,
    folder: Folder,
    greeting: Log,
    log: Log,
}

impl Serve {
    /// Serves this component, with further arguments.
    fn start(component: &str, arguments: &[&str]) -> Self {
        let folder = Folder::new();
        folder.copy(&wasi_component(component).expect("it is built"), "app.wasm");
        Self::launch(
            folder,
            &[&["serve", "app.wasm", "--address", "127.0.0.1:0"], arguments].concat(),
        )
    }

    /// Waits until it serves.
    fn launch(folder: Folder, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .args(arguments)
            .args(["--log-format", "json"])
            .current_dir(folder.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let greeting = Log::follow(child.stdout.take().expect("stdout is a pipe"));
        let log = Log::follow(child.stderr.take().expect("stderr is a pipe"));
        let serve = Self {
            child,
            folder,
            greeting,
            log,
        };
        serve.log.wait_message("generation live");
        serve
    }

    fn says(&self, beginning: &str) -> String {
        let line = self
            .greeting
            .wait_from(0, beginning, |line| line.text.contains(beginning));
        line.text.split_once(beginning).expect("it was just found").1.to_owned()
    }

    fn address(&self) -> Address {
        Address::parse(self.says("curl -i http://").trim_end_matches('/'))
    }

    fn client(&self) -> Client {
        Client::connect(&self.address())
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is there to take a signal");
    }

    fn wait_exit(&mut self) -> ExitStatus {
        wait_for("its end", tamis_integration::DEADLINE, || {
            self.child.try_wait().expect("it can be waited for").ok_or("it runs")
        })
    }

    /// Begins an exchange that goes on until it is told to end.
    fn begin(&self) -> Client {
        let mut client = self.client();
        client.send("POST /echo HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        assert_eq!(client.read_head().status(), 200);
        assert_eq!(client.read(6), b"1\r\na\r\n");
        client
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            self.log.wait_end();
            let lines: Vec<_> = self.log.lines().into_iter().map(|line| line.text).collect();
            eprintln!("--- log ---\n{}\n---", lines.join("\n"));
        }
    }
}

#[test]
fn one_component_on_a_port_and_nothing_else() {
    for (name, kind) in [
        ("rust-service-02", "wasi:http 0.2."),
        ("rust-service-03", "wasi:http 0.3."),
    ] {
        let serve = Serve::start(name, &[]);
        assert!(
            serve.says("Tamis serves app.wasm, a service of ").starts_with(kind),
            "{name}"
        );
        assert!(
            serve.says("It may use: ").starts_with("clocks, random, stdio "),
            "{name}"
        );
        let mut client = serve.client();
        assert_eq!(client.get("/hello").text(), "hello\n", "{name}");
        assert_eq!(client.get("/nowhere").text(), "no such path\n", "{name}");
        let listening = serve.log.lines();
        let listening: Vec<_> = listening.iter().filter(|line| line.message() == "listening").collect();
        assert_eq!(listening.len(), 1, "one address: {listening:?}");
        assert!(serve.log.lines().iter().all(|line| line.message() != "admin listening"));
    }
    let serve = Serve::start("rust-service-03", &["--grant", "none"]);
    assert!(serve.says("It may use: ").starts_with("nothing of WASI "));
    assert_eq!(serve.client().get("/hello").text(), "hello\n");
}

#[test]
fn it_has_the_values_and_the_folders_that_it_is_given() {
    let folder = Folder::new();
    folder.write("pages/index.txt", "first\n");
    let pages = folder.path("pages").display().to_string();
    let again = format!("{pages}::/again");
    let given = ["--config", "greeting=good $morning", "--dir", &pages, "--dir", &again];
    let arguments = [
        &given[..],
        &["--grant", "clocks,random,keyvalue", "--http", "http://127.0.0.1:1"],
    ]
    .concat();
    let serve = Serve::start("rust-grants-03", &arguments);
    let mut client = serve.client();
    assert_eq!(client.get("/config/greeting").text(), "good $morning");
    for place in ["/pages", "/again"] {
        let file = format!("/files/read?dir={place}&path=index.txt");
        assert_eq!(client.get(&file).text(), "first\n");
    }
}

#[test]
fn its_output_and_its_calls_go_where_the_arguments_say() {
    let upstream = Upstream::answering(|request| ok(&format!("{} {}", request.target(), request.text())));
    let callee = format!("api.example=http://{}", upstream.address());
    let serve = Serve::start("rust-caller-03", &["--http", &callee, "--env", "UNUSED=$HOME"]);
    assert!(
        serve
            .says("It may use: ")
            .starts_with("clocks, random, stdio, api.example ")
    );
    let answer = serve.client().exchange(
        "POST /call/api.example/x?y HTTP/1.1\r\nHost: a.example\r\nX-Mark: said\r\nContent-Length: 4\r\n\r\nfour",
    );
    assert_eq!((answer.status(), answer.text().as_str()), (200, "/x?y four"));
    assert_eq!(upstream.take_request("the call").value("host"), Some("api.example"));
    let said = serve.log.wait_message("said");
    assert_eq!(said.field("component"), "app.wasm");
    assert_ne!(said.field("request_id"), "");
    assert_own_reply(&serve.client().get("/call/other.example/x"), 403, "nobody else");
    assert_eq!(upstream.requests().len(), 0);
    // Its output is a grant like any other.
    let serve = Serve::start("rust-caller-03", &["--http", &callee, "--grant", "clocks,random"]);
    let answer = serve
        .client()
        .exchange("GET /call/api.example/ HTTP/1.1\r\nHost: a.example\r\nX-Mark: unsaid\r\n\r\n");
    assert_eq!(answer.status(), 200);
    assert!(serve.log.lines().iter().all(|line| line.message() != "unsaid"));
}

#[test]
fn a_changed_file_is_served_and_a_bad_one_is_not() {
    let serve = Serve::start("rust-service-02", &[]);
    assert_eq!(serve.client().get("/hello").text(), "hello\n");
    let before = serve.log.len();
    serve.folder.replace("app.wasm", "no component");
    let refused = serve
        .log
        .wait_from(before, "the reload is refused", |line| line.level() == "ERROR");
    assert!(refused.text.contains("not a WebAssembly component"), "{}", refused.text);
    assert_eq!(serve.client().get("/hello").text(), "hello\n", "what was there goes on");
    let before = serve.log.len();
    let component = std::fs::read(wasi_component("rust-service-03").expect("it is built")).expect("it can be read");
    serve.folder.replace("app.wasm", component);
    serve.log.wait_within(COMPILE, before, "the next generation", |line| {
        line.message() == "generation live"
    });
    // The one before seldom sends anything before it traps.
    let mut client = serve.client();
    client.send("GET /trap-late HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let broken = client.try_response().expect_err("it traps after its head");
    assert!(broken.bytes.starts_with(b"HTTP/1.1 200 OK\r\n"), "{broken:?}");
    assert_eq!(serve.client().get("/hello").text(), "hello\n");
}

#[test]
fn control_c_finishes_what_has_begun_and_a_second_one_does_not() {
    let mut serve = Serve::start("rust-service-03", &[]);
    let configuration = serve.says("to go on from: ");
    assert!(Path::new(&configuration).exists(), "{configuration}");
    let mut client = serve.begin();
    let address = serve.address();
    serve.interrupt();
    serve.log.wait_message("draining");
    wait_until("nobody listens", || {
        address.connect(tamis_integration::DEADLINE).is_err()
    });
    client.send("1\r\nb\r\n0\r\n\r\n");
    assert_eq!(client.read(11), b"1\r\nb\r\n0\r\n\r\n");
    assert_eq!(serve.wait_exit().code(), Some(0));
    assert!(!Path::new(&configuration).exists(), "it goes with the process");

    let mut serve = Serve::start("rust-service-03", &[]);
    let mut client = serve.begin();
    serve.interrupt();
    serve.log.wait_message("draining");
    serve.interrupt();
    assert_eq!(serve.wait_exit().code(), Some(0));
    assert!(client.try_response().is_err(), "it was cut");
}

#[test]
fn what_is_wrong_is_told_in_the_words_of_the_arguments() {
    let folder = Folder::new();
    for name in ["rust-service-03", "rust-caller-03", "rust-pass-03"] {
        folder.copy(&wasi_component(name).expect("it is built"), &format!("{name}.wasm"));
    }
    folder.copy(&component("pass"), "filter.wasm");
    folder.write("text.wasm", "no component");
    folder.write("core.wasm", b"\0asm\x01\0\0\0");
    let importing = wat::parse_str(
        r#"(component
            (import "wasi:clocks/monotonic-clock@0.2.12" (instance))
            (import "wasi:clocks/wall-clock@0.2.12" (instance))
            (import "wasi:random/random@0.2.12" (instance))
            (instance $none)
            (export "wasi:http/incoming-handler@0.2.12" (instance $none)))"#,
    );
    folder.write("importing.wasm", importing.expect("it is a component"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().expect("it has one").to_string();
    let free = "127.0.0.1:0";
    let cases: [(&[&str], &[&str]); 21] = [
        (&["nowhere.wasm"], &["nowhere.wasm: No such file"]),
        (&["text.wasm"], &["text.wasm: this is not a WebAssembly component"]),
        (
            &["filter.wasm"],
            &["filter.wasm: is a filter", "`tamis filter test`", "`tamis run -c`"],
        ),
        (
            &["rust-pass-03.wasm"],
            &["rust-pass-03.wasm: is a middleware", "`tamis filter compose`"],
        ),
        (
            &["core.wasm"],
            &["core.wasm: is a core module", "`tamis filter component "],
        ),
        (
            &["importing.wasm", "--grant", "none"],
            &[
                "importing.wasm: imports `wasi:clocks/monotonic-clock@0.2.12`, `wasi:clocks/wall-clock@0.2.12`, \
                 `wasi:random/random@0.2.12` without the grant; write `--grant clocks,random`, which is in place of \
                 the usual `clocks,random,stdio`\n",
            ],
        ),
        (
            &["importing.wasm", "--grant", "keyvalue,clocks"],
            &["imports `wasi:random/random@0.2.12` without the grant; write `--grant keyvalue,clocks,random`, "],
        ),
        (
            &["rust-caller-03.wasm"],
            &[
                "imports `wasi:http/client@0.3.0` without the grant; add `--http URL` for each server that it may call\n",
            ],
        ),
        (
            &["rust-service-03.wasm", "--grant", "clokcs"],
            &["'clokcs'", "--grant", "clocks, random, stdio, keyvalue"],
        ),
        (
            &["rust-service-03.wasm", "--http", "api.example"],
            &["write http://HOST:PORT"],
        ),
        (
            &["rust-service-03.wasm", "--http", "http://a:1", "--http", "a=http://b:1"],
            &["--http: `a` is named twice"],
        ),
        (
            &["rust-service-03.wasm", "--env", "TAMIS_TEST_UNSET"],
            &["--env TAMIS_TEST_UNSET: this variable is not set; set it, or write `--env TAMIS_TEST_UNSET=VALUE`"],
        ),
        (
            &["rust-service-03.wasm", "--env", "A\"}]#"],
            &["--env", "no variable's name; write NAME=VALUE"],
        ),
        (
            &["rust-service-03.wasm", "--config", "c.yaml"],
            &["no variable's name; write NAME=VALUE; a configuration file is for `tamis run -c`"],
        ),
        (
            &["rust-service-03.wasm", "--config", "token=file:nowhere"],
            &["--config token=file:nowhere: No such file"],
        ),
        (
            &["rust-service-03.wasm", "--dir", "nowhere"],
            &["--dir nowhere: No such file"],
        ),
        (
            &["rust-service-03.wasm", "--dir", "text.wasm"],
            &["--dir text.wasm: this is no folder"],
        ),
        (
            &["rust-service-03.wasm", "--address", "localhost:0"],
            &["--address", "write IP:PORT"],
        ),
        (
            &["rust-service-03.wasm", "--address", &taken],
            &[&taken, "in use", "; `--address IP:PORT` names another\n"],
        ),
        (
            &["rust-service-03.wasm", "--log", "debgu"],
            &["--log debgu: `debgu` is no level; write off, error, warn, info, debug or trace"],
        ),
        (&[], &["<COMPONENT>"]),
    ];
    each(
        cases,
        |(arguments, _)| arguments.join(" "),
        |(arguments, expected)| {
            let mut words = vec!["serve"];
            words.extend(*arguments);
            if !arguments.contains(&"--address") {
                words.extend(["--address", free]);
            }
            let output = run_to_end(&folder, &words);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{errors}");
            for part in *expected {
                assert!(errors.contains(part), "{part}: {errors}");
            }
            assert!(!errors.contains("tamis.yaml"), "nobody has written that file: {errors}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "", "it did not serve");
        },
    );
}

/// Each line that it offers does what it says of it, a change of its file is live, and its end leaves and complains of
/// nothing.
#[test]
fn the_demo_does_what_it_says() {
    let arguments = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut demo = Serve::launch(Folder::new(), &arguments);
    let edit = demo.says("Edit ");
    let (file, _) = edit.split_once(" (").expect("a path, and what to do there");
    let file = Path::new(file).to_owned();
    let greeting: Vec<_> = demo.greeting.lines().into_iter().map(|line| line.text).collect();
    let offers = greeting.iter().zip(&greeting[1..]);
    let offers: Vec<_> = offers.filter(|(line, _)| line.starts_with("  curl ")).collect();
    let answer = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).output().expect("sh is there");
        let (head, errors) = (output.stdout, output.stderr);
        let head = String::from_utf8_lossy(&head);
        let status = head.split(' ').nth(1).map(str::to_owned);
        status.unwrap_or_else(|| panic!("{line}: {}", String::from_utf8_lossy(&errors)))
    };
    let promised: Vec<_> = offers.iter().map(|(_, what)| &what.trim()[..3]).collect();
    assert_eq!(promised, ["401", "403", "200"]);
    let given: Vec<_> = offers.iter().map(|(line, _)| answer(line)).collect();
    assert_eq!(given, promised);

    let configuration = std::fs::read_to_string(&file).expect("the file that it names");
    std::fs::write(&file, configuration.replace("globex", "nobody")).expect("it can be edited");
    let refused = offers[1].0;
    wait_until("the edited file is live", || answer(refused) == "200");

    demo.interrupt();
    assert_eq!(demo.wait_exit().code(), Some(0));
    demo.log.wait_end();
    let unusual: Vec<_> = demo
        .log
        .lines()
        .into_iter()
        .filter(|line| line.level() != "INFO")
        .collect();
    assert!(unusual.is_empty(), "{unusual:#?}");
    assert!(!file.exists(), "its files go with it");
}

/// What is wrong with the demo's addresses names the arguments that have others.
#[test]
fn the_demo_names_its_addresses_arguments() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().expect("it has one").to_string();
    let free = "127.0.0.1:0";
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &["--listen", &taken, "--admin", "off"],
            &[&taken, "in use", "; `--listen IP:PORT` names another\n"],
        ),
        (
            &["--listen", free, "--admin", &taken],
            &[&taken, "in use", "(`--admin IP:PORT`, `--admin off`)\n"],
        ),
        (&["--listen", "8080"], &["--listen", "write IP:PORT"]),
        (&["--admin", "none"], &["--admin", "write IP:PORT", "or `off`"]),
        (
            &["--listen", free, "--admin", "0.0.0.0:0"],
            &["admin.address", "loopback"],
        ),
    ];
    each(
        cases,
        |(arguments, _)| arguments.join(" "),
        |(arguments, expected)| {
            let output = run_to_end(&Folder::new(), &[&["demo"], *arguments].concat());
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{errors}");
            for part in *expected {
                assert!(errors.contains(part), "{part}: {errors}");
            }
            assert!(!errors.contains("tamis.yaml"), "nobody has written that file: {errors}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "", "it did not serve");
        },
    );
}
