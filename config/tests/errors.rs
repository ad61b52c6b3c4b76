//! What a person reads who wrote something wrong: every fault at once, each with place, key and fix.

use std::path::Path;

use tamis_config::{Config, Environment, Errors};

/// Nothing is set and no file exists.
struct Nothing;

impl Environment for Nothing {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        Ok(match name {
            "ZERO" => Some("0".to_owned()),
            "BRACES" => Some("}: [{ x: &y".to_owned()),
            _ => None,
        })
    }

    fn read(&self, _: &Path, _: u64) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

fn parse(text: &str) -> Result<Config, Errors> {
    tamis_config::parse(text, Path::new("tamis.yaml"), &Nothing)
}

fn lines(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn faults_of_all_kinds_are_reported_together() {
    let text = "\
workers: many
listeners:
  web:
    addres: 127.0.0.1:8080
  tls:
    address: localhost:443
    limits: { head_timeout: 10 }
filters:
  tenant: { component: t.wasm, native: cors, limits: { memory: 16MB } }
clusters:
  app:
    endpoints: []
    load_balancing: least_requests
routes:
  - name: api
    match: { path: { prefix: v1 }, methods: [get] }
    filters: [tenent]
    cluster: ap
  - cluster: app
    timeout: 25h
";
    let expected = [
        "tamis.yaml:1:10: workers: expected a whole number, found text",
        "tamis.yaml:4:5: listener `web`: unknown field `addres`; did you mean `address`?",
        "tamis.yaml:6:14: listener `tls`: address: `localhost:443` has a host name, and an IP address is meant; \
         write an IP address and port as in `127.0.0.1:443`",
        "tamis.yaml:7:29: listener `tls`: limits.head_timeout: a duration needs a unit; write `10s` for seconds",
        "tamis.yaml:9:11: filter `tenant`: `component` and `native` exclude each other; \
         keep exactly one of `component`, `native`",
        "tamis.yaml:9:64: filter `tenant`: limits.memory: `16MB` is not a size; \
         write a whole number and `B`, `KiB`, `MiB` or `GiB`, as in `16MiB`",
        "tamis.yaml:12:16: cluster `app`: endpoints: empty, so no request could be answered; add an endpoint",
        "tamis.yaml:13:21: cluster `app`: load_balancing: `least_requests` is not known; did you mean `least_request`?",
        "tamis.yaml:16:30: route `api`: match.path.prefix: `v1` does not start with `/`; add it",
        "tamis.yaml:16:46: route `api`: match.methods: methods are compared exactly and are in upper case; write `GET`",
        "tamis.yaml:17:15: route `api`: filters: there is no filter `tenent`; did you mean `tenant`?",
        "tamis.yaml:18:14: route `api`: cluster: there is no cluster `ap`; did you mean `app`?",
        "tamis.yaml:20:14: route `route-2`: timeout: 25h is out of bounds; choose `1ms` to `24h`",
    ];
    assert_eq!(lines(text), expected);
}

#[test]
fn an_empty_configuration_says_what_to_add() {
    for text in ["", "# nothing\n", "{}", "~"] {
        let lines = lines(text);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with("missing field `listeners`; add it"), "{lines:?}");
        assert!(lines[1].ends_with("missing field `routes`; add it"), "{lines:?}");
    }
    let lines = lines("listeners: {}\nroutes: []\n");
    assert_eq!(
        lines,
        [
            "tamis.yaml:1:12: listeners: empty, so no client could connect; add a listener",
            "tamis.yaml:2:9: routes: empty, so every request would fail; add a route",
        ]
    );
}

/// The rest of a sound configuration, around one fault.
const LISTENERS: &str = "listeners: { web: { address: 127.0.0.1:0 } }\n";
const CLUSTERS: &str = "clusters: { app: { endpoints: [127.0.0.1:9000] }, other: { endpoints: [127.0.0.1:9001] } }\n";
const ROUTES: &str = "routes: [{ cluster: app }]\n";

/// Exactly one error, which contains the text; so a fault has no echo.
#[track_caller]
fn one_error(text: &str, part: &str) {
    let lines = lines(text);
    assert_eq!(lines.len(), 1, "{text}: {lines:#?}");
    assert!(lines[0].contains(part), "{text}\nexpected {part}\ngot {}", lines[0]);
    assert!(lines[0].starts_with("tamis.yaml:"), "{}", lines[0]);
}

