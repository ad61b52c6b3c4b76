//! Outlier ejection: endpoints that fail requests are left alone for a while.
//!
//! Control plane; one task for each cluster that has it, so that two endpoints are never ejected where only one may be.
//! The evidence comes from the workers, who count in lanes of their own and ring when an endpoint has failed often enough
//! in a row. What is known of an ejection is the endpoint's, so it survives reloads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::balance::{Member, Members};
use crate::cluster::{Cluster, Standing};
use crate::endpoint::{Endpoint, millis};

/// Between two looks, however loud the alarm is.
const REST: Duration = Duration::from_millis(1);

/// How far under the mean a success rate is at least: endpoints that hardly ever fail are all alike, however small their
/// deviation is.
const LEAST_GAP: f64 = 0.05;

/// Defaults and reasons are the configuration's.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub in_a_row: Option<u32>,
    pub success_rate: Option<SuccessRate>,
    pub interval: Duration,
    /// The first time; each further time is longer by as much.
    pub time: Duration,
    pub max_time: Duration,
    /// The part of the endpoints that may be ejected at once.
    pub max_part: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SuccessRate {
    pub deviations: f64,
    pub min_requests: u64,
    pub min_endpoints: usize,
}

impl Rules {
    /// Wakes the judge when an endpoint has failed so often in a row.
    pub fn ring(&self, in_a_row: u32, standing: &Standing) {
        if self.in_a_row.is_some_and(|limit| in_a_row >= limit) {
            standing.alarm.notify_one();
        }
    }
}

/// Until it is dropped.
pub async fn keep(cluster: Arc<Cluster>) {
    let Some(rules) = cluster.terms.outlier.clone() else {
        return;
    };
    let mut judge = Judge::new(Instant::now());
    loop {
        let (verdicts, next) = judge.look(&cluster.members(), &rules, Instant::now());
        verdicts.iter().for_each(|verdict| tell(&cluster, verdict));
        tokio::time::sleep(REST).await;
        // Woken or not, it is time to look.
        let _ = tokio::time::timeout_at(next.into(), cluster.terms.standing.alarm.notified()).await;
    }
}

fn tell(cluster: &Cluster, verdict: &Verdict) {
    let (cluster, endpoint) = (cluster.name(), &*verdict.endpoint.label);
    match &verdict.what {
        What::Ejected(reason, time) => {
            tracing::warn!(
                cluster,
                endpoint,
                reason = reason.as_str(),
                ?time,
                "endpoint is ejected"
            );
        }
        What::Readmitted => tracing::info!(cluster, endpoint, "endpoint is back from its ejection"),
    }
}

struct Judge {
    /// When rates are compared next.
    compares_at: Instant,
    /// Of each endpoint, as of the last comparison.
    totals: HashMap<u64, (u64, u64)>,
}

#[derive(Debug)]
struct Verdict {
    endpoint: Arc<Endpoint>,
    what: What,
}

#[derive(Debug, PartialEq)]
enum What {
    Ejected(Reason, Duration),
    Readmitted,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    InARow,
    SuccessRate,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::InARow => "consecutive_failures",
            Self::SuccessRate => "success_rate",
        }
    }
}

impl Judge {
    fn new(now: Instant) -> Self {
        Self {
            // At once, to have something to compare with.
            compares_at: now,
            totals: HashMap::new(),
        }
    }

    /// What has come of the evidence, in force already, and when to look again at the latest.
    fn look(&mut self, members: &Members, rules: &Rules, now: Instant) -> (Vec<Verdict>, Instant) {
        let mut verdicts = Vec::new();
        let endpoints = || members.list.iter().map(|member| &member.endpoint);
        for endpoint in endpoints() {
            if endpoint.is_ejected() && endpoint.ejection.until.load(Ordering::Relaxed) <= millis(now) {
                endpoint.set_ejected(false, now);
                verdicts.push(Verdict {
                    endpoint: Arc::clone(endpoint),
                    what: What::Readmitted,
                });
            }
        }
        for endpoint in endpoints() {
            let is_over = rules.in_a_row.is_some_and(|limit| endpoint.in_a_row() >= limit);
            if is_over {
                verdicts.extend(eject(endpoint, Reason::InARow, members, rules, now));
            }
        }
        if now >= self.compares_at {
            self.compares_at = now + rules.interval;
            for endpoint in self.outliers(members, rules) {
                verdicts.extend(eject(&endpoint, Reason::SuccessRate, members, rules, now));
            }
        }
        let readmissions = endpoints().filter(|endpoint| endpoint.is_ejected()).map(|endpoint| {
            let until = endpoint.ejection.until.load(Ordering::Relaxed);
            now + Duration::from_millis(until.saturating_sub(millis(now)))
        });
        let next = readmissions.chain([self.compares_at]).min();
        (verdicts, next.unwrap_or(self.compares_at))
    }

