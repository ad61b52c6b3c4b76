//! One candidate on trial: which exchanges it takes, what both versions do, and what came of it.
//!
//! Data plane, but for [`Trial::look`]. Shared by all workers and by all generations that name the same candidate. Its
//! invariant: what an exchange costs is one relaxed load of a number that changes at a verdict only, and, while the
//! trial is open, counts that no other worker writes. How a candidate is judged is `canary`'s to know.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderName;
use tokio::sync::Notify;

use crate::canary::{Account, Evidence, Judge, Phase, Rules, Times, Verdict, Version, WHOLE};
use crate::cluster::cookie;
use crate::filter::Hook;
use crate::head::{Attributes, Message};

/// Names the filters whose candidates serve the exchange.
const ATTRIBUTE: &str = "candidate";

/// What exchanges have in common that are to meet the same version.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// Nothing: each request is drawn for itself.
    RequestId,
    ClientAddress,
    /// Its first value.
    Header(HeaderName),
    Cookie(String),
}

/// What makes two trials the same. The settings may hold secrets, so this is not for logs.
#[derive(Clone, PartialEq)]
pub struct Terms {
    /// The candidate's component and its settings, spelled out: while these are the same, so is a verdict.
    pub candidate: String,
    /// The other version's, likewise: a trial that is open begins anew when they change.
    pub stable: String,
    /// The limits of both, spelled out: what was bad by these may be good by others.
    pub limits: String,
    pub key: Key,
    pub rules: Rules,
}

impl Terms {
    /// Whether both versions are one.
    fn are_equal(&self) -> bool {
        self.candidate == self.stable
    }
}

/// Lives as long as a generation names its candidate, and longer if the candidate was found to be bad.
pub struct Trial {
    filter: Arc<str>,
    /// Its digest, for people.
    component: String,
    terms: Terms,
    /// Lets every candidate meet other exchanges, and the same ones in every worker and every process.
    salt: u64,
    /// Of [`WHOLE`]: nothing once it is rolled back, everything once it is promoted.
    share: AtomicU32,
    lanes: Box<[Lane]>,
    judge: Mutex<Judge>,
    /// Told of every failure of the candidate.
    alarm: Arc<Notify>,
    verdicts: Arc<Verdicts>,
}

/// A filter's verdicts since the process started, over all its candidates.
#[derive(Debug, Default)]
pub struct Verdicts {
    pub promoted: AtomicU64,
    pub held: AtomicU64,
    pub rolled_back: AtomicU64,
}

/// What one worker has counted. Aligned so that no two workers write the same cache line, nor one that is fetched with it.
#[derive(Default)]
#[repr(align(128))]
struct Lane {
    stable: Counts,
    candidate: Counts,
}

#[derive(Default)]
struct Counts {
    exchanges: Count,
    failed: Count,
    replied: Count,
    times: [Steps; Hook::ALL.len()],
}

struct Steps([Count; Times::STEPS]);

/// Written by one thread, read by others.
#[derive(Default)]
struct Count(AtomicU64);

/// A filter's step in a chain has it when there is a candidate for it.
pub struct Part {
    pub trial: Arc<Trial>,
    pub version: Version,
}

/// What a trial looks like from outside.
pub struct Standing {
    pub phase: Phase,
    /// How long the last window is, or was when the verdict was found.
    pub elapsed: Duration,
    pub evidence: Evidence,
}

impl Trial {
    /// One lane for each worker.
    pub fn new(
        filter: &str,
        component: String,
        terms: Terms,
        workers: usize,
        alarm: Arc<Notify>,
        verdicts: Arc<Verdicts>,
    ) -> Self {
        let mut salt = DefaultHasher::new();
        terms.candidate.hash(&mut salt);
        filter.hash(&mut salt);
        Self {
            filter: filter.into(),
            component,
            salt: salt.finish(),
            share: AtomicU32::new(if terms.are_equal() { 0 } else { terms.rules.share }),
            lanes: (0..workers.max(1)).map(|_| Lane::default()).collect(),
            judge: Mutex::new(match terms.are_equal() {
                true => Judge::idle(terms.rules.clone()),
                false => Judge::new(terms.rules.clone()),
            }),
            terms,
            alarm,
            verdicts,
        }
    }