#[test]
fn routes_are_checked() {
    for (route, part) in [
        (
            "{}",
            "exactly one of `cluster`, `clusters`, `redirect`, `respond` is needed",
        ),
        ("[]", "expected a map, found a list"),
        (
            "{ cluster: app, respond: { status: 200 } }",
            "`cluster` and `respond` exclude each other",
        ),
        ("{ cluster: nginx }", "there is no cluster `nginx`; known here: "),
        (
            "{ cluster: 5 }",
            "expected text (in quotes, because it looks like something else), found the number 5",
        ),
        ("{ cluster: app, name: 'a b' }", "`a b` is not a name"),
        ("{ cluster: app, name: '' }", "`` is not a name"),
        (
            "{ cluster: app, filters: [x] }",
            "there is no filter `x`; add it under `filters`",
        ),
        (
            "{ cluster: app, filters: x }",
            "filters: expected a list, found text; write it in brackets, as in `[one, two]`",
        ),
        (
            "{ cluster: app, filters: { filter: x } }",
            "filters: expected a list, found a map; begin each item with `- `",
        ),
        ("{ cluster: app, timeout: 0s }", "timeout: 0s is out of bounds"),
        ("{ cluster: app, timeout: false }", "to switch it off write `off`"),
        ("{ cluster: app, timeout: 99999999999999999999s }", "is not a duration"),
        ("{ clusters: [] }", "clusters: no weight above 0"),
        (
            "{ clusters: [{ name: app, weight: 0 }] }",
            "clusters: no weight above 0",
        ),
        ("{ clusters: [{ name: app }] }", "clusters[0]: missing field `weight`"),
        (
            "{ clusters: [{ name: app, weight: -1 }] }",
            "clusters[0].weight: -1 is not a whole number",
        ),
        (
            "{ clusters: [{ name: app, weight: 1001 }] }",
            "clusters[0].weight: 1001 is out of bounds; choose 0 to 1000",
        ),
        (
            "{ clusters: [{ name: app, weight: 1 }, { name: app, weight: 1 }] }",
            "stands here twice",
        ),
        (
            "{ redirect: {} }",
            "redirect: at least one of `scheme`, `host`, `port`, `path` is needed",
        ),
        (
            "{ redirect: { path: /x, status: 304 } }",
            "redirect.status: 304 does not redirect",
        ),
        (
            "{ redirect: { path: /x, status: 200 } }",
            "redirect.status: 200 is out of bounds",
        ),
        ("{ redirect: { path: //evil.example } }", "redirect.path: not a path"),
        ("{ redirect: { path: 'x' } }", "redirect.path: not a path"),
        (
            "{ redirect: { path: \"/a\\r\\nset-cookie: b\" } }",
            "redirect.path: not a path",
        ),
        ("{ redirect: { scheme: ftp } }", "redirect.scheme: `ftp` is not known"),
        (
            "{ redirect: { host: 'a.example:80' } }",
            "redirect.host: `a.example:80` has a port",
        ),
        ("{ redirect: { port: 0 } }", "redirect.port: 0 is out of bounds"),
        ("{ respond: {} }", "respond: missing field `status`"),
        (
            "{ respond: { status: 101 } }",
            "respond.status: 101 is out of bounds; choose 200 to 599",
        ),
        (
            "{ respond: { status: 204, body: x } }",
            "respond.body: a 204 response has no body",
        ),
        (
            "{ respond: { status: 200, headers: { content-length: '5' } } }",
            "`content-length` is set by the proxy",
        ),
        (
            "{ respond: { status: 200, headers: { 'a b': c } } }",
            "`a b` is not a header name",
        ),
        (
            "{ respond: { status: 200, headers: { a: \"b\\r\\nc: d\" } } }",
            "headers.a: not a header value",
        ),
        (
            "{ respond: { status: 200, headers: { A: b, a: c } } }",
            "`a` stands here twice",
        ),
        (
            "{ cluster: app, match: { hosts: [] } }",
            "match.hosts: empty, which would match nothing",
        ),
        (
            "{ cluster: app, match: { hosts: ['*'] } }",
            "match.hosts: `*` would match every host",
        ),
        (
            "{ cluster: app, match: { methods: ['G ET'] } }",
            "match.methods: `G ET` is not a method",
        ),
        (
            "{ cluster: app, match: { path: /x } }",
            "match.path: expected a map, found text",
        ),
        (
            "{ cluster: app, match: { path: {} } }",
            "match.path: exactly one of `exact`, `prefix`, `regex` is needed",
        ),
        (
            "{ cluster: app, match: { path: { exact: /a//b } } }",
            "match.path.exact: `//` never occurs",
        ),
        (
            "{ cluster: app, match: { path: { regex: '(' } } }",
            "match.path.regex: not a regular expression: unclosed group",
        ),
        (
            "{ cluster: app, match: { headers: { 'a:': b } } }",
            "match.headers: `a:` is not a header name",
        ),
        (
            "{ cluster: app, match: { headers: { a: ' b' } } }",
            "match.headers: not a header value",
        ),
        (
            "{ cluster: app, match: { headers: { a: { present: false } } } }",
            "headers.a.present: expected `true`",
        ),
        (
            "{ cluster: app, match: { query: { a: { regex: '[' } } } }",
            "match.query.a.regex: not a regular expression",
        ),
        (
            "{ respond: { status: 200 }, rewrite: { host: a } }",
            "rewrite: this route sends nothing to a cluster; remove it",
        ),
        (
            "{ respond: { status: 200 }, request_headers: { remove: [a] } }",
            "request_headers: this route sends nothing to a cluster; remove it",
        ),
        (
            "{ cluster: app, rewrite: {} }",
            "rewrite: at least one of `path`, `host` is needed",
        ),
        (
            "{ cluster: app, rewrite: { path: { prefix: /a } } }",
            "rewrite.path.prefix: the route matches no prefix that it could replace",
        ),
        (
            "{ cluster: app, match: { path: { prefix: /a } }, rewrite: { path: { prefix: /a/../b } } }",
            "rewrite.path.prefix: `.` and `..` segments never occur",
        ),
        (
            "{ cluster: app, rewrite: { path: { regex: /a } } }",
            "rewrite.path: exactly one of `prefix`, `to` is needed",
        ),
        (
            "{ cluster: app, rewrite: { path: { to: a } } }",
            "rewrite.path.to: `a` does not start with `/`; add it",
        ),
        (
            "{ cluster: app, rewrite: { path: { to: '/a?b' } } }",
            "rewrite.path.to: `?` cannot stand in a path",
        ),
        (
            "{ cluster: app, rewrite: { path: { to: '/{1}' } } }",
            "rewrite.path.to: `{1}` is no group, because there is no `regex`",
        ),
        (
            "{ cluster: app, rewrite: { path: { regex: '/(.*)', to: '/{2}' } } }",
            "rewrite.path.to: `regex` has no group `2`",
        ),
        (
            "{ cluster: app, rewrite: { path: { regex: '/(.*)', to: '/{1' } } }",
            "rewrite.path.to: a brace without its partner",
        ),
        (
            "{ cluster: app, rewrite: { host: 'http://a' } }",
            "rewrite.host: `http://a` has no port behind its colon",
        ),
        (
            "{ cluster: app, rewrite: { host: 'a:0' } }",
            "rewrite.host: `a:0` has no port behind its colon",
        ),
        (
            "{ cluster: app, rewrite: { host: 'a b' } }",
            "rewrite.host: `a b` is not a host name",
        ),
        (
            "{ cluster: app, request_headers: { set: { host: a } } }",
            "request_headers.set: `host` is no field to edit; use `rewrite.host`",
        ),
        (
            "{ cluster: app, request_headers: { remove: [Connection] } }",
            "request_headers.remove: `connection` is set by the proxy; remove it",
        ),
        (
            "{ cluster: app, response_headers: { append: { a: \"b\\r\\nc\" } } }",
            "response_headers.append.a: not a header value",
        ),
        (
            "{ cluster: app, response_headers: {} }",
            "response_headers: at least one of `remove`, `set`, `append` is needed",
        ),
        (
            "{ respond: { status: 200 }, mirror: { cluster: app } }",
            "mirror: this route sends nothing to a cluster; remove it",
        ),
        (
            "{ cluster: app, mirror: { cluster: ap } }",
            "mirror.cluster: there is no cluster `ap`; did you mean `app`?",
        ),
        (
            "{ cluster: app, mirror: { cluster: app, percent: 0% } }",
            "mirror.percent: 0% is out of bounds",
        ),
        (
            "{ cluster: app, mirror: {} }",
            "mirror: missing field `cluster`; add it",
        ),
        (
            "{ respond: { status: 200 }, retry: {} }",
            "retry: this route sends nothing to a cluster; remove it",
        ),
        (
            "{ cluster: app, retry: { on: [] } }",
            "retry.on: empty, so nothing would be tried again",
        ),
        (
            "{ cluster: app, retry: { on: [5xx, 5xx] } }",
            "retry.on: stands here twice",
        ),
        (
            "{ cluster: app, retry: { on: [gatewayerror] } }",
            "`gatewayerror` is not known; did you mean `gateway_error`?",
        ),
        (
            "{ cluster: app, retry: { on: [200] } }",
            "200 is out of bounds; choose 400 to 599",
        ),
        (
            "{ cluster: app, retry: { attempts: 1 } }",
            "retry.attempts: 1 is out of bounds; choose 2 to 10",
        ),
        (
            "{ cluster: app, retry: { methods: [post] } }",
            "retry.methods: methods are compared exactly",
        ),
        (
            "{ cluster: app, retry: { per_try_timeout: 16s } }",
            "retry.per_try_timeout: longer than the route's `timeout` of 15s, which spans all tries",
        ),
        (
            "{ cluster: app, retry: { backoff: { base: 2s, max: 1s } } }",
            "retry.backoff.max: shorter than `base` of 2s",
        ),
        (
            "{ cluster: app, retry: { max_body: 17MiB } }",
            "retry.max_body: 17MiB is out of bounds",
        ),
        (
            "{ cluster: app, match: { query: { a: [b] } } }",
            "match.query.a: expected text, found a list",
        ),
    ] {
        one_error(&format!("{LISTENERS}{CLUSTERS}routes:\n  - {route}\n"), part);
    }
}

