//! The choice among a cluster's endpoints.
//!
//! Data plane; pure: no sockets, and the clock is an argument. A [`Lineup`] is one worker's view of one epoch: which
//! endpoints take requests, and with what weight. It is made anew when the epoch moves, never for a request. Tables for
//! consistent hashing are made with the [`Members`] by the control plane and shared by all workers; they know nothing of
//! health, so an endpoint that fails moves its own keys and no others, and gets them back.
//!
//! `pingora-load-balancing` is not used: its selection is one for the process and counts each pick in a shared atomic,
//! it knows neither priorities, least request, Maglev nor a panic threshold, its backends are IP addresses only, and its
//! health state is behind a hash map that is looked up for each candidate.

mod maglev;
mod ring;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;
use maglev::Maglev;
use ring::Ring;

/// How an endpoint is chosen among those that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancing {
    RoundRobin,
    /// The better of two at random, by requests in flight per weight.
    LeastRequest,
    Random,
    RingHash,
    Maglev,
}

impl Balancing {
    /// Whether requests with the same key go to the same endpoint.
    pub fn is_hash(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// How a lineup is made of members.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub balancing: Balancing,
    /// How long an endpoint that has become usable gets less than its share.
    pub slow_start: Option<Duration>,
    /// When a smaller part of a priority's endpoints is usable, it is passed over for the next one; when that is so of
    /// all, the one with the greatest part uses all of its endpoints. 0 is never.
    pub panic_threshold: f64,
}

/// An endpoint in its cluster.
#[derive(Clone, Debug)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    /// 0 takes no new requests, only those that a sticky cookie sends there.
    pub weight: u32,
    /// The lowest is preferred.
    pub priority: u32,
}

/// The endpoints of a cluster at one time, with the tables that depend on nothing else.
#[derive(Debug)]
pub struct Members {
    pub list: Vec<Member>,
    /// In the order of their priorities.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// Indices of members with a weight.
    members: Vec<usize>,
    table: Option<Table>,
}

#[derive(Debug)]
enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Members {
    pub fn new(list: Vec<Member>, balancing: Balancing) -> Self {
        let mut levels: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, member) in list.iter().enumerate().filter(|(_, member)| member.weight > 0) {
            levels.entry(member.priority).or_default().push(index);
        }
        let level = |members: Vec<usize>| {
            let weighed: Vec<(&str, u32)> = members
                .iter()
                .map(|index| (&*list[*index].endpoint.label, list[*index].weight))
                .collect();
            let table = match balancing {
                Balancing::RingHash => Some(Table::Ring(Ring::new(&weighed))),
                Balancing::Maglev => Some(Table::Maglev(Maglev::new(&weighed))),
                Balancing::RoundRobin | Balancing::LeastRequest | Balancing::Random => None,
            };
            Level { members, table }
        };
        Self {
            levels: levels.into_values().map(level).collect(),
            list,
        }
    }
}

impl Level {
    /// The part of it that can be used.
    fn usable_part(&self, members: &Members) -> f64 {
        let is_usable = |index: &&usize| members.list[**index].endpoint.is_usable();
        let usable = self.members.iter().filter(is_usable).count();
        usable as f64 / self.members.len() as f64
    }
}

/// One worker's view of the members in one epoch.
#[derive(Debug)]
pub struct Lineup {
    members: Arc<Members>,
    balancing: Balancing,
    /// Those that take new requests.
    places: Vec<Place>,
    /// The level that they are of.
    level: usize,
    /// By member.
    usable: Vec<bool>,
    has_equal_weights: bool,
    total_weight: u64,
    /// What weights and credits are multiplied by.
    scale: u32,
    next: Cell<usize>,
    /// An endpoint gets less than its share for now: the weights hold for this long.
    pub holds_for: Option<Duration>,
}

#[derive(Debug)]
struct Place {
    member: usize,
    weight: u32,
    /// Smooth weighted round robin: grows by the weight at each pick, falls by the total when picked.
    credit: Cell<i64>,
}

/// While a slow start lasts, weights are in hundredths of the configured ones.
const SLOW_SCALE: u32 = 100;
/// The least part of its share that an endpoint gets: Envoy's, enough to warm it.
const SLOW_LEAST: f64 = 0.1;
/// Weights change in so many steps over a slow start.
const SLOW_STEPS: u32 = 20;
const SLOW_SHORTEST_STEP: Duration = Duration::from_millis(50);

