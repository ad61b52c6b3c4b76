//! Addresses: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock`, and names of endpoints: `app.example:8080`.
//!
//! Control plane. Never looks a name up: what a name means may change while the proxy runs, so that is not the
//! configuration's to freeze.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::model::{Address, Target};
use crate::node::Node;
use crate::reader::{FromNode, Reader, quote};
use crate::units::text_schema;

/// What the kernel's `sockaddr_un` holds, less its final NUL.
const MAX_UNIX_PATH_BYTES: usize = 107;

/// As text, without the final dot (RFC 1035 2.3.4).
const MAX_HOST_NAME_BYTES: usize = 253;

impl FromNode for Address {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let folder = reader.resolve("");
        reader.parsed(
            node,
            "an address as in `127.0.0.1:8080` or `unix:/run/app.sock`",
            |text| match text.strip_prefix("unix:") {
                Some(path) => unix(path, &folder),
                None => tcp(text),
            },
        )
    }
}

/// What an endpoint may be called: an address, or a name and a port.
pub(crate) struct EndpointAddress(pub(crate) Target);

impl FromNode for EndpointAddress {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let folder = reader.resolve("");
        let expected = "an address as in `127.0.0.1:8080`, `app.example:8080` or `unix:/run/app.sock`";
        let target = reader.parsed(node, expected, |text| match text.strip_prefix("unix:") {
            Some(path) => unix(path, &folder).map(Target::Address),
            None => match text.parse() {
                Ok(address) => Ok(Target::Address(Address::Tcp(address))),
                Err(_) => host(text),
            },
        });
        target.map(Self)
    }
}

impl JsonSchema for EndpointAddress {
    fn schema_name() -> Cow<'static, str> {
        "EndpointAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text_schema(
            "An IP address or a host name, and a port, as in `127.0.0.1:8080`, `[::1]:8080` or `app.example:8080`; or \
             `unix:` and a path.",
            r"^(unix:.+|[A-Za-z0-9_.-]+:[0-9]+|\[[0-9a-fA-F:.%]+\]:[0-9]+)$",
        )
    }
}

/// `app.example:8080`.
fn host(text: &str) -> Result<Target, String> {
    let fault = || {
        format!(
            "`{}` is not an address; write an IP address or a host name, and a port, as in `{}`",
            quote(text),
            likely(text)
        )
    };
    let (name, port) = text.rsplit_once(':').ok_or_else(fault)?;
    let port = port.parse().map_err(|_| fault())?;
    // The last label of a name is never a number (RFC 1123 2.1), so this is an address that is not one.
    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    if last.is_empty() || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(fault());
    }
    Ok(Target::Host {
        name: host_name(name).map_err(|_| fault())?,
        port,
    })
}

/// A name that may be looked up, in lower case.
pub(crate) fn host_name(name: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.len() > MAX_HOST_NAME_BYTES || !labels.split('.').all(is_label) {
        return Err(format!("`{}` is not a host name", quote(name)));
    }
    Ok(name.to_ascii_lowercase())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Service(name) => write!(f, "srv:{name}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text_schema(
            "An IP address and port, as in `127.0.0.1:8080` or `[::1]:8080`, or `unix:` and a path.",
            r"^(unix:.+|[0-9.]+:[0-9]+|\[[0-9a-fA-F:.%]+\]:[0-9]+)$",
        )
    }
}

fn unix(path: &str, folder: &std::path::Path) -> Result<Address, String> {
    if path.is_empty() {
        return Err("`unix:` without a path; write it as in `unix:/run/app.sock`".to_owned());
    }
    let path = folder.join(path);
    if path.as_os_str().len() > MAX_UNIX_PATH_BYTES {
        return Err(format!(
            "the path is longer than {MAX_UNIX_PATH_BYTES} bytes; choose a shorter one"
        ));
    }
    Ok(Address::Unix(path))
}

fn tcp(text: &str) -> Result<Address, String> {
    text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| {
        let fault = match host(text) {
            Ok(_) => "has a host name, and an IP address is meant",
            Err(_) => "is not an address",
        };
        format!(
            "`{}` {fault}; write an IP address and port as in `{}`",
            quote(text),
            likely(text)
        )
    })
}

/// The address that was probably meant.
fn likely(text: &str) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port: u16 = port.parse().or_else(|_| text.parse()).unwrap_or(8080);
    match host {
        "" | "*" => format!("0.0.0.0:{port}"),
        _ => match host.parse::<std::net::IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) => format!("127.0.0.1:{port}"),
        },
    }
}
