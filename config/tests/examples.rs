//! Every example loads, and the schema agrees.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tamis_config::{
    AccessLog, Action, Breaker, Candidate, ComponentKind, Dns, Endpoints, FilterLimits, HealthCheck, Instances,
    ListenerLimits, LogFormat, LogTarget, OnFailure, Overload, Retry, Tolerance, UpstreamHttp2, UpstreamProtocol,
    Verify,
};

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let examples: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(examples.len() >= 4, "{examples:?}");
    examples
}

fn example(name: &str) -> PathBuf {
    examples().into_iter().find(|path| path.ends_with(name)).unwrap()
}

fn yaml(text: &str) -> Value {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).unwrap()
}

#[test]
fn every_example_loads() {
    for path in examples() {
        if let Err(errors) = tamis_config::load(&path) {
            panic!("{errors}");
        }
    }
}

#[test]
fn every_example_satisfies_the_schema() {
    let validator = jsonschema::validator_for(&tamis_config::schema()).unwrap();
    for path in examples() {
        let document = yaml(&fs::read_to_string(&path).unwrap());
        let errors: Vec<_> = validator
            .iter_errors(&document)
            .map(|error| error.to_string())
            .collect();
        assert_eq!(errors, Vec::<String>::new(), "{}", path.display());
    }
}

/// The comments of `everything.yaml` promise it.
#[test]
fn everything_shows_the_defaults() {
    let config = tamis_config::load(&example("everything.yaml")).unwrap();
    let defaults = tamis_config::load(&example("quickstart.yaml")).unwrap();
    assert_eq!(config.drain_timeout, defaults.drain_timeout);
    assert_eq!(config.drain_delay, defaults.drain_delay);
    assert_eq!(config.reload, defaults.reload);
    assert_eq!(config.wasm, defaults.wasm);
    assert_eq!(config.admin, defaults.admin);
    let access_log = AccessLog {
        target: LogTarget::Off,
        ..config.access_log
    };
    assert_eq!(access_log, defaults.access_log);
    assert_eq!(access_log.format, LogFormat::Json);
    assert_eq!(config.listeners[0].limits, ListenerLimits::default());
    assert_eq!(config.listeners[0].limits, defaults.listeners[0].limits);
    let (app, nginx) = (&config.clusters[0], &defaults.clusters[0]);
    assert_eq!(app.load_balancing, nginx.load_balancing);
    assert_eq!(
        (app.connect_timeout, app.idle_timeout),
        (nginx.connect_timeout, nginx.idle_timeout)
    );
    assert_eq!((app.max_idle, app.read_timeout), (nginx.max_idle, nginx.read_timeout));
    assert_eq!(
        (app.slow_start, app.panic_threshold),
        (nginx.slow_start, nginx.panic_threshold)
    );
    assert_eq!((&app.limits, &app.hash_key), (&nginx.limits, &nginx.hash_key));
    assert_eq!(app.retry_budget, nginx.retry_budget);
    let (Endpoints::Listed(listed), Endpoints::Listed(plain)) = (&app.endpoints, &nginx.endpoints) else {
        panic!("{:?} {:?}", app.endpoints, nginx.endpoints)
    };
    assert_eq!(
        (listed[1].weight, listed[1].priority),
        (plain[0].weight, plain[0].priority)
    );
    let dns = Dns {
        servers: None,
        ..config.dns.clone()
    };
    assert_eq!((&dns, &dns), (&defaults.dns, &Dns::default()));
    let mut overload = config.overload.clone();
    overload.memory.as_mut().unwrap().limit = None;
    assert_eq!((&overload, &overload), (&defaults.overload, &Overload::default()));
    assert_eq!(config.routes[0].timeout, defaults.routes[0].timeout);
    assert_eq!(config.routes[0].upgrades, defaults.routes[0].upgrades);
    assert_eq!(config.routes[0].grpc_timeout, defaults.routes[0].grpc_timeout);
    let calls = config.clusters.iter().find(|cluster| cluster.name == "calls");
    assert_eq!(calls.unwrap().http2, UpstreamHttp2::default());
    assert_eq!(nginx.protocol, UpstreamProtocol::Http1);
    let Action::Redirect(redirect) = &config.routes[3].action else {
        panic!("{:?}", config.routes[3])
    };
    assert_eq!(redirect.status, 302);
}

