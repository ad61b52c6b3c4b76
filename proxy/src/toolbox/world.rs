//! What a component is for, told by the names of what it imports and exports, and what it needs for that.
//!
//! Control plane. Knows names alone, so that it can say so of a component that does not load.

use crate::wasm::Access;

/// What the contract's names begin with.
pub const PACKAGE: &str = "tamis:filter/";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum World {
    /// Of the contract, with hooks.
    Filter,
    /// Answers requests; of this version of WASI.
    Service(String),
    /// Passes requests on; of this version of WASI.
    Middleware(String),
    /// None of these.
    Other,
}

/// What an import needs to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// What the grant is called in a configuration.
    Grant(&'static str),
    /// It is there without the grant, and empty.
    Option(&'static str),
    /// What stands behind the middleware.
    Chain,
    NotOffered,
}

/// Imports by the beginnings of their names, the first that matches.
const WASI: [(&str, Needs); 15] = [
    ("wasi:io/", Needs::Nothing),
    ("wasi:http/types@", Needs::Nothing),
    ("wasi:http/outgoing-handler@", Needs::Grant("http: [CLUSTER]")),
    ("wasi:http/client@", Needs::Grant("http: [CLUSTER]")),
    ("wasi:http/handler@", Needs::Chain),
    ("wasi:clocks/types@", Needs::Nothing),
    ("wasi:clocks/", Needs::Grant("clocks")),
    ("wasi:random/", Needs::Grant("random")),
    ("wasi:config/", Needs::Grant("config: {NAME: VALUE}")),
    ("wasi:keyvalue/", Needs::Grant("keyvalue")),
    ("wasi:cli/environment@", Needs::Option("env: {NAME: VALUE}")),
    ("wasi:cli/std", Needs::Option("stdio")),
    ("wasi:cli/", Needs::Nothing),
    ("wasi:filesystem/", Needs::Option("dir: {GUEST: HOST}")),
    ("wasi:sockets/", Needs::Option("unsafe_sockets")),
];

impl World {
    pub fn of(imports: &[String], exports: &[String]) -> Self {
        let handler = |prefix: &str| exports.iter().find_map(|name| version(name, prefix));
        if exports.iter().any(|name| name.starts_with(PACKAGE)) {
            return Self::Filter;
        }
        let passes_on = imports.iter().any(|name| name.starts_with("wasi:http/handler@"));
        match handler("wasi:http/handler@") {
            Some(version) if passes_on => Self::Middleware(version),
            Some(version) => Self::Service(version),
            None => handler("wasi:http/incoming-handler@").map_or(Self::Other, Self::Service),
        }
    }

    pub fn needs(&self, import: &str) -> Needs {
        match self {
            Self::Filter | Self::Other => match Access::to(import) {
                Access::Always => Needs::Nothing,
                Access::Grant(grant) => Needs::Grant(grant),
                Access::NotOffered => Needs::NotOffered,
            },
            Self::Service(_) | Self::Middleware(_) => WASI
                .iter()
                .find(|(name, _)| import.starts_with(name))
                .map_or(Needs::NotOffered, |(_, needs)| *needs),
        }
    }

    /// One word, for programs.
    pub fn as_str(&self) -> Option<&'static str> {
        match self {
            Self::Filter => Some("filter"),
            Self::Service(_) => Some("service"),
            Self::Middleware(_) => Some("middleware"),
            Self::Other => None,
        }
    }

    /// Where it has one.
    pub fn wasi(&self) -> Option<&str> {
        match self {
            Self::Service(version) | Self::Middleware(version) => Some(version),
            Self::Filter | Self::Other => None,
        }
    }

    pub fn described(&self) -> String {
        match self {
            Self::Filter => "filter of the contract".to_owned(),
            Self::Service(version) => format!("service of wasi:http {version}: it answers requests"),
            Self::Middleware(version) => {
                format!("middleware of wasi:http {version}: it passes requests on to what stands behind it")
            }
            Self::Other => "neither a filter of the contract nor a service or middleware of wasi:http".to_owned(),
        }
    }
}

/// `wasi:http/handler@0.3.0` behind `wasi:http/handler@` is `0.3.0`.
fn version(name: &str, prefix: &str) -> Option<String> {
    name.strip_prefix(prefix).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_world_it_is() {
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let handler = "wasi:http/handler@0.3.0";
        for (imports, exports, world) in [
            (
                names(&["wasi:http/types@0.3.0"]),
                names(&[handler]),
                World::Service("0.3.0".to_owned()),
            ),
            (
                names(&[handler]),
                names(&[handler]),
                World::Middleware("0.3.0".to_owned()),
            ),
            (
                names(&["wasi:io/poll@0.2.10"]),
                names(&["init", "wasi:http/incoming-handler@0.2.10"]),
                World::Service("0.2.10".to_owned()),
            ),
            (names(&[handler]), names(&["tamis:filter/tick@0.1.0"]), World::Filter),
            (names(&[]), names(&["wasi:cli/run@0.2.0"]), World::Other),
        ] {
            assert_eq!(World::of(&imports, &exports), world, "{imports:?} {exports:?}");
        }
    }

    #[test]
    fn imports_say_what_they_need() {
        let service = World::Service("0.2.12".to_owned());
        for (import, needs) in [
            ("wasi:io/streams@0.2.12", Needs::Nothing),
            ("wasi:clocks/types@0.3.0", Needs::Nothing),
            ("wasi:clocks/monotonic-clock@0.2.12", Needs::Grant("clocks")),
            ("wasi:cli/stdin@0.2.9", Needs::Option("stdio")),
            ("wasi:cli/exit@0.2.9", Needs::Nothing),
            ("wasi:http/handler@0.3.0", Needs::Chain),
            ("wasi:nn/graph@0.2.0", Needs::NotOffered),
            ("tamis:filter/request@0.1.0", Needs::NotOffered),
        ] {
            assert_eq!(service.needs(import), needs, "{import}");
        }
    }
}
