//! What a reload says of itself: what is different, what is refused and why, and for whom it was done.

use std::thread;

use serde_json::{Value, json};
use tamis_integration::proxy::{CONFIGURATION, run_to_end};
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Proxy, Upstream};

use crate::support::{Configuration, apply};

/// Runs `tamis` with these arguments in the proxy's folder; its exit status, output and errors.
fn tamis(proxy: &Proxy, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = run_to_end(proxy.folder(), arguments);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn post(proxy: &Proxy, path: &str) -> (u16, Value) {
    let reply = proxy.admin("POST", path);
    let json = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.text()));
    (reply.status(), json)
}

#[test]
fn a_report_says_what_is_different() {
    let upstream = Upstream::saying("ok");
    let before = Configuration {
        top: "filters:\n  mark: { native: headers, config: { request: { set: { x-a: one } } } }",
        routes: "  - { name: old, match: { path: { exact: /old } }, cluster: app }\n  - { name: kept, match: { path: { \
                 exact: /kept } }, cluster: app }",
        route: "filters: [mark]",
        ..Default::default()
    };
    let after = Configuration {
        top: "drain_timeout: 7s\nfilters:\n  mark: { native: headers, config: { request: { set: { x-a: two } } } }",
        limits: "head_timeout: 3s",
        routes: "  - { name: kept, match: { path: { exact: /kept } }, cluster: app }\n  - { name: new, match: { path: { \
                 exact: /new } }, cluster: app }",
        route: "filters: [mark]",
        ..Default::default()
    };
    let proxy = Proxy::start(&before.to(&upstream));
    let report = apply(&proxy, &after.to(&upstream));
    assert_eq!(
        (&report["outcome"], &report["generation"], &report["previous"]),
        (&json!("applied"), &json!(2), &json!(1))
    );
    // Whoever was first.
    assert!(
        ["admin", "file", "start"].iter().any(|cause| report["cause"] == *cause),
        "{report}"
    );
    let difference = &report["difference"];
    let change = |key: &str, from: &str, to: &str| json!({ "key": key, "from": from, "to": to });
    assert_eq!(difference["settings"], json!([change("drain_timeout", "30s", "7s")]));
    let changed = |name: &str, change: Value| json!([{ "name": name, "changes": [change] }]);
    assert_eq!(
        difference["listeners"]["changed"],
        changed("web", change("limits.head_timeout", "10s", "3s"))
    );
    assert_eq!(
        difference["filters"]["changed"],
        changed("mark", change("config.request.set.x-a", "one", "two"))
    );
    let routes = &difference["routes"];
    assert_eq!(
        (
            &routes["added"],
            &routes["removed"],
            &routes["unchanged"],
            &routes["reordered"]
        ),
        (&json!(["new"]), &json!(["old"]), &json!(2), &json!(false)),
    );
    assert_eq!(difference["clusters"]["unchanged"], 1);
    assert!(
        report["took_ms"]["swap"].as_f64().is_some_and(|took| took > 0.0),
        "{report}"
    );
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    assert_eq!(
        shown["last_reload"], report,
        "it is still there for whoever comes later"
    );
    let live = proxy.wait_generation(2);
    assert_eq!(
        live.field("changes"),
        "settings ~1, listeners ~1, filters ~1, routes +1 -1"
    );
}

/// A secret is never shown, and that it changed is said all the same.
#[test]
fn a_changed_secret_is_said_and_not_shown() {
    let folder = Folder::new();
    folder.write("secret", "first-secret");
    let upstream = Upstream::saying("ok");
    let yaml = Configuration {
        top: "filters:\n  mark: { native: headers, config: { request: { set: { x-a: \"file:secret\" } } } }",
        route: "filters: [mark]",
        ..Default::default()
    }
    .to(&upstream);
    let proxy = Proxy::start_in(&folder, &yaml);
    folder.replace("secret", "second-secret");
    // Whoever is first, the watch over the files or this one.
    proxy.admin("POST", "/reload");
    proxy.wait_generation(2);
    let shown = proxy.admin("GET", "/config").text();
    assert!(
        !shown.contains("second-secret") && !shown.contains("first-secret"),
        "{shown}"
    );
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let changed = json!([{
        "name": "mark",
        "changes": [{ "key": "config", "from": "[redacted]", "to": "[redacted]" }],
    }]);
    assert_eq!(shown["last_reload"]["difference"]["filters"]["changed"], changed);
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(upstream.take_requests()[0].value("x-a"), Some("second-secret"));
}

