//! `tamis serve`: one component on a port, without a configuration.
//!
//! Control plane. It writes the configuration that its arguments stand for, into a folder of its own, and serves that:
//! what a component does here it does there. The folder goes when the process ends. Whoever serves one component has
//! read no configuration, so what is wrong is told in the words of the arguments.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use http::Uri;
use http::uri::Scheme;

use crate::server::{self, Interrupt};
use crate::toolbox::{Graph, Needs, World, refuse_core};
use crate::wasm::Artifact;

/// Whoever tries a component on their own machine expects them, and they open nothing.
const USUAL_GRANTS: [&str; 3] = ["clocks", "random", "stdio"];
/// In place of all others.
const NO_GRANT: &str = "none";
/// All that one word says; what needs more has an argument of its own.
const GRANTS: [&str; 6] = ["clocks", "random", "stdio", "keyvalue", "unsafe_sockets", NO_GRANT];

/// The longest name that a configuration takes.
const MAX_NAME: usize = 64;

/// What a value begins with that stands in a file.
const FILE: &str = "file:";

#[derive(Args)]
pub struct Options {
    /// The component: a service of wasi:http 0.2 or 0.3
    component: PathBuf,
    /// Where to listen; with port 0, on any that is free
    #[arg(
        long,
        visible_alias = "addr",
        default_value = "127.0.0.1:8080",
        value_name = "IP:PORT",
        value_parser = socket_address
    )]
    address: SocketAddr,
    /// What of WASI it may use, in place of the usual grants: name all of them, as in `--grant clocks,keyvalue`; `none`
    /// for nothing
    #[arg(
        long = "grant",
        value_name = "GRANT",
        value_delimiter = ',',
        default_values = USUAL_GRANTS,
        value_parser = GRANTS
    )]
    grants: Vec<String>,
    /// An environment variable for it; without a value, the one of this process; with `file:PATH`, what is in that file
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<Variable>,
    /// A value that it finds by its name (`wasi:config`), given like a variable
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = value)]
    config: Vec<Variable>,
    /// A folder that it may read; it finds it at GUEST, an absolute path, or at `/` and the folder's name
    #[arg(long, value_name = "FOLDER[::GUEST]")]
    dir: Vec<Folder>,
    /// A server that it may call, by the URL that it calls; with a name, the host of that URL
    ///
    /// `--http https://api.example` opens that server; `--http api.example=http://127.0.0.1:9000` has another answer for
    /// it.
    #[arg(long, value_name = "[NAME=]URL")]
    http: Vec<Callee>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    name: String,
    /// `None` is this process's.
    value: Option<String>,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        match &value {
            Some(_) if name.is_empty() => Err("write NAME=VALUE, or NAME".to_owned()),
            // It goes into the configuration as a reference, where other characters have a meaning.
            None if !is_of_a_variable(name) => Err("this is no variable's name; write NAME=VALUE".to_owned()),
            Some(_) | None => Ok(Self {
                name: name.to_owned(),
                value,
            }),
        }
    }
}

/// What an environment variable can be called in every shell.
fn is_of_a_variable(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Elsewhere `--config` is the configuration.
fn value(text: &str) -> Result<Variable, String> {
    let explained = |error: String| format!("{error}; a configuration file is for `tamis run -c`");
    text.parse().map_err(explained)
}

/// An address to listen on, as an argument.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

/// A folder that the component may read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    path: String,
    guest: String,
}

impl FromStr for Folder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, guest) = match text.split_once("::") {
            Some((path, guest)) => (path, guest.to_owned()),
            None => {
                let name = Path::new(text).file_name().and_then(|name| name.to_str());
                let name = name.ok_or("write FOLDER::GUEST, since this folder has no name of its own")?;
                (text, format!("/{name}"))
            }
        };
        match (path.is_empty(), guest.starts_with('/')) {
            (false, true) => Ok(Self {
                path: path.to_owned(),
                guest,
            }),
            _ => Err("write FOLDER, or FOLDER::GUEST with a GUEST that begins with `/`".to_owned()),
        }
    }
}

