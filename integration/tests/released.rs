//! Released versions of `tamis:filter`: what was released does not change, and a component that was built then keeps
//! loading, and does what it did.
//!
//! `integration/released` holds two files for each: `VERSION.wit`, and `VERSION.wasm`, which is the filter `everything`
//! as it was built for that version. Neither is ever replaced.

use std::fs;
use std::path::{Path, PathBuf};

use tamis_integration::upstream::ok;
use tamis_integration::{DEADLINE, Folder, Proxy, Upstream};
use wasmparser::Validator;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::types::Types;

use crate::support::{Configuration, each};

const VERSIONS: [&str; 1] = ["0.1.0"];

fn released(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("released").join(file)
}

fn frozen(version: &str) -> String {
    fs::read_to_string(released(&format!("{version}.wit"))).expect("a released version has its WIT")
}

/// A guest that was built long ago reads and edits a request and its response, uses every grant, and changes both
/// bodies.
#[test]
fn a_component_of_every_released_version_filters() {
    each(VERSIONS, ToString::to_string, |version| filters(version));
}

fn filters(version: &str) {
    let (upstream, side) = (
        Upstream::repeating("HTTP/1.1 200 OK\r\nX-Gone: 1\r\nContent-Length: 2\r\n\r\nok"),
        Upstream::answering(|_| ok("hello.")),
    );
    let folder = Folder::new();
    folder.copy(&released(&format!("{version}.wasm")), "old.wasm");
    let grants = "grants: [metrics, clock, random, key_value, { outbound: [side] }]";
    let configuration = Configuration {
        top: &format!("filters:\n  old: {{ component: old.wasm, tick: 100ms, {grants} }}"),
        clusters: &format!("  side: {{ endpoints: [\"{}\"] }}", side.address()),
        route: "filters: [old]",
        ..Default::default()
    };
    let proxy = Proxy::start_within(&folder, &configuration.to(&upstream), 3 * DEADLINE);
    // With the beginning of what each has to say.
    let acts = [
        ("capitals", None),
        ("put x-new a", Some("done")),
        ("append x-new b", Some("done")),
        ("remove x-gone", Some("done")),
        (
            "put connection close",
            Some("edit refused: only the proxy writes framing and hop-by-hop fields"),
        ),
        ("method PUT", Some("done")),
        ("authority b.example", Some("done")),
        ("path /b", Some("done")),
        ("query c=d", Some("done")),
        ("request", Some("PUT http://b.example/b?c=d true ")),
        ("facts", Some("127.0.0.1:")),
        ("cluster app", Some("app")),
        ("measure size 2", Some("measured")),
        ("set k v", Some("set")),
        ("swap k v w", Some("true")),
        ("add n -2", Some("-2")),
        ("compute k y", Some("w")),
        ("delete k", Some("true")),
        ("get k", Some("none")),
        ("call side /x", Some("200 hello.")),
        ("stream side /x", Some("hello.")),
        ("rewrite 202", None),
        ("hold 3", None),
    ];
    let fields: String = acts.iter().map(|(act, _)| format!("X-Act: {act}\r\n")).collect();
    let response = proxy.client().exchange(format!(
        "POST /a HTTP/1.1\r\nHost: a.example\r\nX-Gone: 1\r\n{fields}Content-Length: 3\r\n\r\nabc"
    ));
    let mut results: Vec<_> = acts.iter().filter_map(|(_, result)| *result).collect();
    // What the response was before it was rewritten.
    results.push("200 1 true ");
    let told = response.values("x-result");
    assert_eq!(told.len(), results.len(), "{told:?}");
    for (told, result) in told.into_iter().zip(results) {
        assert!(told.starts_with(result), "{told}, not {result}");
    }
    assert_eq!((response.status(), response.value("x-gone")), (202, None));
    let trail = "request-head held-body request-body request-end response-head";
    assert_eq!(
        (response.value("x-trail"), response.text().as_str()),
        (Some(trail), "ok")
    );
    let request = upstream.take_request(version);
    assert_eq!((request.method(), request.target()), ("PUT", "/b?c=d"));
    assert_eq!(
        (request.value("host"), request.values("x-new")),
        (Some("b.example"), vec!["a", "b"])
    );
    assert_eq!((request.value("x-gone"), request.text().as_str()), (None, "ABC."));
}

/// A function that nobody calls could be taken away unnoticed.
#[test]
fn a_released_component_uses_all_that_there_is() {
    each(VERSIONS, ToString::to_string, |version| {
        let bytes = fs::read(released(&format!("{version}.wasm"))).expect("a released version has a component");
        let types = Validator::new().validate_all(&bytes).expect("it is valid");
        let text = frozen(version);
        let (mut interface, mut unused) = ("", Vec::new());
        for line in lines(&text) {
            if let Some(rest) = line.strip_prefix("interface ") {
                interface = rest.trim_end_matches(" {");
            } else if let Some((function, _)) = line.split_once(": func(")
                && !has(&types, &format!("tamis:filter/{interface}@{version}"), function)
            {
                unused.push(format!("{interface}.{function}"));
            }
        }
        assert_eq!(unused, Vec::<String>::new(), "{version}");
    });
}

/// Whether the component imports or exports this function of this interface.
fn has(types: &Types, interface: &str, function: &str) -> bool {
    let item = types.component_item_for_import(interface);
    let item = item.or_else(|| types.component_item_for_export(interface));
    match item.map(|item| item.ty) {
        Some(ComponentEntityType::Instance(instance)) => types[instance].exports.contains_key(function),
        _ => false,
    }
}

/// Prose may become better; what it describes stays.
#[test]
fn a_released_version_does_not_change() {
    let present = wits(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../filter-abi/wit"));
    each(VERSIONS, ToString::to_string, |version| {
        let package = format!("package tamis:filter@{version};");
        let found = present.iter().find(|text| text.lines().any(|line| line == package));
        let found = found.unwrap_or_else(|| panic!("{version} is no longer there"));
        let frozen = frozen(version);
        let changed = lines(found).zip(lines(&frozen)).find(|(now, then)| now != then);
        assert_eq!(changed, None, "{version} is released: a change is a new version");
        assert_eq!(lines(found).count(), lines(&frozen).count(), "{version} is released");
    });
}

fn wits(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => wits(&path),
            false => vec![fs::read_to_string(&path).expect("a WIT file can be read")],
        })
        .collect()
}

/// Without comments and blank lines.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
}
