//! What components of `wasi:http` may use when they are granted it, and how little it is without.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::symlink;

use serde_json::Value;
use tamis_integration::proxy::check;
use tamis_integration::{Folder, Proxy};

use crate::support::{apply, assert_own_reply, each, wait_until, wasi_component};

/// Whatever the guest imports is granted here, so that it loads; a test adds to the one that it is about.
fn configuration(config: &str) -> String {
    with_grants(&format!("keyvalue, {{ config: {{ {config} }} }}"))
}

fn with_grants(grants: &str) -> String {
    cluster(grants, "")
}

/// The cluster `app` has these grants, and what else is given.
fn cluster(grants: &str, others: &str) -> String {
    cluster_of("rust-grants-02", grants, others)
}

fn cluster_of(guest: &str, grants: &str, others: &str) -> String {
    let path = wasi_component(guest).expect("`make wasi` builds those in Rust");
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners: {{ web: {{ address: 127.0.0.1:0 }} }}
clusters: {{ app: {{ component: {}, grants: [{grants}]{others} }} }}
routes: [{{ cluster: app }}]
",
        path.display()
    )
}

fn answer(proxy: &Proxy, target: &str) -> (u16, String) {
    let response = proxy.get(target);
    (response.status(), response.text())
}

#[test]
fn it_is_configured_from_text_variables_and_files() {
    let folder = Folder::new();
    folder.write("token", "s3cret\n");
    let proxy = Proxy::start_in(
        &folder,
        &configuration("plain: a value, token: file:token, home: '${PATH}'"),
    );
    assert_eq!(answer(&proxy, "/config/plain"), (200, "a value".to_owned()));
    assert_eq!(answer(&proxy, "/config/token"), (200, "s3cret".to_owned()));
    let path = std::env::var("PATH").expect("the proxy has that of its tests");
    assert_eq!(answer(&proxy, "/config/home"), (200, path.clone()));
    let all = format!("home={path}\nplain=a value\ntoken=s3cret\n");
    assert_eq!(answer(&proxy, "/config"), (200, all));
    for other in ["/config/Plain", "/config/plain%00", "/config/../token"] {
        assert_eq!(answer(&proxy, other).0, 404, "{other}");
    }
    // Nobody is shown what may be a secret.
    let shown = proxy.admin("GET", "/config").text();
    assert!(!shown.contains("s3cret") && !shown.contains("a value"), "{shown}");
    assert!(shown.contains("[redacted]"), "{shown}");
}

#[test]
fn a_changed_value_is_a_change() {
    let proxy = Proxy::start(&configuration("key: first"));
    assert_eq!(answer(&proxy, "/config/key"), (200, "first".to_owned()));
    let report = apply(&proxy, &configuration("key: second"));
    assert_eq!(
        report["difference"]["clusters"]["changed"][0]["name"], "app",
        "{report}"
    );
    assert_eq!(answer(&proxy, "/config/key"), (200, "second".to_owned()));
    apply(&proxy, &configuration(""));
    assert_eq!(answer(&proxy, "/config"), (200, String::new()));
}

fn table(proxy: &Proxy) -> Value {
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/clusters").body).expect("JSON");
    shown[0]["component"]["key_value"].clone()
}