/// YAML takes text for an alias that begins with `*`, as other proxies write addresses and hosts.
#[test]
fn a_star_without_quotes_is_told_what_to_write() {
    for (text, expected) in [
        (
            "listeners: { web: { address: *:8080 } }\n",
            "tamis.yaml:1:30: not valid YAML: reference to unknown value; \
             for every address of the machine write `0.0.0.0:8080`",
        ),
        (
            "listeners:\n  é: { address: *:8080, x: y }\n",
            "tamis.yaml:2:17: not valid YAML: reference to unknown value; \
             for every address of the machine write `0.0.0.0:8080`",
        ),
        (
            "hosts: [*.example.com]\n",
            "tamis.yaml:1:9: not valid YAML: reference to unknown value; \
             no anchor `&.example.com` stands before it, and text that begins with `*` needs quotes: `'*.example.com'`",
        ),
        (
            "hosts: [*]\n",
            "tamis.yaml:1:9: not valid YAML: while scanning an anchor or alias, did not find expected alphabetic or \
             numeric character; text that begins with `*` needs quotes: `'*'`",
        ),
        (
            "a: &a [*a]\n",
            "tamis.yaml:1:8: not valid YAML: Recursive reference not allowed here",
        ),
    ] {
        assert_eq!(lines(text), [expected], "{text}");
    }
}

/// What is misspelt is not missing too; what is not near to it, is.
#[test]
fn a_misspelt_key_is_one_fault() {
    for (text, part) in [
        (
            format!("{LISTENERS}{CLUSTERS}route: [{{ cluster: app }}]\n"),
            "tamis.yaml:3:1: unknown field `route`; did you mean `routes`?",
        ),
        (
            format!("{LISTENERS}{CLUSTERS}routes: [{{ clustr: app }}]\n"),
            "route `route-1`: unknown field `clustr`; did you mean `cluster`?",
        ),
        (
            format!("{LISTENERS}{CLUSTERS}routes: [{{ cluster: app, rewrite: {{ pth: {{ to: /a }} }} }}]\n"),
            "rewrite: unknown field `pth`; did you mean `path`?",
        ),
        (
            format!("{LISTENERS}{CLUSTERS}routes: [{{ clusters: [{{ name: app, wieght: 1 }}] }}]\n"),
            "clusters[0]: unknown field `wieght`; did you mean `weight`?",
        ),
    ] {
        one_error(&text, part);
    }
    let text = format!("{LISTENERS}{CLUSTERS}routes: [{{ clusters: [{{ nam: app, x: 1 }}] }}]\n");
    let expected = [
        "tamis.yaml:3:23: route `route-1`: clusters[0]: missing field `weight`; add it",
        "tamis.yaml:3:25: route `route-1`: clusters[0]: unknown field `nam`; did you mean `name`?",
        "tamis.yaml:3:35: route `route-1`: clusters[0]: unknown field `x`; known here: `name`, `weight`",
    ];
    assert_eq!(lines(&text), expected);
}

/// Whoever puts a block's one value in place of the block is shown the block.
#[test]
fn what_is_no_map_is_shown_the_form() {
    let path = "match.path: expected a map, found text; write it as in `{ prefix: /api/ }` or `{ exact: /api/ }`";
    let log = "write it as in `{ file: access.log }` or `{ stdout: true }`";
    let tls = "tls: expected a map, found the boolean true; write it as in `{}` with all defaults or `{ ca: ca.crt }`";
    let redirect = "write it as in `{ scheme: https, host: a.example }` or `{ path: /new }`";
    for (written, found) in [
        (
            "listeners: { web: 127.0.0.1:0 }",
            "write it as in `{ address: 0.0.0.0:8080 }`",
        ),
        (
            "listeners: { web: { address: 127.0.0.1:0, tls: true } }",
            "listener `web`: tls: expected a map, found the boolean true; \
             write it as in `{ certificates: [{ cert: site.crt, key: site.key }] }`",
        ),
        (
            "listeners: { web: { address: 127.0.0.1:0, redirect: true } }",
            "redirect: expected the word `https`, found the boolean true",
        ),
        (
            "clusters: { app: { endpoints: 127.0.0.1:9000 } }",
            "endpoints: expected a list, found text; write it in brackets, as in `[one, two]`",
        ),
        (
            "admin: 127.0.0.1:9902",
            "admin: expected a map, found text; write it as in `{ address: 127.0.0.1:9901 }`",
        ),
        (
            "admin: true",
            "admin: expected a map, found the boolean true; write it as in `{ address: ",
        ),
        ("access_log: /x.log", log),
        ("access_log: true", log),
        ("access_log: [stdout]", log),
        (
            "filters: { f: x.wasm }",
            "write it as in `{ component: filter.wasm }` or `{ native: headers }`",
        ),
        (
            "filters: { f: { component: a, candidate: x.wasm } }",
            "candidate: expected a map, found text; write it as in `{ component: filter.wasm }`",
        ),
        (
            "filters: { f: { component: a, breaker: true } }",
            "breaker: expected a map, found the boolean true; \
             write it as in `{}` with all defaults or `{ failures: 5 }`",
        ),
        (
            "clusters: { app: 127.0.0.1:9000 }",
            "write it as in `{ endpoints: [127.0.0.1:9000] }`",
        ),
        ("clusters: { app: { endpoints: [127.0.0.1:9000], tls: true } }", tls),
        (
            "clusters: { app: { endpoints: [127.0.0.1:9000], health_check: /healthz } }",
            "write it as in `{ http: { path: /healthz } }` or `{ tcp: true }`",
        ),
        ("routes: [{ cluster: app, match: { path: /api/ } }]", path),
        (
            "routes: [{ cluster: app, match: /api/ }]",
            "write it as in `{ path: { prefix: /api/ } }`",
        ),
        (
            "routes: [{ cluster: app, retry: 3 }]",
            "write it as in `{}` with all defaults or `{ attempts: 3 }`",
        ),
        ("routes: [{ redirect: https://www.example.com }]", redirect),
        (
            "routes: [{ respond: 200 }]",
            "respond: expected a map, found the number 200; write it as in `{ status: 200 }`",
        ),
        // None of its keys is the usual one.
        ("overload: 5", "overload: expected a map, found the number 5"),
    ] {
        let rest = [LISTENERS, CLUSTERS, ROUTES].into_iter();
        let key = |line: &str| line.split_once(':').map(|(key, _)| key.to_owned());
        let rest: String = rest.filter(|line| key(line) != key(written)).collect();
        one_error(&format!("{written}\n{rest}"), found);
    }
}

