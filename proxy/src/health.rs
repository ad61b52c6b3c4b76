//! Active health checks: the proxy asks endpoints itself whether they can answer.
//!
//! Control plane; one task for each endpoint, so that one that hangs keeps no other waiting. Never on a worker. Bounded:
//! a check takes no longer than its timeout and reads no more than the head of an answer. An endpoint is used until its
//! first check has come to an end; that one decides, and from then on as many in a row as the thresholds say.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::{AbortHandle, JoinSet};

use crate::address::Address;
use crate::cluster::{Cluster, Terms};
use crate::endpoint::{Endpoint, Health};
use crate::grpc;
use crate::h1::{self, Parsed};
use crate::http2;
use crate::pool;
use crate::stream::Stream;

/// How, and how often. Defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub probe: Probe,
    pub interval: Duration,
    /// How far a wait may be off the interval, as a part of it.
    pub jitter: f64,
    pub timeout: Duration,
    /// In a row.
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A connection.
    Tcp,
    /// An answer to GET.
    Http {
        path: String,
        /// `None` is the endpoint's address.
        host: Option<String>,
        /// Empty is any from 200 to 299.
        statuses: Vec<StatusCode>,
    },
    /// A call of `grpc.health.v1.Health/Check`; an empty name asks after the server as a whole.
    Grpc { service: String },
}

/// Who asks.
const AGENT: &str = "tamis-health-check";
/// The path of that call.
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Its answer, of which it is the only good one.
const SERVING: u64 = 1;

/// Checks what the cluster has, whenever it has it. Until it is dropped.
pub async fn keep(cluster: Arc<Cluster>) {
    let Some(check) = cluster.terms.check.clone() else {
        return;
    };
    let check = Arc::new(check);
    let mut tasks = JoinSet::new();
    let mut checked: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        let epoch = cluster.epoch().number();
        let members = cluster.members();
        let ids: HashSet<u64> = members.list.iter().map(|member| member.endpoint.id()).collect();
        checked.retain(|id, task| {
            let keep = ids.contains(id);
            if !keep {
                task.abort();
            }
            keep
        });
        for member in &members.list {
            let endpoint = &member.endpoint;
            checked.entry(endpoint.id()).or_insert_with(|| {
                let (cluster, endpoint, check) = (Arc::clone(&cluster), Arc::clone(endpoint), Arc::clone(&check));
                tasks.spawn_local(async move { check_on(&cluster, &endpoint, &check).await })
            });
        }
        // Those that were let go of.
        while tasks.try_join_next().is_some() {}
        cluster.epoch().moved_from(epoch).await;
    }
}

async fn check_on(cluster: &Cluster, endpoint: &Endpoint, check: &Check) {
    let mut tally = Tally::default();
    // Not all at once when there are many.
    tokio::time::sleep(check.interval.mul_f64(check.jitter * fraction())).await;
    loop {
        let asked = tokio::time::timeout(check.timeout, probe(&cluster.terms, endpoint, &check.probe)).await;
        let fault = match asked {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault),
            Err(_) => Some(Fault::TimedOut),
        };
        if let Some(Fault::Broken(error)) = &fault
            && pool::is_ours(error)
        {
            // Says nothing of the endpoint.
            tokio::time::sleep(check.interval).await;
            continue;
        }
        let count = match fault {
            None => &endpoint.counts.checks_good,
            Some(_) => &endpoint.counts.checks_bad,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let health = tally.take(endpoint.health(), fault.is_none(), check);
        if endpoint.set_health(health, Instant::now()) {
            tell(cluster, endpoint, health, fault.as_ref());
        }
        let wait = 1.0 + check.jitter * (2.0 * fraction() - 1.0);
        tokio::time::sleep(check.interval.mul_f64(wait)).await;
    }
}