#[test]
fn what_it_keeps_outlives_its_instances_and_reloads() {
    let proxy = Proxy::start(&configuration(""));
    let found = |text: &str| (200, text.to_owned());
    assert_eq!(answer(&proxy, "/keyvalue/get/a"), (404, String::new()));
    for (target, expected) in [
        ("/keyvalue/exists/a", "false\n"),
        ("/keyvalue/set/a?value=one", "done\n"),
        ("/keyvalue/get/a", "one"),
        ("/keyvalue/get/a?bucket=default", "one"),
        ("/keyvalue/exists/a", "true\n"),
        ("/keyvalue/set/a?value=two", "done\n"),
        ("/keyvalue/get/a", "two"),
        ("/keyvalue/increment/n", "1\n"),
        ("/keyvalue/increment/n?by=41", "42\n"),
        ("/keyvalue/get/n", "42"),
        ("/keyvalue/set-many/b?count=2&bytes=3", "done\n"),
        ("/keyvalue/list", "a\nb0\nb1\nn\n"),
        ("/keyvalue/get-many/b1?count=3", "3 values, 9 bytes\n"),
        ("/keyvalue/get-many/none?count=3", "0 values, 0 bytes\n"),
        ("/keyvalue/delete-many/b?count=3", "done\n"),
        ("/keyvalue/delete/none", "done\n"),
        ("/keyvalue/list", "a\nn\n"),
    ] {
        assert_eq!(answer(&proxy, target), found(expected), "{target}");
    }
    // Another instance each time, and now of another service.
    apply(&proxy, &configuration("changed: value"));
    assert_eq!(answer(&proxy, "/keyvalue/get/a"), found("two"));
    let without = configuration("")
        .replace("clusters: { app:", "clusters: { other:")
        .replace("cluster: app", "cluster: other");
    apply(&proxy, &without);
    assert_eq!(answer(&proxy, "/keyvalue/list"), found(""), "the name is the table's");
}

#[test]
fn increments_at_once_are_all_counted() {
    let proxy = Proxy::start(&configuration("").replace("workers: 1", "workers: 2"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..100 {
                    assert_eq!(client.get("/keyvalue/increment/n").status(), 200);
                }
            });
        }
    });
    assert_eq!(answer(&proxy, "/keyvalue/get/n").1, "400");
    for (value, by) in [
        ("text", 1),
        ("-1", 1),
        ("", 1),
        ("18446744073709551615", 1),
        ("1", u64::MAX),
    ] {
        assert_eq!(answer(&proxy, &format!("/keyvalue/set/m?value={value}")).0, 200);
        let refused = answer(&proxy, &format!("/keyvalue/increment/m?by={by}"));
        assert_eq!(
            refused,
            (403, "the value is no number, or as large as one can be".to_owned()),
            "{value}"
        );
        assert_eq!(answer(&proxy, "/keyvalue/get/m").1, value, "it stays as it was");
    }
}

#[test]
fn a_list_has_pages_and_can_be_emptied_on_the_way() {
    let proxy = Proxy::start(&configuration(""));
    for prefix in ["a", "b", "c"] {
        assert_eq!(
            answer(&proxy, &format!("/keyvalue/set-many/{prefix}?count=1000")).0,
            200
        );
    }
    let (status, listed) = answer(&proxy, "/keyvalue/list");
    assert_eq!(status, 200);
    assert!(listed.starts_with("3000 keys on "), "{listed}");
    for cursor in [0, 1, 1 << 32, u64::MAX] {
        assert_eq!(
            answer(&proxy, &format!("/keyvalue/from?cursor={cursor}")).0,
            200,
            "{cursor}"
        );
    }
    let (_, drained) = answer(&proxy, "/keyvalue/drain");
    assert!(drained.starts_with("3000 keys on "), "{drained}");
    assert_eq!(answer(&proxy, "/keyvalue/list"), (200, String::new()));
}

