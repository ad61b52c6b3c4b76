//! Looking names up: A, AAAA and SRV records, within bounds.
//!
//! Control plane. A name is asked for again when its time to live is over, held between a floor and a ceiling; a look-up
//! that fails is repeated ever more slowly, and what it found before stays. A family of addresses of which there are
//! suddenly none is believed only when there are some of the other: a name without any address is a failure. Addresses
//! that no server can have are left out, and so are link-local ones, behind which clouds keep their secrets.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::task::JoinSet;

use super::{MAX_ENDPOINTS, Source, Target};
use crate::address::Address;
use crate::cluster::{Resolutions, Seat, Standing};

/// Look-ups of one cluster at once.
const CONCURRENT: usize = 16;
/// Times that a question is put before it counts as failed, within its timeout.
const ATTEMPTS: u32 = 2;
/// Addresses of a name and family, or servers of a service, that are taken of an answer: who answers is not to decide how
/// much is kept.
const MAX_ANSWERS: usize = 1_000;
/// A server that does not know is asked again no sooner, and in the end this seldom.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// How names are looked up; defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// `None`: those of the system.
    pub servers: Option<Vec<SocketAddr>>,
    pub timeout: Duration,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
}

/// What names led to when they last led anywhere.
#[derive(Debug, Default)]
pub struct Known(Mutex<Answers>);

#[derive(Debug, Default)]
struct Answers {
    hosts: HashMap<String, Answer<Addresses>>,
    services: HashMap<String, Answer<Vec<Server>>>,
}

#[derive(Debug)]
struct Answer<T> {
    found: T,
    /// When it is to be looked up again.
    due: Instant,
    /// Look-ups in a row that failed.
    failures: u32,
}

/// Sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Addresses {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

/// Of an SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    priority: u16,
    name: String,
    port: u16,
    weight: u16,
}

impl Known {
    pub(super) fn host(&self, name: &str, port: u16, weight: u32, priority: u32) -> Vec<Seat> {
        let answers = self.lock();
        let Some(answer) = answers.hosts.get(name) else {
            return Vec::new();
        };
        let host: Arc<str> = name.into();
        let seat = |address: &IpAddr| Seat {
            address: Address::Tcp(SocketAddr::new(*address, port)),
            host: Some(Arc::clone(&host)),
            weight,
            priority,
        };
        answer.found.v4.iter().chain(&answer.found.v6).map(seat).collect()
    }

