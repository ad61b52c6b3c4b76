//! Active health checks: the proxy asks endpoints itself whether they can answer.
//!
//! Control plane; one task for each endpoint, so that one that hangs keeps no other waiting. Never on a worker. Bounded:
//! a check takes no longer than its timeout and reads no more than the head of an answer. An endpoint is used until its
//! first check has come to an end; that one decides, and from then on as many in a row as the thresholds say.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::{AbortHandle, JoinSet};

use crate::address::Address;
use crate::cluster::{Cluster, Terms};
use crate::endpoint::{Endpoint, Health};
use crate::h1::{self, Parsed};
use crate::pool;

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
}

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
        let is_member = |id: u64| members.list.iter().any(|member| member.endpoint.id() == id);
        checked.retain(|id, task| {
            let keep = is_member(*id);
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
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => formatter.write_str("no answer in time"),
            Self::Broken(error) => error.fmt(formatter),
            Self::Malformed(fault) => fault.fmt(formatter),
            Self::Status(status) => write!(formatter, "status {}", status.as_u16()),
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
    let mut stream = pool::open_stream(terms, endpoint, None, None).await?;
    let Probe::Http { path, host, statuses } = probe else {
        return Ok(());
    };
    let host = host.as_deref().unwrap_or(match &endpoint.address {
        Address::Tcp(_) => &endpoint.label,
        Address::Unix(_) => "localhost",
    });
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: tamis-health-check\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let status = status(&mut stream).await?;
    let is_good = match &**statuses {
        [] => status.is_success(),
        statuses => statuses.contains(&status),
    };
    if is_good { Ok(()) } else { Err(Fault::Status(status)) }
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