#[test]
fn whoever_writes_too_much_drops_what_is_its_own() {
    let limits = ", limits: { key_value_bytes: 128KiB, key_value_keys: 50 }";
    let proxy = Proxy::start(&cluster("keyvalue, { config: {} }", limits));
    assert_eq!(answer(&proxy, "/keyvalue/set/first?value=1").0, 200);
    assert_eq!(answer(&proxy, "/keyvalue/set-many/k?count=1000").0, 200);
    assert_eq!(answer(&proxy, "/keyvalue/get/first").0, 404, "it has made room");
    let stats = table(&proxy);
    assert_eq!(
        (&stats["keys"], &stats["evictions"]),
        (&50.into(), &951.into()),
        "{stats}"
    );
    // An eighth of the table, key and value.
    assert_eq!(answer(&proxy, "/keyvalue/fill/large?bytes=16379").0, 200);
    for target in [
        "/keyvalue/fill/large?bytes=16380",
        "/keyvalue/fill/large?bytes=3000000",
        "/keyvalue/long?bytes=16385",
    ] {
        assert_eq!(
            answer(&proxy, target),
            (403, "too large for the table".to_owned()),
            "{target}"
        );
    }
    assert_eq!(
        answer(&proxy, "/keyvalue/get/large").1.len(),
        16379,
        "it stays as it was"
    );
    assert_eq!(answer(&proxy, "/keyvalue/set-many/k?count=100&bytes=10000").0, 200);
    let bytes = table(&proxy)["bytes"].as_u64().expect("a number");
    assert!(bytes <= 128 << 10, "{bytes}");
    // A larger table is the same one.
    let before = answer(&proxy, "/keyvalue/list");
    apply(&proxy, &cluster("keyvalue, { config: {} }", ""));
    assert_eq!(answer(&proxy, "/keyvalue/list"), before);
    assert_eq!(answer(&proxy, "/keyvalue/fill/large?bytes=1000000").0, 200);
}

#[test]
fn no_call_asks_for_more_than_it_gets() {
    let proxy = Proxy::start(&configuration(""));
    assert_eq!(answer(&proxy, "/keyvalue/fill/large?bytes=1000000").0, 200);
    let before = proxy.resident();
    for (target, expected) in [
        ("/keyvalue/get-many/large?count=4", (200, "4 values, 4000000 bytes\n")),
        (
            "/keyvalue/get-many/large?count=1000",
            (403, "more than 4194304 bytes at once; ask for fewer keys"),
        ),
        (
            "/keyvalue/get-many/large?count=1001",
            (403, "1001 keys at once, more than 1000"),
        ),
        (
            "/keyvalue/set-many/k?count=1001",
            (403, "1001 keys at once, more than 1000"),
        ),
        (
            "/keyvalue/delete-many/k?count=1001",
            (403, "1001 keys at once, more than 1000"),
        ),
    ] {
        let (status, text) = answer(&proxy, target);
        assert_eq!((status, text.as_str()), expected, "{target}");
    }
    assert!(proxy.resident().saturating_sub(before) < 64 << 20);
    // What it holds is counted like all that it holds, and more is its end.
    assert_eq!(
        answer(&proxy, "/keyvalue/open?count=100"),
        (200, "100 more\n".to_owned())
    );
    assert_own_reply(&proxy.get("/keyvalue/open?count=10000"), 502, "too many handles");
    // More in one call than may cross the border.
    assert_own_reply(
        &proxy.get("/keyvalue/fill/large?bytes=17000000"),
        502,
        "too much at once",
    );
    assert_eq!(answer(&proxy, "/keyvalue/get/large").1.len(), 1_000_000);
}