    pub(super) fn service(&self, name: &str) -> Vec<Seat> {
        let servers = match self.lock().services.get(name) {
            Some(answer) => answer.found.clone(),
            None => return Vec::new(),
        };
        let seats = servers.iter().flat_map(|server| {
            // RFC 2782: weight 0 has a small chance, not none.
            let weight = u32::from(server.weight.max(1));
            self.host(&server.name, server.port, weight, u32::from(server.priority))
        });
        seats.take(MAX_ENDPOINTS).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names that these are, and when the first of them is due.
    fn due(&self, sources: &[Source], now: Instant) -> Due {
        let answers = self.lock();
        let mut due = Due::default();
        let mut hosts: Vec<&str> = Vec::new();
        for source in sources {
            match &source.target {
                Target::Address(_) => {}
                Target::Host { name, .. } => hosts.push(name),
                Target::Service(name) => {
                    let answer = answers.services.get(name);
                    due.look_at(name, answer.map(|answer| answer.due), now, |due| &mut due.services);
                    let servers = answer.map(|answer| &*answer.found).unwrap_or_default();
                    hosts.extend(servers.iter().map(|server| &*server.name));
                }
            }
        }
        hosts.sort_unstable();
        hosts.dedup();
        for name in hosts {
            let answer = answers.hosts.get(name);
            due.look_at(name, answer.map(|answer| answer.due), now, |due| &mut due.hosts);
        }
        due
    }

    /// Forgets names that nobody asks for any more.
    pub(super) fn retain(&self, sources: &[Source]) {
        let mut hosts = HashSet::new();
        let mut services = HashSet::new();
        for source in sources {
            match &source.target {
                Target::Address(_) => {}
                Target::Host { name, .. } => drop(hosts.insert(&**name)),
                Target::Service(name) => drop(services.insert(&**name)),
            }
        }
        let mut answers = self.lock();
        let Answers {
            hosts: known,
            services: kept,
        } = &mut *answers;
        kept.retain(|name, _| services.contains(&**name));
        let servers: HashSet<&str> = kept
            .values()
            .flat_map(|answer| answer.found.iter().map(|server| &*server.name))
            .collect();
        known.retain(|name, _| hosts.contains(&**name) || servers.contains(&**name));
    }
}

/// What is to be looked up now.
#[derive(Debug, Default)]
struct Due {
    services: Vec<String>,
    hosts: Vec<String>,
    /// When the first of the others is.
    next: Option<Instant>,
}

impl Due {
    fn look_at(&mut self, name: &str, at: Option<Instant>, now: Instant, into: fn(&mut Self) -> &mut Vec<String>) {
        match at {
            Some(at) if at > now => self.next = Some(self.next.map_or(at, |next| next.min(at))),
            _ => into(self).push(name.to_owned()),
        }
    }
}

/// Looks up what is due of the names in `sources`, and says when the next of them is.
pub(super) async fn look_up(sources: &[Source], standing: &Arc<Standing>, dns: &Dns, now: Instant) -> Option<Instant> {
    if sources.iter().all(Source::is_fixed) {
        return None;
    }
    let known = &standing.known;
    let services = known.due(sources, now).services;
    ask(services, Kind::Service, standing, dns).await;
    // Servers among them that services have just named.
    let hosts = known.due(sources, now).hosts;
    ask(hosts, Kind::Host, standing, dns).await;
    let left = known.due(sources, now);
    match left.services.is_empty() && left.hosts.is_empty() {
        true => left.next,
        // A look-up that ended without an answer of any kind.
        false => Some(now + RETRY),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Host,
    Service,
}

async fn ask(names: Vec<String>, kind: Kind, standing: &Arc<Standing>, dns: &Dns) {
    if names.is_empty() {
        return;
    }
    // A new one each time: what the system says about its servers may have changed, and no task outlives the question.
    let resolver = match resolver(dns) {
        Ok(resolver) => Arc::new(resolver),
        Err(fault) => {
            for name in names {
                settle(standing, dns, kind, &name, Err(fault.clone()));
            }
            return;
        }
    };
    let mut names = names.into_iter();
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < CONCURRENT
            && let Some(name) = names.next()
        {
            let (resolver, timeout) = (Arc::clone(&resolver), dns.timeout);
            asked.spawn(async move {
                let found = match kind {
                    Kind::Host => host(&resolver, &name, timeout).await,
                    Kind::Service => service(&resolver, &name, timeout).await,
                };
                (name, found)
            });
        }
        match asked.join_next().await {
            None => return,
            Some(Ok((name, found))) => settle(standing, dns, kind, &name, found),
            Some(Err(error)) => tracing::error!(%error, "a look-up ended"),
        }
    }
}

fn resolver(dns: &Dns) -> Result<TokioResolver, String> {
    let builder = match &dns.servers {
        None => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        Some(servers) => {
            let server = |address: &SocketAddr| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                NameServerConfig::new(address.ip(), true, connections.into())
            };
            let servers = servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let mut builder = builder;
    let options = builder.options_mut();
    options.timeout = dns.timeout / ATTEMPTS;
    options.attempts = ATTEMPTS as usize;
    // How long an answer is good for is ours to say.
    options.cache_size = 0;
    builder.build().map_err(|error| error.to_string())
}

/// What came of one question.
enum Records {
    Some(Vec<Record>),
    /// There are none of the kind.
    None,
    Failed(String),
}

/// What a name led to.
enum Found {
    Host(Addresses, Part),
    Service(Vec<Server>),
}

/// Which families were answered; of the others what was known stays.
#[derive(Clone, Copy, Default)]
struct Part {
    v4: bool,
    v6: bool,
}

type Answered = Result<(Found, Duration), String>;

async fn records(resolver: &TokioResolver, name: &str, kind: RecordType, timeout: Duration) -> Records {
    match tokio::time::timeout(timeout, resolver.lookup(name, kind)).await {
        Err(_) => Records::Failed(format!("no answer within {timeout:?}")),
        Ok(Ok(lookup)) => {
            let answers = lookup
                .answers()
                .iter()
                .filter(|record| record.data.record_type() == kind);
            match answers.cloned().collect::<Vec<_>>() {
                none if none.is_empty() => Records::None,
                some => Records::Some(some),
            }
        }
        Ok(Err(error)) if error.is_no_records_found() => Records::None,
        Ok(Err(error)) => Records::Failed(error.to_string()),
    }
}

/// In seconds; the shortest of them holds for all.
fn ttl(records: &[Record]) -> Duration {
    let shortest = records.iter().map(|record| record.ttl).min();
    Duration::from_secs(u64::from(shortest.unwrap_or(0)))
}

async fn host(resolver: &TokioResolver, name: &str, timeout: Duration) -> Answered {
    let (v4, v6) = tokio::join!(
        records(resolver, name, RecordType::A, timeout),
        records(resolver, name, RecordType::AAAA, timeout),
    );
    let mut found = Addresses::default();
    let mut part = Part::default();
    let mut lives = Vec::new();
    let mut faults = Vec::new();
    for (records, list, is_answered) in [(v4, &mut found.v4, &mut part.v4), (v6, &mut found.v6, &mut part.v6)] {
        match records {
            Records::Some(records) => {
                lives.push(ttl(&records));
                *list = addresses(&records);
                *is_answered = true;
            }
            Records::None => *is_answered = true,
            Records::Failed(fault) => faults.push(fault),
        }
    }
    match lives.into_iter().min() {
        Some(life) if !found.v4.is_empty() || !found.v6.is_empty() => Ok((Found::Host(found, part), life)),
        Some(_) => Err("no address that a server can have".to_owned()),
        None if faults.is_empty() => Err("no address".to_owned()),
        None => Err(faults.join("; ")),
    }
}

fn addresses(records: &[Record]) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    let mut addresses: Vec<IpAddr> = records.iter().filter_map(address).filter(can_be_servers).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ANSWERS);
    addresses
}