/// A server that the component may call.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Callee {
    /// The host of the component's URLs.
    name: String,
    endpoint: String,
    is_secure: bool,
}

impl FromStr for Callee {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = match text.split_once('=') {
            Some((name, url)) => (Some(name), url),
            None => (None, text),
        };
        let wanted = "write http://HOST:PORT or https://HOST:PORT, and NAME= before it if it is called by another name";
        let uri: Uri = url.parse().map_err(|_| wanted.to_owned())?;
        let (Some(scheme), Some(authority), "" | "/", None) = (uri.scheme(), uri.authority(), uri.path(), uri.query())
        else {
            return Err(wanted.to_owned());
        };
        let is_secure = *scheme == Scheme::HTTPS;
        if !is_secure && *scheme != Scheme::HTTP {
            return Err(wanted.to_owned());
        }
        let name = name.unwrap_or(authority.host());
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_of_a_name) {
            return Err(format!("`{name}` is not the name of a host; {wanted}"));
        }
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self {
            name: name.to_owned(),
            endpoint: format!("{}:{port}", authority.host()),
            is_secure,
        })
    }
}

/// Serves until a signal ends it. An error is for people.
pub fn run(options: &Options) -> Result<(), String> {
    let component = Component::find(options)?;
    options.refuse_absent()?;
    let failed = |error: std::io::Error| format!("serve: cannot write its configuration: {error}");
    // Removed with it; private, because variables may be secrets.
    let folder = tempfile::Builder::new()
        .prefix("tamis-serve-")
        .tempdir()
        .map_err(failed)?;
    let file = folder.path().join("tamis.yaml");
    std::fs::write(&file, options.configuration(&component)?).map_err(failed)?;
    let server = server::Options {
        interrupt: Interrupt::Drains,
        ..server::Options::new(&file)
    };
    server::run_then(&server, |bound| {
        crate::tell!(
            "{}",
            options.greeting(&component, bound.unwrap_or(options.address), &file)
        );
    })
    .map_err(|errors| {
        let ways_out = [("listener `web`: address ", "; `--address IP:PORT` names another")];
        in_arguments(&errors, &file, &ways_out)
    })
}

/// What is known of it without loading it.
struct Component {
    /// Absolute.
    path: String,
    /// Its file's, as far as a configuration takes it; for people and for the log.
    name: String,
    world: World,
}

impl Component {
    /// Refuses what is something else, and what lacks a grant; what is wrong besides, whoever loads it will say.
    fn find(options: &Options) -> Result<Self, String> {
        let given = options.component.display();
        let of_file = |error: String| format!("{given}: {error}");
        let bytes = Artifact::read(&options.component, u64::MAX)?;
        refuse_core(&bytes).map_err(of_file)?;
        let graph = Graph::read(&bytes).unwrap_or_default();
        let world = World::of(&graph.imports, &graph.exports);
        refuse_part_of_a_chain(&world).map_err(of_file)?;
        let missing = options.missing(&world, &graph.imports);
        if !missing.is_empty() {
            let lines = missing.into_iter().map(of_file);
            return Err(lines.collect::<Vec<_>>().join("\n"));
        }
        let path = std::path::absolute(&options.component).map_err(|error| format!("{given}: {error}"))?;
        let name = path.file_name().and_then(|name| name.to_str()).map(name);
        let (Some(path), Some(name)) = (path.to_str().map(str::to_owned), name) else {
            return Err(format!("{given}: its path is no UTF-8, as a configuration is"));
        };
        Ok(Self { path, name, world })
    }
}

/// Here is no chain that it could stand in.
fn refuse_part_of_a_chain(world: &World) -> Result<(), String> {
    let to_try = match world {
        World::Filter => "try it with `tamis filter test`",
        World::Middleware(_) => "make a service of it and one behind it with `tamis filter compose`",
        World::Service(_) | World::Other => return Ok(()),
    };
    let is = world.described();
    Err(format!(
        "is a {is}; {to_try}, or name it under `filters` of a configuration for `tamis run -c`"
    ))
}