/// A filter of the name of the cluster has a table of its own, and so has another cluster.
#[test]
fn nobody_reads_what_another_keeps() {
    let component = wasi_component("rust-grants-02").expect("it is built");
    let serving = format!(
        "{{ component: {}, grants: [keyvalue, {{ config: {{}} }}] }}",
        component.display()
    );
    let filter = crate::support::component("rate-limit");
    let yaml = format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners: {{ web: {{ address: 127.0.0.1:0 }} }}
filters:
  app:
    component: {}
    grants: [clock, key_value, metrics]
    config: {{ limits: [{{ name: all, rate: 1000/1m }}] }}
clusters:
  app: {serving}
  other: {serving}
routes:
  - {{ match: {{ hosts: [other.example] }}, cluster: other }}
  - {{ filters: [app], cluster: app }}
",
        filter.display()
    );
    let proxy = Proxy::start(&yaml);
    assert_eq!(answer(&proxy, "/keyvalue/set/mine?value=1").0, 200);
    assert_eq!(
        answer(&proxy, "/keyvalue/list"),
        (200, "mine\n".to_owned()),
        "the filter has counted elsewhere"
    );
    let of_other = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: other.example\r\n\r\n");
        let response = proxy.client().exchange(request);
        (response.status(), response.text())
    };
    assert_eq!(of_other("/keyvalue/get/mine").0, 404);
    assert_eq!(of_other("/keyvalue/set/mine?value=2").0, 200);
    assert_eq!(answer(&proxy, "/keyvalue/get/mine").1, "1");
    for name in ["app", "other", "Default", "default/", "../other", "Shared", "*"] {
        let refused = answer(&proxy, &format!("/keyvalue/get/mine?bucket={name}"));
        assert_eq!(refused, (403, "Error::NoSuchStore".to_owned()), "{name}");
    }
    assert!(proxy.metrics().sum("tamis_filter_table_keys", &[("filter", "app")]) >= 1.0);
}

/// A folder `data` to read, as `/data`, and a secret beside it.
fn with_data(folder: &Folder) -> String {
    for inner in ["data/inner", "secrets"] {
        fs::create_dir_all(folder.path(inner)).expect("a folder");
    }
    folder.write("secret", "nobody's business");
    folder.write("secrets/own", "nobody's business");
    folder.write("data/page", "a page");
    folder.write("data/inner/deep", "deeper");
    let page = fs::canonicalize(folder.path("data/page")).expect("it is there");
    for (link, to) in [
        ("near", "page"),
        ("up", "inner/../page"),
        ("inner/back", "../page"),
        ("out", "../secret"),
        ("out-folder", "../secrets"),
        ("whole", "/etc/passwd"),
        ("whole-inside", page.to_str().expect("UTF-8")),
        ("root", "/"),
        ("loop", "loop"),
        ("inner/chain", "../out"),
        ("proc", "/proc/self/root"),
    ] {
        symlink(to, folder.path(&format!("data/{link}"))).expect("a link");
    }
    with_grants("keyvalue, { config: {} }, { dir: { /data: data } }")
}

fn file(operation: &str, path: &str) -> String {
    format!("/files/{operation}?dir=/data&path={path}")
}

#[test]
fn folders_are_read() {
    let folder = Folder::new();
    let proxy = Proxy::start_in(&folder, &with_data(&folder));
    let large = "0123456789abcdef".repeat(1 << 16);
    folder.write("data/large", &large);
    assert_eq!(answer(&proxy, "/files/folders"), (200, "/data\n".to_owned()));
    for (operation, path, expected) in [
        ("read", "page", "a page"),
        ("read", "./page", "a page"),
        ("read", "inner/deep", "deeper"),
        ("read", "inner/../page", "a page"),
        ("read", "near", "a page"),
        ("read", "up", "a page"),
        ("read", "inner/back", "a page"),
        ("read", "large", &large),
        ("size", "large", "1048576\n"),
        ("list", "inner", "back\nchain\ndeep\n"),
        ("hold", "page&count=50", "50 open\n"),
    ] {
        let (status, text) = answer(&proxy, &file(operation, path));
        assert!(
            (status, &*text) == (200, expected),
            "{operation} {path}: {status} {}",
            &text[..text.len().min(99)]
        );
    }
    assert_eq!(answer(&proxy, &file("read", "nowhere")).0, 404);
    assert_eq!(
        answer(&proxy, "/files/read?dir=/&path=etc/passwd").0,
        404,
        "there is no such folder"
    );
    // All files are closed with the instances that have opened them.
    wait_until("no file is open", || open_files(&proxy, &folder) == 0);
}

/// Files in the folder that the proxy has open.
fn open_files(proxy: &Proxy, folder: &Folder) -> usize {
    let root = fs::canonicalize(folder.path("data")).expect("it is there");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", proxy.id())).expect("it runs");
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.starts_with(&root) && *target != root)
        .count()
}

