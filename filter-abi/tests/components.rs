//! The components of `filters/` as the proxy will read them: valid, and importing and exporting what their source says
//! and nothing else (no `wasi:`). `make filters` builds them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use wasmparser::{CanonicalFunction, CanonicalOption, Parser, Payload, Validator};

/// Every component imports `types`, for the shape of a verdict, and `log`, for the last words of a panic.
const ALWAYS: [&str; 2] = ["types", "log"];

#[test]
fn tenant() {
    check("tenant", &["request", "exchange"], &["configure", "request-head"]);
}

#[test]
fn api_key() {
    check("api-key", &["request", "exchange"], &["configure", "request-head"]);
}

#[test]
fn jwt() {
    check(
        "jwt",
        &["request", "exchange", "clock", "key-value", "outbound"],
        &["configure", "request-head", "tick"],
    );
}

#[test]
fn ext_auth() {
    check(
        "ext-auth",
        &["request", "response", "exchange", "key-value", "outbound"],
        &["configure", "request-head", "held-body", "response-head"],
    );
}

#[test]
fn rewrite() {
    check(
        "rewrite",
        &["request", "response"],
        &["configure", "request-head", "response-head"],
    );
}

#[test]
fn rate_limit() {
    check(
        "rate-limit",
        &["request", "response", "exchange", "metrics", "clock", "key-value"],
        &["configure", "request-head", "response-head"],
    );
}

#[test]
fn redact() {
    check(
        "redact",
        &["request", "response", "exchange", "metrics"],
        &[
            "configure",
            "request-head",
            "request-body",
            "response-head",
            "response-body",
        ],
    );
}

#[test]
fn json_guard() {
    check(
        "json-guard",
        &["request", "exchange", "metrics"],
        &["configure", "request-head", "held-body"],
    );
}

#[test]
fn touch() {
    check("touch", &["request"], &["configure", "request-head"]);
}

#[test]
fn everything() {
    check(
        "everything",
        &[
            "request",
            "response",
            "exchange",
            "peer",
            "metrics",
            "clock",
            "random",
            "key-value",
            "outbound",
        ],
        &[
            "configure",
            "connection",
            "request-head",
            "held-body",
            "request-body",
            "response-head",
            "response-body",
            "completion",
            "tick",
        ],
    );
}

/// The only answer in it that is freed by a call of its own is that of `configure`.
#[test]
fn an_answer_to_a_head_is_not_called_back_for() {
    let is_freed = |option: &CanonicalOption| matches!(option, CanonicalOption::PostReturn(_));
    for filter in ["touch", "rewrite"] {
        let component = component(filter);
        let sections = Parser::new(0).parse_all(&component);
        let functions = sections.filter_map(|payload| match payload.expect("it is valid") {
            Payload::ComponentCanonicalSection(section) => Some(section.into_iter()),
            _ => None,
        });
        let freed = functions.flatten().filter(|function| match function {
            Ok(CanonicalFunction::Lift { options, .. }) => options.iter().any(is_freed),
            _ => false,
        });
        assert_eq!(freed.count(), 1, "{filter}");
    }
}

fn component(filter: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../filters/target/components/{filter}.wasm"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make filters`", path.display()))
}

fn check(filter: &str, imports: &[&str], exports: &[&str]) {
    let component = component(filter);
    Validator::new()
        .validate_all(&component)
        .expect("the component is valid");

    let imports: Vec<&str> = imports.iter().chain(&ALWAYS).copied().collect();
    assert_eq!(
        imports_and_exports(&component),
        (interfaces(&imports), interfaces(exports)),
        "imports and exports"
    );
}

fn interfaces(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("tamis:filter/{name}@0.1.0")).collect()
}

fn imports_and_exports(component: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    // Components and modules inside the component have imports and exports of their own, which nobody outside sees.
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload.expect("it is valid") {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                imports.extend(
                    section
                        .into_iter()
                        .map(|import| import.expect("it is valid").name.name.to_owned()),
                );
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                exports.extend(
                    section
                        .into_iter()
                        .map(|export| export.expect("it is valid").name.name.to_owned()),
                );
            }
            _ => {}
        }
    }
    (imports, exports)
}