/// What names in a configuration are made of.
fn is_of_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_.-".contains(character)
}

fn name(file: &str) -> String {
    let replaced = |character| if is_of_a_name(character) { character } else { '-' };
    file.chars().take(MAX_NAME).map(replaced).collect()
}

impl Options {
    fn granted(&self) -> impl Iterator<Item = &str> {
        self.grants.iter().map(String::as_str).filter(|word| *word != NO_GRANT)
    }

    /// A line for each argument that gives what it needs and does not have.
    fn missing(&self, world: &World, imports: &[String]) -> Vec<String> {
        let World::Service(_) = world else {
            return Vec::new();
        };
        let mut words: Vec<&str> = self.granted().collect();
        let mut without_word: Vec<&str> = Vec::new();
        let mut without_argument: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for import in imports {
            let Needs::Grant(grant) = world.needs(import) else {
                continue;
            };
            if let Some(argument) = self.argument(grant) {
                without_argument.entry(argument).or_default().push(import);
            } else if GRANTS.contains(&grant) && self.granted().all(|granted| granted != grant) {
                without_word.push(import);
                if !words.contains(&grant) {
                    words.push(grant);
                }
            }
        }
        let line = |imports: &[&str], argument: &str| {
            format!("imports `{}` without the grant; {argument}", imports.join("`, `"))
        };
        let (words, usual) = (words.join(","), USUAL_GRANTS.join(","));
        // In one argument with those that it has: whoever names one is not given the usual ones.
        let all = format!("write `--grant {words}`, which is in place of the usual `{usual}`");
        let mut lines: Vec<String> = (!without_word.is_empty())
            .then(|| line(&without_word, &all))
            .into_iter()
            .collect();
        lines.extend(
            without_argument
                .iter()
                .map(|(argument, imports)| line(imports, argument)),
        );
        lines
    }

