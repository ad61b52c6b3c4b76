//! `tamis filter`: projects that are written, built, tested and measured, as whoever writes a filter would.
//!
//! What a language needs may not be installed; its project is then skipped with a line, unless `CI=true`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tamis_integration::proxy::{binary, run_to_end};
use tamis_integration::wasmtime::Wasmtime;
use tamis_integration::wat::{Act, Guest};
use tamis_integration::{Client, Folder};

use crate::support::{each, wasi_component};

fn component(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/target/components");
    let path = folder.join(name).with_extension("wasm");
    assert!(path.exists(), "{}: run `make filters` first", path.display());
    path.to_string_lossy().into_owned()
}

/// `tamis filter ARGUMENTS` in the folder: exit status, standard output, standard error.
fn filter(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let arguments: Vec<&str> = [&["filter"], arguments].concat();
    printed(run_to_end(folder, &arguments))
}

fn printed(output: Output) -> (i32, String, String) {
    let code = output.status.code().expect("it ends by itself");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    (code, text(output.stdout), text(output.stderr))
}

fn in_file(folder: &Folder, name: &str, text: &str) -> String {
    folder.write(name, text).to_string_lossy().into_owned()
}

#[test]
fn inspect_says_what_a_component_is() {
    let everything = component("everything");
    let (code, out, err) = filter(&Folder::new(), &["inspect", &everything, "--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).expect("it is JSON");
    let bytes = std::fs::read(&everything).expect("it was built").len();
    assert_eq!(report["size_bytes"], bytes);
    assert_eq!(report["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(report["wit"], serde_json::json!(["0.1.0"]));
    assert_eq!(report["hooks"].as_array().map(Vec::len), Some(8));
    let grants = ["clock", "key_value", "metrics", "outbound: [CLUSTER]", "random"];
    assert_eq!(report["grants"], serde_json::json!(grants));
    assert_eq!(report["loads"], true);

    let (code, out, _) = filter(&Folder::new(), &["inspect", &component("touch")]);
    assert_eq!(code, 0);
    for part in [
        "request_head",
        "tamis:filter/request@0.1.0",
        "open to every component",
        "loads     yes",
    ] {
        assert!(out.contains(part), "`{part}` is not in: {out}");
    }
}

#[test]
fn inspect_says_why_a_component_does_not_load() {
    let folder = Folder::new();
    let foreign = Guest::new()
        .on_request([])
        .importing("tamis:filter/teleport@0.1.0", "go");
    std::fs::write(folder.path("foreign.wasm"), foreign.build()).expect("the folder is there");
    std::fs::write(folder.path("nothing.wasm"), Guest::new().build()).expect("the folder is there");
    folder.write("text.wasm", "not wasm");
    let tenant = component("tenant");
    each(
        [
            ("foreign", vec!["foreign.wasm"], "teleport"),
            ("no hook", vec!["nothing.wasm"], "exports no hook"),
            ("no wasm", vec!["text.wasm"], "not a WebAssembly component"),
            ("no file", vec!["absent.wasm"], "absent.wasm"),
            ("refused", vec![&tenant, "--config", "{}"], "missing field `header`"),
            ("no JSON", vec![&tenant, "--config", "{"], "--config"),
        ],
        |case| case.0.to_owned(),
        |(name, arguments, said)| {
            let (code, _, err) = filter(&folder, &[&["inspect"], &arguments[..]].concat());
            assert_eq!(code, 1, "{name}: {err}");
            assert!(err.contains(said), "{name}: `{said}` is not in: {err}");
        },
    );
    let (_, out, _) = filter(&folder, &["inspect", "foreign.wasm"]);
    assert!(out.contains("not offered"), "{out}");
    // One that only lacks its configuration loads.
    let (code, out, err) = filter(&folder, &["inspect", &tenant]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("wants a configuration"), "{out}");
}

#[test]
fn inspect_tells_services_from_middlewares() {
    for (name, kind, wasi) in [
        ("rust-service-02", "service", "0.2.12"),
        ("rust-service-03", "service", "0.3.0"),
        ("rust-stamp-03", "middleware", "0.3.0"),
        ("js-fetch-02", "service", "0.2.10"),
        ("python-middleware-03", "middleware", "0.3.0"),
    ] {
        let Some(component) = wasi_component(name) else {
            continue;
        };
        let component = component.to_string_lossy();
        let (code, out, err) = filter(&Folder::new(), &["inspect", &component, "--json"]);
        assert_eq!((code, err.as_str()), (0, ""), "{name}");
        let report: Value = serde_json::from_str(&out).expect("it is JSON");
        assert_eq!(
            (&report["kind"], &report["wasi"]),
            (&kind.into(), &wasi.into()),
            "{name}"
        );
        assert_eq!(report["parts"], serde_json::json!([]), "{name}");
        let grants: &[&str] = match name {
            "js-fetch-02" => &["clocks"],
            "python-middleware-03" => &["clocks", "random"],
            _ => &[],
        };
        assert_eq!(report["grants"], serde_json::json!(grants), "{name}");
    }
    let tenant = component("tenant");
    let (_, out, _) = filter(&Folder::new(), &["inspect", &tenant]);
    assert!(out.contains("kind      filter of the contract"), "{out}");
}

/// What other hosts make of it is what the parts make of each other's messages, one after the other.
#[test]
fn composed_components_run_elsewhere() {
    for (parts, fields) in [
        (
            vec!["rust-stamp-03", "rust-guard-03", "rust-service-03"],
            "x-stamp: rust",
        ),
        (
            vec!["python-middleware-03", "rust-guard-03", "rust-service-03"],
            "x-python: 3.0",
        ),
        (vec!["rust-stamp-03", "rust-guard-03", "js-service-03"], "x-stamp: rust"),
    ] {
        let Some(files) = parts
            .iter()
            .map(|name| wasi_component(name))
            .collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        let files: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
        let folder = Folder::new();
        let arguments = ["compose", &files[0], &files[1], &files[2], "-o", "whole.wasm"];
        let (code, out, err) = filter(&folder, &arguments);
        assert_eq!((code, err.as_str()), (0, ""));
        let joints: Vec<&str> = out.lines().skip(1).map(str::trim).collect();
        let joint = |outer: usize| {
            let [outer, inner] = [parts[outer], parts[outer + 1]];
            format!("wasi-{outer}.wasm takes wasi:http/handler@0.3.0 from wasi-{inner}.wasm")
        };
        assert_eq!(joints, [joint(0), joint(1)]);
        shows_its_parts(&folder, &parts);

        let Some(wasmtime) = Wasmtime::serve(&folder.path("whole.wasm")) else {
            return;
        };
        let mut client = Client::connect(wasmtime.address());
        let hello = client.get("/hello");
        assert_eq!(
            hello.canonical(&["date"]),
            format!("HTTP/1.1 200 OK\ncontent-length: 6\ncontent-type: text/plain\n{fields}\n\nHELLO\n")
        );
        let refused = client.get("/private/a");
        assert_eq!((refused.status(), refused.text().as_str()), (401, "who are you?\n"));
        let seen = client.get("/headers").text();
        assert!(seen.contains(&fields.to_uppercase()), "{parts:?}: {seen}");
        let echo = client.exchange("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nHeLLo");
        assert_eq!(echo.text(), "HELLO", "{parts:?}");
    }
}

fn shows_its_parts(folder: &Folder, parts: &[&str]) {
    let (code, out, err) = filter(folder, &["inspect", "whole.wasm", "--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(report["kind"], "service");
    // The innermost comes first, because the others need it.
    let found = report["parts"].as_array().expect("it is a list");
    let names: Vec<_> = found.iter().rev().filter_map(|part| part["name"].as_str()).collect();
    let expected: Vec<_> = parts.iter().map(|part| format!("wasi-{part}.wasm")).collect();
    assert_eq!(names, expected);
    for (number, part) in found.iter().enumerate().skip(1) {
        let link = serde_json::json!({ "name": "wasi:http/handler@0.3.0", "from": { "part": number - 1 } });
        let takes = part["takes"].as_array().expect("it is a list");
        assert!(takes.contains(&link), "{part}");
    }
    let (_, out, _) = filter(folder, &["inspect", "whole.wasm"]);
    let line = format!("takes wasi:http/handler@0.3.0 from wasi-{}.wasm", parts[1]);
    assert!(out.contains(&line), "`{line}` is not in: {out}");
}

#[test]
fn compose_says_what_does_not_fit() {
    let paths = ["rust-service-02", "rust-service-03", "rust-stamp-03"].map(wasi_component);
    let [Some(old), Some(new), Some(stamp)] = paths else {
        return;
    };
    let folder = Folder::new();
    folder.copy(&stamp, "stamp.wasm");
    folder.copy(&new, "service.wasm");
    folder.write("core.wasm", b"\0asm\x01\0\0\0");
    folder.write("text.wasm", "not wasm");
    std::fs::hard_link(folder.path("service.wasm"), folder.path("link.wasm")).expect("the folder takes links");
    let old = old.to_string_lossy();
    each(
        [
            (
                "a service first",
                vec!["service.wasm", "stamp.wasm"],
                "whole.wasm",
                "Only a middleware",
            ),
            (
                "another WASI",
                vec!["stamp.wasm", &old],
                "whole.wasm",
                "wasi:http/incoming-handler@0.2.12",
            ),
            (
                "an input",
                vec!["stamp.wasm", "service.wasm"],
                "stamp.wasm",
                "which is an input",
            ),
            (
                "an input's link",
                vec!["stamp.wasm", "service.wasm"],
                "link.wasm",
                "which is an input",
            ),
            (
                "a module",
                vec!["stamp.wasm", "core.wasm"],
                "whole.wasm",
                "core.wasm: is a core module",
            ),
            (
                "no wasm",
                vec!["text.wasm", "stamp.wasm"],
                "whole.wasm",
                "text.wasm: is not a WebAssembly component",
            ),
            (
                "no file",
                vec!["stamp.wasm", "absent.wasm"],
                "whole.wasm",
                "absent.wasm",
            ),
        ],
        |case| case.0.to_owned(),
        |(name, inputs, out, said)| {
            let before = std::fs::read(folder.path(out)).ok();
            let (code, printed, err) = filter(&folder, &[&["compose"], &inputs[..], &["-o", out]].concat());
            assert_eq!((code, printed.as_str()), (1, ""), "{name}: {err}");
            assert!(err.contains(said), "{name}: `{said}` is not in: {err}");
            assert_eq!(std::fs::read(folder.path(out)).ok(), before, "{name}");
        },
    );
}

const TENANT: &str = "\
config: { header: x-tenant, allow: [acme] }
cases:
  - name: a tenant passes
    request: { target: /a?b=c, headers: { x-tenant: acme } }
    expect:
      verdict: proceed
      request: { path: /a, target: /a?b=c, headers: { x-tenant: acme, x-other: null } }
      response: { status: 200 }
      attributes: { tenant: acme }
      log: []
  - name: a stranger does not
    request: { headers: { x-tenant: [acme, globex] } }
    expect: { verdict: reply, response: { status: 403 }, attributes: { tenant: null } }
";

#[test]
fn cases_are_run_and_compared() {
    let (folder, tenant) = (Folder::new(), component("tenant"));
    let cases = in_file(&folder, "cases.yaml", TENANT);
    let (code, out, err) = filter(&folder, &["test", &tenant, "--case", &cases]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(out, "ok      a tenant passes\nok      a stranger does not\n");

    let wrong = TENANT.replace("tenant: acme }\n      log", "tenant: globex }\n      log");
    let cases = in_file(&folder, "cases.yaml", &wrong.replace("status: 403", "status: 401"));
    let (code, out, err) = filter(&folder, &["test", &tenant, "--case", &cases]);
    assert_eq!(code, 1);
    assert!(err.contains("2 of 2 cases failed"), "{err}");
    for part in [
        "FAILED  a tenant passes (",
        "cases.yaml:3:5)",
        "attributes.tenant: expected `globex`, got `acme`",
        "response.status: expected `401`, got `403`",
    ] {
        assert!(out.contains(part), "`{part}` is not in: {out}");
    }
}

/// The table, the outbound calls and the bodies, by filters that use them.
#[test]
fn cases_reach_what_a_filter_is_granted() {
    let folder = Folder::new();
    let guests = [
        (
            "rate-limit",
            "\
config: { limits: [{ name: client, rate: 2/1h }] }
cases:
  - name: two pass
    repeat: 2
    expect: { verdict: proceed }
  - name: the third does not
    repeat: 3
    expect: { verdict: reply, response: { status: 429 } }
",
        ),
        (
            "ext-auth",
            "\
config: { cluster: auth, path: /check }
cases:
  - name: allowed
    calls: [{ cluster: auth, status: 200 }]
    expect: { verdict: proceed }
  - name: forbidden
    calls: [{ cluster: auth, status: 403 }]
    expect: { verdict: reply, response: { status: 403 } }
",
        ),
        (
            "redact",
            "\
config: { patterns: [{ name: word, literals: [secret] }] }
cases:
  - name: over two pieces
    response: { headers: { content-type: text/plain }, body: [a sec, ret b] }
    expect: { verdict: proceed, response: { body: \"a [redacted] b\" } }
",
        ),
    ];
    for (name, cases) in guests {
        let cases = in_file(&folder, &format!("{name}.yaml"), cases);
        let (code, out, err) = filter(&folder, &["test", &component(name), "--case", &cases]);
        assert_eq!(code, 0, "{name}: {out}{err}");
    }
}

#[test]
fn a_call_that_is_not_made_and_a_guest_that_traps_are_told() {
    let folder = Folder::new();
    let trap = Guest::new().on_request([Act::Log("because"), Act::Trap]).build();
    std::fs::write(folder.path("trap.wasm"), trap).expect("the folder is there");
    let cases = |expect: &str| format!("cases:\n  - name: a\n    calls: [{{ cluster: c }}]\n    expect: {expect}\n");
    folder.write(
        "expected.yaml",
        cases("{ verdict: failure, failure: trap, response: { status: 500 } }"),
    );
    folder.write("surprising.yaml", cases("{ verdict: proceed }"));
    let (code, out, _) = filter(&folder, &["test", "trap.wasm", "--case", "expected.yaml"]);
    assert_eq!(code, 1);
    assert!(out.contains("calls: one to `c` was not made"), "{out}");
    assert!(!out.contains("verdict"), "{out}");
    let (_, out, _) = filter(&folder, &["test", "trap.wasm", "--case", "surprising.yaml"]);
    assert!(out.contains("the filter said info: because"), "{out}");
    assert!(out.contains("the filter failed in request_head (trap)"), "{out}");
}

/// Before they are compiled, in whatever language they are.
#[test]
fn only_filters_of_the_contract_are_tested_and_measured() {
    let folder = Folder::new();
    folder.write("core.wasm", b"\0asm\x01\0\0\0");
    folder.write("cases.yaml", "cases: [{ name: a, expect: {} }]\n");
    let mut components = vec![("core.wasm".to_owned(), ["is a core module", "`tamis filter component "])];
    for (name, said) in [
        ("rust-service-02", ["is a service of wasi:http 0.2.", "`tamis serve`"]),
        ("rust-service-03", ["is a service of wasi:http 0.3.", "`tamis serve`"]),
        ("rust-pass-03", ["is a middleware of wasi:http 0.3.", "under `filters`"]),
    ] {
        if let Some(component) = wasi_component(name) {
            components.push((component.to_string_lossy().into_owned(), said));
        }
    }
    for (component, said) in components {
        for arguments in [
            &["test", &component, "--case", "cases.yaml"][..],
            &["bench", &component],
        ] {
            let (code, out, err) = filter(&folder, arguments);
            assert_eq!((code, out.as_str()), (1, ""), "{component}: {err}");
            for part in said {
                assert!(err.contains(part), "`{part}` is not in: {err}");
            }
            assert!(!err.contains("compile"), "{err}");
        }
    }
    let (code, _, err) = filter(&folder, &["inspect", "core.wasm"]);
    assert_eq!(code, 1);
    assert!(err.contains("core.wasm: is a core module"), "{err}");
}

#[test]
fn errors_in_cases_have_places() {
    let (folder, touch) = (Folder::new(), component("touch"));
    for (text, said) in [
        ("cases:\n  - name: a\n    expekt: {}\n", "cases.yaml:3:5"),
        (
            "cases:\n  - name: a\n    request: { target: a }\n    expect: {}\n",
            "cases.yaml:2:5",
        ),
        ("limits: { memry: 1MiB }\ncases: [{ name: a, expect: {} }]\n", "memry"),
        ("cases: [", "cases.yaml"),
    ] {
        folder.write("cases.yaml", text);
        let (code, _, err) = filter(&folder, &["test", &touch, "--case", "cases.yaml"]);
        assert_eq!(code, 1, "{text}");
        assert!(err.contains(said), "`{said}` is not in: {err}");
    }
}

#[test]
fn bench_measures_every_hook_that_runs() {
    let (code, out, err) = filter(&Folder::new(), &["bench", &component("touch"), "--rounds", "50"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let line = |name: &str| out.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    assert!(
        line("on-request-head").is_some_and(|line| line.ends_with(" 50")),
        "{out}"
    );
    assert!(
        line("start an instance").is_some() && line("memory of an instance").is_some(),
        "{out}"
    );
    assert!(line("on-response-head").is_none(), "{out}");

    let (code, _, err) = filter(&Folder::new(), &["bench", &component("tenant"), "--rounds", "5"]);
    assert_eq!(code, 1);
    assert!(err.contains("configuration is refused"), "{err}");
}

#[test]
fn a_project_is_written_once() {
    let folder = Folder::new();
    let (code, out, err) = filter(&folder, &["new", "gate", "--lang", "c"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("tamis filter build"), "{out}");
    let source = std::fs::read_to_string(folder.path("gate/filter.c")).expect("it was written");
    folder.write("gate/filter.c", "mine");
    let (code, _, err) = filter(&folder, &["new", "gate", "--lang", "c"]);
    assert_eq!(code, 1);
    assert!(err.contains("is there already"), "{err}");
    let kept = std::fs::read_to_string(folder.path("gate/filter.c")).expect("it is still there");
    assert!(kept == "mine" && source.contains("x-token"));

    let (code, _, err) = filter(&folder, &["new", "../gate", "--lang", "rust"]);
    assert_eq!(code, 1);
    assert!(err.contains("lower-case"), "{err}");
    let (code, _, err) = filter(&folder, &["build", "."]);
    assert_eq!(code, 1);
    assert!(err.contains("holds no Makefile"), "{err}");
}

/// What projects say when the host does not take their edit.
const SOUND: &str = "the name and the value are sound";

#[test]
fn a_new_rust_filter_builds_and_passes() {
    // The crates are those of the bundled filters, which were fetched to build them; they are compiled once.
    let target = repository("target/toolbox").to_string_lossy().into_owned();
    let variables = [("CARGO_NET_OFFLINE", "true"), ("TARGET_DIR", &*target)];
    builds_and_passes("rust", &variables, SOUND);
}

#[test]
fn a_new_c_filter_builds_and_passes() {
    if has("c", &[(&"clang-19".into(), "--version"), (&helper(), "bindings")]) {
        let folder = Folder::new();
        let (bindgen, _) = stand_ins(&folder);
        builds_and_passes("c", &[("WIT_BINDGEN", &bindgen)], SOUND);
    }
}

#[test]
fn a_new_go_filter_builds_and_passes() {
    let go = repository("filters/target/tools/venv/bin/go");
    if has("go", &[(&go, "version"), (&helper(), "bindings")]) {
        let folder = Folder::new();
        let (bindgen, wasm_tools) = stand_ins(&folder);
        let path = std::env::var("PATH").expect("there is one");
        let bin = go.parent().expect("it is in a folder").to_string_lossy();
        let path = format!("{bin}:{path}");
        let variables = [("WIT_BINDGEN", &*bindgen), ("WASM_TOOLS", &wasm_tools), ("PATH", &path)];
        builds_and_passes("go", &variables, SOUND);
    }
}

#[test]
fn a_new_js_filter_builds_and_passes() {
    let tool = repository("filters/target/tools/js/node_modules/.bin/componentize-qjs");
    if has("js", &[(&"node".into(), "--version"), (&tool, "--version")]) {
        builds_and_passes("js", &[("COMPONENTIZE", &tool.to_string_lossy())], "too-large");
    }
}

#[test]
fn a_new_python_filter_builds_and_passes() {
    let tool = repository("filters/target/tools/venv/bin/componentize-py");
    if has("python", &[(&tool, "--version")]) {
        builds_and_passes("python", &[("COMPONENTIZE", &tool.to_string_lossy())], "TOO_LARGE");
    }
}

fn repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("it is there").join(path)
}

/// Made of the crates behind wit-bindgen's and wasm-tools' command lines; `make battery` builds it.
fn helper() -> PathBuf {
    repository("filters/target/host/debug/battery-build")
}

/// `wit-bindgen` and `wasm-tools`, as far as the projects call them, in terms of the helper.
fn stand_ins(folder: &Folder) -> (String, String) {
    let helper = helper().to_string_lossy().into_owned();
    let script = |name: &str, text: String| {
        let path = folder.write(name, text);
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
        path.to_string_lossy().into_owned()
    };
    let bindgen = format!("#!/bin/sh\nexec '{helper}' bindings \"$1\" \"$2\" \"$6\"\n");
    // The helper reads adapters in text form too.
    let tools = format!(
        r#"#!/bin/sh
case "$1 $2" in
'component embed') cp "$6" "$8" && exec '{helper}' embed "$3" "$8" ;;
'component new') exec '{helper}' component "$3" "$7" "${{5#*=}}" ;;
'parse '*) exec cp "$2" "$4" ;;
esac
"#
    );
    (script("wit-bindgen", bindgen), script("wasm-tools", tools))
}

/// Whether all that the language needs can be run.
fn has(language: &str, tools: &[(&PathBuf, &str)]) -> bool {
    let cannot_run = |(tool, argument): &&(&PathBuf, &str)| Command::new(tool).arg(argument).output().is_err();
    let Some((missing, _)) = tools.iter().find(cannot_run) else {
        return true;
    };
    let missing = missing.display();
    println!("the project in {language} is not built: {missing} is missing; `make guests-all` installs it");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing} is missing");
    false
}

/// `new`, `build` and `test`, in a folder outside the repository. Then the filter fails, and `test` shows what of.
fn builds_and_passes(language: &str, variables: &[(&str, &str)], says: &str) {
    let folder = Folder::new();
    let (code, _, err) = filter(&folder, &["new", "my-gate", "--lang", language]);
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = patiently(&folder, &["build", "my-gate"], variables);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("build: done in"), "{out}");
    let cases = ["test", "my-gate/my-gate.wasm", "--case", "my-gate/CASES.yaml"];
    let (code, out, err) = patiently(&folder, &cases, &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(out.lines().filter(|line| line.starts_with("ok")).count(), 3, "{out}");
    let cases = std::fs::read_to_string(folder.path("my-gate/CASES.yaml")).expect("it was written");
    let none = "header_bytes: 0";
    let tight = match cases.contains("limits: {") {
        true => cases.replace("limits: {", &format!("limits: {{ {none},")),
        false => format!("limits: {{ {none} }}\n{cases}"),
    };
    folder.write("tight.yaml", tight);
    let (code, out, err) = patiently(&folder, &["test", "my-gate/my-gate.wasm", "--case", "tight.yaml"], &[]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains(says), "{out}{err}");
}

/// Not within the harness's deadline: on a busy machine a compiler, and an interpreter's 18 MB, take as long as they take.
fn patiently(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(binary())
        .arg("filter")
        .args(arguments)
        .current_dir(folder.root())
        .envs(variables.iter().copied())
        .output();
    printed(output.expect("the binary can be started"))
}
