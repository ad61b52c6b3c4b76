//! Who takes part, as it stands on the command line. Pure: nothing is looked up or started yet.

use std::str::FromStr;

use anyhow::{Result, bail, ensure};

/// A proxy as it stands on the command line.
#[derive(Clone, Debug, PartialEq)]
pub enum Contestant {
    Nginx,
    Haproxy,
    Envoy(Chain),
    Tamis(Chain),
    /// A component answers, in the place of the origin.
    Service(Service),
    Extra(Extra),
}

/// Who runs which component of `filters/wasi`, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    pub host: Host,
    pub wasi: Wasi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// With these further entries of the cluster.
    Tamis(&'static str),
    /// As `wasmtime serve` does it by itself.
    Wasmtime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wasi {
    P2,
    P3,
}

impl Wasi {
    /// The component's name, without its ending.
    pub fn component(self) -> &'static str {
        match self {
            Self::P2 => "wasi-rust-service-02",
            Self::P3 => "wasi-rust-service-03",
        }
    }
}

const fn in_tamis(wasi: Wasi, cluster: &'static str) -> Contestant {
    let host = Host::Tamis(cluster);
    Contestant::Service(Service { host, wasi })
}

const fn in_wasmtime(wasi: Wasi) -> Contestant {
    let host = Host::Wasmtime;
    Contestant::Service(Service { host, wasi })
}

/// The filters before the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    Empty,
    /// Each reads one request header and sets another.
    Wasm(usize),
    /// The same.
    Native(usize),
    /// Each sees every piece of the response's body and keeps it.
    Body(usize),
}

/// A proxy of the caller's own, as given by `--extra NAME=PORT=COMMAND`.
#[derive(Clone, Debug, PartialEq)]
pub struct Extra {
    pub name: String,
    /// Where it listens on 127.0.0.1; with 0 a free port is picked.
    pub port: u16,
    /// Split at blanks; `{port}` and `{origin_port}` are filled in.
    pub command: String,
}

/// The names that are known without `--extra`.
pub const NAMES: [(&str, Contestant); 18] = [
    ("nginx", Contestant::Nginx),
    ("haproxy", Contestant::Haproxy),
    ("envoy", Contestant::Envoy(Chain::Empty)),
    ("envoy-wasm1", Contestant::Envoy(Chain::Wasm(1))),
    ("envoy-wasm3", Contestant::Envoy(Chain::Wasm(3))),
    ("tamis", Contestant::Tamis(Chain::Empty)),
    ("tamis-wasm1", Contestant::Tamis(Chain::Wasm(1))),
    ("tamis-wasm3", Contestant::Tamis(Chain::Wasm(3))),
    ("tamis-native3", Contestant::Tamis(Chain::Native(3))),
    ("tamis-body1", Contestant::Tamis(Chain::Body(1))),
    ("tamis-service02", in_tamis(Wasi::P2, "")),
    (
        "tamis-service02-exclusive",
        in_tamis(Wasi::P2, ", instances: exclusive"),
    ),
    ("tamis-service03", in_tamis(Wasi::P3, "")),
    ("tamis-service03-fresh", in_tamis(Wasi::P3, ", instances: fresh")),
    (
        "tamis-service03-concurrent",
        in_tamis(Wasi::P3, ", instances: { concurrent: 16 }"),
    ),
    (
        "tamis-service03-reuse128",
        in_tamis(Wasi::P3, ", instances: { concurrent: 16 }, instance_reuse: 128"),
    ),
    ("wasmtime-service02", in_wasmtime(Wasi::P2)),
    ("wasmtime-service03", in_wasmtime(Wasi::P3)),
];

/// Other children of a measurement; names are also names of log files.
const RESERVED: [&str; 2] = ["origin", "load"];

