//! Documents that are meant to do harm: each is refused in bounded time and memory, with a place, and nothing panics.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tamis_config::{Config, Errors, System};

const SOUND: &str = include_str!("../examples/everything.yaml");

/// Wide enough for an unoptimised build on a busy machine; the attacks would take minutes or for ever.
const PATIENCE: Duration = Duration::from_secs(30);

fn parse(text: &str) -> Result<Config, Errors> {
    tamis_config::parse(text, Path::new("tamis.yaml"), &System)
}

#[track_caller]
fn refused(text: &str, part: &str) {
    let start = Instant::now();
    let errors = parse(text).map(|_| ()).unwrap_err().to_string();
    assert!(errors.contains(part), "expected {part}, got {errors}");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn structural_attacks_are_refused() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        let item = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![item; 9].join(", ")));
    }
    let megabyte = "x".repeat(1 << 20);
    let heavy = format!("a: &a {megabyte}\nb: [{}]\n", vec!["*a"; 90].join(", "));
    for (text, part) in [
        (laughs.as_str(), "too large or too complex"),
        (heavy.as_str(), "too large or too complex"),
        (
            &"[".repeat(10_000),
            "tamis.yaml:1:65: not valid YAML: recursion limit exceeded",
        ),
        (&"{a: ".repeat(10_000), "recursion limit exceeded"),
        (&"- ".repeat(10_000), "Depth"),
        (
            &(0..10_000)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect::<String>()[..16 << 20],
            "tamis.yaml:",
        ),
        ("&a9 ", "tamis.yaml:1"),
        ("a: &a [*a]", "tamis.yaml:1:8: not valid YAML: "),
        ("a: *missing", "tamis.yaml:1:4: not valid YAML: "),
        (
            "workers: 1\nworkers: 2\n",
            "tamis.yaml:2:1: not valid YAML: duplicate mapping key `workers`",
        ),
        (
            "workers: !custom 1",
            "tamis.yaml:1:18: not valid YAML: unsupported tag `!custom`",
        ),
        ("workers: !!python/object 1", "not valid YAML: unsupported tag"),
        ("workers: \0 1", "tamis.yaml:1:10: not valid YAML: a NUL character"),
        ("a: 1\nb: \"x\0\"", "tamis.yaml:2:6: not valid YAML: a NUL character"),
        ("a: 1\n---\nb: 1\n", "tamis.yaml:3:1: not valid YAML: "),
        ("a: 'x", "tamis.yaml:1:4: not valid YAML: "),
        ("a: .inf", "not valid YAML: "),
        ("? [a, b]\n: c", "tamis.yaml:1:"),
        (&"#".repeat((16 << 20) + 1), "larger than 16777216 bytes"),
        (&"a: b\n".repeat(100_000), "duplicate mapping key"),
        (
            &(0..600_000).map(|index| format!("k{index}: 1\n")).collect::<String>(),
            "tamis.yaml:",
        ),
    ] {
        refused(text, part);
    }
}

/// YAML 1.1 would read these as a boolean and as numbers.
#[test]
fn norway_stays_a_country() {
    let text = "\
listeners: { web: { address: 127.0.0.1:0 } }
filters: { f: { native: f, config: { country: no, mode: 0755, big: 1_000, off: off, yes: [y, on], real: true } } }
clusters: { no: { endpoints: [127.0.0.1:9000] } }
routes: [{ name: off, cluster: no, match: { headers: { country: no } } }]
";
    let config = parse(text).unwrap();
    let expected = serde_json::json!({
        "country": "no", "mode": "0755", "big": "1_000", "off": "off", "yes": ["y", "on"], "real": true,
    });
    assert_eq!(config.filters[0].config.value, expected);
    assert_eq!(
        (config.clusters[0].name.as_str(), config.routes[0].name.as_str()),
        ("no", "off")
    );
}

#[test]
fn costly_regular_expressions_are_bounded() {
    let routes: String = (0..5_000)
        .map(|index| format!("  - {{ cluster: a, match: {{ path: {{ regex: '/{index}/\\w{{3}}' }} }} }}\n"))
        .collect();
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nclusters: {{ a: {{ endpoints: [127.0.0.1:1] }} }}\nroutes:\n{routes}"
    );
    refused(&text, "more than 1000 regular expressions");
}

#[test]
fn ten_thousand_routes_load() {
    let routes: String = (0..10_000)
        .map(|index| {
            format!(
                "  - name: route.{index}\n    match: {{ hosts: [h{index}.example.com], path: {{ prefix: /v{index}/ }}, \
                 methods: [GET, POST] }}\n    filters: [f]\n    cluster: c{index}\n    timeout: 5s\n"
            )
        })
        .collect();
    let clusters: String = (0..10_000)
        .map(|index| format!("  c{index}: {{ endpoints: [127.0.0.1:{}] }}\n", index + 1))
        .collect();
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nfilters: {{ f: {{ native: cors }} }}\n\
         clusters:\n{clusters}routes:\n{routes}"
    );
    let start = Instant::now();
    let config = parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((config.routes.len(), config.clusters.len()), (10_000, 10_000));
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn text_of_yaml_characters_never_panics(text in "([\\[\\]{}&*!|>'\"%@`,:?#\n \t~a-c0-9$-]|\\$\\{){0,200}") {
        let _ = parse(&text);
    }

    /// Cuts a piece out of a sound document and puts something else in its place.
    #[test]
    fn mutated_documents_never_panic(
        at in any::<prop::sample::Index>(),
        length in 0_usize..40,
        insertion in "([\\[\\]{}&*!|>'\"%,:?#\n \t~a-z0-9$-]|\\$\\{|\\PC){0,20}",
    ) {
        let boundaries: Vec<usize> = SOUND.char_indices().map(|(index, _)| index).collect();
        let start = at.index(boundaries.len());
        let end = (start + length).min(boundaries.len() - 1);
        let text = [&SOUND[..boundaries[start]], &insertion, &SOUND[boundaries[end]..]].concat();
        if let Err(errors) = parse(&text) {
            prop_assert!(errors.iter().count() > 0);
            prop_assert_eq!(errors.to_string().lines().count(), errors.iter().count());
        }
    }

    /// Any scalar in any place is read or refused with a reason of its own.
    #[test]
    fn wrong_values_never_panic_and_are_explained(line in any::<prop::sample::Index>(), value in "[ -~]{0,30}") {
        let mut lines: Vec<String> = SOUND.lines().map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|index| lines[*index].contains(": ")).collect();
        let chosen = keys[line.index(keys.len())];
        let key = lines[chosen].split_once(": ").map(|(key, _)| key.to_owned()).unwrap_or_default();
        lines[chosen] = format!("{key}: {value}");
        if let Err(errors) = parse(&lines.join("\n")) {
            prop_assert!(!errors.to_string().contains("refused without a reason"), "{}", errors);
        }
    }
}