    /// Those whose success rate since the last comparison is far under that of the others. Good conduct is rewarded on
    /// the way: after an interval without an ejection the next one is shorter.
    fn outliers(&mut self, members: &Members, rules: &Rules) -> Vec<Arc<Endpoint>> {
        let mut rates = Vec::new();
        let mut totals = HashMap::with_capacity(members.list.len());
        for Member { endpoint, .. } in &members.list {
            let now = endpoint.totals();
            totals.insert(endpoint.id(), now);
            if endpoint.is_ejected() {
                continue;
            }
            let level = &endpoint.ejection.level;
            level.store(level.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
            // One that is new has nothing to be compared with.
            let Some(before) = self.totals.get(&endpoint.id()) else {
                continue;
            };
            let (answers, failures) = (now.0 - before.0, now.1 - before.1);
            if rules
                .success_rate
                .as_ref()
                .is_some_and(|rate| answers >= rate.min_requests)
            {
                rates.push((endpoint, 1.0 - failures as f64 / answers as f64));
            }
        }
        self.totals = totals;
        let Some(rule) = &rules.success_rate else {
            return Vec::new();
        };
        if rates.len() < rule.min_endpoints {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let least = mean - (rule.deviations * variance.sqrt()).max(LEAST_GAP);
        let outliers = rates.into_iter().filter(|(_, rate)| *rate < least);
        outliers.map(|(endpoint, _)| Arc::clone(endpoint)).collect()
    }
}

/// Unless it is ejected already, or as many are as may be.
fn eject(endpoint: &Arc<Endpoint>, reason: Reason, members: &Members, rules: &Rules, now: Instant) -> Option<Verdict> {
    let ejected = members
        .list
        .iter()
        .filter(|member| member.endpoint.is_ejected())
        .count();
    let most = (members.list.len() as f64 * rules.max_part).floor() as usize;
    if endpoint.is_ejected() || ejected >= most {
        return None;
    }
    let level = endpoint.ejection.level.load(Ordering::Relaxed) + 1;
    let time = (rules.time * level).min(rules.max_time);
    // Longer than the longest it never gets, however often it fails.
    if rules.time * level <= rules.max_time {
        endpoint.ejection.level.store(level, Ordering::Relaxed);
    }
    endpoint.ejection.until.store(millis(now + time), Ordering::Relaxed);
    let count = match reason {
        Reason::InARow => &endpoint.counts.ejections_in_a_row,
        Reason::SuccessRate => &endpoint.counts.ejections_success_rate,
    };
    count.fetch_add(1, Ordering::Relaxed);
    endpoint.set_ejected(true, now);
    Some(Verdict {
        endpoint: Arc::clone(endpoint),
        what: What::Ejected(reason, time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::balance::Balancing;
    use crate::endpoint::Epoch;
    use http::StatusCode;

    fn members(count: usize) -> Members {
        let epoch = Arc::<Epoch>::default();
        let member = |index: usize| Member {
            endpoint: Arc::new(Endpoint::new(
                Address::Unix(format!("/{index}").into()),
                None,
                Arc::clone(&epoch),
                1,
            )),
            weight: 1,
            priority: 0,
        };
        Members::new((0..count).map(member).collect(), Balancing::RoundRobin)
    }

    fn rules() -> Rules {
        Rules {
            in_a_row: Some(3),
            success_rate: None,
            interval: Duration::from_secs(10),
            time: Duration::from_secs(30),
            max_time: Duration::from_secs(60),
            max_part: 0.5,
        }
    }

    fn fail(members: &Members, index: usize, times: u32) {
        for _ in 0..times {
            members.list[index].endpoint.failed(0);
        }
    }

    fn ejected(members: &Members) -> Vec<usize> {
        let list = members.list.iter().enumerate();
        list.filter(|(_, member)| member.endpoint.is_ejected())
            .map(|(index, _)| index)
            .collect()
    }

    #[test]
    fn so_many_failures_in_a_row_are_one_too_many_and_no_more_than_the_part_is_ejected() {
        let (members, rules, start) = (members(5), rules(), Instant::now());
        let mut judge = Judge::new(start);
        fail(&members, 0, 2);
        judge.look(&members, &rules, start);
        assert_eq!(ejected(&members), [0_usize; 0]);
        for index in 0..5 {
            fail(&members, index, 3);
        }
        let (verdicts, next) = judge.look(&members, &rules, start);
        assert_eq!((verdicts.len(), ejected(&members)), (2, vec![0, 1]));
        assert_eq!(next, start + Duration::from_secs(10));
    }

    #[test]
    fn of_one_endpoint_none_is_ejected() {
        let members = members(1);
        fail(&members, 0, 100);
        let (verdicts, _) = Judge::new(Instant::now()).look(&members, &rules(), Instant::now());
        assert!(verdicts.is_empty(), "{verdicts:?}");
    }

    #[test]
    fn each_ejection_is_longer_up_to_a_bound_and_good_conduct_shortens_the_next() {
        let (members, rules, start) = (members(2), rules(), Instant::now());
        let mut judge = Judge::new(start + Duration::from_secs(100_000));
        let mut now = start;
        let mut times = Vec::new();
        for _ in 0..3 {
            fail(&members, 0, 3);
            let (verdicts, _) = judge.look(&members, &rules, now);
            let [
                Verdict {
                    what: What::Ejected(Reason::InARow, time),
                    ..
                },
            ] = &*verdicts
            else {
                panic!("{verdicts:?}")
            };
            times.push(time.as_secs());
            let (early, _) = judge.look(&members, &rules, now + *time - Duration::from_millis(10));
            assert!(early.is_empty(), "{early:?}");
            now += *time + Duration::from_millis(1);
            let (verdicts, _) = judge.look(&members, &rules, now);
            assert_eq!(verdicts[0].what, What::Readmitted);
        }
        assert_eq!(times, [30, 60, 60]);
        judge.compares_at = now;
        for _ in 0..5 {
            judge.look(&members, &rules, now);
            now += rules.interval;
        }
        fail(&members, 0, 3);
        let (verdicts, _) = judge.look(&members, &rules, now);
        assert_eq!(verdicts[0].what, What::Ejected(Reason::InARow, rules.time));
    }

    #[test]
    fn a_rate_far_under_the_others_is_an_outlier() {
        let rules = Rules {
            in_a_row: None,
            success_rate: Some(SuccessRate {
                deviations: 1.9,
                min_requests: 100,
                min_endpoints: 5,
            }),
            ..rules()
        };
        for (bad, expected) in [(0, vec![]), (1, vec![]), (60, vec![2])] {
            let (members, start) = (members(6), Instant::now());
            let mut judge = Judge::new(start);
            judge.look(&members, &rules, start);
            for (index, member) in members.list.iter().enumerate() {
                for number in 0..100 {
                    let is_bad = (index == 2 && number < bad) || number == 99;
                    let status = if is_bad {
                        StatusCode::INTERNAL_SERVER_ERROR
                    } else {
                        StatusCode::OK
                    };
                    member.endpoint.answered(0, status);
                }
            }
            judge.look(&members, &rules, start + rules.interval);
            assert_eq!(ejected(&members), expected, "{bad} bad");
        }
    }

    #[test]
    fn too_few_requests_or_endpoints_are_no_evidence() {
        let rules = Rules {
            in_a_row: None,
            success_rate: Some(SuccessRate {
                deviations: 1.0,
                min_requests: 100,
                min_endpoints: 5,
            }),
            ..rules()
        };
        for (endpoints, requests) in [(4, 100), (6, 99)] {
            let (members, start) = (members(endpoints), Instant::now());
            let mut judge = Judge::new(start);
            judge.look(&members, &rules, start);
            for (index, member) in members.list.iter().enumerate() {
                for _ in 0..requests {
                    match index {
                        0 => member.endpoint.failed(0),
                        _ => member.endpoint.answered(0, StatusCode::OK),
                    };
                }
            }
            judge.look(&members, &rules, start + rules.interval);
            assert_eq!(ejected(&members), [0_usize; 0]);
        }
    }
}
