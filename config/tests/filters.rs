//! What a filter's settings become: grants with their objects, and defaults that follow from other settings.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tamis_config::{Action, Breaker, Config, Filter, FilterLimits, Grant, LogField, LogFormat, LogPart, System};

const REST: &str = "\
listeners: { web: { address: 127.0.0.1:0 } }
clusters: { a: { endpoints: [127.0.0.1:1] }, b: { endpoints: [127.0.0.1:2] }, c: { endpoints: [127.0.0.1:3] } }
";
const ROUTES: &str = "routes: [{ cluster: a }]\n";

fn parse(text: &str) -> Config {
    let file = Path::new("/etc/tamis/tamis.yaml");
    tamis_config::parse(&format!("{REST}{text}"), file, &System).unwrap_or_else(|errors| panic!("{text}: {errors}"))
}

fn with_filter(settings: &str) -> Config {
    parse(&format!("{ROUTES}filters: {{ f: {{ {settings} }} }}\n"))
}

fn filter(settings: &str) -> Filter {
    with_filter(settings).filters.remove(0)
}

fn limits(settings: &str) -> FilterLimits {
    filter(&format!("component: f, {settings}")).limits
}

#[test]
fn grants_carry_their_objects() {
    for (grants, expected) in [
        ("[]", vec![]),
        (
            "[wasi, random, key_value]",
            vec![Grant::Wasi, Grant::Random, Grant::KeyValue(None)],
        ),
        (
            "[metrics, clock, { key_value: sessions }, { outbound: [c, a] }]",
            vec![
                Grant::Metrics,
                Grant::Clock,
                Grant::KeyValue(Some("sessions".to_owned())),
                Grant::Outbound(vec![2, 0]),
            ],
        ),
    ] {
        assert_eq!(filter(&format!("component: f, grants: {grants}")).grants, expected);
    }
}

#[test]
fn defaults_follow_other_settings() {
    let default = FilterLimits::default();
    let milliseconds = Duration::from_millis;
    assert_eq!(filter("component: f").limits, default);
    for (settings, expected) in [
        (
            "grants: [{ outbound: [a] }]",
            FilterLimits {
                wall: milliseconds(5_000),
                ..default.clone()
            },
        ),
        (
            "grants: [{ outbound: [a] }], limits: { wall: 2s }",
            FilterLimits {
                wall: milliseconds(2_000),
                ..default.clone()
            },
        ),
        ("grants: [{ key_value: a }]", default.clone()),
        (
            "limits: { wall: 4ms }",
            FilterLimits {
                wall: milliseconds(4),
                cpu: milliseconds(4),
                ..default.clone()
            },
        ),
        (
            "limits: { exchange_cpu: 3ms, wall: 4ms }",
            FilterLimits {
                wall: milliseconds(4),
                cpu: milliseconds(3),
                exchange_cpu: milliseconds(3),
                ..default.clone()
            },
        ),
        (
            "limits: { cpu: 200ms, wall: 1s }",
            FilterLimits {
                wall: milliseconds(1_000),
                cpu: milliseconds(200),
                exchange_cpu: milliseconds(200),
                ..default.clone()
            },
        ),
        (
            "limits: { body_bytes: 32MiB }",
            FilterLimits {
                body_bytes: 32 << 20,
                lifted_bytes: 32 << 20,
                ..default.clone()
            },
        ),
        (
            "limits: { lifted_bytes: 64KiB }",
            FilterLimits {
                body_bytes: 64 << 10,
                lifted_bytes: 64 << 10,
                ..default.clone()
            },
        ),
    ] {
        assert_eq!(limits(settings), expected, "{settings}");
    }
}

#[test]
fn the_bounds_of_the_engine_lower_the_defaults_of_filters() {
    let config = parse(&format!(
        "{ROUTES}wasm: {{ max_memory: 1MiB, max_instances: 7, max_table_elements: 100 }}\n\
         filters: {{ f: {{ component: f }}, g: {{ component: g, limits: {{ table_elements: 100 }} }} }}\n"
    ));
    for filter in &config.filters {
        let limits = &filter.limits;
        assert_eq!(
            (limits.memory, limits.instances, limits.table_elements),
            (1 << 20, 7, 100)
        );
    }
}