#[test]
fn duplicate_route_names_are_refused_with_the_other_place() {
    let routes = "routes:\n  - { name: a, cluster: app }\n  - { name: route-3, cluster: app }\n  - { cluster: app }\n";
    one_error(
        &format!("{LISTENERS}{CLUSTERS}{routes}"),
        "tamis.yaml:6:5: route `route-3`: name: the route at tamis.yaml:5:13 has this name already",
    );
}

#[test]
fn filters_are_checked() {
    for (filter, part) in [
        ("{}", "filter `f`: exactly one of `component`, `native` is needed"),
        (
            "{ component: a, kind: middleware, instances: fresh, instance_reuse: 5 }",
            "filter `f`: instance_reuse: with `instances: fresh` each exchange has an instance of its own",
        ),
        (
            "{ component: a, kind: middleware, limits: { memory: 3GiB } }",
            "filter `f`: limits.memory: more than wasm.max_service_memory",
        ),
        ("{ native: 'a b' }", "native: `a b` is not a name"),
        ("{ component: '' }", "component: an empty path"),
        (
            "{ native: cors, limits: { cpu: 1ms } }",
            "limits: only components run in a sandbox",
        ),
        (
            "{ native: cors, instance_reuse: 1 }",
            "instance_reuse: only components run in a sandbox",
        ),
        (
            "{ native: cors, grants: [] }",
            "grants: only components run in a sandbox",
        ),
        (
            "{ native: cors, candidate: { config: 1 } }",
            "candidate: only components run in a sandbox",
        ),
        (
            "{ native: cors, breaker: off }",
            "breaker: only components run in a sandbox",
        ),
        (
            "{ native: cors, breaker: {} }",
            "breaker: only components run in a sandbox",
        ),
        ("{ native: cors, tick: 1s }", "tick: only components run in a sandbox"),
        (
            "{ component: a, instance_reuse: 0 }",
            "instance_reuse: 0 is out of bounds",
        ),
        (
            "{ component: a, on_failure: ignore }",
            "on_failure: `ignore` is not known; known here: `closed`, `open`",
        ),
        (
            "{ component: a, limits: { memory: 65MiB } }",
            "limits.memory: more than wasm.max_memory, 64MiB",
        ),
        (
            "{ component: a, limits: { memory: 1KiB } }",
            "limits.memory: 1KiB is out of bounds; choose 64KiB to 4GiB",
        ),
        (
            "{ component: a, limits: { instances: 1001 } }",
            "limits.instances: more than wasm.max_instances, 1000",
        ),
        (
            "{ component: a, limits: { cpu: 200ms } }",
            "limits.cpu: more than limits.wall, 100ms",
        ),
        (
            "{ component: a, limits: { cpus: 200ms } }",
            "limits: unknown field `cpus`; did you mean `cpu`?",
        ),
        (
            "{ component: a, limits: { table_elements: 32769 } }",
            "limits.table_elements: more than wasm.max_table_elements, 32768; lower it, or raise that",
        ),
        (
            "{ component: a, limits: { table_elements: 0 } }",
            "limits.table_elements: 0 is out of bounds; choose 1 to 1000000",
        ),
        (
            "{ component: a, limits: { cpu: 50ms, exchange_cpu: 40ms } }",
            "limits.cpu: more than limits.exchange_cpu, 40ms; lower it, or raise that",
        ),
        (
            "{ component: a, grants: [{ outbound: [app] }], limits: { cpu: 6s } }",
            "limits.cpu: more than limits.wall, 5s",
        ),
        (
            "{ component: a, limits: { exchange_cpu: 0s } }",
            "limits.exchange_cpu: 0s is out of bounds",
        ),
        (
            "{ component: a, limits: { wait: off } }",
            "limits.wait: `off` is not a duration",
        ),
        (
            "{ component: a, limits: { body_bytes: 2MiB, lifted_bytes: 1MiB } }",
            "limits.body_bytes: more than limits.lifted_bytes, 1MiB; lower it, or raise that",
        ),
        (
            "{ component: a, limits: { body_bytes: 2GiB } }",
            "limits.body_bytes: 2GiB is out of bounds; choose 0B to 1GiB",
        ),
        (
            "{ component: a, limits: { lifted_bytes: 1KiB } }",
            "limits.lifted_bytes: 1KiB is out of bounds; choose 64KiB to 1GiB",
        ),
        (
            "{ component: a, limits: { outbound_calls: 1001 } }",
            "limits.outbound_calls: 1001 is out of bounds; choose 0 to 1000",
        ),
        (
            "{ component: a, limits: { outbound_concurrent: 0 } }",
            "limits.outbound_concurrent: 0 is out of bounds; choose 1 to 100000",
        ),
        (
            "{ component: a, limits: { key_value_bytes: 3GiB } }",
            "limits.key_value_bytes: 3GiB is out of bounds; choose 64KiB to 2GiB",
        ),
        (
            "{ component: a, limits: { key_value_keys: 0 } }",
            "limits.key_value_keys: 0 is out of bounds; choose 1 to 10000000",
        ),
        (
            "{ component: a, tick: 99ms }",
            "tick: 99ms is too often; choose `100ms` to `24h`",
        ),
        ("{ component: a, tick: off }", "tick: `off` is not a duration"),
        (
            "{ component: a, config: { a: [b, '${NONE}'] } }",
            "config.a[1]: variable `NONE` is not set",
        ),
        ("{ component: a, config: { a: 'file:none' } }", "config.a: file none: "),
        (
            "{ component: a, config: { a: 'file:' } }",
            "config.a: `file:` without a path",
        ),
    ] {
        one_error(&format!("{LISTENERS}{CLUSTERS}{ROUTES}filters:\n  f: {filter}\n"), part);
    }
}

