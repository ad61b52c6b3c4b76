//! The command line's side of the administration endpoint: one request and its reply.
//!
//! Control plane; blocks. As small as a client of one known server can be: one request on a connection of its own, in
//! HTTP/1.0, so that the reply is never chunked and ends with the connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::address::Address;

/// The largest reply that is taken: a configuration of the largest size, with every default filled in.
const MAX_REPLY_BYTES: usize = 256 << 20;

/// Posts nothing to `path` (a literal of ours) and returns status and body. `timeout` is for the whole exchange.
pub fn post(address: &Address, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    ask(
        address,
        &format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"),
        timeout,
    )
}

/// Reads `path`, as [`post`] does.
pub fn get(address: &Address, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    ask(
        address,
        &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"),
        timeout,
    )
}

/// What to do about an endpoint that does not answer.
pub fn unreachable(error: io::Error) -> String {
    format!("the admin endpoint does not answer: {error}; is the process running, and is this its `admin.address`?")
}

fn ask(address: &Address, request: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let deadline = Instant::now() + timeout;
    let mut stream = Stream::connect(address, timeout)?;
    stream.set_timeouts(left_until(deadline)?)?;
    stream.write_all(request.as_bytes())?;
    let reply = read_to_end(&mut stream, deadline)?;
    parse(&reply).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the reply is cut short or is not HTTP"))
}

fn read_to_end(stream: &mut Stream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut chunk = [0; 64 << 10];
    loop {
        stream.set_timeouts(left_until(deadline)?)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(reply),
            Ok(count) => reply.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What a read says when its time is over differs between systems.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
        if reply.len() > MAX_REPLY_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "the reply is too large"));
        }
    }
}

/// Never zero, which a socket would take for no timeout at all.
fn left_until(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Status and body; `None` when the reply is not whole. The length is always given: without it, a reply that was cut
/// short could not be told from a short one.
fn parse(reply: &[u8]) -> Option<(u16, String)> {
    let split = reply.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(reply.get(..split)?).ok()?, reply.get(split + 4..)?);
    let mut lines = head.split("\r\n");
    let mut status_line = lines.next()?.split(' ');
    status_line.next()?.strip_prefix("HTTP/1.")?;
    let status = status_line
        .next()?
        .parse()
        .ok()
        .filter(|status| (100..1000).contains(status))?;
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let body = body.get(..length.trim().parse().ok()?)?;
    Some((status, String::from_utf8_lossy(body).into_owned()))
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(address: &Address, timeout: Duration) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => TcpStream::connect_timeout(address, timeout).map(Self::Tcp),
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Address::Component(_) => Err(address.no_socket()),
        }
    }

    fn set_timeouts(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn replies_to_the_byte() {
        for (reply, parsed) in [
            (
                &b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"[..],
                Some((200, "ok")),
            ),
            (
                b"HTTP/1.1 422 Unprocessable Entity\r\nX: y\r\nContent-Length: 0\r\n\r\n",
                Some((422, "")),
            ),
            (
                b"HTTP/1.0 200\r\ncontent-length: 1\r\n\r\n\xff",
                Some((200, "\u{fffd}")),
            ),
            (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nok", None), // cut short
            (b"HTTP/1.0 200 OK\r\n\r\nok", None),
            (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n", None),
            (b"HTTP/1.0 20 OK\r\ncontent-length: 0\r\n\r\n", None),
            (b"HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n", None),
            (b"SSH-2.0-x\r\n\r\n", None),
            (b"", None),
        ] {
            let parsed = parsed.map(|(status, body): (u16, &str)| (status, body.to_owned()));
            assert_eq!(parse(reply), parsed, "{}", reply.escape_ascii());
        }
    }

    #[test]
    fn a_server_that_says_nothing_costs_the_timeout_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Tcp(listener.local_addr().expect("an address"));
        let error = post(&address, "/reload", Duration::from_millis(50)).expect_err("silence");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_server_that_never_ends_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Tcp(listener.local_addr().expect("an address"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let error = post(&address, "/reload", Duration::from_secs(20)).expect_err("endless");
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::InvalidData, "the reply is too large".to_owned())
        );
        server.join().expect("the server ends when its client leaves");
    }

    #[test]
    fn nobody_there_is_an_error() {
        let error = post(
            &Address::Unix("/nowhere/admin.sock".into()),
            "/reload",
            Duration::from_secs(1),
        );
        assert_eq!(error.expect_err("nobody").kind(), ErrorKind::NotFound);
    }
}