fn can_be_servers(address: &IpAddr) -> bool {
    let v4 = |address: &Ipv4Addr| {
        !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_link_local())
    };
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => v4(&address),
            None => !is_special(address),
        },
    }
}

fn is_special(address: &Ipv6Addr) -> bool {
    address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local()
}

async fn service(resolver: &TokioResolver, name: &str, timeout: Duration) -> Answered {
    let records = match records(resolver, name, RecordType::SRV, timeout).await {
        Records::Some(records) => records,
        Records::None => return Err("no SRV record".to_owned()),
        Records::Failed(fault) => return Err(fault),
    };
    let server = |record: &Record| match &record.data {
        // RFC 2782: a target of "." says that there is no such service.
        RData::SRV(service) if !service.target.is_root() && service.port != 0 => Some(Server {
            priority: service.priority,
            name: service.target.to_ascii().to_ascii_lowercase(),
            port: service.port,
            weight: service.weight,
        }),
        _ => None,
    };
    let mut servers: Vec<Server> = records.iter().filter_map(server).collect();
    servers.sort_unstable();
    servers.dedup();
    servers.truncate(MAX_ANSWERS);
    if servers.is_empty() {
        return Err("no SRV record that names a server".to_owned());
    }
    Ok((Found::Service(servers), ttl(&records)))
}

