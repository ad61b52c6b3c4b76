//! A cluster: the endpoints that can answer for a route, and the choice among them.
//!
//! Data plane; built by the control plane, shared by all workers, never written. What changes (turns, requests in
//! flight) is each worker's own, so that choosing an endpoint touches no shared cache line. Pure: no sockets, no
//! clock.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::address::Address;
use crate::proxy_protocol;
use crate::tls;

/// Lives as long as a generation names it unchanged, or an exchange uses it.
#[derive(Debug)]
pub struct Cluster {
    /// Unique in the process; what workers file their connections under.
    id: u64,
    pub name: String,
    pub endpoints: Vec<Endpoint>,
    pub balancing: Balancing,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub read_timeout: Duration,
    /// Idle connections for each endpoint and worker.
    pub max_idle: usize,
    /// `None` for plain text.
    pub tls: Option<Arc<tls::Client>>,
    /// Connections begin with a header that names the client; then none of them is ever idle.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: Address,
    /// [`Address`] as text, for logs and metrics.
    pub label: String,
    pub weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancing {
    RoundRobin,
    /// The better of two at random, by requests in flight per weight.
    LeastRequest,
}

/// Everything of a cluster that the control plane decides.
pub struct Settings {
    pub name: String,
    pub endpoints: Vec<(Address, u32)>,
    pub balancing: Balancing,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub read_timeout: Duration,
    pub max_idle: usize,
    pub tls: Option<Arc<tls::Client>>,
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

impl Cluster {
    pub fn new(settings: Settings) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let endpoint = |(address, weight): (Address, u32)| Endpoint {
            label: address.to_string(),
            address,
            weight,
        };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: settings.name,
            endpoints: settings.endpoints.into_iter().map(endpoint).collect(),
            balancing: settings.balancing,
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
            read_timeout: settings.read_timeout,
            max_idle: match settings.proxy_protocol {
                Some(_) => 0,
                None => settings.max_idle,
            },
            proxy_protocol: settings.proxy_protocol,
            tls: settings.tls,
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }
}

/// One worker's view of a cluster's endpoints.
#[derive(Debug)]
pub struct Turns {
    loads: Vec<Load>,
    next: Cell<usize>,
    equal_weights: bool,
}

#[derive(Debug)]
struct Load {
    weight: u32,
    /// Requests that this worker has under way.
    in_flight: Cell<u32>,
    /// Smooth weighted round robin: grows by the weight at each pick, falls by the total when picked.
    credit: Cell<i64>,
}

impl Turns {
    pub fn new(cluster: &Cluster) -> Self {
        let load = |endpoint: &Endpoint| Load {
            weight: endpoint.weight,
            in_flight: Cell::new(0),
            credit: Cell::new(0),
        };
        let equal_weights = cluster
            .endpoints
            .windows(2)
            .all(|pair| pair[0].weight == pair[1].weight);
        Self {
            loads: cluster.endpoints.iter().map(load).collect(),
            next: Cell::new(0),
            equal_weights,
        }
    }

    /// An endpoint's index, another than `except` if there is one; `random` gives uniform numbers. `None` when there
    /// is no endpoint.
    pub fn pick(&self, balancing: Balancing, except: Option<usize>, random: impl FnMut() -> u64) -> Option<usize> {
        let only = self.loads.len() == 1;
        match balancing {
            _ if self.loads.is_empty() || (only && except.is_some()) => None,
            _ if only => Some(0),
            Balancing::RoundRobin if self.equal_weights => Some(self.rotate(except)),
            Balancing::RoundRobin => self.smooth(except),
            Balancing::LeastRequest => Some(self.better_of_two(except, random)),
        }
    }

    pub fn in_flight(&self, endpoint: usize) -> u32 {
        self.loads[endpoint].in_flight.get()
    }

    pub fn begin(&self, endpoint: usize) {
        let load = &self.loads[endpoint];
        load.in_flight.set(load.in_flight.get() + 1);
    }