    /// What to do about a grant that is more than a word, if it is missing.
    fn argument(&self, grant: &str) -> Option<&'static str> {
        match grant {
            "config: {NAME: VALUE}" if self.config.is_empty() => Some("add `--config NAME=VALUE` for each value"),
            "http: [CLUSTER]" if self.http.is_empty() => Some("add `--http URL` for each server that it may call"),
            _ => None,
        }
    }

    /// What this process does not have: a variable, a file, a folder.
    fn refuse_absent(&self) -> Result<(), String> {
        for (argument, given) in [("--env", &self.env), ("--config", &self.config)] {
            for Variable { name, value } in given {
                match value.as_deref().map(|value| value.strip_prefix(FILE)) {
                    None if std::env::var_os(name).is_none() => {
                        return Err(format!(
                            "{argument} {name}: this variable is not set; set it, or write `{argument} {name}=VALUE`"
                        ));
                    }
                    Some(Some(path)) => {
                        std::fs::metadata(path).map_err(|error| format!("{argument} {name}={FILE}{path}: {error}"))?;
                    }
                    None | Some(None) => {}
                }
            }
        }
        for Folder { path, .. } in &self.dir {
            let found = std::fs::metadata(path).map_err(|error| format!("--dir {path}: {error}"))?;
            if !found.is_dir() {
                return Err(format!("--dir {path}: this is no folder; name the one that it is in"));
            }
        }
        Ok(())
    }

    fn configuration(&self, component: &Component) -> Result<String, String> {
        let mut names = BTreeSet::from([&*component.name]);
        if let Some(twice) = self.http.iter().find(|callee| !names.insert(&callee.name)) {
            return Err(format!("--http: `{}` is named twice; remove one", twice.name));
        }
        let mut grants: Vec<String> = self.granted().map(quoted).collect();
        for (grant, given) in [("env", &self.env), ("config", &self.config)] {
            grants.extend(values(given)?.map(|values| format!("{{ {grant}: {values} }}")));
        }
        if !self.dir.is_empty() {
            grants.push(format!("{{ dir: {{ {} }} }}", self.folders()?.join(", ")));
        }
        if !self.http.is_empty() {
            let callees: Vec<_> = self.http.iter().map(|callee| quoted(&callee.name)).collect();
            grants.push(format!("{{ http: [{}] }}", callees.join(", ")));
        }
        let mut text = format!(
            "\
# What `tamis serve` stands for. With a copy of it, `tamis run -c` serves the same.
admin: off
drain_timeout: 10s
listeners:
  web: {{ address: {address} }}
clusters:
  {name}:
    component: {path}
    grants: [{grants}]
",
            address = quoted(&self.address.to_string()),
            name = key(&component.name),
            path = quoted(&component.path),
            grants = grants.join(", "),
        );
        for callee in &self.http {
            let tls = if callee.is_secure { ", tls: {}" } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {}: {{ endpoints: [{}]{tls} }}",
                key(&callee.name),
                quoted(&callee.endpoint)
            );
        }
        let _ = writeln!(text, "routes:\n  - cluster: {}", quoted(&component.name));
        Ok(text)
    }

    /// Each by the path under which the component finds it.
    fn folders(&self) -> Result<Vec<String>, String> {
        let mut names = BTreeSet::new();
        let folders = self.dir.iter().map(|folder| {
            if !names.insert(&folder.guest) {
                return Err(format!("--dir: `{}` is named twice; remove one", folder.guest));
            }
            let path = std::path::absolute(&folder.path).map_err(|error| format!("--dir {}: {error}", folder.path))?;
            let path = path
                .to_str()
                .ok_or("--dir: the path of a folder is no UTF-8, as a configuration is")?;
            Ok(format!("{}: {}", key(&folder.guest), quoted(path)))
        });
        folders.collect()
    }

    fn greeting(&self, component: &Component, listen: SocketAddr, file: &Path) -> String {
        let kind = match &component.world {
            World::Service(version) => format!(", a service of wasi:http {version},"),
            World::Filter | World::Middleware(_) | World::Other => String::new(),
        };
        let mut may: Vec<&str> = self.granted().collect();
        may.extend(self.dir.iter().map(|folder| &*folder.guest));
        may.extend(self.http.iter().map(|callee| &*callee.name));
        let may = match &*may {
            [] => "nothing of WASI".to_owned(),
            words => words.join(", "),
        };
        let (name, file) = (&component.name, file.display());
        format!(
            "
Tamis serves {name}{kind} on http://{listen}

  curl -i http://{listen}/

It may use: {may} (see `tamis serve --help`). When the file changes, what is new serves once it is compiled.
The configuration that this stands for goes when it ends; copy it, to go on from: {file}
Ctrl-C finishes what has begun and ends.

"
        )
    }
}

/// As a map of YAML, if there is one; the last of a name.
fn values(given: &[Variable]) -> Result<Option<String>, String> {
    let values: BTreeMap<_, _> = given.iter().map(|one| (&one.name, &one.value)).collect();
    let mut entries = Vec::new();
    for (name, value) in values {
        let value = match value {
            Some(value) => quoted(&from_here(value)?),
            // Not to be written down.
            None => format!("\"${{{name}}}\""),
        };
        entries.push(format!("{}: {value}", key(name)));
    }
    Ok((!entries.is_empty()).then(|| format!("{{ {} }}", entries.join(", "))))
}

/// The configuration lies in another folder than its paths count from.
fn from_here(value: &str) -> Result<Cow<'_, str>, String> {
    let Some(path) = value.strip_prefix(FILE) else {
        return Ok(value.into());
    };
    let path = std::path::absolute(path).map_err(|error| format!("{value}: {error}"))?;
    let path = path
        .to_str()
        .ok_or("the path of this folder is no UTF-8, as a configuration is")?;
    Ok(format!("{FILE}{path}").into())
}

/// As YAML, without a meaning of its own for `$`.
fn quoted(text: &str) -> String {
    key(&text.replace('$', "$$"))
}

