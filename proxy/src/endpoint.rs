//! An endpoint: one upstream server, and what the process knows of it.
//!
//! Data plane; shared by all workers and by all generations whose cluster of the same name has the endpoint, so that what
//! is known of it survives reloads. Invariant: while all is well, an exchange writes nothing here that another worker
//! reads. Who judges an endpoint is the control plane's ([`health`](crate::health), [`outlier`](crate::outlier)); every
//! judgement moves the [`Epoch`] of the cluster, which is how workers learn of it.

use std::fmt;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use tokio::sync::Notify;

use crate::address::Address;

/// Lives as long as a cluster has it, or an exchange uses it.
pub struct Endpoint {
    /// Unique in the process.
    id: u64,
    pub address: Address,
    /// The name that led to the address, if one did.
    pub host: Option<Arc<str>>,
    /// [`Address`] as text, for logs and metrics.
    pub label: String,
    epoch: Arc<Epoch>,
    /// A [`Health`].
    health: AtomicU8,
    ejected: AtomicBool,
    /// When it last became [usable](Endpoint::is_usable); see [`millis`].
    usable_since: AtomicU64,
    /// When anything about it last changed, in milliseconds since 1970.
    changed_at: AtomicU64,
    /// Failures since the last success. Written while there are some, and read otherwise.
    in_a_row: AtomicU32,
    lanes: Box<[Lane]>,
    pub ejection: Ejection,
    pub counts: Counts,
}

/// What the control plane knows of an endpoint's ejections.
#[derive(Default)]
pub struct Ejection {
    /// When the one under way ends; see [`millis`].
    pub until: AtomicU64,
    /// How many there were of late: the next one is so many times longer.
    pub level: AtomicU32,
}

/// Since the endpoint came.
#[derive(Default)]
pub struct Counts {
    pub health_changes: AtomicU64,
    pub checks_good: AtomicU64,
    pub checks_bad: AtomicU64,
    pub ejections_in_a_row: AtomicU64,
    pub ejections_success_rate: AtomicU64,
}

/// What one worker has counted. Aligned so that no two workers write the same cache line, nor one that is fetched with it.
#[derive(Default)]
#[repr(align(128))]
struct Lane {
    answers: AtomicU64,
    failures: AtomicU64,
}

/// What active checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// None has come to an end. Such an endpoint is used.
    Unknown,
    Healthy,
    Unhealthy,
}

/// Moves with everything that changes the choice among a cluster's endpoints; read for each request.
#[derive(Debug, Default)]
pub struct Epoch {
    number: AtomicU64,
    moved: Notify,
}

impl Epoch {
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// What changed is written before.
    pub fn advance(&self) {
        self.number.fetch_add(1, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Until it is another than `seen`.
    pub async fn moved_from(&self, seen: u64) {
        loop {
            let moved = self.moved.notified();
            if self.number() != seen {
                return;
            }
            moved.await;
        }
    }
}

/// Monotonic milliseconds, for atomics; never zero.
pub fn millis(now: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since = now.saturating_duration_since(*START);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1) + 1
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Endpoint {
    /// `epoch` is that of its cluster; one lane for each worker.
    pub fn new(address: Address, host: Option<Arc<str>>, epoch: Arc<Epoch>, workers: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let now = millis(Instant::now());
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            label: address.to_string(),
            address,
            host,
            epoch,
            health: AtomicU8::new(Health::Unknown as u8),
            ejected: AtomicBool::new(false),
            usable_since: AtomicU64::new(now),
            changed_at: AtomicU64::new(unix_millis()),
            in_a_row: AtomicU32::new(0),
            lanes: (0..workers.max(1)).map(|_| Lane::default()).collect(),
            ejection: Ejection::default(),
            counts: Counts::default(),
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Unknown,
            1 => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire)
    }

    /// Whether it is known of nothing that speaks against it.
    pub fn is_usable(&self) -> bool {
        self.health() != Health::Unhealthy && !self.is_ejected()
    }

    /// How long it has been usable.
    pub fn usable_for(&self, now: Instant) -> Duration {
        since(&self.usable_since, now)
    }

    /// Since when it has been as it is, by the clock on the wall.
    pub fn since(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.changed_at.load(Ordering::Relaxed))
    }

    /// Whether that is news.
    pub fn set_health(&self, health: Health, now: Instant) -> bool {
        let was_usable = self.is_usable();
        let was = self.health.swap(health as u8, Ordering::AcqRel);
        if was == health as u8 {
            return false;
        }
        self.counts.health_changes.fetch_add(1, Ordering::Relaxed);
        self.changed(was_usable, now);
        true
    }

