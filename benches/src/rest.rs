//! Connections that had one answer each and then rest.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::load::{Load, SocketErrors};

const LIMIT: Duration = Duration::from_secs(10);
/// Descriptors that a proxy and this program need besides those of the connections.
const OTHERS: u64 = 256;
/// More than the origin's small answer.
const MAX_BODY: usize = 64 << 10;

/// Held open until it is dropped.
pub struct Resting {
    pub load: Load,
    connections: Vec<BufReader<TcpStream>>,
}

/// Lets this program, and what it starts, have as many descriptors as the machine allows. Refuses when they are too few
/// for so many connections.
pub fn require_descriptors(connections: u32) -> Result<()> {
    let allowed = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit {
        current: allowed,
        maximum: allowed,
    };
    setrlimit(Resource::Nofile, wanted).context("cannot raise the limit of descriptors")?;
    let needed = u64::from(connections) + OTHERS;
    ensure!(
        allowed.is_none_or(|allowed| needed <= allowed),
        "{connections} connections need {needed} descriptors, and {} are allowed (`ulimit -Hn`); use less --conns",
        allowed.unwrap_or_default()
    );
    Ok(())
}

/// Opens the connections one after the other, each with one request that is answered.
pub fn open(port: u16, path: &str, count: u32) -> Result<Resting> {
    let started = Instant::now();
    let mut connections = Vec::with_capacity(count as usize);
    for number in 0..count {
        let connection = open_one(port, path);
        connections.push(connection.with_context(|| format!("connection {number} of {count}"))?);
    }
    Ok(Resting {
        load: Load {
            count: count.into(),
            per_second: f64::from(count) / started.elapsed().as_secs_f64(),
            latency: None,
            non_2xx: 0,
            socket_errors: SocketErrors::default(),
        },
        connections,
    })
}

fn open_one(port: u16, path: &str) -> Result<BufReader<TcpStream>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut stream = BufReader::with_capacity(1 << 10, stream);
    let (mut line, mut length) = (String::new(), None);
    stream.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200"), "answered with `{}`", line.trim());
    while line != "\r\n" {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "the answer's head broke off");
        if let Some((_, value)) = line
            .split_once(':')
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let length = length.context("the answer has no content-length")?;
    ensure!(length <= MAX_BODY, "an answer of {length} bytes is none to rest after");
    stream.read_exact(&mut vec![0; length])?;
    Ok(stream)
}

impl Resting {
    /// Closes those that the proxy has closed meanwhile out of the count: a connection that is gone rests on nobody.
    pub fn require_all_open(&self) -> Result<()> {
        for (number, connection) in self.connections.iter().enumerate() {
            let stream = connection.get_ref();
            stream.set_nonblocking(true)?;
            let is_open = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
            ensure!(is_open, "connection {number} was closed while it rested");
        }
        Ok(())
    }
}
