//! Candidates of filters: loaded beside the version in use, and on trial until a verdict.
//!
//! Control plane. A verdict is remembered with its candidate: a promoted one stays promoted until its component or its
//! settings change, and one that was rolled back is not tried again until these or the filter's limits do. A filter
//! without a candidate has no memory.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;
use tamis_config as config;

use super::{Build, StepSource, limits, services};
use crate::canary::{Pace, Phase, Rules, Version, WHOLE, WhenGood, candidate_name};
use crate::chain::Step;
use crate::trial::{Key, Part, Terms, Trial};

/// Candidates of one filter that were rolled back, and are known by it. Each is some kilobytes.
const MAX_REMEMBERED: usize = 16;

impl Build<'_> {
    /// After the filters themselves, and like these: used or not, and once for every use with settings of its own.
    pub(super) async fn load_candidates(&mut self) {
        let config = self.config;
        let listeners = config.listeners.iter().flat_map(|listener| &listener.filters);
        let uses = listeners.chain(config.routes.iter().flat_map(|route| &route.filters));
        let in_chains = uses.filter_map(|used| Some((used.filter, used.config.as_ref()?)));
        let themselves = config.filters.iter().map(|filter| &filter.config).enumerate();
        for (index, settings) in themselves.chain(in_chains) {
            if let Some(candidate) = &config.filters[index].candidate {
                self.load_candidate(index, candidate, &settings.value).await;
            }
        }
    }

    /// `settings` are those of the version in use, and the candidate's unless it has its own.
    async fn load_candidate(&mut self, index: usize, candidate: &config::Candidate, settings: &serde_json::Value) {
        let key = (index, settings.to_string());
        let filter = &self.config.filters[index];
        let config::FilterKind::Component(path) = &filter.kind else {
            return;
        };
        if self.candidates.contains_key(&key) {
            return;
        }
        let path = candidate.component.as_ref().unwrap_or(path);
        let given = candidate.config.as_ref().map_or(settings, |given| &given.value);
        let name = candidate_name(&filter.name);
        let loaded = self.load_component(filter, &name, path, given).await;
        match loaded.and_then(|source| self.of_one_kind(&key, source)) {
            Ok(source) => {
                if let (Some(own), StepSource::Wasm(slot)) = (&candidate.config, &source) {
                    self.check_settings(*slot, &own.value, &candidate.place, &name);
                }
                self.candidates.insert(key, source);
            }
            Err(message) => self.fault(
                &candidate.place,
                "filter",
                &filter.name,
                format!("candidate: {message}"),
            ),
        }
    }

    /// The candidate, if it is of the kind of the version in use: how long the hooks of the one take and the words of the
    /// other cannot be compared.
    fn of_one_kind(&self, key: &(usize, String), candidate: StepSource) -> Result<StepSource, String> {
        match (self.kinds.get(key), &candidate) {
            (Some(StepSource::Wasm(_)), StepSource::Middleware(_)) => {
                Err("is a middleware, and the version in use is none; try one of the same kind".to_owned())
            }
            (Some(StepSource::Middleware(_)), StepSource::Wasm(_)) => {
                Err("is no middleware, and the version in use is one; try one of the same kind".to_owned())
            }
            _ => Ok(candidate),
        }
    }

    /// One for each filter with a candidate, whatever chains it stands in: bad in one is bad in all.
    pub(super) fn open_trials(&mut self) {
        for (index, filter) in self.config.filters.iter().enumerate() {
            let Some(candidate) = &filter.candidate else { continue };
            let key = (index, filter.config.value.to_string());
            // One that is missing is a fault already.
            let (Some(stable), Some(tried)) = (self.kinds.get(&key), self.candidates.get(&key)) else {
                continue;
            };
            let limits = self.spelled_limits(filter, tried);
            let (Some(stable), Some(tried)) = (self.digest(stable), self.digest(tried)) else {
                continue;
            };
            let given = candidate.config.as_ref().unwrap_or(&filter.config);
            let terms = Terms {
                candidate: format!("{tried} {}", given.value),
                stable: format!("{stable} {}", filter.config.value),
                limits,
                key: trial_key(&candidate.key),
                rules: rules(candidate),
            };
            self.open_trial(index, tried, terms);
        }
    }

    /// Of its component; native filters have none.
    fn digest(&self, source: &StepSource) -> Option<String> {
        let artifact = match source {
            StepSource::Native(_) => return None,
            StepSource::Wasm(slot) => self.guests[*slot].artifact(),
            StepSource::Middleware(slot) => self.middlewares[*slot].service.artifact(),
        };
        Some(artifact.digest().to_string())
    }

    fn spelled_limits(&self, filter: &config::Filter, source: &StepSource) -> String {
        let workers = self.assembler.workers;
        match source {
            StepSource::Middleware(_) => format!("{:?}", services::limits(&filter.middleware.limits, workers)),
            StepSource::Wasm(_) | StepSource::Native(_) => format!("{:?}", limits(filter, workers)),
        }
    }

    fn open_trial(&mut self, index: usize, component: String, terms: Terms) {
        let assembler = self.assembler;
        let filter = &self.config.filters[index].name;
        let known = assembler
            .parts
            .trials
            .get(filter)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let trial = known.iter().find(|trial| trial.answers(&terms)).cloned();
        let trial = trial.unwrap_or_else(|| {
            let verdicts = known.first().map(|trial| Arc::clone(trial.verdicts()));
            let alarm = Arc::clone(&assembler.alarm);
            Arc::new(Trial::new(
                filter,
                component,
                terms,
                assembler.workers,
                alarm,
                verdicts.unwrap_or_default(),
            ))
        });
        let earlier = known.iter().filter(|known| !Arc::ptr_eq(known, &trial));
        let rolled_back = earlier.filter(|known| matches!(known.phase(), Phase::RolledBack(_)));
        let rolled_back = rolled_back.take(MAX_REMEMBERED).cloned();
        let trials = std::iter::once(Arc::clone(&trial)).chain(rolled_back).collect();
        self.parts.trials.insert(filter.clone(), trials);
        self.trials.insert(index, trial);
    }

    /// What counters are filed under: the filters, then the candidates in their order.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let filters = self.config.filters.iter().map(|filter| Arc::from(filter.name.as_str()));
        let candidates = self.trials.values().map(|trial| candidate_name(trial.filter()).into());
        filters.chain(candidates).collect()
    }

    pub(super) fn part(&self, filter: usize, version: Version) -> Option<Part> {
        let trial = Arc::clone(self.trials.get(&filter)?);
        Some(Part { trial, version })
    }

    /// The step of the candidate for the filter's use with these settings.
    pub(super) fn candidate(&self, key: &(usize, String)) -> Option<Box<Step>> {
        let position = self.trials.keys().position(|filter| *filter == key.0)?;
        Some(Box::new(Step {
            name: candidate_name(&self.config.filters[key.0].name).into(),
            index: self.config.filters.len() + position,
            kind: self.step_kind(self.candidates.get(key)?),
            part: self.part(key.0, Version::Candidate),
            candidate: None,
        }))
    }
}