#[test]
fn breakers_and_ticks_are_of_components_alone() {
    let seconds = Duration::from_secs;
    for (settings, breaker, tick) in [
        ("native: f", None, None),
        ("component: f", Some(Breaker::default()), None),
        (
            "component: f, breaker: {}, tick: 100ms",
            Some(Breaker::default()),
            Some(Duration::from_millis(100)),
        ),
        ("component: f, breaker: off, tick: 1h", None, Some(seconds(3_600))),
        (
            "component: f, breaker: { failures: 2, within: 1m, backoff: 2s, max_backoff: 2s }",
            Some(Breaker {
                failures: 2,
                within: seconds(60),
                backoff: seconds(2),
                max_backoff: seconds(2),
            }),
            None,
        ),
        (
            "component: f, breaker: { backoff: 5m }",
            Some(Breaker {
                backoff: seconds(300),
                max_backoff: seconds(300),
                ..Breaker::default()
            }),
            None,
        ),
        (
            "component: f, breaker: { max_backoff: 500ms }",
            Some(Breaker {
                backoff: Duration::from_millis(500),
                max_backoff: Duration::from_millis(500),
                ..Breaker::default()
            }),
            None,
        ),
    ] {
        let filter = filter(settings);
        assert_eq!((filter.breaker, filter.tick), (breaker, tick), "{settings}");
    }
}

#[test]
fn the_cache_lies_beside_the_configuration() {
    for (cache, expected) in [
        ("off", None),
        ("compiled", Some("/etc/tamis/compiled")),
        ("/var/cache/tamis", Some("/var/cache/tamis")),
    ] {
        let config = parse(&format!("{ROUTES}wasm: {{ cache: {cache} }}\n"));
        assert_eq!(config.wasm.cache.as_deref(), expected.map(Path::new));
        // The proxy writes there itself, so a change in it is no reason to read the configuration again.
        assert!(config.files.is_empty());
    }
}

#[test]
fn a_cluster_may_be_left_to_filters() {
    let config = parse("routes: [{ clusters: [{ name: a, weight: 1 }, { name: b, weight: 0 }] }]\n");
    let Action::Clusters(shares) = &config.routes[0].action else {
        panic!("{:?}", config.routes[0])
    };
    let shares: Vec<_> = shares.iter().map(|share| (share.cluster, share.weight)).collect();
    assert_eq!(shares, [(0, 1), (1, 0)]);
}

#[test]
fn records_can_show_attributes() {
    let format = "{status} {attribute:tenant} {attributes}";
    let config = parse(&format!("{ROUTES}access_log: {{ stdout: true, format: '{format}' }}\n"));
    let space = || LogPart::Literal(" ".to_owned());
    let expected = LogFormat::Text(vec![
        LogPart::Field(LogField::Status),
        space(),
        LogPart::Attribute("tenant".to_owned()),
        space(),
        LogPart::Field(LogField::Attributes),
    ]);
    assert_eq!(config.access_log.format, expected);
    assert_eq!(config.describe()["access_log"]["format"], format);
}

/// What is shown is the YAML that would give the same.
#[test]
fn a_filter_is_shown_in_the_words_of_the_configuration() {
    let shown = with_filter(
        "component: f, grants: [clock, key_value, { outbound: [b, a] }], tick: 90s, breaker: { failures: 3 }, \
         limits: { body_bytes: 2MiB, wait: 1s }",
    )
    .describe();
    let filter = &shown["filters"]["f"];
    assert_eq!(
        filter["grants"],
        json!(["clock", "key_value", { "outbound": ["b", "a"] }])
    );
    assert_eq!(
        filter["breaker"],
        json!({ "failures": 3, "within": "10s", "backoff": "1s", "max_backoff": "1m" })
    );
    assert_eq!(filter["tick"], "90s");
    assert_eq!(
        filter["limits"],
        json!({
            "memory": "16MiB", "table_elements": 16_384, "cpu": "10ms", "exchange_cpu": "100ms", "wall": "5s",
            "wait": "1s", "instances": 256, "header_bytes": "64KiB", "body_bytes": "2MiB", "lifted_bytes": "16MiB",
            "outbound_calls": 8, "outbound_concurrent": 1_024, "key_value_bytes": "16MiB", "key_value_keys": 100_000,
            "log_lines": 100,
        })
    );
    assert_eq!(
        shown["wasm"],
        json!({
            "max_instances": 1_000, "max_memory": "64MiB", "max_table_elements": 32_768,
            "max_service_instances": 1_000, "max_service_memory": "256MiB", "max_stack": "512KiB",
            "cache": "off", "max_component": "64MiB", "compile_threads": 1, "compile_timeout": "1m",
        })
    );
    let shared = with_filter("component: f, grants: [{ key_value: t }], breaker: off").describe();
    let filter = &shared["filters"]["f"];
    assert_eq!(
        (&filter["grants"], &filter["breaker"]),
        (&json!([{ "key_value": "t" }]), &json!("off"))
    );
    assert!(filter["tick"].is_null());
}