impl Lineup {
    /// Turns go on where `before` was.
    pub fn new(members: Arc<Members>, rules: Rules, before: Option<&Self>, now: Instant) -> Self {
        let mut usable: Vec<bool> = members.list.iter().map(|member| member.endpoint.is_usable()).collect();
        let level = level(&members, rules.panic_threshold);
        let (at, used) = match level {
            Some((at, Mode::Panic)) => {
                members.levels[at]
                    .members
                    .iter()
                    .for_each(|index| usable[*index] = true);
                (at, members.levels[at].members.clone())
            }
            Some((at, Mode::Usual)) => {
                let used = members.levels[at]
                    .members
                    .iter()
                    .copied()
                    .filter(|index| usable[*index]);
                (at, used.collect())
            }
            None => (0, Vec::new()),
        };
        let ages = |index: usize| members.list[index].endpoint.usable_for(now);
        let window = rules
            .slow_start
            .filter(|window| !rules.balancing.is_hash() && used.iter().any(|index| ages(*index) < *window));
        let scale = if window.is_some() { SLOW_SCALE } else { 1 };
        let credits = before.map(|before| before.credits(scale)).unwrap_or_default();
        let place = |index: usize| Place {
            member: index,
            weight: match window {
                Some(window) => slowed(members.list[index].weight, ages(index), window),
                None => members.list[index].weight,
            },
            credit: Cell::new(credits.get(&members.list[index].endpoint.id()).copied().unwrap_or(0)),
        };
        let places: Vec<Place> = used.into_iter().map(place).collect();
        Self {
            balancing: rules.balancing,
            level: at,
            usable,
            has_equal_weights: places.windows(2).all(|pair| pair[0].weight == pair[1].weight),
            total_weight: places.iter().map(|place| u64::from(place.weight)).sum(),
            scale,
            next: Cell::new(before.map_or(0, |before| before.next.get())),
            holds_for: window.map(|window| (window / SLOW_STEPS).max(SLOW_SHORTEST_STEP)),
            places,
            members,
        }
    }

    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// Whether the member can take a request that asks for it.
    pub fn is_usable(&self, member: usize) -> bool {
        self.usable[member]
    }

    /// Whether there is more than one to choose from.
    pub fn has_choice(&self) -> bool {
        self.places.len() > 1
    }

    /// A member's index, none of `tried` (ids of endpoints). `key` is the hash of what requests have in common, `load`
    /// gives a member's requests in flight, `random` uniform numbers. `None` when there is no endpoint.
    pub fn pick(
        &self,
        key: Option<u64>,
        tried: &[u64],
        load: impl Fn(usize) -> u32,
        mut random: impl FnMut() -> u64,
    ) -> Option<usize> {
        if !tried.is_empty() {
            return self.pick_another(key, tried, load, random);
        }
        match (&*self.places, self.balancing) {
            ([], _) => None,
            ([only], _) => Some(only.member),
            (_, Balancing::RoundRobin) if self.has_equal_weights => Some(self.rotate()),
            (places, Balancing::RoundRobin) => smooth(places.iter()),
            (places, Balancing::LeastRequest) if !self.has_equal_weights => {
                let mut drawn = || drawn(places.iter(), self.total_weight, random());
                let (first, second) = (drawn()?, drawn()?);
                Some(less_burdened(first, second, &load).member)
            }
            (_, Balancing::LeastRequest) => {
                let count = self.places.len() as u64;
                let first = (random() % count) as usize;
                let drawn = (random() % (count - 1)) as usize;
                let second = drawn + usize::from(drawn >= first);
                Some(less_burdened(&self.places[first], &self.places[second], &load).member)
            }
            (_, Balancing::Random) if self.has_equal_weights => {
                Some(self.places[(random() % self.places.len() as u64) as usize].member)
            }
            (places, Balancing::Random) => drawn(places.iter(), self.total_weight, random()).map(|place| place.member),
            (_, Balancing::RingHash | Balancing::Maglev) => self.look_up(key.unwrap_or_else(random), &|_| true),
        }
    }

