//! Where something listens: an IP address and port, a Unix socket's path, or a component in this process.
//!
//! Both planes. It knows nothing of who listens there.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// By its name; nobody listens there, and no text leads there.
    Component(Arc<str>),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(formatter),
            Address::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Address::Component(name) => write!(formatter, "component:{name}"),
        }
    }
}

impl Address {
    /// What opening a socket at a component comes to.
    pub fn no_socket(&self) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::Unsupported, format!("{self} has no socket"))
    }
}

impl FromStr for Address {
    type Err = String;

    /// `ADDRESS:PORT` or `unix:/PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Address::Unix(path.into())),
            None => text
                .parse()
                .map(Address::Tcp)
                .map_err(|error| format!("{error}; write ADDRESS:PORT or unix:/PATH")),
        }
    }
}