#[test]
fn no_path_and_no_link_leads_out_of_a_folder() {
    let folder = Folder::new();
    let proxy = Proxy::start_in(&folder, &with_data(&folder));
    let absolute = folder.path("secret").display().to_string();
    let inside = folder.path("data/page").display().to_string();
    for path in [
        "../secret",
        "..",
        "../data/page",
        "inner/../../secret",
        "inner/../../data/page",
        "./../secret",
        "/etc/passwd",
        "/",
        "//etc/passwd",
        &absolute,
        &inside,
        "out",
        "out-folder/own",
        "out-folder",
        "inner/chain",
        "whole",
        "whole-inside",
        "root",
        "root/etc/passwd",
        "proc/etc/passwd",
    ] {
        for operation in ["read", "list", "size"] {
            let refused = answer(&proxy, &file(operation, path));
            assert_eq!(refused, (403, "not-permitted".to_owned()), "{operation} {path}");
        }
    }
    assert_eq!(answer(&proxy, &file("read", "loop")), (403, "loop".to_owned()));
    assert_eq!(answer(&proxy, &file("read", "page")), (200, "a page".to_owned()));
}

#[test]
fn nothing_in_a_folder_is_changed() {
    let folder = Folder::new();
    let proxy = Proxy::start_in(&folder, &with_data(&folder));
    let listed = answer(&proxy, &file("list", "."));
    let written = || {
        fs::metadata(folder.path("data/page"))
            .and_then(|found| found.modified())
            .expect("a time")
    };
    let before = written();
    for (operation, path) in [
        ("create", "new"),
        ("create", "page"),
        ("truncate", "page"),
        ("write", "page"),
        ("overwrite", "page"),
        ("shorten", "page"),
        ("touch", "page"),
        ("remove", "page"),
        ("make-folder", "new"),
        ("remove-folder", "inner"),
        ("rename", "page"),
        ("hard-link", "page"),
        ("make-link", "page"),
    ] {
        let (status, word) = answer(&proxy, &file(operation, path));
        assert_eq!(status, 403, "{operation} {path}: {word}");
    }
    assert_eq!(answer(&proxy, &file("list", ".")), listed);
    assert_eq!(answer(&proxy, &file("read", "page")).1, "a page");
    assert_eq!(written(), before);
}

#[test]
fn what_is_put_in_a_folders_place_is_met_after_a_reload() {
    let folder = Folder::new();
    let yaml = with_data(&folder);
    let proxy = Proxy::start_in(&folder, &yaml);
    assert_eq!(answer(&proxy, &file("read", "page")).1, "a page");
    fs::rename(folder.path("data"), folder.path("old")).expect("it is moved");
    assert_eq!(
        answer(&proxy, &file("read", "page")).1,
        "a page",
        "it is the same folder still"
    );
    let (status, report) = proxy.reload(&yaml);
    assert_eq!(status, 422, "{report}");
    assert!(report.to_string().contains("dir `/data`: "), "{report}");
    assert_eq!(
        answer(&proxy, &file("read", "page")).1,
        "a page",
        "what was there goes on"
    );
    fs::create_dir(folder.path("data")).expect("a folder");
    folder.write("data/page", "another page");
    apply(&proxy, &yaml);
    assert_eq!(answer(&proxy, &file("read", "page")).1, "another page");
}

/// Each file is counted among what the guest holds; more is its end, and leaves nothing open.
#[test]
fn files_that_are_held_have_an_end() {
    let folder = Folder::new();
    let proxy = Proxy::start_in(&folder, &with_data(&folder));
    for _ in 0..3 {
        assert_own_reply(&proxy.get(&file("hold", "page&count=1000")), 502, "too many handles");
        wait_until("no file is open", || open_files(&proxy, &folder) == 0);
    }
    assert_eq!(answer(&proxy, &file("read", "page")).1, "a page");
}