    /// Seldom, so it may look at all of them.
    #[cold]
    fn pick_another(
        &self,
        key: Option<u64>,
        tried: &[u64],
        load: impl Fn(usize) -> u32,
        mut random: impl FnMut() -> u64,
    ) -> Option<usize> {
        let is_new = |member: usize| !tried.contains(&self.members.list[member].endpoint.id());
        if self.balancing.is_hash() {
            return self.look_up(key.unwrap_or_else(random), &is_new);
        }
        let others: Vec<&Place> = self.places.iter().filter(|place| is_new(place.member)).collect();
        let total: u64 = others.iter().map(|place| u64::from(place.weight)).sum();
        match self.balancing {
            Balancing::RoundRobin => smooth(others.into_iter()),
            Balancing::LeastRequest => {
                let best = others
                    .into_iter()
                    .reduce(|best, other| less_burdened(best, other, &load));
                best.map(|place| place.member)
            }
            _ => drawn(others.into_iter(), total, random()).map(|place| place.member),
        }
    }

    fn rotate(&self) -> usize {
        let at = self.next.get() % self.places.len();
        self.next.set(at + 1);
        self.places[at].member
    }

    fn look_up(&self, key: u64, accept: &dyn Fn(usize) -> bool) -> Option<usize> {
        let level = self.members.levels.get(self.level)?;
        // The tables count within the level.
        let suits = |at: usize| self.usable[level.members[at]] && accept(level.members[at]);
        let found = match level.table.as_ref()? {
            Table::Ring(ring) => ring.find(key, suits),
            Table::Maglev(maglev) => maglev.find(key, suits),
        };
        found.map(|at| level.members[at])
    }

    /// By endpoint, for weights of this scale.
    fn credits(&self, scale: u32) -> HashMap<u64, i64> {
        let credit = |place: &Place| {
            let scaled = place.credit.get() * i64::from(scale) / i64::from(self.scale);
            (self.members.list[place.member].endpoint.id(), scaled)
        };
        self.places.iter().map(credit).collect()
    }
}

enum Mode {
    Usual,
    /// Too few are usable to believe it, or to stand the load of all.
    Panic,
}

/// The level that takes the requests.
fn level(members: &Members, threshold: f64) -> Option<(usize, Mode)> {
    let parts: Vec<f64> = members.levels.iter().map(|level| level.usable_part(members)).collect();
    let sound = parts.iter().position(|part| *part > 0.0 && *part >= threshold);
    if let Some(at) = sound {
        return Some((at, Mode::Usual));
    }
    if threshold == 0.0 {
        return None;
    }
    // The first of the best.
    let best = parts.iter().enumerate().rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(at, _)| (at, Mode::Panic))
}

fn slowed(weight: u32, age: Duration, window: Duration) -> u32 {
    let part = (age.as_secs_f64() / window.as_secs_f64()).clamp(SLOW_LEAST, 1.0);
    ((f64::from(weight * SLOW_SCALE) * part) as u32).max(1)
}

/// The richest, which pays for all. A round is as long as the weights together, so equal ones take turns in order.
fn smooth<'a>(places: impl Iterator<Item = &'a Place>) -> Option<usize> {
    let (mut total, mut best) = (0, None::<&Place>);
    for place in places {
        let weight = i64::from(place.weight);
        total += weight;
        place.credit.set(place.credit.get() + weight);
        if best.is_none_or(|best| place.credit.get() > best.credit.get()) {
            best = Some(place);
        }
    }
    let best = best?;
    best.credit.set(best.credit.get() - total);
    Some(best.member)
}

/// By weight.
fn drawn<'a>(places: impl Iterator<Item = &'a Place>, total: u64, random: u64) -> Option<&'a Place> {
    let mut left = random.checked_rem(total)?;
    for place in places {
        match left.checked_sub(u64::from(place.weight)) {
            Some(rest) => left = rest,
            None => return Some(place),
        }
    }
    None
}

/// By requests under way per weight; of two that are alike the first, so that draws by weight decide where nothing else
/// does.
fn less_burdened<'a>(first: &'a Place, second: &'a Place, load: &impl Fn(usize) -> u32) -> &'a Place {
    let burden = |place: &Place| f64::from(load(place.member)) / f64::from(place.weight);
    match burden(second) < burden(first) {
        true => second,
        false => first,
    }
}

#[cfg(test)]
mod tests;
