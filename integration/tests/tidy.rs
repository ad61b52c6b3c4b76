//! The rules of the tree that no compiler checks: which file of the proxy may name what, and what no file may hold.
//!
//! Works on the sources' text, without comments, literals and tests, so that prose about a rule does not break it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `proxy/src` that belong to the control plane; all others are the data plane, which never reads the
/// configuration.
const CONTROL_PLANE: [&str; 17] = [
    "admin",
    "assemble",
    "demo",
    "difference",
    "discovery",
    "generations",
    "lib",
    "main",
    "operations",
    "reload",
    "report",
    "serve",
    "server",
    "state",
    "toolbox",
    "trigger",
    "watch",
];

/// Who may name the modules that nothing else may point back at.
const POINTED_AT_BY: [(&str, &[&str]); 3] = [
    ("gateway", &["listener"]),
    ("server", &["demo", "main", "serve"]),
    ("main", &[]),
];

/// The vocabulary that native filters, guests and tests share.
const SHARED_VOCABULARY: [&str; 3] = ["chain", "filter", "head"];

/// The only foreign crates that the shared vocabulary may name.
const SHARED_CRATES: [&str; 2] = ["bytes", "http"];

/// The only foreign crates that the codec towards upstreams may name.
const CODEC_CRATES: [&str; 4] = ["bytes", "http", "httparse", "memchr"];

/// The data plane's only module for hyper's server types, and the control plane's with an HTTP server of its own.
const HYPER_SERVER: [&str; 3] = ["admin", "demo", "gateway"];

/// What no source may hold outside tests, and what to write in its place.
const FORBIDDEN: [(&str, &str); 6] = [
    (
        ".unwrap()",
        "handle the error, or `expect` with the reason why it cannot happen",
    ),
    ("todo!", "an unfinished thing is an issue"),
    ("unimplemented!", "an unfinished thing is an issue"),
    ("dbg!", "log with `tracing`"),
    ("unsafe{", "no unsafe code but in wasm/cache.rs"),
    ("unsafefn", "no unsafe code"),
];

/// The one file that loads machine code, and argues at its top why that is sound.
const UNSAFE_ALLOWED: &str = "wasm/cache.rs";

fn path_is(path: &Path, expected: &str) -> bool {
    path == Path::new(expected)
}

/// One source file of the proxy.
struct Source {
    /// Relative to `proxy/src`.
    path: PathBuf,
    text: String,
    /// Without comments, literals and tests.
    code: String,
}

impl Source {
    /// The module at the top of `proxy/src` that the file belongs to.
    fn module(&self) -> String {
        let first = self.path.components().next().expect("a file has a name");
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    }

    fn is_test(&self) -> bool {
        self.path.file_stem().is_some_and(|stem| stem == "tests")
    }

    /// Every path that the code names, imports taken apart.
    fn paths(&self) -> BTreeSet<String> {
        paths(&self.code)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources(folder: &Path) -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let code = without_tests(&without_comments(&text));
        let path = path.strip_prefix(folder).expect("a file of the folder").to_owned();
        Source { path, text, code }
    };
    rust_files(folder).into_iter().map(read).collect()
}

fn proxy() -> Vec<Source> {
    sources(&root().join("proxy/src"))
        .into_iter()
        .filter(|source| !source.is_test())
        .collect()
}

/// Fails with all findings at once.
fn assert_none(findings: Vec<String>) {
    assert!(
        findings.is_empty(),
        "{} findings:\n  {}",
        findings.len(),
        findings.join("\n  ")
    );
}

/// The files of whose paths `wrong` says why they are wrong.
fn refuse_paths(wrong: impl Fn(&str, &str) -> Option<String>) {
    let mut findings = Vec::new();
    for source in proxy() {
        let module = source.module();
        for path in source.paths() {
            findings.extend(wrong(&module, &path).map(|why| format!("{}: `{path}`: {why}", source.path.display())));
        }
    }
    assert_none(findings);
}

