//! One of `limits`: to which requests it applies, what they cost, and their bucket in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use tamis_filter::{Exchange, Failure, Request, check_header, key_value};

use crate::bucket::{self, Decision, State};
use crate::key::{self, OnMissingKey, Part};
use crate::rate::Rate;

/// Bytes of a limit's name, which goes into each response's fields and each key.
const MAX_NAME_BYTES: usize = 64;
/// Compare-and-swaps before a request goes uncounted. A swap fails only because another request of the same key was
/// counted meanwhile, so eight in a row need more workers than most machines have, all with one key.
const SWAP_ATTEMPTS: u32 = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    name: String,
    rate: String,
    burst: Option<u64>,
    #[serde(default = "client_address")]
    key: Vec<Part>,
    #[serde(default)]
    on_missing_key: OnMissingKey,
    #[serde(default)]
    r#match: MatchConfig,
    #[serde(default)]
    cost: Cost,
    #[serde(default)]
    dry_run: bool,
}

fn client_address() -> Vec<Part> {
    vec![Part::ClientAddress]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MatchConfig {
    methods: BTreeSet<String>,
    path_prefixes: Vec<String>,
    headers: BTreeMap<String, String>,
}

/// What a request takes from the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Cost {
    Fixed(u64),
    Header(String),
    Attribute(String),
}

impl Default for Cost {
    fn default() -> Self {
        Cost::Fixed(1)
    }
}

/// Whether a request over the limit is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// It is only counted, and clients see nothing of the limit.
    DryRun,
}

/// A limit, checked.
#[derive(Debug)]
pub struct Limit {
    pub name: String,
    /// The name and the measures: a reload that changes these begins with full buckets, since a bucket's time means
    /// nothing by another measure.
    bucket: String,
    pub rate: Rate,
    pub mode: Mode,
    key: Vec<Part>,
    on_missing_key: OnMissingKey,
    matches: MatchConfig,
    cost: Cost,
}

/// A limit that applies to the request, and what it would say.
pub struct Check<'a> {
    pub limit: &'a Limit,
    pub decision: Decision,
    key: String,
    cost: u64,
    /// What the decision was made on.
    stored: Option<Vec<u8>>,
}

/// What came of taking a request's tokens from the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Counted,
    /// Others were quicker each time. The bucket, as it was last read, allows the request.
    Uncounted,
    /// Others have taken what there was.
    Limited,
}

impl Limit {
    pub fn new(config: LimitConfig) -> Result<Self, String> {
        let name = config.name;
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(valid) {
            return Err(format!(
                "name `{name}` is not 1 to {MAX_NAME_BYTES} bytes of a-z, 0-9, - and _"
            ));
        }
        let about = |error: String| format!("`{name}`: {error}");
        let rate = Rate::parse(&config.rate, config.burst).map_err(about)?;
        key::check(&config.key).map_err(about)?;
        config.r#match.check().map_err(about)?;
        config.cost.check(rate.burst()).map_err(about)?;
        Ok(Limit {
            bucket: format!("{name}@{}x{}", rate.interval_ns(), rate.burst()),
            rate,
            mode: if config.dry_run { Mode::DryRun } else { Mode::Enforce },
            key: config.key,
            on_missing_key: config.on_missing_key,
            matches: config.r#match,
            cost: config.cost,
            name,
        })
    }

    /// What the limit says of this request, if it applies; nothing is taken yet.
    pub fn check(&self, request: &Request, exchange: &Exchange, now_ns: u64) -> Option<Check<'_>> {
        if !self.matches.matches(request) {
            return None;
        }
        let key = key::key(&self.bucket, &self.key, self.on_missing_key, request, exchange)?;
        let cost = self.cost.of(request, exchange);
        let stored = KeyValue.value(&key);
        let decision = bucket::take(&self.rate, full_at_ns(stored.as_deref()), now_ns, cost);
        Some(Check {
            limit: self,
            decision,
            key,
            cost,
            stored,
        })
    }
}

