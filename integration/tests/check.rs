//! `tamis check`, `tamis schema`, and what `tamis run` says when it cannot start.

use std::process::{Command, Stdio};

use serde_json::Value;
use tamis_integration::log::Line;
use tamis_integration::proxy::{CONFIGURATION, binary, check, run_to_end};
use tamis_integration::upstream::Refusing;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Proxy, Upstream};

use crate::support::{Configuration, apply, each};

const SOUND: &str = "\
listeners:
  web: { address: 127.0.0.1:0 }
routes:
  - { name: all, respond: { status: 200 } }
";

#[test]
fn a_sound_configuration_passes() {
    let (code, printed) = check(&Folder::new(), SOUND);
    assert_eq!(code, 0, "{printed}");
}

/// Every error is shown, each with its place; nothing panics.
#[test]
fn errors_have_places() {
    let with = |line: &str| format!("{SOUND}{line}\n");
    each(
        [
            (
                "unknown field",
                with("wokers: 2"),
                vec!["tamis.yaml:5:1", "wokers", "workers"],
            ),
            (
                "unknown cluster",
                SOUND.replace("respond: { status: 200 }", "cluster: ap"),
                vec!["tamis.yaml:4:", "`ap`"],
            ),
            (
                "unknown filter",
                SOUND.replace("name: all,", "name: all, filters: [nope],"),
                vec!["tamis.yaml:4:", "nope"],
            ),
            (
                "bad address",
                SOUND.replace("127.0.0.1:0", "nowhere"),
                vec!["tamis.yaml:2:", "nowhere"],
            ),
            ("bad status", SOUND.replace("200", "99"), vec!["tamis.yaml:4:", "99"]),
            (
                "duration without unit",
                with("drain_timeout: 30"),
                vec!["tamis.yaml:5:", "30s"],
            ),
            (
                "two at once",
                with("wokers: 2\ndrain_timeout: 30"),
                vec!["tamis.yaml:5:1", "tamis.yaml:6:"],
            ),
            ("syntax", "listeners: [".to_owned(), vec!["tamis.yaml"]),
            ("empty", String::new(), vec!["tamis.yaml", "listeners"]),
            ("duplicate key", with("routes: []"), vec!["tamis.yaml:5:1", "routes"]),
            ("NUL", "listeners: \0".to_owned(), vec!["tamis.yaml"]),
            ("deep", format!("routes: {}", "[".repeat(10_000)), vec!["tamis.yaml"]),
            (
                "regex",
                SOUND.replace("name: all,", "match: { path: { regex: \"(\" } },"),
                vec!["tamis.yaml:4:"],
            ),
            (
                "public admin",
                with("admin: { address: 0.0.0.0:9901 }"),
                vec!["tamis.yaml:5:", "loopback"],
            ),
        ],
        |case| case.0.to_owned(),
        |(name, yaml, said)| {
            let (code, printed) = check(&Folder::new(), yaml);
            assert_eq!(code, 1, "{name}: {printed}");
            for part in said {
                assert!(printed.contains(part), "{name}: `{part}` is not said: {printed}");
            }
            assert!(!printed.contains("panicked"), "{name}: {printed}");
            assert!(printed.len() < 20_000, "{name}: {} bytes of explanation", printed.len());
        },
    );
}

/// What loads and is not what was meant: a warning with its place, here and when it goes live.
#[test]
fn settings_that_nobody_reads_are_warned_of() {
    let folder = Folder::new();
    folder.write("mute.wasm", Guest::new().on_request([]).build());
    folder.write("reads.wasm", Guest::new().on_request([]).on_configure([]).build());
    let yaml = "\
workers: 1
admin: { address: 127.0.0.1:0 }
listeners:
  web: { address: 127.0.0.1:0 }
filters:
  mute: { component: mute.wasm, config: { a: 1 } }
  empty: { component: mute.wasm, config: {} }
  plain: { component: mute.wasm }
  reads: { component: reads.wasm, config: { a: 1 } }
routes:
  - { name: one, filters: [{ filter: plain, config: { b: 1 } }], respond: { status: 200 } }
  - { name: two, respond: { status: 200 } }
";
    let (code, printed) = check(&folder, yaml);
    assert_eq!(code, 0, "{printed}");
    let said: Vec<&str> = printed.lines().filter(|line| line.starts_with("warning: ")).collect();
    let expected = [
        ("tamis.yaml:6:", "filter `mute`: its `config` is read by nobody"),
        ("tamis.yaml:11:", "filter `plain`: its `config` is read by nobody"),
        ("tamis.yaml:12:", "route `two` can never match"),
    ];
    assert_eq!(said.len(), expected.len(), "{printed}");
    for (line, (place, what)) in said.iter().zip(expected) {
        assert!(line.contains(place) && line.contains(what), "{line}");
    }
    let proxy = Proxy::start_in(&folder, yaml);
    for (place, what) in expected {
        let is_it = |line: &Line| line.field("warning").contains(place) && line.field("warning").contains(what);
        let line = proxy.log().wait_from(0, what, is_it);
        assert_eq!(line.level(), "WARN");
    }
    let (_, report) = proxy.reload(yaml);
    assert_eq!(
        (&report["outcome"], list(&report)),
        (&"unchanged".into(), 3),
        "{report}"
    );
    let report = apply(&proxy, &yaml.replace(", config: { b: 1 }", ""));
    assert_eq!(list(&report), 2, "{report}");
    let (_, report) = proxy.reload("listeners: [");
    assert_eq!(list(&report), 0, "{report}");
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    assert!(shown["last_reload"]["warnings"].is_array(), "{shown}");
}

