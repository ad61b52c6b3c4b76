//! What happens to files: every way to replace them is noticed, nothing that is half-written or no file is ever applied.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use serde_json::json;
use tamis_integration::proxy::CONFIGURATION;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Proxy};

use crate::support::{Bystander, each};

/// Answers `/` with this text, and every other path with another, in routes of their own: what ends between the two is
/// a configuration that is sound by itself.
fn two_routes(body: &str) -> String {
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners:
  web: {{ address: 127.0.0.1:0 }}
routes:
  - {{ name: root, match: {{ path: {{ exact: / }} }}, respond: {{ status: 200, body: \"{body}\" }} }}
  - {{ name: rest, respond: {{ status: 200, body: rest }} }}
"
    )
}

/// A filter that answers everything with this text.
fn replying(body: &'static str) -> Vec<u8> {
    Guest::new().on_request([Reply(200, vec![], body)]).build()
}

fn with_guest(component: &str) -> String {
    two_routes("route")
        .replace(
            "routes:",
            &format!("filters:\n  guest: {{ component: {component} }}\nroutes:"),
        )
        .replace("name: root,", "name: root, filters: [guest],")
}

/// Fault 57: the first half of a file is sound by itself, and its writer takes a pause. Neither the watch, a signal nor
/// the administration endpoint takes the half for the whole.
#[test]
fn half_a_file_is_never_applied() {
    let proxy = Proxy::start(&two_routes("zero"));
    // From here on the files are watched.
    proxy.folder().replace(CONFIGURATION, two_routes("one"));
    proxy.wait_generation(2);
    let next = two_routes("two");
    let (half, rest) = next.split_at(next.find("  - { name: rest").expect("it has two routes"));
    let mut writer = File::create(proxy.folder().path(CONFIGURATION)).expect("it can be written");
    writer.write_all(half.as_bytes()).expect("it takes the half");
    let line = proxy
        .log()
        .wait_from(0, "being written", |line| line.message().starts_with("being written"));
    assert!(line.field("file").ends_with(CONFIGURATION), "{}", line.text);
    proxy.signal(Signal::HUP);
    let refused = proxy.admin("POST", "/reload");
    assert_eq!(refused.status(), 422);
    assert!(
        refused
            .text()
            .contains("is being written, and its writer has not closed it"),
        "{}",
        refused.text()
    );
    assert_eq!((proxy.get("/").text().as_str(), proxy.generation()), ("one", 2));
    writer.write_all(rest.as_bytes()).expect("it takes the rest");
    drop(writer);
    proxy.wait_generation(3);
    assert_eq!(
        (proxy.get("/").text(), proxy.get("/x").text()),
        ("two".to_owned(), "rest".to_owned())
    );
    assert_eq!(proxy.generation(), 3, "one change is one generation");
}

/// Fault 57, of a component: half of one is refused with one clear error, and the whole of it is taken.
#[test]
fn half_a_component_is_refused_until_it_is_whole() {
    let folder = Folder::new();
    folder.write("guest.wasm", replying("one"));
    let proxy = Proxy::start_in(&folder, &with_guest("guest.wasm"));
    let whole = replying("two");
    for length in [0, 7, whole.len() / 2, whole.len() - 1] {
        let before = proxy.log().len();
        folder.replace("guest.wasm", &whole[..length]);
        let refused = |line: &tamis_integration::log::Line| line.message() == "reload refused";
        let line = proxy.log().wait_from(before, "reload refused", refused);
        assert!(
            line.field("errors").contains("filter `guest`: component "),
            "{}",
            line.text
        );
        assert_eq!(proxy.get("/").text(), "one", "{length} bytes");
    }
    folder.replace("guest.wasm", whole);
    proxy.wait_generation(2);
    assert_eq!(proxy.get("/").text(), "two");
}

/// A way to bring the next version of a file into place.
struct Way {
    name: &'static str,
    replace: fn(&Folder, &[u8]),
}

const FILE: &str = "mount/guest.wasm";

const WAYS: [Way; 8] = [
    Way {
        name: "written in place",
        replace: |folder, bytes| drop(folder.write(FILE, bytes)),
    },
    Way {
        name: "renamed over",
        replace: |folder, bytes| drop(folder.replace(FILE, bytes)),
    },
    Way {
        name: "deleted and made anew",
        replace: |folder, bytes| {
            fs::remove_file(folder.path(FILE)).expect("it is there");
            folder.write(FILE, bytes);
        },
    },
    Way {
        name: "a link in place of a file",
        replace: |folder, bytes| {
            folder.write("elsewhere/linked", bytes);
            symlink("../elsewhere/linked", folder.path("mount/link")).expect("a link can be made");
            fs::rename(folder.path("mount/link"), folder.path(FILE)).expect("it can be put in place");
        },
    },
    Way {
        name: "behind that link",
        replace: |folder, bytes| drop(folder.replace("elsewhere/linked", bytes)),
    },
    Way {
        name: "the folder replaced",
        replace: |folder, bytes| {
            folder.write("next/guest.wasm", bytes);
            fs::rename(folder.path("mount"), folder.path("old")).expect("a folder can be moved");
            fs::rename(folder.path("next"), folder.path("mount")).expect("a folder can be moved");
        },
    },
    Way {
        name: "the folder deleted and made anew",
        replace: |folder, bytes| {
            fs::remove_dir_all(folder.path("mount")).expect("it is there");
            folder.write(FILE, bytes);
        },
    },
    Way {
        name: "made unreadable and readable again",
        replace: |folder, bytes| {
            let path = folder.path(FILE);
            fs::set_permissions(&path, Permissions::from_mode(0o000)).expect("it is ours");
            fs::remove_file(&path).expect("it is ours");
            folder.write(FILE, bytes);
        },
    },
];

/// Fault 58: one way after the other, so that the watch has to follow each of them to find the next.
#[test]
fn every_way_to_replace_a_file_is_noticed() {
    let folder = Folder::new();
    folder.write(FILE, replying("one"));
    let proxy = Proxy::start_in(&folder, &with_guest(FILE));
    let bystander = Bystander::start(&proxy.address("web"), "/x");
    for (Way { name, replace }, generation) in WAYS.iter().zip(2..) {
        replace(&folder, &replying(name));
        proxy.wait_generation(generation);
        assert_eq!(proxy.get("/").text(), *name);
    }
    bystander.finish();
    assert_eq!(proxy.generation(), 1 + WAYS.len() as u64, "each is one generation");
}

/// Fault 58: size and time of modification are what they were; the file is another one.
#[test]
fn a_file_of_the_same_size_and_time_is_noticed() {
    let proxy = Proxy::start(&two_routes("one"));
    let path = proxy.folder().path(CONFIGURATION);
    let modified = fs::metadata(&path)
        .and_then(|metadata| metadata.modified())
        .expect("it has a time");
    let next = proxy.folder().write("next", two_routes("two"));
    let file = File::options().write(true).open(&next).expect("it can be opened");
    file.set_modified(modified).expect("its time can be set");
    fs::rename(next, path).expect("it can be put in place");
    proxy.wait_generation(2);
    assert_eq!(proxy.get("/").text(), "two");
}

/// Fault 59: whatever stands where a file should, it is refused at once, and nobody waits for it or reads it.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = Folder::new();
    folder.write("guest.wasm", replying("one"));
    let proxy = Proxy::start_in(&folder, &with_guest("guest.wasm"));
    let bystander = Bystander::start(&proxy.address("web"), "/x");
    let fifo = |name: &str| {
        let status = std::process::Command::new("mkfifo").arg(folder.path(name)).status();
        assert!(status.expect("mkfifo is there").success());
    };
    fifo("fifo");
    folder.write("sub/file", "");
    let _socket = UnixListener::bind(folder.path("socket")).expect("a socket can be made");
    symlink("loop", folder.path("loop")).expect("a link can be made");
    symlink("/dev/zero", folder.path("device")).expect("a link can be made");
    symlink("gone", folder.path("dangling")).expect("a link can be made");
    let huge = File::create(folder.path("huge")).expect("a file can be made");
    huge.set_len(1 << 40).expect("a sparse file can be made");
    let kinds = ["fifo", "sub", "socket", "loop", "device", "dangling", "huge"];
    let places = [
        ("component", "component: guest.wasm", "component: "),
        (
            "secret",
            "component: guest.wasm",
            "component: guest.wasm, config: { a: \"file:",
        ),
    ];
    let cases = kinds.iter().flat_map(|kind| places.map(|place| (*kind, place)));
    each(
        cases,
        |(kind, (place, ..))| format!("{place}: {kind}"),
        |(kind, (place, from, to))| {
            let end = if *place == "secret" { "\" }" } else { "" };
            let yaml = with_guest("guest.wasm").replace(from, &format!("{to}{kind}{end}"));
            let (status, report) = proxy.reload(&yaml);
            assert_eq!((status, &report["outcome"]), (422, &json!("refused")), "{report}");
            assert_eq!(report["errors"].as_array().map(Vec::len), Some(1), "{report}");
            assert!(report["errors"][0].to_string().contains(kind), "{report}");
        },
    );
    // The configuration itself.
    for kind in kinds {
        fs::remove_file(folder.path(CONFIGURATION)).expect("it is there");
        symlink(kind, folder.path(CONFIGURATION)).expect("a link can be made");
        let refused = proxy.admin("POST", "/reload");
        assert_eq!(refused.status(), 422, "{kind}: {}", refused.text());
    }
    assert_eq!(proxy.get("/").text(), "one");
    fs::remove_file(folder.path(CONFIGURATION)).expect("it is there");
    assert_eq!(proxy.reload(&with_guest("guest.wasm")).0, 200);
    bystander.finish();
    assert!(proxy.resident() < 512 << 20, "a device or a huge file was read");
}

/// Fault 65: a thousand events in a moment, and a few generations.
#[test]
fn a_storm_of_writes_is_coalesced() {
    let proxy = Proxy::start(&two_routes("0"));
    let bystander = Bystander::start(&proxy.address("web"), "/x");
    for n in 1..=1000 {
        proxy.folder().replace(CONFIGURATION, two_routes(&n.to_string()));
    }
    crate::support::wait_until("the last one is live", || proxy.get("/").text() == "1000");
    bystander.finish();
    let metrics = proxy.metrics();
    let reloads = metrics.sum("tamis_reloads_total", &[]);
    assert!(reloads <= 100.0, "{reloads} reloads for one storm");
    assert_eq!(metrics.sum("tamis_reloads_total", &[("outcome", "refused")]), 0.0);
}

/// A log that is written all the time in the folder of the configuration is nobody's business.
#[test]
fn what_happens_beside_the_files_is_no_change() {
    let proxy = Proxy::start(&two_routes("one"));
    let mut log = File::create(proxy.folder().path("some.log")).expect("it can be written");
    for _ in 0..1000 {
        log.write_all(b"a line\n").expect("it takes a line");
    }
    assert_eq!(
        proxy.reload(&two_routes("two")).0,
        200,
        "its writer has not closed it, and that does not matter"
    );
    proxy.wait_generation(2);
}

/// Fault 71: the file of what runs is gone; what runs is kept, and so is what it was compiled to.
#[test]
fn a_component_whose_file_is_gone_goes_on() {
    let folder = Folder::new();
    let guest = replying("one");
    folder.write("guest.wasm", &guest);
    let proxy = Proxy::start_in(&folder, &with_guest("guest.wasm"));
    fs::remove_file(folder.path("guest.wasm")).expect("it is there");
    let (status, report) = proxy.reload(&with_guest("guest.wasm"));
    assert_eq!(status, 422);
    assert!(report["errors"][0].to_string().contains("guest.wasm"), "{report}");
    assert_eq!(proxy.get("/").text(), "one");
    folder.write("guest.wasm", guest);
    let (status, report) = proxy.reload(&with_guest("guest.wasm"));
    assert_eq!(
        (status, &report["outcome"], &report["compiled"]),
        (200, &json!("unchanged"), &json!(0)),
        "{report}"
    );
}

/// Fault 75: killed in the middle of a reload, a process that starts again serves what is configured.
#[test]
fn killed_in_a_reload_it_starts_with_what_is_configured() {
    let folder = Folder::new();
    folder.write("guest.wasm", replying("0"));
    let yaml = |n: u32| {
        with_guest("guest.wasm").replace(
            "workers: 1",
            &format!("workers: 1\ndrain_timeout: {n}s\nwasm: {{ cache: c }}"),
        )
    };
    for round in 1..=5_u32 {
        let mut proxy = Proxy::start_in(&folder, &yaml(round));
        let text = ["1", "2", "3", "4", "5"][round as usize - 1];
        folder.replace("guest.wasm", replying(text));
        for n in 0..round {
            proxy.folder().replace(CONFIGURATION, yaml(100 + n));
            proxy.signal(Signal::HUP);
        }
        proxy.signal(Signal::KILL);
        proxy.wait_exit();
        let again = Proxy::start_in(&folder, &yaml(round));
        assert_eq!(again.get("/").text(), text, "round {round}");
    }
}