fn tell(cluster: &Cluster, endpoint: &Endpoint, health: Health, fault: Option<&Fault>) {
    let (cluster, endpoint) = (cluster.name(), &*endpoint.label);
    match fault {
        None => tracing::info!(cluster, endpoint, health = health.as_str(), "endpoint is healthy"),
        Some(fault) => tracing::warn!(cluster, endpoint, health = health.as_str(), %fault, "endpoint is unhealthy"),
    }
}

/// Checks that contradict what is known of an endpoint, in a row.
#[derive(Default)]
struct Tally {
    against: u32,
}

impl Tally {
    /// What is known after one more check.
    fn take(&mut self, known: Health, is_good: bool, check: &Check) -> Health {
        let (says, threshold) = match is_good {
            true => (Health::Healthy, check.healthy_threshold),
            false => (Health::Unhealthy, check.unhealthy_threshold),
        };
        if known == says {
            self.against = 0;
            return known;
        }
        self.against += 1;
        if known == Health::Unknown || self.against >= threshold {
            self.against = 0;
            return says;
        }
        known
    }
}

/// Why a check was not good.
#[derive(Debug)]
enum Fault {
    TimedOut,
    Broken(io::Error),
    Malformed(h1::Fault),
    Status(StatusCode),
    /// Of a call.
    Call(grpc::Status),
    NotServing,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => formatter.write_str("no answer in time"),
            Self::Broken(error) => error.fmt(formatter),
            Self::Malformed(fault) => fault.fmt(formatter),
            Self::Status(status) => write!(formatter, "status {}", status.as_u16()),
            Self::Call(status) => write!(formatter, "gRPC status {}", status.as_str()),
            Self::NotServing => formatter.write_str("the service is not serving"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Over a connection like those that requests take: with TLS, if the cluster has it.
async fn probe(terms: &Terms, endpoint: &Endpoint, probe: &Probe) -> Result<(), Fault> {
    let stream = pool::open_stream(terms, endpoint, None, None).await?;
    let own = match &endpoint.address {
        Address::Tcp(_) => &endpoint.label,
        Address::Unix(_) | Address::Component(_) => "localhost",
    };
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Grpc { service } => check_service(terms, stream, own, service).await,
        Probe::Http { path, host, statuses } => {
            let host = host.as_deref().unwrap_or(own);
            let status = match pool::speaks_http2(terms, &stream)? {
                true => {
                    let request = request(terms, Method::GET, host, path)?;
                    http2::ask(stream, request, Bytes::new()).await?.status
                }
                false => get(stream, host, path).await?,
            };
            let is_good = match &**statuses {
                [] => status.is_success(),
                statuses => statuses.contains(&status),
            };
            if is_good { Ok(()) } else { Err(Fault::Status(status)) }
        }
    }
}

fn request(terms: &Terms, method: Method, host: &str, path: &str) -> io::Result<Request<()>> {
    let scheme = if terms.tls.is_some() { "https" } else { "http" };
    let request = Request::builder()
        .method(method)
        .uri(format!("{scheme}://{host}{path}"))
        .header(header::USER_AGENT, AGENT)
        .body(());
    request.map_err(io::Error::other)
}

/// <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, whose messages have one field each.
async fn check_service(terms: &Terms, stream: Stream, host: &str, service: &str) -> Result<(), Fault> {
    if !pool::speaks_http2(terms, &stream)? {
        return Err(io::Error::other("the server does not speak HTTP/2, as gRPC needs").into());
    }
    let mut request = request(terms, Method::POST, host, GRPC_CHECK)?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let answered = http2::ask(stream, request, question(service).into()).await?;
    let status = grpc::Status::of(&answered.trailers).or_else(|| grpc::Status::of(&answered.headers));
    match status {
        _ if answered.status != StatusCode::OK => Err(Fault::Status(answered.status)),
        Some(status) if status.code() == 0 && serving(&answered.body) == Some(SERVING) => Ok(()),
        Some(status) if status.code() == 0 => Err(Fault::NotServing),
        Some(status) => Err(Fault::Call(status)),
        None => Err(Fault::Call(grpc::Status::UNKNOWN)),
    }
}

/// `HealthCheckRequest { string service = 1 }`, with the prefix of a message.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 4);
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        push_varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &message].concat()
}