#[test]
fn habits_of_other_proxies_are_warned_of() {
    let yaml = "\
listeners:
  web: { address: 127.0.0.1:0 }
clusters: { app: { endpoints: [127.0.0.1:1] } }
routes:
  - { name: one, match: { path: { prefix: /api/* } }, respond: { status: 200 } }
  - name: two
    request_headers: { set: { x-client: $remote_addr, x-price: $5 } }
    response_headers: { append: { x-host: $host } }
    cluster: app
";
    let (code, printed) = check(&Folder::new(), yaml);
    assert_eq!(code, 0, "{printed}");
    let said: Vec<&str> = printed.lines().filter(|line| line.starts_with("warning: ")).collect();
    let expected = [
        ("tamis.yaml:5:", "write `/api/`"),
        ("tamis.yaml:6:", "`$remote_addr` is sent as it is written"),
        ("tamis.yaml:6:", "`$host` is sent as it is written"),
    ];
    assert_eq!(said.len(), expected.len(), "{printed}");
    for (line, (place, what)) in said.iter().zip(expected) {
        assert!(line.contains(place) && line.contains(what), "{line}");
    }
}

/// How many warnings the report has.
fn list(report: &Value) -> usize {
    report["warnings"].as_array().expect("a list").len()
}

#[test]
fn a_log_without_a_folder_is_told_before_it_is_missed() {
    let yaml = "access_log: { file: nowhere/access.log }\nlisteners: { web: { address: 127.0.0.1:0 } }\n\
                routes: [{ respond: { status: 204 } }]\n";
    let (code, printed) = check(&Folder::new(), yaml);
    assert_eq!(code, 1, "{printed}");
    assert!(
        printed.contains("nowhere: there is no such folder; create it"),
        "{printed}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command() {
    let mut child = Command::new(binary())
        .arg("schema")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Before it has written all, which is more than a pipe holds.
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert!(ended.status.success(), "{:?}", ended.status);
}

/// Fault 73: an alias bomb costs neither time nor memory.
#[test]
fn an_alias_bomb_is_refused() {
    let mut yaml = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let before = n - 1;
        yaml += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
    }
    let (code, printed) = check(&Folder::new(), &yaml);
    assert_eq!(code, 1, "{printed}");
}

#[test]
fn a_missing_configuration_is_named() {
    for command in ["check", "run"] {
        let output = run_to_end(&Folder::new(), &[command, "-c", "missing.yaml"]);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {printed}");
        assert!(printed.contains("missing.yaml"), "{command}: {printed}");
    }
}

/// `run` refuses like `check`, before it listens.
#[test]
fn run_refuses_what_check_refuses() {
    let folder = Folder::new();
    folder.write(CONFIGURATION, SOUND.replace("status: 200", "status: 99"));
    let output = run_to_end(&folder, &["run", "-c", CONFIGURATION]);
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("tamis.yaml:4:"), "{printed}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it has an address").to_string();
    let folder = Folder::new();
    folder.write(
        CONFIGURATION,
        format!(
            "admin: off\n{}",
            SOUND.replace("127.0.0.1:0", &format!("\"{address}\""))
        ),
    );
    let output = run_to_end(&folder, &["run", "-c", CONFIGURATION]);
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains(&address) && printed.contains("web"), "{printed}");
}

#[test]
fn the_schema_is_json() {
    let output = run_to_end(&Folder::new(), &["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    for key in ["listeners", "filters", "clusters", "routes"] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

/// Whoever does not answer as an admin endpoint is told by the argument and the address, in one line.
#[test]
fn an_admin_endpoint_that_is_none_is_named_with_its_argument() {
    let nobody = Refusing::new();
    let nobody = nobody.address().to_string();
    let upstream = Upstream::saying("<html>\n<body>\na page\n</body>\n</html>\n");
    let proxy = Proxy::start(&Configuration::default().to(&upstream));
    let page = proxy.address("web").to_string();
    let folder = Folder::new();
    folder.write(CONFIGURATION, SOUND);
    let reload = |address: &str| run_to_end(&folder, &["reload", "--admin", address]);
    let check = |address: &str| run_to_end(&folder, &["check", "-c", CONFIGURATION, "--against", address]);
    for (address, said) in [
        (&nobody, "the admin endpoint does not answer: "),
        (
            &page,
            "what answers there, with status 200, is no admin endpoint of Tamis; ",
        ),
    ] {
        for (argument, output) in [("--admin", reload(address)), ("--against", check(address))] {
            let printed = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{printed}");
            let expected = format!("tamis: {argument} {address}: {said}");
            assert!(printed.starts_with(&expected), "`{expected}`: {printed}");
            assert_eq!(printed.lines().count(), 1, "{printed}");
        }
    }
}