    pub fn set_ejected(&self, ejected: bool, now: Instant) {
        let was_usable = self.is_usable();
        if self.ejected.swap(ejected, Ordering::AcqRel) != ejected {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.changed(was_usable, now);
        }
    }

    fn changed(&self, was_usable: bool, now: Instant) {
        let now = millis(now);
        self.changed_at.store(unix_millis(), Ordering::Relaxed);
        let is_usable = self.is_usable();
        if is_usable && !was_usable {
            self.usable_since.store(now, Ordering::Relaxed);
        }
        // A second reason against it, or one of two that is gone, moves no request.
        if is_usable != was_usable {
            self.epoch.advance();
        }
    }

    /// An answer to a request of this worker; how many failures in a row that makes.
    pub fn answered(&self, worker: usize, status: StatusCode) -> u32 {
        let lane = self.lane(worker);
        bump(&lane.answers);
        if status.is_server_error() {
            bump(&lane.failures);
        }
        let is_gateways = [
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        if is_gateways.contains(&status) {
            return self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        }
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        0
    }

    /// A request of this worker found no answer; how many failures in a row that makes.
    pub fn failed(&self, worker: usize) -> u32 {
        let lane = self.lane(worker);
        bump(&lane.answers);
        bump(&lane.failures);
        self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Failures since the last success.
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row.load(Ordering::Relaxed)
    }

    /// Requests that came to an end, and those that failed, over all workers.
    pub fn totals(&self) -> (u64, u64) {
        let add = |(answers, failures): (u64, u64), lane: &Lane| {
            (
                answers + lane.answers.load(Ordering::Relaxed),
                failures + lane.failures.load(Ordering::Relaxed),
            )
        };
        self.lanes.iter().fold((0, 0), add)
    }

    fn lane(&self, worker: usize) -> &Lane {
        &self.lanes[worker % self.lanes.len()]
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("label", &self.label)
            .field("health", &self.health())
            .field("ejected", &self.is_ejected())
            .finish_non_exhaustive()
    }
}

/// Each lane has one writer.
fn bump(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn since(at: &AtomicU64, now: Instant) -> Duration {
    Duration::from_millis(millis(now).saturating_sub(at.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> (Endpoint, Arc<Epoch>) {
        let epoch = Arc::<Epoch>::default();
        let endpoint = Endpoint::new(Address::Unix("/tmp/app".into()), None, Arc::clone(&epoch), 2);
        (endpoint, epoch)
    }

    #[test]
    fn the_epoch_moves_when_requests_go_elsewhere() {
        let (endpoint, epoch) = endpoint();
        let now = Instant::now();
        assert!(endpoint.is_usable());
        assert!(endpoint.set_health(Health::Healthy, now));
        assert!(!endpoint.set_health(Health::Healthy, now));
        assert_eq!(epoch.number(), 0, "it was taken for healthy");
        endpoint.set_ejected(true, now);
        endpoint.set_ejected(true, now);
        assert_eq!((epoch.number(), endpoint.is_usable()), (1, false));
        endpoint.set_health(Health::Unhealthy, now);
        endpoint.set_ejected(false, now);
        endpoint.answered(0, StatusCode::OK);
        endpoint.failed(1);
        assert_eq!((epoch.number(), endpoint.is_usable()), (1, false));
        endpoint.set_health(Health::Healthy, now);
        assert_eq!((epoch.number(), endpoint.is_usable()), (2, true));
    }

    #[test]
    fn it_is_usable_from_the_last_obstacle_on() {
        let (endpoint, _) = endpoint();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        endpoint.set_ejected(true, at(10));
        endpoint.set_health(Health::Unhealthy, at(20));
        endpoint.set_ejected(false, at(30));
        assert!(!endpoint.is_usable());
        endpoint.set_health(Health::Healthy, at(40));
        let usable = endpoint.usable_for(at(45));
        assert!(
            (Duration::from_millis(4_900)..Duration::from_millis(5_100)).contains(&usable),
            "{usable:?}"
        );
    }

    #[test]
    fn failures_in_a_row_are_those_since_the_last_success_of_any_worker() {
        let (endpoint, _) = endpoint();
        assert_eq!(endpoint.failed(0), 1);
        assert_eq!(endpoint.answered(1, StatusCode::BAD_GATEWAY), 2);
        assert_eq!(endpoint.answered(1, StatusCode::INTERNAL_SERVER_ERROR), 0);
        assert_eq!(endpoint.failed(1), 1);
        assert_eq!(endpoint.totals(), (4, 4));
        endpoint.answered(0, StatusCode::NOT_FOUND);
        assert_eq!((endpoint.in_a_row(), endpoint.totals()), (0, (5, 4)));
    }
}