/// The status in `HealthCheckResponse { ServingStatus status = 1 }`, behind the prefix of a message.
fn serving(message: &[u8]) -> Option<u64> {
    let mut rest = message.get(5..)?;
    let mut status = 0;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = take_varint(&mut rest)?,
            (_, 0) => drop(take_varint(&mut rest)?),
            // Fields of other kinds are none of this message's.
            _ => return None,
        }
    }
    Some(status)
}

fn push_varint(mut number: u64, into: &mut Vec<u8>) {
    while number >= 128 {
        into.push(number as u8 | 128);
        number >>= 7;
    }
    into.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 127) << shift;
        if first & 128 == 0 {
            return Some(number);
        }
    }
    None
}

/// The status of an answer to GET in HTTP/1.1.
async fn get(mut stream: Stream, host: &str, path: &str) -> Result<StatusCode, Fault> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    status(&mut stream).await
}

/// Of the final response.
async fn status(stream: &mut (impl AsyncRead + Unpin)) -> Result<StatusCode, Fault> {
    let (mut input, mut seen) = (Vec::with_capacity(1 << 10), 0);
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if input.len() <= h1::MAX_HEAD && !h1::ends_a_head(&input, seen) {
            seen = input.len();
            continue;
        }
        let mut bytes = Bytes::from(std::mem::take(&mut input));
        loop {
            match h1::parse(&mut bytes, &Method::GET).map_err(Fault::Malformed)? {
                Parsed::Final(head) | Parsed::Switching(head) => return Ok(head.status),
                Parsed::Interim => {}
                Parsed::Partial => break,
            }
        }
        input = bytes.into();
        seen = input.len();
    }
}

/// Uniform, from 0 to 1.
fn fraction() -> f64 {
    RandomState::new().hash_one(Instant::now()) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_check_decides_and_then_so_many_in_a_row() {
        let check = Check {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            jitter: 0.0,
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        for (checks, expected) in [
            ("g", "H"),
            ("b", "U"),
            ("gbb", "HHH"),
            ("gbbb", "HHHU"),
            ("gbbgbbgbbb", "HHHHHHHHHU"),
            ("bgbgbgg", "UUUUUUH"),
        ] {
            let (mut tally, mut known) = (Tally::default(), Health::Unknown);
            let mut found = String::new();
            for one in checks.chars() {
                known = tally.take(known, one == 'g', &check);
                found.push(if known == Health::Healthy { 'H' } else { 'U' });
            }
            assert_eq!(found, expected, "{checks}");
        }
    }

    #[test]
    fn messages_of_health_checks() {
        assert_eq!(question(""), b"\0\0\0\0\0");
        assert_eq!(question("a.B"), b"\0\0\0\0\x05\x0a\x03a.B");
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
        for (message, expected) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            (b"\0\0\0\0\0", Some(0)),
            (b"\0\0\0\0\x04\x10\x07\x08\x01", Some(1)),
            (b"\0\0\0\0\x03\x08\x81\x00", Some(1)),
            (b"\0\0\0\0\x01\x08", None),
            (b"\0\0\0\0\x02\x0a\x01", None),
            (b"\0\0\0", None),
            (b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(serving(message), expected, "{}", message.escape_ascii());
        }
    }

    #[tokio::test]
    async fn a_status_is_that_of_the_final_response_however_it_is_cut() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nserver: x\r\n\r\n";
        for piece in [1, 3, 25, 26, 100] {
            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            let writing = tokio::spawn(async move {
                for piece in answer.chunks(piece) {
                    theirs.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            assert_eq!(status(&mut ours).await.unwrap(), 204, "{piece}");
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_fault() {
        for answer in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0-OpenSSH\r\n\r\n"] {
            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            theirs.write_all(answer.as_bytes()).await.unwrap();
            drop(theirs);
            assert!(status(&mut ours).await.is_err(), "{answer:?}");
        }
    }
}