#[test]
fn everything_shows_the_defaults_of_routes() {
    let config = tamis_config::load(&example("everything.yaml")).unwrap();
    let text = "listeners: { a: { address: 127.0.0.1:0 } }\nroutes: [{ cluster: c, retry: {}, mirror: { cluster: c } }]\n\
                clusters: { c: { endpoints: [127.0.0.1:1] } }";
    let plain = tamis_config::parse(text, Path::new("test.yaml"), &tamis_config::System).unwrap();
    let shown = Retry {
        per_try_timeout: None,
        ..config.routes[0].retry.clone().unwrap()
    };
    assert_eq!(Some(shown), plain.routes[0].retry);
    let mirror = |config: &tamis_config::Config| {
        let mirror = config.routes[0].mirror.clone().unwrap();
        (mirror.percent, mirror.buffer)
    };
    assert_eq!(mirror(&config), mirror(&plain));
}

#[test]
fn everything_shows_the_defaults_of_tls() {
    let config = tamis_config::load(&example("everything.yaml")).unwrap();
    let text = "listeners: { a: { address: 127.0.0.1:0, redirect: https }, b: { address: 127.0.0.1:0, tls: \
                { certificates: [{ cert: a, key: b }], client_ca: c } } }\nroutes: [{ cluster: c }]\n\
                clusters: { c: { endpoints: [127.0.0.1:1], tls: {} } }";
    let plain = tamis_config::parse(text, Path::new("test.yaml"), &tamis_config::System).unwrap();
    let (shown, given) = (
        config.listeners[1].tls.clone().unwrap(),
        plain.listeners[1].tls.clone().unwrap(),
    );
    assert_eq!(shown.min_version, given.min_version);
    assert_eq!(shown.client_auth.unwrap().mode, given.client_auth.unwrap().mode);
    assert_eq!(config.listeners[2].redirect, plain.listeners[0].redirect);
    let (shown, given) = (
        config.clusters.iter().find_map(|cluster| cluster.tls.clone()).unwrap(),
        plain.clusters[0].tls.clone().unwrap(),
    );
    assert_eq!((shown.alpn, shown.min_version), (given.alpn, given.min_version));
    assert_eq!((given.verify, given.server_name), (Verify::System, None));
    assert!(
        config
            .files
            .iter()
            .any(|file| file.ends_with("certificates/revoked.pem"))
    );
    assert_eq!(
        config
            .files
            .iter()
            .filter(|file| file.ends_with("certificates/site.key"))
            .count(),
        1
    );
}

#[test]
fn everything_shows_the_defaults_of_filters() {
    let config = tamis_config::load(&example("everything.yaml")).unwrap();
    let tenant = &config.filters[1];
    let plain = tamis_config::load(&example("filters.yaml")).unwrap();
    let plain = plain.filters.iter().find(|filter| filter.name == "tenant").unwrap();
    assert_eq!(tenant.limits, plain.limits);
    assert_eq!(tenant.limits, FilterLimits::default());
    assert_eq!(tenant.breaker, plain.breaker);
    assert_eq!(tenant.breaker, Some(Breaker::default()));
    assert_eq!((tenant.tick, plain.tick), (None, None));
    assert_eq!(tenant.instance_reuse, plain.instance_reuse);
    assert_eq!(
        (tenant.on_failure, plain.on_failure),
        (OnFailure::Closed, OnFailure::Closed)
    );
}