impl Check<'_> {
    pub fn state(&self) -> State {
        match self.decision {
            Decision::Allowed(state) | Decision::Limited { state, .. } => state,
        }
    }

    /// Takes the request's tokens, and decides anew as often as another request has changed the bucket.
    ///
    /// # Errors
    ///
    /// The table is too small for a single value.
    pub fn take(&mut self, now_ns: u64, table: &impl Table) -> Result<Taken, Failure> {
        for _ in 0..SWAP_ATTEMPTS {
            let Decision::Allowed(state) = self.decision else {
                return Ok(Taken::Limited);
            };
            if self.swap(state, table)? {
                return Ok(Taken::Counted);
            }
            self.stored = table.value(&self.key);
            self.decision = bucket::take(&self.limit.rate, full_at_ns(self.stored.as_deref()), now_ns, self.cost);
        }
        match self.decision {
            Decision::Allowed(_) => Ok(Taken::Uncounted),
            Decision::Limited { .. } => Ok(Taken::Limited),
        }
    }

    /// Gives back what [`take`](Check::take) took, because another limit refuses the request. When others are quicker
    /// each time, it stays taken: the limit is a little too strict for a moment.
    ///
    /// # Errors
    ///
    /// As for `take`.
    pub fn give_back(&mut self, now_ns: u64, table: &impl Table) -> Result<(), Failure> {
        for _ in 0..SWAP_ATTEMPTS {
            self.stored = table.value(&self.key);
            let full_at_ns = full_at_ns(self.stored.as_deref());
            let state = bucket::give_back(&self.limit.rate, full_at_ns, now_ns, self.cost);
            if full_at_ns.is_none() || self.swap(state, table)? {
                break;
            }
        }
        Ok(())
    }

    fn swap(&self, state: State, table: &impl Table) -> Result<bool, Failure> {
        // A full bucket is no value at all, so the value may go when the bucket is full. It lives for a moment at
        // least: to the table, no time at all is not a time to live.
        let ttl = Duration::from_nanos(state.refill_ns).max(Duration::from_millis(1));
        table.swap(&self.key, self.stored.as_deref(), &state.full_at_ns.to_le_bytes(), ttl)
    }
}

/// Where the buckets are. Others change them at any time.
pub trait Table {
    fn value(&self, key: &str) -> Option<Vec<u8>>;
    /// Whether the value still was `expected`.
    fn swap(&self, key: &str, expected: Option<&[u8]>, value: &[u8], ttl: Duration) -> Result<bool, Failure>;
}

/// The proxy's.
pub struct KeyValue;

impl Table for KeyValue {
    fn value(&self, key: &str) -> Option<Vec<u8>> {
        key_value::get(key)
    }

    fn swap(&self, key: &str, expected: Option<&[u8]>, value: &[u8], ttl: Duration) -> Result<bool, Failure> {
        Ok(key_value::compare_and_swap(key, expected, value, Some(ttl))?)
    }
}

/// In a table that is shared by name there may be a value of somebody else's: it counts as none.
fn full_at_ns(stored: Option<&[u8]>) -> Option<u64> {
    stored?.try_into().ok().map(u64::from_le_bytes)
}

impl MatchConfig {
    fn check(&self) -> Result<(), String> {
        if let Some(prefix) = self.path_prefixes.iter().find(|prefix| !prefix.starts_with('/')) {
            return Err(format!("match.path_prefixes: `{prefix}` does not start with `/`"));
        }
        if self.methods.contains("") {
            return Err("match.methods: a method is empty".to_owned());
        }
        match self.headers.keys().find(|name| check_header(name, "").is_err()) {
            Some(name) => Err(format!("match.headers: `{name}` is not a field that can be matched")),
            None => Ok(()),
        }
    }

    fn matches(&self, request: &Request) -> bool {
        self.matches_method(request) && self.matches_path(request) && self.matches_headers(request)
    }

    fn matches_method(&self, request: &Request) -> bool {
        self.methods.is_empty() || self.methods.contains(&request.method())
    }

    fn matches_path(&self, request: &Request) -> bool {
        if self.path_prefixes.is_empty() {
            return true;
        }
        let path = request.path();
        self.path_prefixes
            .iter()
            .any(|prefix| starts_with_segments(&path, prefix))
    }

    fn matches_headers(&self, request: &Request) -> bool {
        let has = |(name, value): (&String, &String)| request.header_values(name).iter().any(|has| has == value);
        self.headers.iter().all(has)
    }
}