/// Of few descriptors half are left to everybody else, however many the guest may hold.
#[test]
fn files_leave_descriptors_to_clients() {
    each(
        ["rust-grants-02", "rust-grants-03"],
        |guest| (*guest).to_owned(),
        |guest| {
            let folder = Folder::new();
            with_data(&folder);
            let grants = "keyvalue, { config: {} }, { dir: { /data: data } }";
            folder.write("tamis.yaml", cluster_of(guest, grants, ", limits: { handles: 20000 }"));
            let proxy = Proxy::launch_through(&["prlimit", "--nofile=256"], &folder, &[]);
            let (status, word) = answer(&proxy, &file("hold", "page&count=200"));
            assert_eq!(status, 403, "{word}");
            assert!(word.contains("quota"), "{word}");
            assert_eq!(
                answer(&proxy, &file("hold", "page&count=50")),
                (200, "50 open\n".to_owned())
            );
        },
    );
}

#[test]
fn a_folder_that_is_none_is_refused_in_words() {
    let folder = Folder::new();
    folder.write("file", "");
    let grants = |path: &str| with_grants(&format!("keyvalue, {{ config: {{}} }}, {{ dir: {{ /data: {path} }} }}"));
    for (path, why) in [("nowhere", "No such file or directory"), ("file", "is not a folder")] {
        let (status, errors) = check(&folder, &grants(path));
        assert_eq!(status, 1, "{path}: {errors}");
        let expected = format!("component: dir `/data`: {}: {why}", folder.path(path).display());
        assert!(errors.contains(&expected), "{errors}");
    }
    let (status, errors) = check(&folder, &grants("."));
    assert_eq!(status, 0, "{errors}");
}

/// Without the grant the same calls find nothing.
#[test]
fn without_a_grant_there_are_no_folders() {
    let proxy = Proxy::start(&configuration(""));
    assert_eq!(answer(&proxy, "/files/folders"), (200, String::new()));
    for name in ["/", ".", "/data"] {
        assert_eq!(
            answer(&proxy, &format!("/files/read?dir={name}&path=etc/passwd")).0,
            404,
            "{name}"
        );
    }
}

/// One connection and one datagram, each answered with what was heard, in capitals.
fn echoing() -> (TcpListener, UdpSocket) {
    let bind = "127.0.0.1:0";
    let (tcp, udp) = (
        TcpListener::bind(bind).expect("a port"),
        UdpSocket::bind(bind).expect("a port"),
    );
    let (listener, socket) = (tcp.try_clone().expect("the same"), udp.try_clone().expect("the same"));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a guest");
            let mut heard = String::new();
            connection.read_to_string(&mut heard).expect("it ends");
            connection
                .write_all(heard.to_uppercase().as_bytes())
                .expect("it is taken");
        }
    });
    std::thread::spawn(move || {
        let mut heard = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut heard) {
            socket
                .send_to(&heard[..length].to_ascii_uppercase(), from)
                .expect("it is sent");
        }
    });
    (tcp, udp)
}

#[test]
fn sockets_are_open_to_whoever_is_granted_them() {
    let proxy = Proxy::start(&with_grants("keyvalue, { config: {} }, unsafe_sockets"));
    let (tcp, udp) = echoing();
    let (tcp, udp) = (
        tcp.local_addr().expect("bound").port(),
        udp.local_addr().expect("bound").port(),
    );
    let said = (200, "HELLO FROM A GUEST\n".to_owned());
    assert_eq!(answer(&proxy, &format!("/sockets/tcp?port={tcp}")), said);
    assert_eq!(answer(&proxy, &format!("/sockets/udp?port={udp}")), said);
    let (status, addresses) = answer(&proxy, "/sockets/lookup?name=localhost");
    assert_eq!(status, 200, "{addresses}");
    assert!(addresses.lines().any(|address| address == "127.0.0.1"), "{addresses}");
    let (status, port) = answer(&proxy, "/sockets/listen?port=0");
    assert_eq!(status, 200, "{port}");
    let port: u16 = port.trim().parse().expect("a port");
    // With the instance its sockets are gone.
    wait_until("the port is free", || TcpListener::bind(("127.0.0.1", port)).is_ok());
    let closed = answer(&proxy, &format!("/sockets/tcp?port={port}"));
    assert_eq!(closed, (403, "connection-refused".to_owned()));
}