fn begins(path: &str, with: &str) -> bool {
    path.strip_prefix(with)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn the_data_plane_does_not_read_the_configuration() {
    refuse_paths(|module, path| {
        let wrong = begins(path, "tamis_config") && !CONTROL_PLANE.contains(&module);
        wrong.then(|| "only the control plane reads the configuration".to_owned())
    });
}

#[test]
fn nothing_points_back() {
    refuse_paths(|module, path| {
        let named = |target: &str| {
            ["crate", "super", "tamis"]
                .iter()
                .any(|root| begins(path, &format!("{root}::{target}")))
        };
        let (target, by) = POINTED_AT_BY.iter().find(|(target, _)| named(target))?;
        // `super::server` inside a folder is that folder's own module.
        let wrong = module != *target && !by.contains(&module);
        wrong.then(|| format!("only {by:?} may name {target}"))
    });
}

#[test]
fn the_shared_vocabulary_names_no_engine() {
    let manifest = fs::read_to_string(root().join("proxy/Cargo.toml")).expect("the proxy has a manifest");
    let crates = dependencies(&manifest);
    assert!(
        crates.iter().any(|name| name == "hyper"),
        "the manifest is not understood: {crates:?}"
    );
    refuse_paths(|module, path| {
        let foreign = crates.iter().find(|name| begins(path, name))?;
        let wrong = SHARED_VOCABULARY.contains(&module) && !SHARED_CRATES.contains(&foreign.as_str());
        wrong.then(|| format!("{SHARED_VOCABULARY:?} name no foreign crate but {SHARED_CRATES:?}"))
    });
}

/// The codec reads and writes memory: whoever has the sockets, the clock and the settings calls it.
#[test]
fn the_codec_names_no_engine() {
    let manifest = fs::read_to_string(root().join("proxy/Cargo.toml")).expect("the proxy has a manifest");
    let crates = dependencies(&manifest);
    refuse_paths(|module, path| {
        if module != "h1" {
            return None;
        }
        let foreign = crates
            .iter()
            .any(|name| begins(path, name) && !CODEC_CRATES.contains(&name.as_str()));
        let ours = begins(path, "crate") && !begins(path, "crate::h1");
        (foreign || ours).then(|| format!("h1 names no other module, and no foreign crate but {CODEC_CRATES:?}"))
    });
}

#[test]
fn nobody_names_hypers_client() {
    refuse_paths(|_, path| {
        let wrong = begins(path, "hyper::client") || begins(path, "hyper_util::client");
        wrong.then(|| "upstreams are spoken to by `upstream`".to_owned())
    });
}

#[test]
fn only_the_gateway_names_hypers_server() {
    refuse_paths(|module, path| {
        let wrong =
            (begins(path, "hyper::server") || begins(path, "hyper_util::server")) && !HYPER_SERVER.contains(&module);
        wrong.then(|| format!("only {HYPER_SERVER:?} may"))
    });
}

#[test]
fn only_http2_names_its_engine() {
    refuse_paths(|module, path| {
        let wrong = begins(path, "h2") && module != "http2";
        wrong.then(|| "only http2/* may".to_owned())
    });
}

#[test]
fn only_wasm_names_wasmtime() {
    refuse_paths(|module, path| {
        let wrong = path.split("::").next().is_some_and(|root| root.starts_with("wasmtime")) && module != "wasm";
        wrong.then(|| "only wasm/* may".to_owned())
    });
}

/// Whoever reads and writes a stream need not know of TLS.
#[test]
fn only_tls_names_rustls() {
    refuse_paths(|module, path| {
        let wrong = path.split("::").next().is_some_and(|root| root.starts_with("rustls")) && module != "tls";
        wrong.then(|| "only tls/* may".to_owned())
    });
}

/// The folders whose every file is ours to keep tidy.
fn all_sources() -> Vec<(PathBuf, Source)> {
    let folders = [
        "proxy/src",
        "config/src",
        "filter-abi/src",
        "integration/src",
        "integration/tests",
        "fuzz/fuzz_targets",
        "fuzz/oracles/src",
        "fuzz/oracles/tests",
    ];
    let folders = folders
        .map(|folder| root().join(folder))
        .into_iter()
        .filter(|folder| folder.exists());
    folders
        .flat_map(|folder| sources(&folder).into_iter().map(move |source| (folder.clone(), source)))
        .collect()
}

#[test]
fn every_file_says_what_it_is() {
    let silent = all_sources()
        .into_iter()
        .filter(|(_, source)| !source.text.starts_with("//!"));
    assert_none(
        silent
            .map(|(folder, source)| format!("{}: no `//!` at the top", folder.join(source.path).display()))
            .collect(),
    );
}

#[test]
fn no_file_holds_what_is_forbidden() {
    let mut findings = Vec::new();
    for (folder, source) in all_sources() {
        let tests = source.is_test() || folder.ends_with("tests");
        let path = folder.join(&source.path);
        let squeezed: String = source.code.chars().filter(|c| !c.is_whitespace()).collect();
        let exempt = |wrong: &str| wrong.starts_with("unsafe") && path_is(&source.path, UNSAFE_ALLOWED);
        for (wrong, instead) in FORBIDDEN.iter().filter(|(wrong, _)| !tests && !exempt(wrong)) {
            if squeezed.contains(wrong) {
                findings.push(format!("{}: `{wrong}`: {instead}", path.display()));
            }
        }
        // In tests too: a test that is not run is none.
        let whole: String = without_comments(&source.text)
            .chars()
            .filter(|c| !c.is_whitespace())
            .collect();
        if whole.contains("#[ignore") {
            findings.push(format!("{}: `#[ignore]`: a test is run or deleted", path.display()));
        }
    }
    assert_none(findings);
}

/// The names under `[dependencies]`, as code writes them.
fn dependencies(manifest: &str) -> Vec<String> {
    let block = manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1);
    let block = block.take_while(|line| !line.starts_with('['));
    let name = |line: &str| line.split_once('=').map(|(name, _)| name.trim().to_owned());
    let names = block
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(name);
    names
        .map(|name| name.split('.').next().unwrap_or_default().replace('-', "_"))
        .collect()
}