#[test]
fn grants_of_components_that_serve_are_checked() {
    for (grants, part) in [
        (
            "[config]",
            "grants[0]: `config` needs the values; write `config: { KEY: value }`",
        ),
        (
            "[dir]",
            "grants[0]: `dir` needs the folders; write `dir: { /data: PATH }`",
        ),
        (
            "[{ dir: { /data: '' } }]",
            "grants.dir./data: an empty path; write the path of a folder",
        ),
        (
            "[{ dir: { data: a } }]",
            "grants.dir: `data` is no plain absolute path; write it as the component is to find it, as in `/data`",
        ),
        (
            "[{ dir: { /data/: a } }]",
            "grants.dir: `/data/` is no plain absolute path",
        ),
        (
            "[{ dir: { /a/../b: a } }]",
            "grants.dir: `/a/../b` is no plain absolute path",
        ),
        ("[{ dir: { '': a } }]", "grants.dir: `` is no plain absolute path"),
        (
            "[{ dir: { /data: { path: a, write: true } } }]",
            "grants[0].dir./data: expected text, found a map",
        ),
        (
            "[key_value]",
            "grants[0]: `key_value` is not known; did you mean `keyvalue`?",
        ),
        (
            "[keyvalue, keyvalue]",
            "grants: `keyvalue` stands here twice; remove one",
        ),
        ("[{ config: [a] }]", "grants[0].config: expected a map, found a list"),
        (
            "[{ config: { port: 80 } }]",
            "grants[0].config.port: expected text (in quotes, because it looks like something else), found the number 80",
        ),
        (
            "[{ config: { token: file:nowhere } }]",
            "grants[0].config.token: file nowhere: entity not found",
        ),
        (
            "[{ env: { TOKEN: 'file:' } }]",
            "grants[0].env.TOKEN: `file:` without a path",
        ),
        (
            "[{ config: {} }, { config: {} }]",
            "grants: `config` stands here twice; remove one",
        ),
    ] {
        one_error(
            &format!("{LISTENERS}{ROUTES}clusters: {{ app: {{ component: a.wasm, grants: {grants} }} }}\n"),
            part,
        );
    }
}

#[test]
fn grants_are_checked() {
    for (grants, part) in [
        ("metrics", "grants: expected a list, found text"),
        ("[metric]", "grants[0]: `metric` is not known; did you mean `metrics`?"),
        (
            "[outbound]",
            "grants[0]: `outbound` needs to know where to; write `outbound: [CLUSTER]`",
        ),
        ("[5]", "grants[0]: expected one of the words `metrics`, `clock`,"),
        (
            "[{}]",
            "grants[0]: exactly one of `key_value`, `outbound`, `env`, `config`, `dir`, `http` is needed; add one",
        ),
        (
            "[{ key_value: sessions, outbound: [app] }]",
            "grants[0]: `key_value` and `outbound` exclude each other",
        ),
        ("[clock, clock]", "grants: `clock` stands here twice; remove one"),
        ("[key_value, { key_value: a }]", "grants: `key_value` stands here twice"),
        (
            "[{ outbound: [app] }, { outbound: [other] }]",
            "grants: `outbound` stands here twice",
        ),
        ("[{ key_value: 'a b' }]", "grants.key_value: `a b` is not a name"),
        ("[{ key_value: 5 }]", "grants[0].key_value: expected text"),
        ("[{ outbound: app }]", "grants[0].outbound: expected a list, found text"),
        (
            "[{ outbound: [app, othr] }]",
            "tamis.yaml:5:49: filter `f`: grants.outbound: there is no cluster `othr`; did you mean `other`?",
        ),
        (
            "[{ outbound: [app, other, app] }]",
            "grants.outbound: `app` stands here twice; remove one",
        ),
    ] {
        // A second is what only a filter with outbound calls may take; a fault in these has no echo there.
        let cpu = if grants.contains("outbound:") { "1s" } else { "1ms" };
        let filter = format!("f: {{ component: a, grants: {grants}, limits: {{ cpu: {cpu} }} }}");
        one_error(&format!("{LISTENERS}{CLUSTERS}{ROUTES}filters:\n  {filter}\n"), part);
    }
    let lines = lines(&format!(
        "{LISTENERS}{CLUSTERS}{ROUTES}filters: {{ f: {{ component: a, grants: [{{ outbond: [app] }}] }} }}\n"
    ));
    let expected = "tamis.yaml:4:42: filter `f`: grants[0]: unknown field `outbond`; did you mean `outbound`?";
    assert_eq!(lines, [expected]);
}

#[test]
fn filters_that_share_a_table_agree_on_its_size() {
    let filters = |limits: &str| {
        format!(
            "{LISTENERS}{CLUSTERS}{ROUTES}filters:\n  \
             a: {{ component: a, grants: [{{ key_value: t }}] }}\n  \
             own: {{ component: a, grants: [key_value], limits: {{ key_value_keys: 5 }} }}\n  \
             other: {{ component: a, grants: [{{ key_value: a }}], limits: {{ key_value_keys: 6 }} }}\n  \
             b: {{ component: a, grants: [{{ key_value: t }}], limits: {{ {limits} }} }}\n"
        )
    };
    for sound in ["", "key_value_bytes: 16MiB, key_value_keys: 100000"] {
        assert!(parse(&filters(sound)).is_ok(), "{sound}");
    }
    for limits in ["key_value_bytes: 1MiB", "key_value_keys: 1"] {
        one_error(
            &filters(limits),
            "tamis.yaml:8:3: filter `b`: limits: the table `t` is of another size in filter `a`; \
             give both the same `key_value_bytes` and `key_value_keys`",
        );
    }
}