#[test]
fn nothing_else_opens_sockets() {
    let folder = Folder::new();
    let all = "clocks, random, stdio, keyvalue, { env: { A: b } }, { config: {} }, { dir: { /data: . } }, { http: [] }";
    let proxy = Proxy::start_in(&folder, &with_grants(all));
    let (tcp, udp) = echoing();
    for target in [
        format!("/sockets/tcp?port={}", tcp.local_addr().expect("bound").port()),
        format!("/sockets/udp?port={}", udp.local_addr().expect("bound").port()),
        "/sockets/listen?port=0".to_owned(),
        "/sockets/lookup?name=localhost".to_owned(),
    ] {
        assert_eq!(answer(&proxy, &target), (403, "access-denied".to_owned()), "{target}");
    }
}

/// What another test says in full of 0.2 holds for 0.3, which has files and sockets of its own.
#[test]
fn components_of_either_wasi_are_granted_the_same() {
    const ALL: &str = "keyvalue, { config: { key: value } }, { dir: { /data: data } }";
    let (tcp, udp) = echoing();
    let (tcp, udp) = (
        tcp.local_addr().expect("bound").port(),
        udp.local_addr().expect("bound").port(),
    );
    let sockets = [
        format!("/sockets/tcp?port={tcp}"),
        format!("/sockets/udp?port={udp}"),
        "/sockets/lookup?name=localhost".to_owned(),
    ];
    each(
        ["rust-grants-02", "rust-grants-03"],
        |guest| (*guest).to_owned(),
        |guest| {
            let folder = Folder::new();
            with_data(&folder);
            let proxy = Proxy::start_in(&folder, &cluster_of(guest, &format!("{ALL}, unsafe_sockets"), ""));
            assert_eq!(answer(&proxy, "/config/key"), (200, "value".to_owned()));
            assert_eq!(answer(&proxy, "/keyvalue/increment/n").1, "1\n");
            assert_eq!(answer(&proxy, "/keyvalue/increment/n").1, "2\n");
            assert_eq!(answer(&proxy, &file("read", "page")), (200, "a page".to_owned()));
            assert_eq!(answer(&proxy, &file("hold", "page&count=50")).1, "50 open\n");
            for path in [
                "../secret",
                "/etc/passwd",
                "out",
                "inner/chain",
                "root/etc/passwd",
                "inner/../../secret",
            ] {
                let (status, word) = answer(&proxy, &file("read", path));
                assert_eq!(status, 403, "{path}: {word}");
                assert!(word.contains("permitted"), "{path}: {word}");
            }
            for (operation, path) in [("create", "new"), ("create", "page"), ("remove", "page")] {
                assert_eq!(answer(&proxy, &file(operation, path)).0, 403, "{operation} {path}");
            }
            assert_eq!(answer(&proxy, &file("read", "page")), (200, "a page".to_owned()));
            for target in &sockets {
                assert_eq!(answer(&proxy, target).0, 200, "{target}");
            }
            apply(&proxy, &cluster_of(guest, ALL, ""));
            assert_eq!(answer(&proxy, "/keyvalue/get/n").1, "2");
            for target in &sockets {
                assert_eq!(answer(&proxy, target).0, 403, "{target}");
            }
            assert_eq!(answer(&proxy, &file("read", "page")), (200, "a page".to_owned()));
        },
    );
}

