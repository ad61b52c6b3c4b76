//! What came of a load, whichever generator applied it. Pure.

use serde::Serialize;

use crate::work::Work;

#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Requests, handshakes or connections, as the [`Work`] counts them.
    pub count: u64,
    pub per_second: f64,
    /// Where the generator tells.
    pub latency: Option<Latency>,
    /// Statuses other than 2xx.
    pub non_2xx: u64,
    pub socket_errors: SocketErrors,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SocketErrors {
    pub connect: u64,
    pub read: u64,
    pub write: u64,
    pub timeout: u64,
}

impl SocketErrors {
    pub fn total(self) -> u64 {
        self.connect + self.read + self.write + self.timeout
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            connect: self.connect + other.connect,
            read: self.read + other.read,
            write: self.write + other.write,
            timeout: self.timeout + other.timeout,
        }
    }
}

/// What a proxy used from before a load to its end; for [`Work::Idle`] to while its connections rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    pub cpu_seconds: f64,
    pub rss_mib: f64,
}

impl Spent {
    /// What one of the work's units cost, in the work's unit of cost.
    pub fn by(self, work: Work, count: u64) -> f64 {
        match work {
            Work::Idle => self.rss_mib * 1024.0 / count as f64,
            Work::Http1 | Work::Tls | Work::Http2 | Work::Handshakes => self.cpu_seconds * 1e6 / count as f64,
        }
    }
}
