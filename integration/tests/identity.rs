//! What did not change survives a reload as the same object, and what did is ready before its first request.

use std::time::Duration;

use serde_json::Value;
use tamis_integration::upstream::ok;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Proxy, Upstream};

use crate::support::{Configuration, apply, filter_state, folder_with};

/// For a start that compiles much.
const LONG: Duration = Duration::from_secs(120);

/// Fifty filters of fifty components; the one in the route is the first.
fn fifty(folder: &Folder, upstream: &Upstream) -> String {
    let mut top = "filters:\n".to_owned();
    for n in 0..50 {
        folder.write(&format!("{n}.wasm"), saying(&n.to_string()));
        top.push_str(&format!("  f{n}: {{ component: {n}.wasm }}\n"));
    }
    Configuration {
        top: &top,
        route: "filters: [f0]",
        ..Default::default()
    }
    .to(upstream)
}

/// A component that no other is like.
fn saying(mark: &str) -> Vec<u8> {
    let mark = mark.as_bytes().to_vec();
    Guest::new().on_response([SetResponseHeader("x-mark", mark)]).build()
}

fn compiled(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("tamis_components_total", &[("from", "compiled")])
}

#[test]
fn one_changed_filter_of_fifty_is_one_compilation() {
    let folder = Folder::new();
    let upstream = Upstream::saying("ok");
    let yaml = fifty(&folder, &upstream);
    let proxy = Proxy::start_within(&folder, &yaml, LONG);
    assert_eq!(compiled(&proxy), 50.0);
    assert_eq!(proxy.get("/").value("x-mark"), Some("0"));
    folder.replace("0.wasm", saying("new"));
    proxy.wait_generation(2);
    assert_eq!(compiled(&proxy), 51.0);
    assert_eq!(proxy.get("/").value("x-mark"), Some("new"));
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    let filters = &shown["last_reload"]["difference"]["filters"];
    assert_eq!(filters["unchanged"], 49, "{filters}");
    assert_eq!(filters["changed"][0]["name"], "f0");
    assert_eq!(filters["changed"][0]["changes"][0]["key"], "component.sha256");
    // Other settings need no other code.
    let report = apply(
        &proxy,
        &yaml.replace("component: 0.wasm }", "component: 0.wasm, config: { a: 1 } }"),
    );
    assert_eq!(report["compiled"], 0, "{report}");
    assert_eq!(compiled(&proxy), 51.0);
}

/// Answers the third request of an instance by itself; all others pass.
fn third() -> Vec<u8> {
    Guest::new().on_request([From(2), Reply(200, vec![], "third")]).build()
}

