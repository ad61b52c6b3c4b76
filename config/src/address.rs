//! Addresses: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock`.
//!
//! Control plane. Never looks a name up: what a name means may change while the proxy runs, so that is not the
//! configuration's to freeze.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::model::Address;
use crate::node::Node;
use crate::reader::{FromNode, Reader, quote};
use crate::units::text_schema;

/// What the kernel's `sockaddr_un` holds, less its final NUL.
const MAX_UNIX_PATH_BYTES: usize = 107;

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
        format!(
            "`{}` is not an address; write an IP address and port as in `{}`",
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
