//! Filters that do their work: the bundled components, the built-in ones, and the order in which a chain runs.

use tamis_integration::proxy::check;
use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;
use tamis_integration::{Client, Folder, Message, Proxy, Upstream};

use crate::support::{Configuration, assert_own_reply, each, folder_with};

/// SHA-256 of `test`.
const KEY_HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn get(client: &mut Client, target: &str, fields: &str) -> Message {
    client.exchange(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"))
}

#[test]
fn tenant_lets_known_tenants_pass() {
    let upstream = Upstream::saying("ok");
    let folder = folder_with(&["tenant"]);
    let top = "filters:\n  tenant: { component: tenant.wasm, config: { header: x-tenant, allow: [acme, globex] } }";
    let proxy = Proxy::start_in(
        &folder,
        &Configuration {
            top,
            route: "filters: [tenant]",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    let cases: &[(&str, u16)] = &[
        ("", 403),
        ("X-Tenant: acme\r\n", 200),
        ("x-tenant: globex\r\n", 200),
        ("X-Tenant: evil\r\n", 403),
        ("X-Tenant: acme\r\nX-Tenant: acme\r\n", 403),
        ("X-Tenant: acme, globex\r\n", 403),
        ("X-Tenant: \u{e9}\r\n", 403),
    ];
    for (fields, status) in cases {
        let response = get(&mut client, "/", fields);
        assert_eq!(response.status(), *status, "{fields}: {response:?}");
        if *status == 403 {
            assert_eq!(response.value("content-type"), Some("application/json"));
            assert!(response.text().starts_with("{\"error\":\""), "{}", response.text());
        }
    }
    let seen: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.values("x-tenant").join(","))
        .collect();
    assert_eq!(seen, ["acme", "globex"], "the refused reached nobody");
}

#[test]
fn api_key_checks_and_removes_the_key() {
    let upstream = Upstream::saying("ok");
    let folder = folder_with(&["api-key"]);
    let top = format!(
        "filters:\n  key: {{ component: api-key.wasm, config: {{ header: x-api-key, keys: [{{ name: ci, sha256: {KEY_HASH} }}] }} }}"
    );
    let proxy = Proxy::start_in(
        &folder,
        &Configuration {
            top: &top,
            route: "filters: [key]",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    for fields in ["", "X-Api-Key: wrong\r\n", "X-Api-Key: test\r\nX-Api-Key: test\r\n"] {
        let response = get(&mut client, "/", fields);
        assert_eq!(response.status(), 401, "{fields}");
        assert!(
            response
                .value("www-authenticate")
                .is_some_and(|value| value.starts_with("ApiKey")),
            "{response:?}"
        );
    }
    assert_eq!(get(&mut client, "/", "X-Api-Key: test\r\n").text(), "ok");
    let request = upstream.take_request("the one with a key");
    assert_eq!(
        request.values("x-api-key"),
        Vec::<&str>::new(),
        "the key goes no further"
    );
    let shown = proxy.admin("GET", "/config").text();
    assert!(shown.contains("api-key.wasm"), "{shown}");
}

#[test]
fn rewrite_changes_path_and_fields() {
    let upstream = Upstream::repeating("HTTP/1.1 200 OK\r\nServer: other\r\nContent-Length: 2\r\n\r\nok");
    let folder = folder_with(&["rewrite"]);
    let top = r#"
filters:
  rewrite:
    component: rewrite.wasm
    config:
      path:
        - { exact: /health, replace: /internal/health }
        - { prefix: /v1, replace: /api/v1 }
      request_headers: { set: { x-edge: "1" }, append: { x-many: b }, remove: [x-debug] }
      response_headers: { remove: [server], set: { x-out: "2" } }
"#;
    let proxy = Proxy::start_in(
        &folder,
        &Configuration {
            top,
            route: "filters: [rewrite]",
            ..Default::default()
        }
        .to(&upstream),
    );
    let mut client = proxy.client();
    for (target, expected) in [
        ("/health?deep=1", "/internal/health?deep=1"),
        ("/v1", "/api/v1"),
        ("/v1/x", "/api/v1/x"),
        ("/v10", "/v10"),
        ("/x/../v1/x", "/api/v1/x"),
    ] {
        let response = get(&mut client, target, "X-Debug: 1\r\nX-Many: a\r\n");
        if response.status() == 400 {
            continue;
        }
        assert_eq!(
            (response.values("server"), response.value("x-out")),
            (vec![], Some("2")),
            "{target}"
        );
        let request = upstream.take_request(target);
        assert_eq!(request.target(), expected);
        assert_eq!(
            (request.value("x-edge"), request.values("x-debug")),
            (Some("1"), vec![]),
            "{target}"
        );
        assert_eq!(request.values("x-many"), ["a", "b"], "{target}");
    }
}

#[test]
fn one_component_with_two_configurations() {
    let upstream = Upstream::saying("ok");
    let folder = folder_with(&["tenant"]);
    let top = "filters:\n  tenant: { component: tenant.wasm, config: { header: x-tenant, allow: [acme] } }";
    let routes = "  - name: other\n    match: { path: { prefix: /other } }\n    cluster: app\n    filters: [{ filter: tenant, config: { header: x-other, allow: [initech] } }]";
    let configuration = Configuration {
        top,
        routes,
        route: "filters: [tenant]",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let mut client = proxy.client();
    for _ in 0..3 {
        for (target, fields, status) in [
            ("/", "X-Tenant: acme\r\n", 200),
            ("/", "X-Other: initech\r\n", 403),
            ("/other", "X-Tenant: acme\r\n", 403),
            ("/other", "X-Other: initech\r\n", 200),
        ] {
            assert_eq!(get(&mut client, target, fields).status(), status, "{target} {fields}");
        }
    }
}

#[test]
fn refused_configurations_of_bundled_filters() {
    let cases = [
        ("tenant", "{ header: x-tenant, allow: [] }", "allow: names no tenant"),
        ("tenant", "{ header: connection, allow: [a] }", "header `connection`"),
        (
            "api-key",
            "{ header: x-key, keys: [{ name: ci, sha256: abc }] }",
            "64 hexadecimal digits",
        ),
        ("rewrite", "{ paths: [] }", "unknown field `paths`"),
    ];
    each(
        cases,
        |case| format!("{} {}", case.0, case.1),
        |(name, config, said)| {
            let folder = folder_with(&[name]);
            let yaml = |given: &str, used: &str| {
                format!(
                    "listeners:\n  web: {{ address: 127.0.0.1:0 }}\nfilters:\n  f: {{ component: {name}.wasm{given} }}\n\
                     routes:\n  - {{ filters: [{used}], respond: {{ status: 200 }} }}\n"
                )
            };
            for text in [
                yaml(&format!(", config: {config}"), "f"),
                yaml("", &format!("{{ filter: f, config: {config} }}")),
            ] {
                let (code, printed) = check(&folder, &text);
                assert_eq!(code, 1, "{printed}");
                assert!(printed.contains(said) && printed.contains("tamis.yaml:"), "{printed}");
            }
        },
    );
}

#[test]
fn native_headers_edit_both_directions() {
    let upstream = Upstream::repeating("HTTP/1.1 200 OK\r\nX-Old: 1\r\nX-Many: a\r\nContent-Length: 2\r\n\r\nok");
    let top = r#"
filters:
  edit:
    native: headers
    config:
      request: { set: { x-set: "1" }, append: { x-many: b }, remove: [x-gone] }
      response: { set: { x-set: "2" }, append: { x-many: b }, remove: [x-old] }
"#;
    let proxy = Proxy::start(
        &Configuration {
            top,
            route: "filters: [edit]",
            ..Default::default()
        }
        .to(&upstream),
    );
    let response = get(&mut proxy.client(), "/", "X-Set: 0\r\nX-Many: a\r\nX-Gone: 1\r\n");
    assert_eq!(
        (
            response.values("x-set"),
            response.values("x-many"),
            response.values("x-old")
        ),
        (vec!["2"], vec!["a", "b"], vec![])
    );
    let request = upstream.take_request("edited");
    assert_eq!(
        (
            request.values("x-set"),
            request.values("x-many"),
            request.values("x-gone")
        ),
        (vec!["1"], vec!["a", "b"], vec![])
    );
}

#[test]
fn native_filters_that_cannot_be_loaded() {
    each(
        [
            ("native: teleport", "teleport"),
            (
                "native: headers, config: { request: { set: { content-length: \"1\" } } }",
                "content-length",
            ),
            ("native: headers, config: { answer: {} }", "answer"),
            ("native: headers, grants: [clock]", "grants"),
            ("native: request-id, config: { header: \"bad name\" }", "bad name"),
        ],
        |case| case.0.to_owned(),
        |(settings, said)| {
            let yaml = format!(
                "listeners:\n  web: {{ address: 127.0.0.1:0 }}\nfilters:\n  f: {{ {settings} }}\n\
                 routes:\n  - {{ filters: [f], respond: {{ status: 200 }} }}\n"
            );
            let (code, printed) = check(&Folder::new(), &yaml);
            assert_eq!(code, 1, "{printed}");
            assert!(printed.contains(said) && printed.contains("`f`"), "{printed}");
            assert!(printed.contains("tamis.yaml:4:"), "{printed}");
        },
    );
}

#[test]
fn native_request_id() {
    let upstream = Upstream::saying("ok");
    let top = "filters:\n  plain: { native: request-id }\n  trusting: { native: request-id, config: { trust_client: true } }\n  \
               renamed: { native: request-id, config: { header: x-trace } }";
    let routes = "  - { match: { path: { prefix: /trusting } }, filters: [trusting], cluster: app }\n  \
                  - { match: { path: { prefix: /renamed } }, filters: [renamed], cluster: app }";
    let configuration = Configuration {
        top,
        routes,
        route: "filters: [plain]",
        ..Default::default()
    };
    let proxy = Proxy::start(&configuration.to(&upstream));
    let mut client = proxy.client();
    for (target, field, given, kept) in [
        ("/", "x-request-id", "abc-1", false),
        ("/trusting", "x-request-id", "abc-1", true),
        ("/trusting", "x-request-id", "not believable", false),
        ("/renamed", "x-trace", "abc-1", false),
    ] {
        let response = get(&mut client, target, &format!("X-Request-Id: {given}\r\n"));
        let request = upstream.take_request(target);
        let (sent, returned) = (request.value(field), response.value(field));
        assert_eq!(sent, returned, "{target}: upstream and client see the same id");
        assert_eq!(sent == Some(given), kept, "{target} {given}: {sent:?}");
        assert!(sent.is_some_and(|id| kept || id.len() == 32), "{target}: {sent:?}");
        assert_eq!(
            request.values("x-request-id").len(),
            usize::from(field == "x-request-id"),
            "{target}"
        );
    }
}

/// Request hooks run forward, listener first; response hooks run in reverse, also for replies made on the way.
#[test]
fn chains_run_forward_and_in_reverse() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let mark = |name: &'static str| {
        format!(
            "  {name}: {{ native: headers, config: {{ request: {{ append: {{ x-in: {name} }} }}, response: {{ append: {{ x-out: {name} }} }} }} }}\n"
        )
    };
    folder.write(
        "refuse.wasm",
        Guest::new()
            .on_request([Reply(403, vec![], "no")])
            .on_response([SetResponseHeader("x-own", b"1".to_vec())])
            .build(),
    );
    folder.write(
        "fail.wasm",
        Guest::new()
            .on_request([Trap])
            .on_response([SetResponseHeader("x-own", b"1".to_vec())])
            .build(),
    );
    folder.write("pass.wasm", Guest::new().on_request([]).on_response([]).build());
    let top = format!(
        "filters:\n{}{}{}{}  refuse: {{ component: refuse.wasm }}\n  fail: {{ component: fail.wasm }}\n  pass: {{ component: pass.wasm }}\n",
        mark("one"),
        mark("two"),
        mark("three"),
        mark("four")
    );
    let routes = r#"
  - { name: refuse, match: { path: { exact: /refuse } }, filters: [two, refuse, three], cluster: app }
  - { name: fail, match: { path: { exact: /fail } }, filters: [two, fail, three], cluster: app }
  - { name: respond, match: { path: { exact: /respond } }, filters: [two], respond: { status: 200, body: fixed } }
  - { name: redirect, match: { path: { exact: /redirect } }, filters: [two], redirect: { path: /x } }
"#;
    let configuration = Configuration {
        top: &top,
        routes,
        listener_filters: "one",
        route: "filters: [two, pass, three, pass, four]",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let mut client = proxy.client();
    for (target, status, out) in [
        ("/", 200, vec!["four", "three", "two", "one"]),
        ("/respond", 200, vec!["two", "one"]),
        ("/redirect", 302, vec!["two", "one"]),
        ("/refuse", 403, vec!["two", "one"]),
        ("/fail", 500, vec!["two", "one"]),
    ] {
        let response = client.get(target);
        assert_eq!(
            (response.status(), response.values("x-out")),
            (status, out),
            "{target}: {response:?}"
        );
        // The filter that replied has run its request half and sees its own reply; the one that failed has not.
        assert_eq!(
            response.values("x-own").len(),
            usize::from(target == "/refuse"),
            "{target}: {response:?}"
        );
    }
    assert_eq!(
        upstream.take_request("/").values("x-in"),
        ["one", "two", "three", "four"]
    );
}

/// Response filters see what the proxy answers for a broken upstream too.
#[test]
fn response_filters_run_for_own_replies() {
    let upstream = Upstream::repeating("garbage\r\n\r\n");
    let top = "filters:\n  mark: { native: headers, config: { response: { set: { x-out: \"1\" } } } }";
    let proxy = Proxy::start(
        &Configuration {
            top,
            route: "filters: [mark]",
            ..Default::default()
        }
        .to(&upstream),
    );
    let response = proxy.get("/");
    assert_own_reply(&response, 502, "garbage");
    assert_eq!(response.value("x-out"), Some("1"));
}

/// A listener's chain runs on every exchange, also when no route matches.
#[test]
fn listener_chains_cover_unmatched_routes() {
    let folder = folder_with(&["tenant"]);
    let yaml = "\
workers: 1
admin: { address: 127.0.0.1:0 }
listeners:
  web:
    address: 127.0.0.1:0
    filters: [mark, tenant]
filters:
  mark: { native: headers, config: { response: { set: { x-out: \"1\" } } } }
  tenant: { component: tenant.wasm, config: { header: x-tenant, allow: [acme] } }
routes:
  - { name: only, match: { path: { exact: /only } }, respond: { status: 200 } }
";
    let proxy = Proxy::start_in(&folder, yaml);
    let mut client = proxy.client();
    for (target, fields, status) in [
        ("/only", "X-Tenant: acme\r\n", 200),
        ("/only", "", 403),
        ("/other", "X-Tenant: acme\r\n", 404),
        ("/other", "", 403),
    ] {
        let response = get(&mut client, target, fields);
        assert_eq!(
            (response.status(), response.value("x-out")),
            (status, Some("1")),
            "{target} {fields}"
        );
    }
}

/// A guest sees a request as it will be sent, changes it, and the upstream gets just that.
#[test]
fn guests_change_requests_and_responses() {
    let upstream = Upstream::saying("ok");
    let folder = Folder::new();
    let guest = Guest::new()
        .on_request([
            SetMethod("PUT"),
            SetAuthority("b.example:81"),
            SetPath("/b/../c".into()),
            SetQuery("d=e"),
            SetRequestHeader("X-A", b"\xe9".to_vec()),
            AppendRequestHeader("x-a", b"2".to_vec()),
            RemoveRequestHeader("x-gone"),
        ])
        .on_response([SetStatus(202), SetResponseHeader("x-b", b"\xff".to_vec())]);
    folder.write("guest.wasm", guest.build());
    let top = "filters:\n  guest: { component: guest.wasm }";
    let proxy = Proxy::start_in(
        &folder,
        &Configuration {
            top,
            route: "filters: [guest]",
            ..Default::default()
        }
        .to(&upstream),
    );
    let response = get(&mut proxy.client(), "/a?x=y", "X-Gone: 1\r\n");
    assert_eq!(
        (response.status(), response.value("x-b"), response.text().as_str()),
        (202, Some("\u{ff}"), "ok")
    );
    let request = upstream.take_request("changed");
    assert_eq!(
        (request.method(), request.target(), request.value("host")),
        ("PUT", "/c?d=e", Some("b.example:81"))
    );
    assert_eq!(
        (request.values("x-a"), request.values("x-gone")),
        (vec!["\u{e9}", "2"], vec![])
    );
}

/// Instances are replaced as their count says, and no request notices.
#[test]
fn instances_are_replaced_without_a_trace() {
    let upstream = Upstream::saying("ok");
    let folder = folder_with(&["tenant", "touch"]);
    let top = "\
filters:
  once: { component: touch.wasm, instance_reuse: 1 }
  often: { component: tenant.wasm, instance_reuse: 7, config: { header: x-tenant, allow: [acme] } }
";
    let configuration = Configuration {
        top,
        route: "filters: [once, often, once]",
        ..Default::default()
    };
    let proxy = Proxy::start_in(&folder, &configuration.to(&upstream));
    let mut client = proxy.client();
    for n in 0..500 {
        assert_eq!(get(&mut client, "/", "X-Tenant: acme\r\n").status(), 200, "request {n}");
    }
    let requests = upstream.take_requests();
    assert_eq!(requests.len(), 500);
    assert!(requests.iter().all(|request| request.values("x-filter") == ["1"]));
}