/// The contestants in the order of `names`, followed by extras not named there.
pub fn named(names: &[String], extras: &[Extra]) -> Result<Vec<(String, Contestant)>> {
    for (position, extra) in extras.iter().enumerate() {
        let earlier = extras[..position].iter().map(|other| other.name.as_str());
        let taken = NAMES
            .iter()
            .map(|(name, _)| *name)
            .chain(RESERVED)
            .chain(earlier)
            .any(|name| name == extra.name);
        ensure!(!taken, "--extra {}: the name is taken", extra.name);
    }
    let unnamed = extras
        .iter()
        .map(|extra| &extra.name)
        .filter(|name| !names.contains(name));
    let mut chosen: Vec<(String, Contestant)> = Vec::new();
    for name in names.iter().chain(unnamed) {
        ensure!(chosen.iter().all(|(other, _)| other != name), "{name} is named twice");
        chosen.push((name.clone(), contestant(name, extras)?));
    }
    Ok(chosen)
}

fn contestant(name: &str, extras: &[Extra]) -> Result<Contestant> {
    if let Some(extra) = extras.iter().find(|extra| extra.name == name) {
        return Ok(Contestant::Extra(extra.clone()));
    }
    if let Some((_, known)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(known.clone());
    }
    let known = NAMES.map(|(name, _)| name).join(", ");
    bail!("there is no proxy named {name}; known are {known}, and whatever --extra brings");
}

impl Chain {
    /// `t1`, `t2`, ...: the same filter under as many names.
    pub fn names(self) -> impl Iterator<Item = String> {
        let count = match self {
            Self::Empty => 0,
            Self::Wasm(count) | Self::Native(count) | Self::Body(count) => count,
        };
        (1..=count).map(|position| format!("t{position}"))
    }
}

impl FromStr for Extra {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("`{text}` is not NAME=PORT=COMMAND");
        let mut parts = text.splitn(3, '=');
        let (Some(name), Some(port), Some(command)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wanted());
        };
        // The name becomes a file name and a cell of a table.
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        if name.is_empty() || !name.chars().all(plain) || command.trim().is_empty() {
            return Err(wanted());
        }
        let port = port.parse().map_err(|_| wanted())?;
        Ok(Self {
            name: name.to_owned(),
            port,
            command: command.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn reads_an_extra_with_equal_signs_in_its_command() {
        let extra: Extra = "other=8100=prog --port=1 x".parse().unwrap();
        let expected = Extra {
            name: "other".to_owned(),
            port: 8100,
            command: "prog --port=1 x".to_owned(),
        };
        assert_eq!(extra, expected);
    }

    #[test]
    fn refuses_what_is_no_extra() {
        for text in [
            "",
            "a",
            "a=1",
            "a=1=",
            "=1=x",
            "a=x=x",
            "a=70000=x",
            "a/b=1=x",
            "a|b=1=x",
        ] {
            assert!(text.parse::<Extra>().is_err(), "{text}");
        }
    }

    #[test]
    fn extras_follow_the_names_unless_named() {
        let extra = Extra {
            name: "mine".to_owned(),
            port: 0,
            command: "x".to_owned(),
        };
        let order = |names: &[&str]| {
            let chosen = named(&owned(names), std::slice::from_ref(&extra))?;
            Ok::<_, anyhow::Error>(chosen.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(order(&["haproxy", "nginx"]).unwrap(), ["haproxy", "nginx", "mine"]);
        assert_eq!(order(&["mine", "nginx"]).unwrap(), ["mine", "nginx"]);
        assert!(order(&["nginx", "nginx"]).is_err());
        assert!(order(&["squid"]).unwrap_err().to_string().contains("tamis-native3"));
    }

    #[test]
    fn an_extra_may_not_take_a_name() {
        let extra = |name: &str| Extra {
            name: name.to_owned(),
            port: 0,
            command: "x".to_owned(),
        };
        for name in ["tamis", "origin", "load"] {
            assert!(named(&[], &[extra(name)]).is_err(), "{name}");
        }
        assert!(named(&[], &[extra("a"), extra("a")]).is_err());
    }
}
