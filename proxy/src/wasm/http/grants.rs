//! What a component that speaks `wasi:http` may use of WASI, and how it is found out what it needs.
//!
//! Control plane. Language runtimes import much of WASI and use little of it. What can do no harm is there for everybody
//! and empty: no arguments, no environment, no directories, closed input, output that goes nowhere, sockets that refuse.
//! What is a capability is a load error without its grant, in words that name the import.

use std::sync::Arc;

use wasmparser::{Parser, Payload};
use wasmtime_wasi_config::WasiConfigVariables;

use super::folders::Folders;
use crate::store::Table;

/// A capability.
#[derive(Clone)]
pub enum Grant {
    /// `wasi:clocks`.
    Clocks,
    /// `wasi:random`.
    Random,
    /// Standard output and error go to the log.
    Stdio,
    /// Environment variables.
    Env(Vec<(String, String)>),
    /// `wasi:config`.
    Config(Arc<WasiConfigVariables>),
    /// `wasi:keyvalue`, on this table.
    KeyValue(Arc<Table>),
    /// `wasi:filesystem`, with these folders to read.
    Dir(Folders),
    /// `wasi:sockets`, to and from wherever the process may.
    UnsafeSockets,
    /// `wasi:http/outgoing-handler` and `wasi:http/client`, to these clusters.
    Http(Vec<String>),
}

/// What a component is, by what it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `wasi:http/incoming-handler@0.2.x`.
    P2,
    /// `wasi:http/handler@0.3.x`.
    P3,
}

/// The packages that are there for everybody; those of capabilities are checked before.
const OFFERED: [&str; 7] = [
    "wasi:io/",
    "wasi:cli/",
    "wasi:filesystem/",
    "wasi:sockets/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:http/types@",
];

/// The newest that the engine knows of each line.
const KNOWN: &str = "WASI 0.2.12 and 0.3.0";

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P2 => "wasi:http/incoming-handler@0.2",
            Self::P3 => "wasi:http/handler@0.3",
        }
    }

    /// `imports` and `exports` are the component's.
    pub fn of(imports: &[String], exports: &[String]) -> Result<Self, String> {
        let has = |names: &[String], prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        if has(imports, "wasi:http/handler@") {
            return Err(
                "is a middleware, which passes requests on (it imports `wasi:http/handler`); a cluster needs a service: \
                 compose it with one (`tamis filter compose`)"
                    .to_owned(),
            );
        }
        if has(exports, "wasi:http/handler@0.3.") {
            return Ok(Self::P3);
        }
        if has(exports, "wasi:http/incoming-handler@0.2.") {
            return Ok(Self::P2);
        }
        let near = exports
            .iter()
            .find(|name| name.starts_with("wasi:http/handler@") || name.starts_with("wasi:http/incoming-handler@"));
        Err(match near {
            Some(near) => format!(
                "exports `{near}`, which is of another WASI than Tamis knows ({KNOWN}); build it for one of these"
            ),
            None if has(exports, "tamis:filter/") => {
                "is a filter (it exports `tamis:filter`); name it under `filters`".to_owned()
            }
            None => "is no service: it exports neither `wasi:http/incoming-handler@0.2.x` nor \
                     `wasi:http/handler@0.3.x`"
                .to_owned(),
        })
    }
}

/// What a component is in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It imports and exports `wasi:http/handler`.
    Middleware,
    /// It exports a handler, and has no use for what stands behind it.
    Service,
    /// Not of `wasi:http`.
    Other,
}

/// By the names of what it imports and exports; read without compiling it, because it compiles for one engine only. What
/// cannot be read is none of them.
pub fn nature(component: &[u8]) -> Nature {
    let (mut passes_on, mut handles, mut handles_p2) = (false, false, false);
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ComponentImportSection(section)) if depth == 0 => {
                passes_on |= section.into_iter().flatten().any(|import| is_handler(import.name.name));
            }
            Ok(Payload::ComponentExportSection(section)) if depth == 0 => {
                for export in section.into_iter().flatten() {
                    handles |= is_handler(export.name.name);
                    handles_p2 |= export.name.name.starts_with("wasi:http/incoming-handler@");
                }
            }
            Ok(_) => {}
            Err(_) => return Nature::Other,
        }
    }
    match (passes_on, handles) {
        (true, true) => Nature::Middleware,
        _ if handles || handles_p2 => Nature::Service,
        _ => Nature::Other,
    }
}

fn is_handler(name: &str) -> bool {
    name.starts_with("wasi:http/handler@")
}

/// A sentence for each import that the grants do not open.
///
/// `owner` is what has the grants, as "cluster".
pub fn ungranted(imports: &[String], grants: &[Grant], owner: &str) -> Vec<String> {
    imports
        .iter()
        .filter_map(|import| refusal(import, grants, owner))
        .collect()
}