/// `/v1` is a prefix of `/v1` and `/v1/x`, not of `/v10`.
fn starts_with_segments(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Cost {
    fn check(&self, burst: u64) -> Result<(), String> {
        match self {
            Cost::Fixed(0) => Err("cost: a request for nothing is never limited".to_owned()),
            Cost::Fixed(cost) if *cost > burst => Err(format!("cost: {cost} is more than the bucket of {burst} holds")),
            Cost::Header(name) => {
                check_header(name, "").map_err(|_| format!("cost: `{name}` is not a field that can hold a cost"))
            }
            Cost::Attribute(name) if name.is_empty() => Err("cost: the attribute's name is empty".to_owned()),
            _ => Ok(()),
        }
    }

    /// At least 1, so that nobody is let through for nothing; what is no number, or stands there twice, costs 1.
    fn of(&self, request: &Request, exchange: &Exchange) -> u64 {
        let text = match self {
            Cost::Fixed(cost) => return *cost,
            Cost::Header(name) => match request.header_values(name).as_slice() {
                [value] => value.to_str().ok().map(str::to_owned),
                _ => None,
            },
            Cost::Attribute(name) => exchange.attribute(name),
        };
        let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A table in which somebody else takes a token before each swap, as often as `others` says.
    #[derive(Default)]
    struct Contended {
        value: RefCell<Option<Vec<u8>>>,
        others: Cell<u32>,
        swaps: Cell<u32>,
    }

    const RATE: &str = "1/1s";

    impl Contended {
        fn rate(burst: u64) -> Rate {
            Rate::parse(RATE, Some(burst)).unwrap()
        }

        fn take_one(&self, burst: u64) {
            let stored = full_at_ns(self.value.borrow().as_deref());
            if let Decision::Allowed(state) = bucket::take(&Self::rate(burst), stored, 0, 1) {
                self.value.replace(Some(state.full_at_ns.to_le_bytes().to_vec()));
            }
        }

        fn taken(&self) -> u64 {
            full_at_ns(self.value.borrow().as_deref()).unwrap_or(0) / 1_000_000_000
        }
    }

    /// The table and the burst of its only limit.
    struct Other<'a>(&'a Contended, u64);

    impl Table for Other<'_> {
        fn value(&self, _: &str) -> Option<Vec<u8>> {
            self.0.value.borrow().clone()
        }

        fn swap(&self, _: &str, expected: Option<&[u8]>, value: &[u8], _: Duration) -> Result<bool, Failure> {
            self.0.swaps.set(self.0.swaps.get() + 1);
            if self.0.others.get() > 0 {
                self.0.others.set(self.0.others.get() - 1);
                self.0.take_one(self.1);
            }
            let same = self.0.value.borrow().as_deref() == expected;
            if same {
                self.0.value.replace(Some(value.to_vec()));
            }
            Ok(same)
        }
    }

    fn limit(burst: u64) -> Limit {
        let config = serde_json::json!({ "name": "l", "rate": RATE, "burst": burst });
        Limit::new(serde_json::from_value(config).unwrap()).unwrap()
    }

    fn check(limit: &Limit, stored: Option<Vec<u8>>) -> Check<'_> {
        Check {
            limit,
            decision: bucket::take(&limit.rate, full_at_ns(stored.as_deref()), 0, 1),
            key: "l".to_owned(),
            cost: 1,
            stored,
        }
    }

    #[test]
    fn a_request_is_decided_anew_when_others_are_quicker() {
        // The burst, how many come between; what becomes of the request, the tokens taken in all, and the swaps tried.
        let cases = [
            (20, 0, Taken::Counted, 1, 1),
            (20, 1, Taken::Counted, 2, 2),
            (20, 7, Taken::Counted, 8, 8),
            (20, 8, Taken::Uncounted, 8, 8),
            (20, 100, Taken::Uncounted, 8, 8),
            (3, 100, Taken::Limited, 3, 3),
            (8, 100, Taken::Limited, 8, 8),
        ];
        for (burst, others, taken, tokens, swaps) in cases {
            let table = Contended::default();
            table.others.set(others);
            let limit = limit(burst);
            let outcome = check(&limit, None).take(0, &Other(&table, burst)).unwrap();
            assert_eq!(
                (outcome, table.taken(), table.swaps.get()),
                (taken, tokens, swaps),
                "{others} of {burst}"
            );
        }
    }

    #[test]
    fn giving_back_is_tried_as_often() {
        for (others, tokens) in [(0, 0), (1, 1), (7, 7), (8, 9), (100, 9)] {
            let table = Contended::default();
            let limit = limit(20);
            let mut check = check(&limit, None);
            assert_eq!(check.take(0, &Other(&table, 20)).unwrap(), Taken::Counted);
            table.others.set(others);
            check.give_back(0, &Other(&table, 20)).unwrap();
            assert_eq!(table.taken(), tokens, "{others}");
        }
    }

    #[test]
    fn prefixes_are_of_whole_segments() {
        let cases = [
            ("/v1", "/v1", true),
            ("/v1/", "/v1", true),
            ("/v1/x", "/v1/", true),
            ("/v1", "/v1/", true),
            ("/v10", "/v1", false),
            ("/", "/", true),
            ("/x", "/", true),
            ("/", "/x", false),
        ];
        for (path, prefix, starts) in cases {
            assert_eq!(starts_with_segments(path, prefix), starts, "{path} {prefix}");
        }
    }
}