#[test]
fn candidates_are_checked() {
    for (candidate, part) in [
        ("{}", "candidate: at least one of `component`, `config` is needed"),
        (
            "{ share: 5% }",
            "candidate: at least one of `component`, `config` is needed",
        ),
        ("v2.wasm", "candidate: expected a map, found text"),
        ("{ component: '' }", "candidate.component: an empty path"),
        (
            "{ component: b, share: 5 }",
            "candidate.share: a percentage needs its sign; write `5%`",
        ),
        (
            "{ component: b, share: 100% }",
            "candidate.share: 100% is out of bounds; choose 0.01% to 99%",
        ),
        (
            "{ component: b, share: 0.001% }",
            "candidate.share: `0.001%` is not a percentage",
        ),
        ("{ component: b, key: cookie }", "candidate.key: `cookie` is not known"),
        ("{ component: b, key: { header: a, cookie: b } }", "exclude each other"),
        ("{ component: b, key: { header: 'a b' } }", "candidate.key.header: "),
        (
            "{ component: b, window: 10 }",
            "candidate.window: a duration needs a unit",
        ),
        (
            "{ component: b, min_calls: 0 }",
            "candidate.min_calls: 0 is out of bounds",
        ),
        (
            "{ component: b, tolerate: { failures: -1% } }",
            "candidate.tolerate.failures: `-1%` is not a percentage",
        ),
        (
            "{ component: b, when_good: keep }",
            "candidate.when_good: `keep` is not known",
        ),
    ] {
        let filter = format!("f: {{ component: a, candidate: {candidate} }}");
        let text = format!(
            "listeners: {{ w: {{ address: 127.0.0.1:0 }} }}\nfilters: {{ {filter} }}\n\
             routes: [{{ respond: {{ status: 200 }} }}]\n"
        );
        let lines = lines(&text);
        assert!(lines.iter().any(|line| line.contains(part)), "{candidate}: {lines:?}");
    }
}

#[test]
fn a_candidate_and_a_chain_cannot_both_replace_a_configuration() {
    let text = "\
listeners: { w: { address: 127.0.0.1:0 } }
filters: { f: { component: a, candidate: { config: 1 } } }
routes: [{ filters: [{ filter: f, config: 2 }], respond: { status: 200 } }]
";
    let expected =
        ["tamis.yaml:3:32: filter `f` has a `config` here, and its `candidate` has another; keep one of them"];
    assert_eq!(lines(text), expected);
    let lines = text.replace("config: 1", "component: b");
    assert!(parse(&lines).is_ok());
}

#[test]
fn breakers_are_checked() {
    for (breaker, part) in [
        ("on", "breaker: expected a map, found text"),
        (
            "false",
            "breaker: found the boolean false; to switch it off write `off`",
        ),
        (
            "{ failure: 5 }",
            "breaker: unknown field `failure`; did you mean `failures`?",
        ),
        (
            "{ failures: 0 }",
            "breaker.failures: 0 is out of bounds; choose 1 to 1000",
        ),
        ("{ within: 10 }", "breaker.within: a duration needs a unit"),
        (
            "{ backoff: 10s, max_backoff: 5s }",
            "breaker.backoff: more than breaker.max_backoff, 5s; lower it, or raise that",
        ),
        ("{ max_backoff: 25h }", "breaker.max_backoff: 25h is out of bounds"),
    ] {
        let filter = format!("f: {{ component: a, breaker: {breaker} }}");
        one_error(&format!("{LISTENERS}{CLUSTERS}{ROUTES}filters:\n  {filter}\n"), part);
    }
}

#[test]
fn clusters_are_checked() {
    for (cluster, part) in [
        (
            "{}",
            "cluster `c`: exactly one of `endpoints`, `endpoints_file`, `component` is needed",
        ),
        (
            "{ endpoints: [exämple.com:80] }",
            "endpoints[0]: `exämple.com:80` is not an address",
        ),
        ("{ endpoints: [127.0.0.1.5:80] }", "`127.0.0.1.5:80` is not an address"),
        ("{ endpoints: ['app..example:80'] }", "is not an address"),
        ("{ endpoints: ['app.example:0'] }", "no server listens on port 0"),
        ("{ endpoints: [{ srv: 'a b' }] }", "srv: `a b` is not a host name"),
        (
            "{ endpoints: [{ srv: a.example, weight: 2 }] }",
            "endpoints[0].weight: SRV records have their own",
        ),
        (
            "{ endpoints: [127.0.0.1:1], hash_key: path }",
            "hash_key: `round_robin` has no key",
        ),
        (
            "{ endpoints: [127.0.0.1:1], load_balancing: maglev, hash_key: { header: 'a b' } }",
            "hash_key.header: ",
        ),
        (
            "{ endpoints: [127.0.0.1:1], load_balancing: ring_hash, slow_start: 5s }",
            "slow_start: with `ring_hash` keys would move",
        ),
        (
            "{ endpoints: [127.0.0.1:1], sticky: { cookie: 'a;b' } }",
            "sticky.cookie: ",
        ),
        (
            "{ endpoints: [127.0.0.1:1], sticky: { path: 'a' } }",
            "sticky.path: is not a path",
        ),
        (
            "{ endpoints: [127.0.0.1:1], sticky: { secret: short } }",
            "sticky.secret: shorter than 16 bytes",
        ),
        (
            "{ endpoints: [127.0.0.1:1], health_check: { tcp: true, interval: 1s, timeout: 2s } }",
            "health_check.timeout: more than health_check.interval, 1s",
        ),
        (
            "{ endpoints: [127.0.0.1:1], health_check: { http: { path: healthz } } }",
            "health_check.http.path: `healthz` is not a path",
        ),
        (
            "{ endpoints: [127.0.0.1:1], health_check: { http: { host: 'http://a' } } }",
            "health_check.http.host: ",
        ),
        (
            "{ endpoints: [127.0.0.1:1], outlier_ejection: { ejection_time: 1m, max_ejection_time: 30s } }",
            "outlier_ejection.ejection_time: more than outlier_ejection.max_ejection_time, 30s",
        ),
        ("{ endpoints: [9000] }", "endpoints[0]: expected an address"),
        (
            "{ endpoints: ['127.0.0.1'] }",
            "write an IP address or a host name, and a port, as in `127.0.0.1:8080`",
        ),
        ("{ endpoints: ['127.0.0.1:0'] }", "no server listens on port 0"),
        ("{ endpoints: ['unix:'] }", "`unix:` without a path"),
        (
            "{ endpoints: ['127.0.0.1:1', { address: 127.0.0.1:1 }] }",
            "127.0.0.1:1 stands here twice",
        ),
        (
            "{ endpoints: [{ address: 127.0.0.1:1, weight: 1001 }] }",
            "endpoints[0].weight: 1001 is out of bounds",
        ),
        (
            "{ endpoints: [127.0.0.1:1], read_timeout: 25h }",
            "read_timeout: 25h is out of bounds",
        ),
        (
            "{ endpoints: [127.0.0.1:1], protocol: h2 }",
            "protocol: `h2` is not known",
        ),
        (
            "{ endpoints: [127.0.0.1:1], protocol: http2, proxy_protocol: v1 }",
            "proxy_protocol: names one client, and a connection with `protocol: http2` carries the requests of many",
        ),
        (
            "{ endpoints: [127.0.0.1:1], http2: { max_streams: 5 } }",
            "http2: without effect; write `protocol: http2` or `auto` beside it",
        ),
        (
            "{ endpoints: [127.0.0.1:1], protocol: http2, http2: { max_streams: 0 } }",
            "http2.max_streams: 0 is out of bounds",
        ),
        (
            "{ endpoints: [127.0.0.1:1], tls: { alpn: [h2] } }",
            "tls.alpn: `h2` is offered with `protocol: http2` or `auto`",
        ),
        (
            "{ endpoints: [127.0.0.1:1], protocol: auto, tls: { alpn: [http/1.1] } }",
            "tls.alpn: the cluster's `protocol: auto` says what is offered",
        ),
        (
            "{ endpoints: [127.0.0.1:1], health_check: { grpc: {} } }",
            "health_check.grpc: gRPC needs HTTP/2; write `protocol: http2` in the cluster",
        ),
    ] {
        one_error(
            &format!("{LISTENERS}{ROUTES}clusters:\n  app: {{ endpoints: [127.0.0.1:9000] }}\n  c: {cluster}\n"),
            part,
        );
    }
}