/// Says which trials begin, and which candidates have had theirs.
pub(super) fn announce(before: &HashMap<String, Vec<Arc<Trial>>>, now: &[Arc<Trial>]) {
    for trial in now {
        let (filter, sha256) = (trial.filter(), trial.component());
        let known = before.get(filter).map(Vec::as_slice).unwrap_or_default();
        match trial.phase() {
            Phase::RolledBack(reason) => {
                tracing::warn!(filter, sha256, %reason, "candidate is unchanged, and not tried again");
            }
            _ if known.iter().any(|known| Arc::ptr_eq(known, trial)) => {}
            Phase::Identical => tracing::warn!(filter, sha256, "candidate is the filter itself; take it out"),
            _ => {
                let share = f64::from(trial.share()) / f64::from(WHOLE);
                tracing::info!(filter, sha256, share, "candidate on trial");
            }
        }
    }
}

fn trial_key(key: &config::CandidateKey) -> Key {
    match key {
        config::CandidateKey::RequestId => Key::RequestId,
        config::CandidateKey::ClientAddress => Key::ClientAddress,
        // The configuration has checked the name.
        config::CandidateKey::Header(name) => {
            HeaderName::from_bytes(name.as_bytes()).map_or(Key::RequestId, Key::Header)
        }
        config::CandidateKey::Cookie(name) => Key::Cookie(name.clone()),
    }
}

fn rules(candidate: &config::Candidate) -> Rules {
    let part = |hundredths: u32| f64::from(hundredths) / f64::from(WHOLE);
    let tolerate = &candidate.tolerate;
    Rules {
        share: candidate.share,
        window: candidate.window,
        min_calls: candidate.min_calls.into(),
        failures: tolerate.failures.map(part),
        replies: tolerate.replies.map(part),
        pace: tolerate.p99.map(|longer| Pace {
            factor: 1.0 + part(longer),
            floor: tolerate.p99_floor,
        }),
        when_good: match candidate.when_good {
            config::WhenGood::Promote => WhenGood::Promote,
            config::WhenGood::Hold => WhenGood::Hold,
        },
    }
}