/// Every error at once, with its place; and the words for people.
#[test]
fn a_refusal_lists_everything_that_is_wrong() {
    let upstream = Upstream::saying("ok");
    let yaml = Configuration::default().to(&upstream);
    let proxy = Proxy::start(&yaml);
    let bad = format!("{yaml}  - {{ name: x, cluster: nowhere }}\n  - {{ name: y, respond: {{ status: 42 }} }}\n");
    let (status, report) = proxy.reload(&bad);
    assert_eq!((status, &report["outcome"]), (422, &json!("refused")), "{report}");
    assert_eq!((&report["generation"], &report["previous"]), (&json!(1), &json!(1)));
    let errors = report["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), 2, "{report}");
    assert!(
        errors.iter().all(|error| error.to_string().contains("tamis.yaml:")),
        "{report}"
    );
    let admin = proxy.admin_address().to_string();
    let (code, printed, _) = tamis(&proxy, &["reload", "--admin", &admin]);
    assert_eq!(code, Some(1));
    assert!(
        printed.starts_with("REFUSED: generation 1 stays live and serves as before\n2 errors:\n"),
        "{printed}"
    );
    proxy.folder().replace(CONFIGURATION, yaml);
    let (code, printed, _) = tamis(&proxy, &["reload", "--admin", &admin, "--expect", "1", "--json"]);
    let report: Value = serde_json::from_str(&printed).expect("JSON alone");
    assert_eq!((code, &report["outcome"]), (Some(0), &json!("unchanged")));
    let since = report["live_since"].as_str().expect("a time");
    assert_eq!(
        (since.len(), &report["live_cause"]),
        ("2026-11-26T12:01:03Z".len(), &json!("start"))
    );
    let (_, printed, _) = tamis(&proxy, &["reload", "--admin", &admin]);
    let expected = format!("unchanged: generation 1, live since {since} by the start of the process, stays live");
    assert!(printed.starts_with(&expected), "{printed}");
}

/// Fault 76: of two who each believe that they know what is live, one is told that it does not; and nothing is read for
/// who is wrong.
#[test]
fn a_reload_that_expects_another_generation_is_not_done() {
    let upstream = Upstream::saying("ok");
    let yaml = |n: u32| {
        let top = format!("drain_timeout: {n}s");
        Configuration {
            top: &top,
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start(&yaml(1));
    assert_eq!(post(&proxy, "/reload?expect=1").0, 200);
    assert_eq!(proxy.reload(&yaml(2)).0, 200);
    let (status, report) = post(&proxy, "/reload?expect=1");
    assert_eq!(
        (status, &report["outcome"], &report["generation"]),
        (409, &json!("conflict"), &json!(2))
    );
    assert!(
        report["errors"][0].to_string().contains("generation 2 is live"),
        "{report}"
    );
    let refused = proxy.metrics().sum("tamis_reloads_total", &[("outcome", "refused")]);
    assert_eq!(refused, 0.0, "a conflict is no reload");
    for n in 3..=10_u32 {
        let live = proxy.generation();
        proxy.folder().replace(CONFIGURATION, yaml(n));
        let path = format!("/reload?expect={live}");
        let outcomes: Vec<(u16, Value)> = thread::scope(|scope| {
            let asked = [(); 4].map(|()| scope.spawn(|| post(&proxy, &path)));
            asked.map(|asked| asked.join().expect("it is answered")).into()
        });
        let applied = outcomes
            .iter()
            .filter(|(_, report)| report["outcome"] == "applied")
            .count();
        let conflicts = outcomes.iter().filter(|(status, _)| *status == 409).count();
        assert!(applied <= 1 && conflicts >= 3, "two were right: {outcomes:?}");
        assert_eq!(
            proxy.wait_generation(live + 1).field("generation"),
            (live + 1).to_string()
        );
    }
}

/// Fault 72, and its opposite: what nobody is served by is not called a difference.
#[test]
fn comments_and_order_are_no_difference() {
    let upstream = Upstream::saying("ok");
    let yaml = Configuration::default().to(&upstream);
    let proxy = Proxy::start(&yaml);
    let (status, report) = proxy.reload(&format!("# a comment\n\n{yaml}\n"));
    assert_eq!((status, &report["outcome"]), (200, &json!("unchanged")), "{report}");
}

#[test]
fn a_check_against_a_process_shows_the_difference_and_changes_nothing() {
    let folder = Folder::new();
    folder.write("secret", "hush");
    folder.write("guest.wasm", Guest::new().on_request([]).build());
    let upstream = Upstream::saying("ok");
    let yaml = |top: &str, more: &str| {
        let top = format!(
            "{top}\nfilters:\n  guest: {{ component: guest.wasm, grants: [{more}] }}\n  mark: {{ native: headers, \
             config: {{ request: {{ set: {{ x-a: \"file:secret\" }} }} }} }}"
        );
        Configuration {
            top: &top,
            ..Default::default()
        }
        .to(&upstream)
    };
    let proxy = Proxy::start_in(&folder, &yaml("", ""));
    let admin = proxy.admin_address().to_string();
    // In another folder, so that the running process does not see it.
    let elsewhere = |yaml: &str| {
        folder.write("elsewhere/secret", "other");
        folder.copy(&folder.path("guest.wasm"), "elsewhere/guest.wasm");
        folder.write("elsewhere/next.yaml", yaml);
    };
    let check = |json: bool| {
        let mut arguments = vec!["check", "-c", "elsewhere/next.yaml", "--against", &admin];
        arguments.extend(json.then_some("--json"));
        tamis(&proxy, &arguments)
    };
    elsewhere(&yaml("", ""));
    let (code, printed, errors) = check(false);
    assert_eq!(code, Some(0), "{printed}{errors}");
    assert!(
        printed.contains("against generation 1, which is live and stays so"),
        "{printed}"
    );
    assert!(printed.contains("nothing is different"), "{printed}");
    assert!(
        printed.contains("not compared, because secrets are never shown: settings of filter mark"),
        "{printed}"
    );
    elsewhere(&yaml("drain_timeout: 3s", "clock"));
    let (code, printed, _) = check(true);
    assert_eq!(code, Some(0));
    let comparison: Value = serde_json::from_str(&printed).expect("JSON alone");
    assert_eq!(comparison["difference"]["settings"][0]["key"], "drain_timeout");
    assert_eq!(
        comparison["difference"]["permissions"][0]["grants"]["added"],
        json!(["clock"])
    );
    // A number of threads cannot change; admin and the like neither.
    elsewhere(&yaml("drain_timeout: 3s", "").replace("workers: 1", "workers: 3"));
    let (code, printed, errors) = check(false);
    assert_eq!(code, Some(1), "{printed}{errors}");
    let refusal = "A RELOAD WOULD BE REFUSED: workers: cannot change from 1 to 3 while the process runs";
    assert!(printed.contains(refusal), "{printed}");
    assert_eq!(proxy.generation(), 1);
    assert_eq!(
        proxy.metrics().sum("tamis_reloads_total", &[]),
        0.0,
        "nothing was asked of it"
    );
}

/// A candidate that lies elsewhere is the same candidate, as a filter is the same filter.
#[test]
fn a_component_that_lies_elsewhere_is_no_difference() {
    let folder = Folder::new();
    folder.write("stable.wasm", Guest::new().on_request([]).build());
    folder.write("tried.wasm", Guest::new().on_response([]).build());
    for name in ["stable.wasm", "tried.wasm"] {
        folder.copy(&folder.path(name), &format!("elsewhere/{name}"));
    }
    let upstream = Upstream::saying("ok");
    let yaml = Configuration {
        top: "filters:\n  guest: { component: stable.wasm, candidate: { component: tried.wasm } }",
        ..Default::default()
    }
    .to(&upstream);
    let proxy = Proxy::start_in(&folder, &yaml);
    let admin = proxy.admin_address().to_string();
    folder.write("elsewhere/next.yaml", yaml);
    let check = || {
        tamis(
            &proxy,
            &["check", "-c", "elsewhere/next.yaml", "--against", &admin, "--json"],
        )
    };
    let (code, printed, errors) = check();
    assert_eq!(code, Some(0), "{printed}{errors}");
    let comparison: Value = serde_json::from_str(&printed).expect("JSON alone");
    let filters = &comparison["difference"]["filters"];
    assert_eq!(
        (&filters["changed"], &filters["unchanged"]),
        (&json!([]), &json!(1)),
        "{printed}"
    );
    // Another one at the same place is one.
    folder.write("elsewhere/tried.wasm", Guest::new().on_completion([]).build());
    let (_, printed, errors) = check();
    assert!(printed.contains("component.sha256"), "{printed}{errors}");
}

/// What cannot change is refused with the reason, together with nothing else.
#[test]
fn what_cannot_change_is_refused_with_its_reason() {
    let upstream = Upstream::saying("ok");
    let yaml = Configuration::default().to(&upstream);
    let proxy = Proxy::start(&yaml);
    for (from, to, sentence) in [
        (
            "workers: 1",
            "workers: 2",
            "workers: cannot change from 1 to 2 while the process runs, because its threads",
        ),
        (
            "127.0.0.1:0 }\n",
            "127.0.0.1:1 }\n",
            "admin.address: cannot change from 127.0.0.1:0 to 127.0.0.1:1",
        ),
        (
            "workers: 1",
            "workers: 1\nwasm: { max_instances: 7 }",
            "wasm.max_instances: cannot change from 1000 to 7",
        ),
    ] {
        let (status, report) = proxy.reload(&yaml.replacen(from, to, 1));
        assert_eq!(status, 422, "{report}");
        let error = report["errors"][0].to_string();
        assert!(error.contains(sentence), "{error}");
        assert!(error.contains("`tamis upgrade` (or SIGUSR2) changes it"), "{error}");
    }
    // The rest of the engine's settings is no reservation.
    let report = apply(
        &proxy,
        &yaml.replacen("workers: 1", "workers: 1\nwasm: { compile_timeout: 7s }", 1),
    );
    assert_eq!(
        report["difference"]["settings"][0]["key"],
        json!("wasm.compile_timeout")
    );
}

/// Fault 62: a new version that asks for more than the old one had is refused, in words, until that is granted.
#[test]
fn a_component_that_asks_for_more_is_refused_until_it_is_granted() {
    let folder = Folder::new();
    let upstream = Upstream::saying("ok");
    let yaml = |grants: &str| {
        let top = format!("filters:\n  guest: {{ component: guest.wasm, grants: [{grants}] }}");
        Configuration {
            top: &top,
            route: "filters: [guest]",
            ..Default::default()
        }
        .to(&upstream)
    };
    folder.write("guest.wasm", Guest::new().on_request([]).build());
    let proxy = Proxy::start_in(&folder, &yaml(""));
    folder.replace("guest.wasm", Guest::new().on_request([Clock, Count(1)]).build());
    let (status, report) = proxy.reload(&yaml("metrics"));
    assert_eq!(status, 422, "{report}");
    let error = report["errors"][0].as_str().expect("a text");
    for part in [
        "tamis.yaml:",
        "imports `tamis:filter/clock@0.1.0` without the grant; add `clock` to its `grants`",
        "this version asks for more than the one that runs (sha256 ",
        "`tamis:filter/clock@0.1.0`",
        "`tamis:filter/metrics@0.1.0`",
        "are new",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(proxy.get("/").text(), "ok", "the old version serves");
    let report = apply(&proxy, &yaml("metrics, clock"));
    let permissions = &report["difference"]["permissions"][0];
    assert_eq!(permissions["filter"], "guest");
    let mut imports: Vec<_> = permissions["imports"]["added"].as_array().expect("a list").clone();
    imports.sort_by_key(Value::to_string);
    assert_eq!(imports, ["tamis:filter/clock@0.1.0", "tamis:filter/metrics@0.1.0"]);
    assert_eq!(permissions["grants"]["added"], json!(["metrics", "clock"]));
    let line = proxy.log().wait_message("a filter may do more than before");
    assert_eq!(line.field("filter"), "guest");
    assert_eq!(proxy.get("/").text(), "ok");
}