#[test]
fn dns_is_checked() {
    for (dns, part) in [
        ("{ servers: [] }", "dns.servers: empty"),
        (
            "{ servers: ['unix:/dns'] }",
            "`unix:/dns` is not the address of a DNS server",
        ),
        ("{ servers: [127.0.0.1:0] }", "is not the address of a DNS server"),
        (
            "{ min_ttl: 10s, max_ttl: 5s }",
            "dns.min_ttl: more than dns.max_ttl, 5s",
        ),
    ] {
        one_error(&format!("{LISTENERS}{CLUSTERS}{ROUTES}dns: {dns}\n"), part);
    }
}

#[test]
fn overload_is_checked() {
    for (overload, part) in [
        ("{ max_exchanges: 0 }", "overload.max_exchanges: 0 is out of bounds"),
        ("{ memory: { limit: 1KiB } }", "1KiB is out of bounds"),
        ("{ memory: { disable_keep_alive: 0.5% } }", "0.5% is out of bounds"),
        (
            "{ memory: { stop_accepting_requests: 96%, stop_accepting_connections: 95% } }",
            "overload.memory.stop_accepting_requests: more than overload.memory.stop_accepting_connections, 95%",
        ),
        (
            "{ memory: { disable_keep_alive: 80%, stop_accepting_requests: 70% } }",
            "overload.memory.disable_keep_alive: more than overload.memory.stop_accepting_requests, 70%",
        ),
        (
            "{ memory: { disable_keep_alive: 3%, recovery: 4% } }",
            "overload.memory.recovery: more than overload.memory.disable_keep_alive, 3%",
        ),
    ] {
        one_error(&format!("{LISTENERS}{CLUSTERS}{ROUTES}overload: {overload}\n"), part);
    }
}

/// What is given raises the defaults above it, and lowers those below.
#[test]
fn steps_of_shedding_load_stay_in_order() {
    let steps = |memory: &str| {
        let text = format!("{LISTENERS}{CLUSTERS}{ROUTES}overload: {{ memory: {{ {memory} }} }}\n");
        let memory = parse(&text).expect("it is sound").overload.memory.expect("on");
        (
            memory.disable_keep_alive,
            memory.stop_accepting_requests,
            memory.stop_accepting_connections,
            memory.recovery,
        )
    };
    assert_eq!(steps("disable_keep_alive: 98%"), (9_800, 9_800, 9_800, 500));
    assert_eq!(steps("stop_accepting_connections: 4%"), (400, 400, 400, 400));
    assert_eq!(steps("stop_accepting_requests: 50%"), (5_000, 5_000, 9_500, 500));
}

/// Who raises the number of connections alone is not held up by that of exchanges.
#[test]
fn exchanges_are_no_fewer_than_connections_unless_it_is_said() {
    let exchanges = |limits: &str| {
        let listeners = format!("listeners:\n  web: {{ address: 127.0.0.1:0, limits: {{ {limits} }} }}\n");
        let config = parse(&format!("{listeners}{CLUSTERS}{ROUTES}")).expect("it is sound");
        config.listeners[0].limits.max_exchanges
    };
    assert_eq!(exchanges(""), 10_000);
    assert_eq!(exchanges("max_connections: 5"), 10_000);
    assert_eq!(exchanges("max_connections: 20000"), 20_000);
    assert_eq!(exchanges("max_connections: 20000, max_exchanges: 7"), 7);
}

#[test]
fn certificates_of_clients_are_checked() {
    let listeners =
        "listeners:\n  web: { address: 127.0.0.1:0, tls: { certificates: [{ cert: a, key: b }], client_ca: c } }\n";
    for (asked, part) in [
        ("{}", "`present`"),
        (
            "{ san: web.example }",
            "client_certificate.san: `web.example` does not say what kind of name it is; begin it with `DNS:`",
        ),
        (
            "{ fingerprint: [ab] }",
            "client_certificate.fingerprint: `ab` is not a SHA-256 fingerprint",
        ),
        ("{ fingerprint: [] }", "client_certificate.fingerprint: empty"),
        ("{ subject: { regex: '(' } }", "client_certificate.subject.regex"),
    ] {
        let routes = format!("routes:\n  - {{ cluster: app, match: {{ client_certificate: {asked} }} }}\n");
        one_error(&format!("{listeners}{CLUSTERS}{routes}"), part);
    }
    let routes = "routes:\n  - { cluster: app, match: { client_certificate: { present: true } } }\n";
    one_error(
        &format!("{LISTENERS}{CLUSTERS}{routes}"),
        "route `route-1`: match.client_certificate: no listener asks clients for certificates",
    );
    let fingerprint = "AB:".repeat(31) + "CD";
    let routes = format!(
        "routes:\n  - {{ cluster: app, match: {{ client_certificate: {{ fingerprint: [\"{fingerprint}\"] }} }} }}\n"
    );
    let config = parse(&format!("{listeners}{CLUSTERS}{routes}")).expect("it is sound");
    let asked = config.routes[0].matches.certificate.clone().expect("it asks");
    assert_eq!(asked.fingerprints, [fingerprint.replace(':', "").to_lowercase()]);
}