/// Remembers what came of a look-up.
fn settle(standing: &Standing, dns: &Dns, kind: Kind, name: &str, answered: Answered) {
    let now = Instant::now();
    let cluster = &*standing.name;
    let mut answers = standing.known.lock();
    let (count, failures) = match answered {
        Ok((found, life)) => {
            let due = now + life.clamp(dns.min_ttl, dns.max_ttl);
            answers.take(name, found, due, &standing.resolutions)
        }
        Err(fault) => {
            let failures = answers.fail(kind, name, now, dns);
            match failures {
                1 => tracing::warn!(
                    cluster,
                    name,
                    fault,
                    "a name leads nowhere; the last good addresses are kept"
                ),
                _ => tracing::debug!(cluster, name, fault, failures, "a name still leads nowhere"),
            }
            (&standing.resolutions.failed, 0)
        }
    };
    if failures > 0 {
        tracing::info!(cluster, name, failures, "a name leads somewhere again");
    }
    count.fetch_add(1, Ordering::Relaxed);
}

impl Answers {
    /// How to count it, and how often it had failed before.
    fn take<'a>(
        &mut self,
        name: &str,
        found: Found,
        due: Instant,
        counts: &'a Resolutions,
    ) -> (&'a std::sync::atomic::AtomicU64, u32) {
        let (is_news, failures) = match found {
            Found::Service(servers) => renew(&mut self.services, name, due, |known| {
                let is_news = *known != servers;
                *known = servers;
                is_news
            }),
            Found::Host(addresses, part) => renew(&mut self.hosts, name, due, |known| {
                let before = known.clone();
                if part.v4 {
                    known.v4 = addresses.v4;
                }
                if part.v6 {
                    known.v6 = addresses.v6;
                }
                *known != before
            }),
        };
        let count = if is_news { &counts.changed } else { &counts.unchanged };
        (count, failures)
    }

    /// How often in a row that makes.
    fn fail(&mut self, kind: Kind, name: &str, now: Instant, dns: &Dns) -> u32 {
        let again = |failures: u32| {
            let wait = dns.min_ttl.max(RETRY) * 2_u32.saturating_pow(failures.min(16));
            now + wait.min(RETRY_MOST.max(dns.min_ttl)).min(dns.max_ttl.max(RETRY))
        };
        match kind {
            Kind::Host => put_off(&mut self.hosts, name, again),
            Kind::Service => put_off(&mut self.services, name, again),
        }
    }
}

fn renew<T: Default>(
    answers: &mut HashMap<String, Answer<T>>,
    name: &str,
    due: Instant,
    put: impl FnOnce(&mut T) -> bool,
) -> (bool, u32) {
    let answer = answers.entry(name.to_owned()).or_insert_with(|| Answer {
        found: T::default(),
        due,
        failures: 0,
    });
    answer.due = due;
    (put(&mut answer.found), std::mem::take(&mut answer.failures))
}

