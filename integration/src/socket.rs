//! A connected stream socket, TCP or Unix, with deadlines and an end that can be told: FIN, RST, or nothing yet.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// Where a listener or an endpoint is, written as in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// `127.0.0.1:80` or `unix:/path`; panics on anything else.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(PathBuf::from(path)),
            None => Self::Tcp(
                text.parse()
                    .unwrap_or_else(|error| panic!("`{text}` is no address: {error}")),
            ),
        }
    }

    pub fn connect(&self, deadline: Duration) -> io::Result<Socket> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, deadline)?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            Self::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What one bounded read found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Bytes(usize),
    /// The peer said that it will send no more.
    Fin,
    /// The peer (or its kernel) broke the connection.
    Reset,
    /// Nothing until the deadline.
    Nothing,
}

impl Socket {
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Appends what is there to `buffer`, waiting until `deadline` for the first byte.
    pub fn read_some(&mut self, buffer: &mut Vec<u8>, deadline: Instant) -> Found {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Found::Nothing;
        }
        self.set_read_timeout(left).expect("a read deadline can be set");
        let mut piece = [0; 64 * 1024];
        match self.read(&mut piece) {
            Ok(0) => Found::Fin,
            Ok(count) => {
                buffer.extend_from_slice(&piece[..count]);
                Found::Bytes(count)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Found::Nothing,
                io::ErrorKind::Interrupted => self.read_some(buffer, deadline),
                _ => Found::Reset,
            },
        }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    /// The next close sends RST and throws away what is unsent. A Unix socket has no RST and is merely closed.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            set_socket_linger(stream, Some(Duration::ZERO)).expect("SO_LINGER can be set");
        }
    }

    pub fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_write_timeout(Some(timeout)),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