/// Comments become nothing, string literals empty ones, character literals a blank one.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest)
            .or_else(|| raw_string(rest))
            .or_else(|| string(rest))
            .or_else(|| character(rest));
        match skipped {
            Some((length, stand_in)) => {
                code.push_str(stand_in);
                rest = &rest[length..];
            }
            None => {
                // A name that ends in `r` is no raw string.
                let name: usize = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .map(char::len_utf8)
                    .sum();
                let length = name.max(first.len_utf8());
                code.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
    }
    code
}

type Skipped = Option<(usize, &'static str)>;

fn comment(text: &str) -> Skipped {
    if text.starts_with("//") {
        return Some((text.find('\n').unwrap_or(text.len()), ""));
    }
    let inside = text.strip_prefix("/*")?;
    let mut depth = 1;
    let mut at = 0;
    while depth > 0 && at < inside.len() {
        let (step, change) = match &inside.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth += change;
    }
    Some((at + 2, " "))
}

fn raw_string(text: &str) -> Skipped {
    let start = ["br", "cr", "r"].iter().find(|start| text.starts_with(**start))?.len();
    let hashes = text[start..].len() - text[start..].trim_start_matches('#').len();
    let inside = text[start + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end)?;
    Some((start + hashes + 1 + length + end.len(), "\"\""))
}

fn string(text: &str) -> Skipped {
    let start = ["b\"", "c\"", "\""]
        .iter()
        .find(|start| text.starts_with(**start))?
        .len();
    let mut bytes = text.bytes().enumerate().skip(start);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return Some((at + 1, "\"\"")),
            _ => (),
        }
    }
    Some((text.len(), "\"\""))
}

/// A character literal, but not a lifetime.
fn character(text: &str) -> Skipped {
    let start = ["b'", "'"].iter().find(|start| text.starts_with(**start))?.len();
    let mut inside = text[start..].char_indices();
    let length = match inside.next()? {
        // Behind a backslash any character, also a quote.
        (_, '\\') => 2 + text[start + 2..].find('\'')?,
        _ => inside.next().filter(|(_, c)| *c == '\'')?.0,
    };
    Some((start + length + 1, "' '"))
}

/// Cuts every item under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        rest = &rest[item_length(rest)..];
    }
    kept + rest
}

/// Up to the end of the braces, or to a semicolon before any.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b';' if depth == 0 => return at + 1,
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at + 1,
            b'}' => depth -= 1,
            _ => (),
        }
    }
    code.len()
}

/// `use a::{b, c::d as e};` gives `a::b` and `a::c::d`; `a::b(x)` in an expression gives `a::b`.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find(|c: char| c.is_alphanumeric() || c == '_') {
        rest = &rest[at..];
        let length = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let (word, behind) = rest.split_at(length);
        rest = behind;
        if word == "use" {
            let end = rest.find(';').unwrap_or(rest.len());
            imports("", &rest[..end], &mut found);
            rest = &rest[end..];
        } else if word.contains("::") {
            found.insert(word.trim_end_matches(':').to_owned());
        }
    }
    found
}

fn imports(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some((before, group)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        let whole = format!("{prefix}{name}");
        found.insert(whole.trim_start_matches(':').trim_end_matches("::self").to_owned());
        return;
    };
    let prefix = format!("{prefix}{}", before.trim());
    let group = group.trim_end().trim_end_matches('}');
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                imports(&prefix, &group[start..at], found);
                start = at + 1;
            }
            _ => (),
        }
    }
    // The last member may have lost its own closing brace with the group's.
    let last = group[start..].trim();
    if !last.is_empty() {
        imports(&prefix, last, found);
    }
}

/// The rules rest on this reading of the text, so it is tested like anything else.
#[test]
fn the_reading_of_sources_is_right() {
    let text = r###"
        //! tamis_config in prose
        use std::{fmt, io::{self, Read as R}};
        use hyper::{client, server::conn::{http1, http2}};
        /* wasmtime::Store /* nested */ */
        fn f<'a>(x: &'a str) -> char { let y = "wasmtime::A // \" "; let z = r#"b::c" "#; crate::gateway::open('"', b'\'', '\u{e9}'); attr::d(y) }
        #[cfg(test)]
        mod tests { use tamis_config::X; fn g() { a().unwrap() } }
        fn after() { late::path(); }
    "###;
    let code = without_tests(&without_comments(text));
    let expected = [
        "attr::d",
        "crate::gateway::open",
        "hyper::client",
        "hyper::server::conn::http1",
        "hyper::server::conn::http2",
        "late::path",
        "std::fmt",
        "std::io",
        "std::io::Read",
    ];
    assert_eq!(paths(&code).into_iter().collect::<Vec<_>>(), expected, "{code}");
    assert!(!code.contains("unwrap"));
}