fn refusal(import: &str, grants: &[Grant], owner: &str) -> Option<String> {
    let needs = |grant: &str| {
        Some(format!(
            "imports `{import}` without the grant; add `{grant}` to the {owner}'s `grants`"
        ))
    };
    let version = import.rsplit_once('@').map_or("", |(_, version)| version);
    if import.starts_with("wasi:") && !version.starts_with("0.2.") && !version.starts_with("0.3.") {
        return Some(format!(
            "imports `{import}`, which is of another WASI than Tamis knows ({KNOWN})"
        ));
    }
    let opened = |is: fn(&Grant) -> bool, word: &str| if grants.iter().any(is) { None } else { needs(word) };
    if import.starts_with("wasi:clocks/") && !is_inert(import) {
        return opened(|grant| matches!(grant, Grant::Clocks), "clocks");
    }
    if import.starts_with("wasi:random/") {
        return opened(|grant| matches!(grant, Grant::Random), "random");
    }
    if is_call(import) {
        return opened(|grant| matches!(grant, Grant::Http(_)), "http: [CLUSTER]");
    }
    if let Some(refusal) = of_another_draft(import) {
        return Some(refusal);
    }
    if import.starts_with("wasi:config/") {
        return opened(|grant| matches!(grant, Grant::Config(_)), "config: { KEY: value }");
    }
    if import.starts_with("wasi:keyvalue/") {
        return opened(|grant| matches!(grant, Grant::KeyValue(_)), "keyvalue");
    }
    let is_offered = OFFERED.iter().any(|package| import.starts_with(package));
    // A resource's types, or functions that no package has.
    (!is_offered).then(|| format!("imports `{import}`, which Tamis does not offer to components of wasi:http"))
}

fn is_call(import: &str) -> bool {
    import.starts_with("wasi:http/outgoing-handler@") || import.starts_with("wasi:http/client@")
}

/// Drafts promise nothing: each is its own interface.
const DRAFTS: [(&str, &[&str]); 2] = [
    ("wasi:config/", &["wasi:config/store@0.2.0-rc.1"]),
    (
        "wasi:keyvalue/",
        &[
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:keyvalue/atomics@0.2.0-draft",
            "wasi:keyvalue/batch@0.2.0-draft",
        ],
    ),
];

fn of_another_draft(import: &str) -> Option<String> {
    let (_, known) = DRAFTS.iter().find(|(package, _)| import.starts_with(package))?;
    (!known.contains(&import)).then(|| {
        format!(
            "imports `{import}`, which is of another draft than Tamis knows ({})",
            known.join(", ")
        )
    })
}

/// Types alone.
fn is_inert(import: &str) -> bool {
    import.starts_with("wasi:clocks/types@")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Bounds;

    fn all() -> Vec<Grant> {
        vec![
            Grant::Clocks,
            Grant::Random,
            Grant::Stdio,
            Grant::Config(Arc::default()),
            Grant::KeyValue(Arc::new(Table::new(Bounds::default()))),
            Grant::UnsafeSockets,
            Grant::Http(Vec::new()),
        ]
    }

    fn refused(import: &str, grants: &[Grant]) -> String {
        ungranted(&[import.to_owned()], grants, "cluster").join("; ")
    }

    #[test]
    fn each_capability_has_its_grant() {
        for (import, grant) in [
            ("wasi:clocks/wall-clock@0.2.3", "clocks"),
            ("wasi:random/random@0.3.0", "random"),
            ("wasi:http/client@0.3.0", "http: [CLUSTER]"),
            ("wasi:config/store@0.2.0-rc.1", "config: { KEY: value }"),
            ("wasi:keyvalue/store@0.2.0-draft", "keyvalue"),
            ("wasi:keyvalue/atomics@0.2.0-draft", "keyvalue"),
            ("wasi:keyvalue/batch@0.2.0-draft", "keyvalue"),
        ] {
            let expected = format!("imports `{import}` without the grant; add `{grant}` to the cluster's `grants`");
            assert_eq!(refused(import, &[]), expected);
            assert_eq!(refused(import, &all()), "");
        }
        // There for everybody, and empty.
        for import in ["wasi:filesystem/types@0.2.12", "wasi:sockets/tcp@0.2.0"] {
            assert_eq!(refused(import, &[]), "");
        }
    }

    #[test]
    fn another_draft_is_another_interface_whatever_is_granted() {
        for import in [
            "wasi:config/store@0.2.0-rc.2",
            "wasi:config/runtime@0.2.0-draft",
            "wasi:keyvalue/store@0.2.0-draft2",
            "wasi:keyvalue/watcher@0.2.0-draft",
        ] {
            let said = refused(import, &all());
            assert!(
                said.starts_with(&format!(
                    "imports `{import}`, which is of another draft than Tamis knows ("
                )),
                "{said}"
            );
        }
        assert!(refused("wasi:config/store@0.3.0", &all()).contains("another draft"));
        assert!(refused("wasi:config/store@1.0.0", &all()).contains("another WASI"));
    }
}