#[test]
fn listeners_are_checked() {
    for (listeners, part) in [
        (
            "{ a: { address: 127.0.0.1:80 }, b: { address: 127.0.0.1:80 } }",
            "belongs to listener `a` already",
        ),
        (
            "{ a: { address: unix:x }, b: { address: unix:x } }",
            "unix:x belongs to listener `a` already",
        ),
        (
            "{ a: { address: 127.0.0.1:9901 } }",
            "belongs to the admin endpoint already",
        ),
        (
            "{ a: { address: '*:80' } }",
            "write an IP address and port as in `0.0.0.0:80`",
        ),
        (
            "{ a: { address: 127.0.0.1 } }",
            "`127.0.0.1` is not an address; write an IP address and port as in `127.0.0.1:8080`",
        ),
        ("{ 'a b': { address: 127.0.0.1:80 } }", "`a b` is not a name"),
        (
            "{ a: { address: 127.0.0.1:80, limits: { max_head_bytes: 1KiB } } }",
            "choose 8KiB to 1MiB",
        ),
        (
            "{ a: { address: 127.0.0.1:80, limits: { max_field_bytes: 65KiB } } }",
            "limits.max_field_bytes: more than limits.max_head_bytes, 64KiB",
        ),
        (
            "{ a: { address: 127.0.0.1:80, limits: { max_connections: 0 } } }",
            "0 is out of bounds",
        ),
        (
            "{ a: { address: 127.0.0.1:80, protocols: [] } }",
            "protocols: name each protocol once, and at least one",
        ),
        (
            "{ a: { address: 127.0.0.1:80, protocols: [http2, http2] } }",
            "protocols: name each protocol once, and at least one",
        ),
        (
            "{ a: { address: 127.0.0.1:80, protocols: [http2, spdy] } }",
            "`spdy` is not known",
        ),
        (
            "{ a: { address: 127.0.0.1:80, limits: { http2: { max_streams: 0 } } } }",
            "limits.http2.max_streams: 0 is out of bounds",
        ),
        ("[a]", "listeners: expected a map from names to listeners, found a list"),
    ] {
        one_error(&format!("{CLUSTERS}{ROUTES}listeners: {listeners}\n"), part);
    }
    let ephemeral = "listeners: { a: { address: 127.0.0.1:0 }, b: { address: 127.0.0.1:0 } }\n";
    assert!(parse(&format!("{CLUSTERS}{ROUTES}{ephemeral}")).is_ok());
}

#[test]
fn process_settings_are_checked() {
    for (setting, part) in [
        ("workers: 0", "workers: 0 is out of bounds; choose 1 to 1024"),
        ("workers: '${ZERO}'", "workers: 0 is out of bounds"),
        ("workers: '${BRACES}'", "is not a whole number"),
        ("drain_timeout: 1d", "drain_timeout: `1d` is not a duration"),
        ("drain_delay: 0s", "drain_delay: 0s is out of bounds"),
        ("drain_timeout: ${NONE}", "drain_timeout: variable `NONE` is not set"),
        (
            "admin: { address: 0.0.0.0:9901 }",
            "admin.address: 0.0.0.0:9901 is not a loopback address",
        ),
        (
            "admin: { address: localhost:9901 }",
            "admin.address: `localhost:9901` has a host name, and an IP address is meant; \
             write an IP address and port as in `127.0.0.1:9901`",
        ),
        ("admin: on", "`on` is not"),
        (
            "admin: false",
            "admin: found the boolean false; to switch it off write `off`",
        ),
        (
            "drain_delay: true",
            "drain_delay: expected a duration as in `10s`, found the boolean true",
        ),
        (
            "access_log: {}",
            "access_log: exactly one of `file`, `stdout` is needed",
        ),
        (
            "access_log: { stdout: true, format: '{methd}' }",
            "access_log.format: `methd` is not known; did you mean `method`",
        ),
        (
            "access_log: { stdout: true, format: '{attribute:}' }",
            "access_log.format: `{attribute:}` without a name",
        ),
        (
            "access_log: { stdout: true, format: '{attribute}' }",
            "access_log.format: `{attribute}` without a name",
        ),
        ("wasm: { max_instances: 0 }", "wasm.max_instances: 0 is out of bounds"),
        (
            "wasm: { max_stack: 9MiB }",
            "wasm.max_stack: 9MiB is out of bounds; choose 64KiB to 8MiB",
        ),
        (
            "wasm: { max_table_elements: 0 }",
            "wasm.max_table_elements: 0 is out of bounds; choose 1 to 1000000",
        ),
        (
            "wasm: { cache: '' }",
            "wasm.cache: an empty path; write the path of a folder, or `off`",
        ),
        ("wasm: { cache: false }", "wasm.cache: found the boolean false"),
        (
            "wasm: { max_component: 2GiB }",
            "wasm.max_component: 2GiB is out of bounds; choose 1KiB to 1GiB",
        ),
        (
            "wasm: { compile_threads: 65 }",
            "wasm.compile_threads: 65 is out of bounds; choose 1 to 64",
        ),
        (
            "wasm: { compile_timeout: off }",
            "wasm.compile_timeout: `off` is not a duration",
        ),
        (
            "route: []",
            "tamis.yaml:1:1: unknown field `route`; did you mean `routes`?",
        ),
        ("lisseners: {}", "did you mean `listeners`?"),
    ] {
        let part = if setting == "admin: on" {
            "admin: expected a map, found text"
        } else {
            part
        };
        one_error(&format!("{setting}\n{LISTENERS}{CLUSTERS}{ROUTES}"), part);
    }
}

#[test]
fn no_text_of_the_document_breaks_the_line_of_an_error() {
    let lines = lines(&format!(
        "{LISTENERS}{CLUSTERS}routes: [{{ cluster: \"a\\nb\\e[31m\", \"x\\ny\": 1 }}]\n"
    ));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("tamis.yaml:3:") && !line.contains('\u{1b}')),
        "{lines:?}"
    );
}

#[test]
fn errors_are_bounded_in_number() {
    let routes: String = (0..50_000)
        .map(|index| format!("  - {{ cluster: none{index}, x: 1 }}\n"))
        .collect();
    let lines = lines(&format!("{LISTENERS}{CLUSTERS}routes:\n{routes}"));
    assert_eq!(lines.len(), 101);
    assert!(
        lines
            .iter()
            .any(|line| line.ends_with("more than 100 errors; the rest is not shown"))
    );
}
