//! What components of `wasi:http` may use when they are granted it, and how little it is without.

use tamis_integration::proxy::check;
use tamis_integration::{Folder, Proxy};

use crate::support::{apply, each, wasi_component};

/// Whatever the guest imports is granted here, so that it loads; a test adds to the one that it is about.
fn configuration(config: &str) -> String {
    with_grants(&format!("{{ config: {{ {config} }} }}"))
}

fn with_grants(grants: &str) -> String {
    let path = wasi_component("rust-grants-02").expect("`make wasi` builds those in Rust");
    format!(
        "\
workers: 1
admin: {{ address: 127.0.0.1:0 }}
listeners: {{ web: {{ address: 127.0.0.1:0 }} }}
clusters: {{ app: {{ component: {}, grants: [{grants}] }} }}
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

#[test]
fn what_is_not_granted_is_refused_in_words() {
    let cases = [(
        "clocks",
        "imports `wasi:config/store@0.2.0-rc.1` without the grant; \
         add `config: { KEY: value }` to the cluster's `grants`",
    )];
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