/// A filter's grants are its own, as is what it keeps: the cluster behind it has the same name.
#[test]
fn middlewares_are_granted_the_same() {
    let (tcp, _) = echoing();
    let socket = format!("/sockets/tcp?port={}", tcp.local_addr().expect("bound").port());
    let component = wasi_component("rust-grants-middleware-03").expect("`make wasi` builds those in Rust");
    let folder = Folder::new();
    with_data(&folder);
    let with = |grants: &str, others: &str| {
        let filter = format!(
            "filters: {{ app: {{ component: {}, grants: [{grants}]{others} }} }}\n",
            component.display()
        );
        let served = configuration("").replace(
            "routes: [{ cluster: app }]",
            "routes: [{ match: { hosts: [b.example] }, cluster: app }, { filters: [app], cluster: app }]",
        );
        filter + &served
    };
    let all = "keyvalue, { config: { key: value } }, { dir: { /data: data } }";
    let proxy = Proxy::start_in(&folder, &with(&format!("{all}, unsafe_sockets"), ""));
    assert_eq!(answer(&proxy, "/nowhere").0, 404, "it is passed on");
    assert_eq!(answer(&proxy, "/config/key"), (200, "value".to_owned()));
    assert_eq!(answer(&proxy, &file("read", "page")), (200, "a page".to_owned()));
    assert_eq!(answer(&proxy, &file("read", "out")).0, 403);
    assert_eq!(answer(&proxy, &file("create", "new")).0, 403);
    assert_eq!(answer(&proxy, &socket).0, 200);
    assert_eq!(answer(&proxy, "/keyvalue/increment/n").1, "1\n");
    let behind = proxy
        .client()
        .exchange("GET /keyvalue/list HTTP/1.1\r\nHost: b.example\r\n\r\n");
    assert_eq!((behind.status(), behind.text()), (200, String::new()), "the cluster's");
    let report = apply(&proxy, &with(all, ", limits: { key_value_keys: 2 }"));
    assert_eq!(report["difference"]["filters"]["changed"][0]["name"], "app", "{report}");
    assert_eq!(answer(&proxy, &socket).0, 403);
    assert_eq!(answer(&proxy, "/keyvalue/get/n").1, "1", "it is kept");
    assert_eq!(answer(&proxy, "/keyvalue/set-many/k?count=5").0, 200);
    assert_eq!(answer(&proxy, "/keyvalue/list"), (200, "k3\nk4\n".to_owned()));
    let changed = "keyvalue, { config: { key: another } }, { dir: { /data: data } }";
    let report = apply(&proxy, &with(changed, ", limits: { key_value_keys: 2 }"));
    assert_eq!(
        report["difference"]["filters"]["changed"][0]["name"], "app",
        "a value that is not shown: {report}"
    );
    assert_eq!(answer(&proxy, "/config/key"), (200, "another".to_owned()));
    let (status, errors) = check(&folder, &with("{ config: {} }", ""));
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("add `keyvalue` to the filter's `grants`"), "{errors}");
    let (status, errors) = check(&folder, &with(&all.replace("data }", "nowhere }"), ""));
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("dir `/data`: "), "{errors}");
}

#[test]
fn what_is_not_granted_is_refused_in_words() {
    let cases = [
        (
            "keyvalue",
            "imports `wasi:config/store@0.2.0-rc.1` without the grant; \
             add `config: { KEY: value }` to the cluster's `grants`",
        ),
        (
            "{ config: {} }",
            "imports `wasi:keyvalue/atomics@0.2.0-draft` without the grant; add `keyvalue` to the cluster's `grants`",
        ),
    ];
    each(
        cases,
        |(grants, _)| (*grants).to_owned(),
        |(grants, expected)| {
            let (status, errors) = check(&Folder::new(), &with_grants(grants));
            assert_eq!(status, 1, "{errors}");
            assert!(errors.contains(expected), "{errors}");
        },
    );
}