fn put_off<T: Default>(
    answers: &mut HashMap<String, Answer<T>>,
    name: &str,
    again: impl FnOnce(u32) -> Instant,
) -> u32 {
    let answer = answers.entry(name.to_owned()).or_insert_with(|| Answer {
        found: T::default(),
        due: Instant::now(),
        failures: 0,
    });
    answer.due = again(answer.failures);
    answer.failures = answer.failures.saturating_add(1);
    answer.failures
}

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: Dns = Dns {
        servers: None,
        timeout: Duration::from_secs(1),
        min_ttl: Duration::from_secs(2),
        max_ttl: Duration::from_secs(300),
    };

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn host(name: &str) -> Source {
        Source {
            target: Target::Host {
                name: name.into(),
                port: 80,
            },
            weight: 1,
            priority: 0,
        }
    }

    fn found(v4: Vec<IpAddr>, part: Part) -> Answered {
        Ok((Found::Host(Addresses { v4, v6: Vec::new() }, part), Duration::ZERO))
    }

    const BOTH: Part = Part { v4: true, v6: true };

    #[test]
    fn times_to_live_are_held_between_floor_and_ceiling() {
        for (life, expected) in [(0, 2), (1, 2), (60, 60), (86_400, 300)] {
            let standing = Standing::new("app", 1);
            let answered = found(vec![v4(1)], BOTH).map(|(found, _)| (found, Duration::from_secs(life)));
            let now = Instant::now();
            settle(&standing, &DNS, Kind::Host, "a", answered);
            let next = standing.known.due(&[host("a")], now).next.unwrap();
            let wait = (next - now).as_secs_f64();
            assert!((wait - f64::from(expected)).abs() < 1.0, "{life}: {wait}");
        }
    }

    #[test]
    fn failures_are_asked_again_ever_more_slowly_and_keep_what_was_good() {
        let standing = Standing::new("app", 1);
        settle(&standing, &DNS, Kind::Host, "a", found(vec![v4(1)], BOTH));
        let mut waits = Vec::new();
        for _ in 0..7 {
            settle(&standing, &DNS, Kind::Host, "a", Err("broken".into()));
            let due = standing.known.lock().hosts["a"].due;
            waits.push((due - Instant::now()).as_secs_f64().round() as u64);
        }
        assert_eq!(waits, [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(standing.known.host("a", 80, 1, 0).len(), 1);
        assert_eq!(standing.resolutions.failed.load(Ordering::Relaxed), 7);
        settle(&standing, &DNS, Kind::Host, "a", found(vec![v4(2)], BOTH));
        settle(&standing, &DNS, Kind::Host, "a", Err("broken".into()));
        let due = standing.known.lock().hosts["a"].due;
        assert_eq!((due - Instant::now()).as_secs_f64().round() as u64, 2);
    }

    #[test]
    fn a_family_without_an_answer_keeps_its_addresses() {
        let standing = Standing::new("app", 1);
        let six: IpAddr = Ipv6Addr::LOCALHOST.into();
        let both = Addresses {
            v4: vec![v4(1)],
            v6: vec![six],
        };
        settle(
            &standing,
            &DNS,
            Kind::Host,
            "a",
            Ok((Found::Host(both, BOTH), Duration::ZERO)),
        );
        let half = Part { v4: true, v6: false };
        settle(&standing, &DNS, Kind::Host, "a", found(vec![v4(2)], half));
        let known = standing.known.lock().hosts["a"].found.clone();
        assert_eq!((known.v4, known.v6), (vec![v4(2)], vec![six]));
        settle(&standing, &DNS, Kind::Host, "a", found(vec![v4(2)], BOTH));
        assert_eq!(standing.known.lock().hosts["a"].found.v6, [] as [IpAddr; 0]);
    }

    #[test]
    fn names_that_nobody_asks_for_are_forgotten() {
        let standing = Standing::new("app", 1);
        let server = Server {
            priority: 1,
            name: "server".into(),
            port: 80,
            weight: 0,
        };
        settle(
            &standing,
            &DNS,
            Kind::Service,
            "s",
            Ok((Found::Service(vec![server]), Duration::ZERO)),
        );
        for name in ["a", "b", "server"] {
            settle(&standing, &DNS, Kind::Host, name, found(vec![v4(1)], BOTH));
        }
        let service = Source {
            target: Target::Service("s".into()),
            ..host("s")
        };
        let names = || {
            let mut names: Vec<_> = standing.known.lock().hosts.keys().cloned().collect();
            names.sort();
            names
        };
        standing.known.retain(&[host("a"), service]);
        assert_eq!(names(), ["a", "server"]);
        assert_eq!(
            standing.known.service("s")[0].weight,
            1,
            "a weight of 0 is a small chance"
        );
        standing.known.retain(&[host("a")]);
        assert_eq!(names(), ["a"]);
    }

    #[test]
    fn what_is_no_server_is_left_out() {
        for (address, can_be) in [
            ("10.0.0.1", true),
            ("127.0.0.1", true),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("169.254.169.254", false),
            ("2001:db8::1", true),
            ("::1", true),
            ("::", false),
            ("ff02::1", false),
            ("fe80::1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(can_be_servers(&address.parse().unwrap()), can_be, "{address}");
        }
    }
}