    pub fn end(&self, endpoint: usize) {
        let load = &self.loads[endpoint];
        load.in_flight.set(load.in_flight.get() - 1);
    }

    fn rotate(&self, except: Option<usize>) -> usize {
        let mut at = self.next.get() % self.loads.len();
        if Some(at) == except {
            at = (at + 1) % self.loads.len();
        }
        self.next.set(at + 1);
        at
    }

    fn smooth(&self, except: Option<usize>) -> Option<usize> {
        let others = || {
            self.loads
                .iter()
                .enumerate()
                .filter(|(index, _)| Some(*index) != except)
        };
        let total: i64 = others().map(|(_, load)| i64::from(load.weight)).sum();
        for (_, load) in others() {
            load.credit.set(load.credit.get() + i64::from(load.weight));
        }
        // The first of the richest, so that equal endpoints take turns in order.
        let (index, load) = others().max_by_key(|(index, load)| (load.credit.get(), std::cmp::Reverse(*index)))?;
        load.credit.set(load.credit.get() - total);
        Some(index)
    }

    fn better_of_two(&self, except: Option<usize>, mut random: impl FnMut() -> u64) -> usize {
        let mut draw = |not: Option<usize>| {
            let count = self.loads.len() - usize::from(not.is_some());
            let drawn = (random() % count as u64) as usize;
            drawn + usize::from(not.is_some_and(|not| drawn >= not))
        };
        let first = draw(except);
        let second = draw(except);
        if self.burden(second) < self.burden(first) {
            second
        } else {
            first
        }
    }

    /// Requests under way per weight, counting the one that is about to be added.
    fn burden(&self, endpoint: usize) -> f64 {
        let load = &self.loads[endpoint];
        f64::from(load.in_flight.get() + 1) / f64::from(load.weight.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u32]) -> Turns {
        let endpoints = weights
            .iter()
            .map(|weight| (Address::Unix("/tmp/app".into()), *weight))
            .collect();
        Turns::new(&Cluster::new(Settings {
            name: "app".into(),
            endpoints,
            balancing: Balancing::RoundRobin,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            max_idle: 1,
            tls: None,
            proxy_protocol: None,
        }))
    }

    fn picks(turns: &Turns, balancing: Balancing, count: usize) -> Vec<usize> {
        let mut state = 1u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            state >> 33
        };
        (0..count)
            .filter_map(|_| turns.pick(balancing, None, &mut random))
            .collect()
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(
            picks(&turns(&[1, 1, 1]), Balancing::RoundRobin, 7),
            [0, 1, 2, 0, 1, 2, 0]
        );
        assert!(picks(&turns(&[]), Balancing::RoundRobin, 1).is_empty());
    }

    #[test]
    fn weights_are_kept_and_spread() {
        let picked = picks(&turns(&[5, 1, 1]), Balancing::RoundRobin, 7);
        assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn another_endpoint_is_another_one() {
        let turns = turns(&[1, 1]);
        for balancing in [Balancing::RoundRobin, Balancing::LeastRequest] {
            for except in [0, 1] {
                assert_eq!(turns.pick(balancing, Some(except), || 7), Some(1 - except));
            }
        }
        assert_eq!(self::turns(&[1]).pick(Balancing::RoundRobin, Some(0), || 0), None);
    }

    #[test]
    fn least_request_prefers_the_idle_one() {
        let turns = turns(&[1, 1, 1]);
        turns.begin(0);
        turns.begin(0);
        turns.begin(1);
        let picked = picks(&turns, Balancing::LeastRequest, 3000);
        let share = |endpoint| picked.iter().filter(|index| **index == endpoint).count();
        // Of nine pairs: the busiest is taken only when drawn twice, the idle one whenever it is drawn.
        assert!(
            share(0) < 500 && share(2) > 1400,
            "{} {} {}",
            share(0),
            share(1),
            share(2)
        );
        turns.end(0);
        assert_eq!(turns.in_flight(0), 1);
    }
}