#[test]
fn everything_shows_the_defaults_of_middlewares() {
    let config = tamis_config::load(&example("everything.yaml")).unwrap();
    let text = "listeners: { a: { address: 127.0.0.1:0 } }\nroutes: [{ respond: { status: 204 } }]\n\
                filters: { a: { component: a.wasm, kind: middleware }, b: { component: a.wasm } }";
    let plain = tamis_config::parse(text, Path::new("test.yaml"), &tamis_config::System).unwrap();
    let shown = config.filters.iter().find(|filter| filter.name == "stamp").unwrap();
    for plain in &plain.filters {
        assert_eq!(shown.middleware.limits, plain.middleware.limits);
        assert_eq!(shown.limits.wait, plain.limits.wait);
        assert_eq!(shown.instance_reuse, plain.instance_reuse);
        assert_eq!(plain.middleware.instances, None);
    }
    assert_eq!(shown.middleware.instances, Some(Instances::Exclusive));
    assert_eq!(shown.middleware.foreign, Vec::<String>::new());
    assert_eq!(shown.wanted, Some(ComponentKind::Middleware));
}

/// The smallest of each there is has them all.
#[test]
fn everything_shows_the_defaults_of_what_is_off() {
    let config = tamis_config::load(&example("everything.yaml")).unwrap();
    let text = "listeners: { a: { address: 127.0.0.1:0 } }\nroutes: [{ cluster: c }]\n\
                clusters: { c: { endpoints: [127.0.0.1:1], sticky: {}, health_check: { http: {} }, \
                outlier_ejection: { success_rate: {} } } }";
    let plain = tamis_config::parse(text, Path::new("test.yaml"), &tamis_config::System).unwrap();
    let (shown, plain) = (&config.clusters[0], &plain.clusters[0]);
    let (sticky, default) = (shown.sticky.clone().unwrap(), plain.sticky.clone().unwrap());
    assert_eq!(
        (sticky.cookie, sticky.path, default.max_age, default.secret),
        (default.cookie, default.path, None, None)
    );
    let (check, default) = (shown.health_check.clone().unwrap(), plain.health_check.clone().unwrap());
    let check = HealthCheck {
        probe: default.probe.clone(),
        ..check
    };
    assert_eq!(check, default);
    assert_eq!(shown.outlier_ejection, plain.outlier_ejection);
}

/// The smallest candidate there is has them all.
#[test]
fn everything_shows_the_defaults_of_candidates() {
    let config = tamis_config::load(&example("everything.yaml")).unwrap();
    let shown = config.filters[1].candidate.clone().unwrap();
    let text = "listeners: { a: { address: 127.0.0.1:0 } }\nroutes: [{ respond: { status: 200 } }]\n\
                filters: { f: { component: a, candidate: { component: b } } }";
    let plain = tamis_config::parse(text, Path::new("test.yaml"), &tamis_config::System).unwrap();
    let plain = plain.filters[0].candidate.clone().unwrap();
    assert_eq!(plain.tolerate, Tolerance::default());
    let given = Candidate {
        place: plain.place.clone(),
        component: plain.component.clone(),
        config: plain.config.clone(),
        ..shown
    };
    assert_eq!(given, plain);
}