#[test]
fn warm_instances_of_unchanged_filters_survive() {
    let folder = Folder::new();
    folder.write("guest.wasm", third());
    let upstream = Upstream::saying("ok");
    let yaml = |timeout: u32| {
        let route = format!("filters: [guest], timeout: {timeout}s");
        Configuration {
            top: "filters:\n  guest: { component: guest.wasm }",
            route: &route,
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start_in(&folder, &yaml(10));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(proxy.reload(&yaml(11)).0, 200);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(proxy.reload(&yaml(12)).0, 200);
    assert_eq!(client.get("/").text(), "third", "it is not the instance that it was");
}

/// A changed filter has as many instances as the old one had, and its first requests start none.
#[test]
fn a_changed_filter_is_warm_before_its_first_request() {
    let folder = Folder::new();
    folder.write("guest.wasm", saying("old"));
    let upstream = Upstream::saying("ok");
    let yaml = |n: u32| {
        let top = format!("filters:\n  guest: {{ component: guest.wasm, config: {{ n: {n} }} }}");
        Configuration {
            top: &top,
            route: "filters: [guest]",
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start_in(&folder, &yaml(1));
    let idle = |proxy: &Proxy| {
        let state = filter_state(proxy, "guest");
        (state["instances"].as_u64(), state["instances_idle"].as_u64())
    };
    assert_eq!(idle(&proxy), (Some(0), Some(0)));
    for n in 2..5 {
        let report = apply(&proxy, &yaml(n));
        assert_eq!(report["warmed"], 1, "{report}");
        assert_eq!(idle(&proxy), (Some(1), Some(1)), "before any request");
        assert_eq!(proxy.get("/").value("x-mark"), Some("old"));
        assert_eq!(idle(&proxy), (Some(1), Some(1)), "the request used what was there");
    }
    folder.replace("guest.wasm", saying("new"));
    proxy.wait_generation(5);
    assert_eq!(idle(&proxy), (Some(1), Some(1)));
    assert_eq!(proxy.get("/").value("x-mark"), Some("new"));
}

/// What a breaker knows of a filter is not forgotten because something else has changed.
#[test]
fn breakers_of_unchanged_filters_stay_open() {
    let folder = Folder::new();
    folder.write("guest.wasm", Guest::new().on_request([Trap]).build());
    let upstream = Upstream::saying("ok");
    let yaml = |timeout: u32| {
        let route = format!("filters: [guest], timeout: {timeout}s");
        Configuration {
            top: "filters:\n  guest: { component: guest.wasm, breaker: { failures: 1, backoff: 60s } }",
            route: &route,
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start_in(&folder, &yaml(10));
    assert_eq!(proxy.get("/").status(), 500);
    assert_eq!(filter_state(&proxy, "guest")["breaker"]["state"], "open");
    assert_eq!(proxy.reload(&yaml(11)).0, 200);
    assert_eq!(filter_state(&proxy, "guest")["breaker"]["state"], "open");
}

/// What filters keep outlives their own change, too.
#[test]
fn key_value_data_survives() {
    let folder = folder_with(&["rate-limit"]);
    let upstream = Upstream::answering(|request| ok(request.target()));
    let yaml = |path: &str, memory: u32| {
        let top = format!(
            "filters:\n  limit:\n    component: rate-limit.wasm\n    grants: [clock, key_value, metrics]\n    limits: {{ memory: \
             {memory}MiB }}\n    config: {{ limits: [{{ name: all, rate: 2/1d }}] }}"
        );
        let routes = format!("  - {{ name: {path}, match: {{ path: {{ exact: /{path} }} }}, cluster: app }}");
        Configuration {
            top: &top,
            routes: &routes,
            route: "filters: [limit]",
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start_within(&folder, &yaml("a", 16), LONG);
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(proxy.reload(&yaml("b", 16)).0, 200, "a change of something else");
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(proxy.reload(&yaml("b", 20)).0, 200, "a change of the filter itself");
    assert_eq!(proxy.get("/").status(), 429);
}

/// Fault 70: of three filters, one does not start. None of the three is taken over, and what is there goes on.
#[test]
fn one_filter_that_does_not_start_keeps_all_others_back() {
    let folder = Folder::new();
    let names = ["a", "b", "c"];
    for name in names {
        folder.write(&format!("{name}.wasm"), saying(&format!("{name}-old")));
    }
    let upstream = Upstream::saying("ok");
    let yaml = Configuration {
        top: "filters:\n  a: { component: a.wasm }\n  b: { component: b.wasm }\n  c: { component: c.wasm }",
        route: "filters: [a]",
        ..Default::default()
    }
    .to(&upstream);
    let proxy = Proxy::start_in(&folder, &yaml);
    folder.write("new/a.wasm", saying("a-new"));
    folder.write("new/b.wasm", saying("b-new"));
    folder.write("new/c.wasm", Guest::new().on_request([]).on_configure([Trap]).build());
    let bad = yaml.replace("component: ", "component: new/");
    let (status, report) = proxy.reload(&bad);
    assert_eq!(status, 422, "{report}");
    let errors = report["errors"].as_array().expect("a list");
    assert!(
        errors.len() == 1 && errors[0].to_string().contains("filter `c`"),
        "{report}"
    );
    assert_eq!(proxy.get("/").value("x-mark"), Some("a-old"));
    for name in names {
        let sha256 = filter_state(&proxy, name)["sha256"].clone();
        let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
        assert_eq!(shown["components"][name]["sha256"], sha256);
    }
    folder.write("new/c.wasm", saying("c-new"));
    assert_eq!(proxy.reload(&bad).0, 200);
    assert_eq!(proxy.get("/").value("x-mark"), Some("a-new"));
}