/// The same where `$` has no meaning. Letters and what ASCII prints stand for themselves, all else is told by its
/// number: it might end a line, or not be allowed.
fn key(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            letter if letter.is_alphanumeric() => quoted.push(letter),
            other => quoted.push_str(&format!("\\U{:08x}", u32::from(other))),
        }
    }
    quoted.push('"');
    quoted
}

/// Errors for whoever has written no configuration: without places in a file that is gone, and where nobody can listen,
/// with the way out of the pair whose beginning the line has.
pub fn in_arguments(errors: &str, file: &Path, ways_out: &[(&str, &str)]) -> String {
    let errors = without_places(errors, file);
    let line = |line: &str| {
        let is_it = |(beginning, _): &&(&str, &str)| line.starts_with(beginning) && line.contains(": cannot listen: ");
        let way_out = ways_out.iter().find(is_it).map_or("", |(_, way_out)| *way_out);
        format!("{line}{way_out}")
    };
    errors.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Nobody can look up a place in a file that is gone, and that nobody has written.
fn without_places(errors: &str, file: &Path) -> String {
    let file = format!("{}:", file.display());
    let line = |line: &str| {
        let Some(rest) = line.strip_prefix(&file) else {
            return line.to_owned();
        };
        let is_place = |character: char| character.is_ascii_digit() || character == ':';
        rest.trim_start_matches(is_place).trim_start().to_owned()
    };
    errors.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callees_are_urls_with_or_without_another_name() {
        for (text, name, endpoint, is_secure) in [
            ("http://api.example", "api.example", "api.example:80", false),
            ("https://api.example/", "api.example", "api.example:443", true),
            ("http://127.0.0.1:9000", "127.0.0.1", "127.0.0.1:9000", false),
            ("loopback=http://[::1]:9000", "loopback", "[::1]:9000", false),
            ("api=http://127.0.0.1:9000", "api", "127.0.0.1:9000", false),
            (
                "api.example=https://stage.example",
                "api.example",
                "stage.example:443",
                true,
            ),
        ] {
            let expected = Callee {
                name: name.to_owned(),
                endpoint: endpoint.to_owned(),
                is_secure,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "api.example",
            "api.example:80",
            "ftp://api.example",
            "http://api.example/path",
            "http://api.example/?query",
            "=http://api.example",
            "http://[::1]:9000",
            "a/b=http://api.example",
            "api:80=http://api.example",
        ] {
            assert!(text.parse::<Callee>().is_err(), "{text}");
        }
    }

    #[test]
    fn variables_have_a_value_or_are_this_processs() {
        let variable = |name: &str, value: Option<&str>| Variable {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        assert_eq!("A=b=c".parse(), Ok(variable("A", Some("b=c"))));
        assert_eq!("A=".parse(), Ok(variable("A", Some(""))));
        assert_eq!("_A1".parse(), Ok(variable("_A1", None)));
        assert_eq!("a.b=c".parse(), Ok(variable("a.b", Some("c"))));
        for text in ["", "=b", "1A", "A-B", "a.yaml", "A}\", b: \"", "A:-b", "A\"", "\u{e9}"] {
            assert!(text.parse::<Variable>().is_err(), "{text}");
        }
        assert!(value("a.yaml").is_err_and(|error| error.contains("NAME=VALUE") && error.contains("tamis run -c")));
    }

    #[test]
    fn folders_have_a_path_for_the_component() {
        for (text, path, guest) in [
            ("data", "data", "/data"),
            ("/srv/pages/", "/srv/pages/", "/pages"),
            ("./a/b::/c", "./a/b", "/c"),
            (".::/", ".", "/"),
        ] {
            let expected = Folder {
                path: path.to_owned(),
                guest: guest.to_owned(),
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", ".", "..", "/", "::/a", "a::", "a::b"] {
            assert!(text.parse::<Folder>().is_err(), "{text}");
        }
    }

    /// Whatever the arguments hold, the configuration says that and nothing else.
    #[test]
    fn the_configuration_says_what_the_arguments_say() {
        let options = Options {
            component: PathBuf::new(),
            address: "127.0.0.1:0".parse().expect("an address"),
            grants: vec!["none".into(), "clocks".into()],
            env: [
                "A=${HOME} $ \"}",
                "B=1",
                "B=2\n",
                "a$b\": }\\\u{2028}=\u{e9}\u{7f}\u{85}\u{feff}\u{1f600}\\",
                "file:=profile:/etc/passwd",
            ]
            .map(|text| text.parse().expect("a variable"))
            .to_vec(),
            config: ["greeting=$hello"].map(|text| text.parse().expect("a value")).to_vec(),
            dir: ["/srv/pages", "/srv/a $b::/data/b"]
                .map(|text| text.parse().expect("a folder"))
                .to_vec(),
            http: vec!["https://api.example".parse().expect("a callee")],
        };
        let component = Component {
            path: "/a $b/\"c\": d.wasm".to_owned(),
            name: name("\"c\": d.wasm"),
            world: World::Other,
        };
        let text = options.configuration(&component).expect("no name stands there twice");
        let parsed = tamis_config::parse(&text, Path::new("/x/tamis.yaml"), &tamis_config::System);
        let config = parsed.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert!(config.admin.is_none());
        let cluster = config.clusters.iter().find(|cluster| cluster.name == component.name);
        let cluster = cluster.unwrap_or_else(|| panic!("{text}"));
        let tamis_config::Endpoints::Component(service) = &cluster.endpoints else {
            panic!("{text}")
        };
        assert_eq!(cluster.name, "-c---d.wasm");
        assert_eq!(service.component, Path::new(&component.path));
        let variables = [
            ("A", "${HOME} $ \"}"),
            ("B", "2\n"),
            ("a$b\": }\\\u{2028}", "\u{e9}\u{7f}\u{85}\u{feff}\u{1f600}\\"),
            ("file:", "profile:/etc/passwd"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            service.grants,
            [
                tamis_config::ServiceGrant::Clocks,
                tamis_config::ServiceGrant::Env(variables.to_vec()),
                tamis_config::ServiceGrant::Config(vec![("greeting".to_owned(), "$hello".to_owned())]),
                tamis_config::ServiceGrant::Dir(vec![
                    ("/pages".to_owned(), "/srv/pages".into()),
                    ("/data/b".to_owned(), "/srv/a $b".into()),
                ]),
                tamis_config::ServiceGrant::Http(vec!["api.example".to_owned()]),
            ]
        );
        assert!(config.clusters.iter().any(|cluster| cluster.name == "api.example"));
    }

    /// A file is looked for where the command was given.
    #[test]
    fn files_of_values_are_of_this_folder() {
        let here = std::env::current_dir().expect("there is one");
        let text = values(&["A=file:token".parse().expect("a variable")]).expect("a path");
        let path = here.join("token");
        let expected = format!("{{ \"A\": {} }}", quoted(&format!("file:{}", path.display())));
        assert_eq!(text, Some(expected));
    }

    #[test]
    fn an_address_that_is_taken_has_its_argument() {
        let file = Path::new("/tmp/x/tamis.yaml");
        let ways_out = [("listener `web`: address ", "; `--address IP:PORT` names another")];
        for (error, expected) in [
            (
                "/tmp/x/tamis.yaml:5:12: listener `web`: address 127.0.0.1:80: cannot listen: in use\nb",
                "listener `web`: address 127.0.0.1:80: cannot listen: in use; `--address IP:PORT` names another\nb",
            ),
            ("listener `web`: address: no", "listener `web`: address: no"),
        ] {
            assert_eq!(in_arguments(error, file, &ways_out), expected);
        }
    }

    #[test]
    fn errors_lose_their_places() {
        let file = Path::new("/tmp/x/tamis.yaml");
        for (error, expected) in [
            ("/tmp/x/tamis.yaml:5:12: cluster `a`: no", "cluster `a`: no"),
            ("/tmp/x/tamis.yaml: no", "no"),
            ("/tmp/x/tamis.yaml:5:1: 1: a\nb", "1: a\nb"),
        ] {
            assert_eq!(without_places(error, file), expected);
        }
    }
}