/// Every key of the schema stands in `everything.yaml`, if only in a comment.
#[test]
fn everything_has_every_key() {
    let text = fs::read_to_string(example("everything.yaml")).unwrap();
    let schema = tamis_config::schema();
    let blocks = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    let keys: Vec<_> = blocks
        .filter_map(|block| block["properties"].as_object())
        .flat_map(|keys| keys.keys())
        .collect();
    assert!(keys.len() > 60, "{keys:?}");
    let missing: Vec<_> = keys
        .into_iter()
        .filter(|key| !text.contains(&format!("{key}:")) && !text.contains(&format!("`{key}`")))
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn every_key_of_the_schema_has_a_description() {
    let schema = tamis_config::schema();
    let mut properties = 0;
    for block in schema["$defs"].as_object().unwrap().values().chain([&schema]) {
        assert!(block["description"].is_string(), "{block:#}");
        let Some(keys) = block["properties"].as_object() else {
            continue;
        };
        assert_eq!(block["additionalProperties"], Value::Bool(false), "{block:#}");
        for (key, property) in keys {
            assert!(property["description"].is_string(), "{key}: {property:#}");
            properties += 1;
        }
    }
    assert!(properties > 60, "{properties}");
}

/// What the parser refuses for its form alone, the schema refuses as well, and the other way round.
#[test]
fn schema_and_parser_agree() {
    let validator = jsonschema::validator_for(&tamis_config::schema()).unwrap();
    let base = "listeners: { a: { address: 127.0.0.1:0 } }\n";
    let cases = [
        ("routes: [{ cluster: c }]", true),
        ("routes: [{ cluster: c, timeout: off }]", true),
        ("routes: [{ cluster: c, timeout: 5s }]", true),
        ("routes: [{ cluster: c, upgrades: [] }]", true),
        ("routes: [{ cluster: c, upgrades: [WebSocket, foo/2] }]", true),
        ("routes: [{ cluster: c, upgrades: websocket }]", false),
        ("routes: [{ cluster: c, retry: {} }]", true),
        (
            "routes: [{ cluster: c, retry: { on: [5xx, reset, 429], methods: [POST], backoff: { max: 1s } } }]",
            true,
        ),
        ("routes: [{ cluster: c, retry: true }]", false),
        ("routes: [{ cluster: c, retry: { on: [500.5] } }]", false),
        ("routes: [{ cluster: c, retry: { on: [399] } }]", false),
        ("routes: [{ cluster: c, retry: { on: ['429'] } }]", false),
        ("routes: [{ cluster: c, retry: { attempts: 11 } }]", false),
        ("routes: [{ cluster: c, timeout: ~ }]", true),
        ("routes: [{ cluster: c }]\nworkers: 4", true),
        ("routes: [{ cluster: c }]\nworkers: '${NONE:-4}'", true),
        ("routes: [{ cluster: c }]\nadmin: off", true),
        (
            "routes: [{ cluster: c, match: { headers: { a: b, c: { present: true } } } }]",
            true,
        ),
        ("routes: [{ cluster: c }]\nworkers: '4'", false),
        ("routes: [{ cluster: c }]\nworkers: 0", false),
        ("routes: [{ cluster: c }]\nworkers: 1.5", false),
        ("routes: [{ cluster: c }]\nadmin: on", false),
        ("routes: [{ cluster: c }]\nunknown: 1", false),
        ("routes: [{ cluster: c, timeout: 5 }]", false),
        ("routes: [{ cluster: c, timeout: 5x }]", false),
        ("routes: [{ cluster: c, redirect: { path: /x } }]", false),
        ("routes: [{ name: a }]", false),
        ("routes: [{ cluster: c, match: { headers: { a: 1 } } }]", false),
        ("routes: [{ cluster: c, match: { path: { exakt: /x } } }]", false),
        ("routes: [{ redirect: { path: /x } }]", true),
        ("routes: [{ redirect: { status: 301 } }]", false),
        ("routes: { cluster: c }", false),
        (
            "routes: [{ clusters: [{ name: c, weight: 1 }] }]\nwasm: { cache: off }",
            true,
        ),
        ("routes: [{ cluster: c }]\nwasm: { cache: compiled }", true),
        ("routes: [{ cluster: c }]\nwasm: { cache: true }", false),
        (
            "filters: { f: { component: a, grants: [random, key_value, wasi, { outbound: [c] }] } }\n\
             routes: [{ cluster: c }]",
            true,
        ),
        (
            "filters: { f: { component: a, grants: [{ key_value: a }], breaker: off, tick: 1s } }\n\
             routes: [{ cluster: c }]",
            true,
        ),
        (
            "filters: { f: { component: a, breaker: { failures: 1 } } }\nroutes: [{ cluster: c }]",
            true,
        ),
        (
            "filters: { f: { component: a, grants: [outbound] } }\nroutes: [{ cluster: c }]",
            false,
        ),
        (
            "filters: { f: { component: a, grants: [{ key_value: a, outbound: [c] }] } }\nroutes: [{ cluster: c }]",
            false,
        ),
        (
            "filters: { f: { component: a, breaker: on } }\nroutes: [{ cluster: c }]",
            false,
        ),
        (
            "filters: { f: { native: a, limit: {} } }\nroutes: [{ cluster: c }]",
            false,
        ),
        (
            "filters: { f: { component: a, candidate: { component: b, share: 0.5%, key: { cookie: c }, \
             tolerate: { p99: off } } } }\nroutes: [{ cluster: c }]",
            true,
        ),
        (
            "filters: { f: { component: a, candidate: { share: 5% } } }\nroutes: [{ cluster: c }]",
            false,
        ),
        (
            "filters: { f: { component: a, candidate: { component: b, share: 5 } } }\nroutes: [{ cluster: c }]",
            false,
        ),
        (
            "filters: { f: { component: a, candidate: { component: b, key: { header: a, cookie: b } } } }\n\
             routes: [{ cluster: c }]",
            false,
        ),
        (
            "dns: { servers: [127.0.0.1:53], min_ttl: 1s }\nroutes: [{ cluster: c }]",
            true,
        ),
        ("dns: { servers: [dns.example:53] }\nroutes: [{ cluster: c }]", false),
        (
            "filters: { 'bad name': { native: a } }\nroutes: [{ cluster: c }]",
            false,
        ),
    ];
    let clusters = [
        (
            "{ endpoints: [app.example:80, { address: app:80, weight: 0, priority: 1 }] }",
            true,
        ),
        ("{ endpoints: [{ srv: _http._tcp.app.example }] }", true),
        ("{ endpoints_file: endpoints.yaml, load_balancing: random }", true),
        ("{ endpoints: [app.example] }", false),
        ("{ endpoints: [127.0.0.1:1], endpoints_file: endpoints.yaml }", false),
        ("{ endpoints: [{ address: app:80, srv: app }] }", false),
        (
            "{ endpoints: [127.0.0.1:1], load_balancing: maglev, hash_key: path }",
            true,
        ),
        (
            "{ endpoints: [127.0.0.1:1], load_balancing: maglev, hash_key: { header: a } }",
            true,
        ),
        (
            "{ endpoints: [127.0.0.1:1], load_balancing: maglev, hash_key: { header: a, cookie: b } }",
            false,
        ),
        ("{ endpoints: [127.0.0.1:1], load_balancing: best }", false),
        (
            "{ endpoints: [127.0.0.1:1], sticky: off, health_check: off, outlier_ejection: off, slow_start: off }",
            true,
        ),
        ("{ endpoints: [127.0.0.1:1], sticky: { max_age: 1h } }", true),
        ("{ endpoints: [127.0.0.1:1], sticky: true }", false),
        (
            "{ endpoints: [127.0.0.1:1], health_check: { tcp: true, interval: 1s, timeout: 1s } }",
            true,
        ),
        (
            "{ endpoints: [127.0.0.1:1], health_check: { http: { statuses: [200, 204] } } }",
            true,
        ),
        (
            "{ endpoints: [127.0.0.1:1], health_check: { http: {}, tcp: true } }",
            false,
        ),
        ("{ endpoints: [127.0.0.1:1], health_check: {} }", false),
        (
            "{ endpoints: [127.0.0.1:1], outlier_ejection: { consecutive_failures: off, max_ejected: 100% } }",
            true,
        ),
        ("{ endpoints: [127.0.0.1:1], panic_threshold: 0% }", true),
        ("{ endpoints: [127.0.0.1:1], panic_threshold: 50 }", false),
        ("{ endpoints: [127.0.0.1:1], limits: { max_pending: 0 } }", false),
        (
            "{ endpoints: [127.0.0.1:1], retry_budget: { share: 5%, min_per_second: 0 } }",
            true,
        ),
        ("{ endpoints: [127.0.0.1:1], retry_budget: { share: 5 } }", false),
    ];
    let others = clusters.map(|(cluster, sound)| {
        (
            format!("clusters: {{ c: {cluster} }}\nroutes: [{{ cluster: c }}]"),
            sound,
        )
    });
    let cases = cases.map(|(rest, sound)| {
        (
            format!("clusters: {{ c: {{ endpoints: [127.0.0.1:1] }} }}\n{rest}"),
            sound,
        )
    });
    for (rest, sound) in cases.into_iter().chain(others) {
        let text = format!("{base}{rest}");
        let parsed = tamis_config::parse(&text, Path::new("test.yaml"), &tamis_config::System);
        assert_eq!(parsed.is_ok(), sound, "{rest}: {parsed:?}");
        assert_eq!(validator.is_valid(&yaml(&text)), sound, "{rest}");
    }
}