    /// The version for one more exchange of this worker; `random` is for one without a key.
    pub fn draw(&self, worker: usize, message: &Message, random: impl FnOnce() -> u64) -> Version {
        let version = match self.share.load(Ordering::Relaxed) {
            0 => return Version::Stable,
            WHOLE => return Version::Candidate,
            share if self.ticket(message, random) < share => Version::Candidate,
            _ => Version::Stable,
        };
        self.counts(worker, version).exchanges.add();
        version
    }

    /// Uniform below [`WHOLE`], and the same for the same key.
    fn ticket(&self, message: &Message, random: impl FnOnce() -> u64) -> u32 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.salt);
        let headers = &message.request.headers;
        let key = match &self.terms.key {
            Key::RequestId => None,
            Key::ClientAddress => message.facts.client.map(|client| client.ip().hash(&mut hasher)),
            Key::Header(name) => headers.get(name).map(|value| hasher.write(value.as_bytes())),
            Key::Cookie(name) => cookie(headers, name.as_bytes()).map(|value| hasher.write(value)),
        };
        if key.is_none() {
            match message.facts.request_id.as_bytes() {
                // A connection has no id.
                [] => hasher.write_u64(random()),
                id => hasher.write(id),
            }
        }
        (hasher.finish() % u64::from(WHOLE)) as u32
    }

    /// Leaves the filter's name in the exchange's attribute `candidate`, which the access log shows: there it can be told
    /// whose work the exchange was.
    pub fn sign(&self, attributes: &mut Attributes) {
        let signed = match attributes.get(ATTRIBUTE) {
            Some(others) => format!("{others},{}", self.filter),
            None => self.filter.to_string(),
        };
        // An exchange whose attributes are full goes without.
        let _ = attributes.set(ATTRIBUTE, &signed);
    }

    /// Whether what happens still counts.
    pub fn is_open(&self) -> bool {
        !matches!(self.share.load(Ordering::Relaxed), 0 | WHOLE)
    }

    pub fn took(&self, worker: usize, version: Version, hook: Hook, time: Duration) {
        self.counts(worker, version).times[hook as usize].0[Times::step(time)].add();
    }

    pub fn replied(&self, worker: usize, version: Version) {
        self.counts(worker, version).replied.add();
    }

    pub fn failed(&self, worker: usize, version: Version) {
        self.counts(worker, version).failed.add();
        if version == Version::Candidate {
            self.alarm.notify_one();
        }
    }

    /// Has the judge look at what was counted. A verdict is in force when this returns.
    pub fn look(&self, now: Instant) -> Option<Verdict> {
        if !self.is_open() {
            return None;
        }
        let verdict = self.judge().look(now, &self.evidence())?;
        let (share, count) = match &verdict {
            Verdict::Promote => (WHOLE, &self.verdicts.promoted),
            Verdict::Hold => (self.terms.rules.share, &self.verdicts.held),
            Verdict::RollBack(_) => (0, &self.verdicts.rolled_back),
        };
        self.share.store(share, Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
        Some(verdict)
    }

    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The digest of the candidate's component.
    pub fn component(&self) -> &str {
        &self.component
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    pub fn verdicts(&self) -> &Arc<Verdicts> {
        &self.verdicts
    }

    /// Whether what these terms ask for goes on here, or has been decided here.
    pub fn answers(&self, terms: &Terms) -> bool {
        let same = self.terms.candidate == terms.candidate && !terms.are_equal();
        match self.judge().phase() {
            Phase::Promoted => same,
            Phase::RolledBack(_) => same && self.terms.limits == terms.limits,
            Phase::Identical | Phase::Trying | Phase::Held => self.terms == *terms,
        }
    }

    /// Of [`WHOLE`].
    pub fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    pub fn phase(&self) -> Phase {
        self.judge().phase().clone()
    }

    pub fn standing(&self) -> Standing {
        let judge = self.judge();
        let (elapsed, evidence) = judge.window().unzip();
        Standing {
            phase: judge.phase().clone(),
            elapsed: elapsed.unwrap_or_default(),
            evidence: evidence.cloned().unwrap_or_default(),
        }
    }

    /// Whether the version of that name still takes exchanges; true of all other names.
    pub fn uses(&self, name: &str) -> bool {
        match (Version::of(name), self.share()) {
            ((filter, _), _) if filter != self.filter() => true,
            ((_, version), 0) => version == Version::Stable,
            ((_, version), WHOLE) => version == Version::Candidate,
            _ => true,
        }
    }

    fn counts(&self, worker: usize, version: Version) -> &Counts {
        let lane = &self.lanes[worker % self.lanes.len()];
        match version {
            Version::Stable => &lane.stable,
            Version::Candidate => &lane.candidate,
        }
    }

    fn evidence(&self) -> Evidence {
        let mut evidence = Evidence::default();
        for lane in &self.lanes {
            lane.stable.add_to(&mut evidence.stable);
            lane.candidate.add_to(&mut evidence.candidate);
        }
        evidence
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    pub fn took(&self, worker: usize, hook: Hook, time: Duration) {
        self.trial.took(worker, self.version, hook, time);
    }

    pub fn replied(&self, worker: usize) {
        self.trial.replied(worker, self.version);
    }

    pub fn failed(&self, worker: usize) {
        self.trial.failed(worker, self.version);
    }
}

impl Counts {
    fn add_to(&self, account: &mut Account) {
        account.exchanges += self.exchanges.value();
        account.failed += self.failed.value();
        account.replied += self.replied.value();
        for (times, more) in account.times.iter_mut().zip(&self.times) {
            for (count, more) in times.0.iter_mut().zip(&more.0) {
                *count += more.value();
            }
        }
    }
}

impl Default for Steps {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl Count {
    /// No atomic addition, because nobody else adds.
    fn add(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canary::{Reason, WhenGood, candidate_name};
    use crate::head::{Clusters, Facts, RequestHead, Stage};
    use crate::name::Name;
    use http::uri::PathAndQuery;
    use http::{HeaderMap, HeaderValue, Method, Version as Protocol};

    fn trial(key: Key, share: u32) -> Trial {
        let rules = Rules {
            share,
            window: Duration::from_secs(60),
            min_calls: 10,
            failures: Some(0.01),
            replies: None,
            pace: None,
            when_good: WhenGood::Promote,
        };
        let terms = Terms {
            candidate: "v2".into(),
            stable: "v1".into(),
            limits: "tight".into(),
            key,
            rules,
        };
        Trial::new("f", "digest".into(), terms, 2, Arc::default(), Arc::default())
    }

    fn message(id: &str, client: Option<&str>, fields: &[(&'static str, &str)]) -> Message {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Message {
            request: RequestHead {
                method: Method::GET,
                scheme: "http",
                target: PathAndQuery::from_static("/"),
                version: Protocol::HTTP_11,
                headers,
            },
            response: None,
            stage: Stage::Request,
            facts: Facts {
                client: client.map(|client| client.parse().unwrap()),
                local: None,
                tls: None,
                listener: Name::new("web"),
                route: None,
                request_id: HeaderValue::from_str(id).unwrap(),
            },
            attributes: Attributes::default(),
            clusters: Clusters::default(),
            passes_body: false,
            client_request_id: None,
        }
    }

    fn draw(trial: &Trial, message: &Message) -> Version {
        trial.draw(0, message, || panic!("there is a key"))
    }

    #[test]
    fn a_share_is_what_it_says() {
        for share in [1, 500, 2_500, 9_900] {
            let trial = trial(Key::RequestId, share);
            let drawn = (0..20_000).map(|n| draw(&trial, &message(&n.to_string(), None, &[])));
            let candidates = drawn.filter(|version| *version == Version::Candidate).count();
            let expected = 2 * share as usize;
            assert!(
                candidates.abs_diff(expected) < 250,
                "{share}: {candidates} for {expected}"
            );
        }
    }

    /// Same key, same version, whatever else differs; and of many keys some meet the other version.
    #[test]
    fn a_key_decides_and_nothing_else() {
        type Make = fn(u32, u32) -> Message;
        let cases: [(Key, Make); 4] = [
            (Key::RequestId, |key, noise| {
                message(&format!("id-{key}"), None, &[("x-noise", &noise.to_string())])
            }),
            (Key::ClientAddress, |key, noise| {
                let client = format!("10.0.0.{}:{}", key % 250, 1_000 + noise);
                message(&noise.to_string(), Some(&client), &[])
            }),
            (Key::Header(HeaderName::from_static("x-user")), |key, noise| {
                message(
                    &noise.to_string(),
                    None,
                    &[("x-user", &key.to_string()), ("x-user", "x")],
                )
            }),
            (Key::Cookie("sid".into()), |key, noise| {
                let cookies = format!("other={noise}; xsid={noise};sid={key}; sid=x");
                message(&noise.to_string(), None, &[("cookie", &cookies)])
            }),
        ];
        for (key, make) in cases {
            let trial = trial(key, 5_000);
            let mut seen = [0, 0];
            for key in 0..100 {
                let first = draw(&trial, &make(key, 0));
                (1..5).for_each(|noise| assert_eq!(draw(&trial, &make(key, noise)), first, "{:?}", trial.terms.key));
                seen[first as usize] += 1;
            }
            assert!(seen.iter().all(|count| *count > 20), "{:?}: {seen:?}", trial.terms.key);
        }
    }

    #[test]
    fn without_a_key_each_is_drawn_for_itself() {
        for key in [
            Key::Cookie("sid".into()),
            Key::Header(HeaderName::from_static("x-user")),
            Key::ClientAddress,
        ] {
            let trial = trial(key, 5_000);
            let by_id = (0..1_000).map(|n| draw(&trial, &message(&n.to_string(), None, &[])));
            let by_chance = (0..1_000).map(|n| trial.draw(0, &message("", None, &[]), || n));
            let candidates = by_id.chain(by_chance).filter(|version| *version == Version::Candidate);
            assert!(candidates.count().abs_diff(1_000) < 150);
        }
    }

    /// Asked again by terms that differ in one part.
    #[test]
    fn a_verdict_holds_for_its_candidate() {
        type Change = fn(&mut Terms);
        let cases: [(&str, Change, [bool; 3]); 6] = [
            // Whether a trial answers that is open, promoted, rolled back.
            ("nothing", |_| {}, [true, true, true]),
            ("rules", |terms| terms.rules.share = 1, [false, true, true]),
            ("key", |terms| terms.key = Key::ClientAddress, [false, true, true]),
            ("stable", |terms| terms.stable = "v0".into(), [false, true, true]),
            ("limits", |terms| terms.limits = "wide".into(), [false, true, false]),
            (
                "candidate",
                |terms| terms.candidate = "v3".into(),
                [false, false, false],
            ),
        ];
        let start = Instant::now();
        let trials = [0, 1, 2].map(|state| {
            let trial = trial(Key::RequestId, 5_000);
            trial.look(start);
            for n in 0..100 {
                trial.draw(0, &message(&n.to_string(), None, &[]), || 0);
            }
            (0..state / 2 * 20).for_each(|_| trial.failed(0, Version::Candidate));
            trial.look(start + Duration::from_secs(if state == 0 { 1 } else { 60 }));
            trial
        });
        let phases = trials.each_ref().map(|trial| trial.phase().as_str());
        assert_eq!(phases, ["trying", "promoted", "rolled_back"]);
        for (name, change, expected) in cases {
            let mut terms = trials[0].terms.clone();
            change(&mut terms);
            assert_eq!(trials.each_ref().map(|trial| trial.answers(&terms)), expected, "{name}");
        }
        let mut same = trials[0].terms.clone();
        same.stable = same.candidate.clone();
        assert!(
            !trials.iter().any(|trial| trial.answers(&same)),
            "there is nothing to try"
        );
    }

    #[test]
    fn a_verdict_takes_or_gives_everything() {
        let start = Instant::now();
        for (failed, expected, word) in [
            (0, Version::Candidate, "promoted"),
            (20, Version::Stable, "rolled_back"),
        ] {
            let trial = trial(Key::RequestId, 5_000);
            assert_eq!(trial.look(start), None);
            for n in 0..100 {
                trial.draw(n % 2, &message(&n.to_string(), None, &[]), || 0);
            }
            (0..failed).for_each(|n| trial.failed(n % 2, Version::Candidate));
            let verdict = trial.look(start + Duration::from_secs(60)).expect("enough was seen");
            assert_eq!(trial.phase().as_str(), word);
            assert_eq!(
                matches!(verdict, Verdict::RollBack(Reason::Failures { .. })),
                failed > 0
            );
            assert!((0..100).all(|n| draw(&trial, &message(&n.to_string(), None, &[])) == expected));
            assert_eq!(trial.look(start + Duration::from_secs(120)), None);
            let uses = [trial.uses("f"), trial.uses(&candidate_name("f")), trial.uses("g")];
            assert_eq!(uses, [failed > 0, failed == 0, true]);
            let exchanges = trial.standing().evidence;
            assert_eq!(exchanges.stable.exchanges + exchanges.candidate.exchanges, 100);
        }
    }
}
