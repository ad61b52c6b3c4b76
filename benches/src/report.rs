//! The figures of one run: plain data, already summed up. Pure.
//!
//! Invariant: a row whose load met an error has no ratio, and neither has any row when that happened to the first.

use serde::Serialize;

use crate::load::{Latency, Load, SocketErrors, Spent};
use crate::machine::Machine;
use crate::program::Version;
use crate::work::Work;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub versions: Vec<Version>,
    pub settings: Settings,
    /// In the order in which the proxies were named; ratios are to the first.
    pub rows: Vec<Row>,
}

/// How the load was applied.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    pub work: Work,
    pub path: String,
    pub connections: u32,
    pub seconds: u64,
    pub rounds: u32,
    pub proxy_core: usize,
    pub load_core: usize,
}

/// One proxy. Every figure is the median over its rounds, each by itself; errors are summed.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    /// In the [`Work`]'s unit, which heads its column.
    pub cost: f64,
    pub ratio: Option<f64>,
    pub per_second: f64,
    pub latency: Option<Latency>,
    pub non_2xx: u64,
    pub socket_errors: SocketErrors,
    pub rss_mib: f64,
    pub rounds: Vec<Round>,
}

/// One proxy's turn in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub cost: f64,
    pub per_second: f64,
    pub latency: Option<Latency>,
    pub non_2xx: u64,
    pub socket_errors: SocketErrors,
    pub rss_mib: f64,
}

impl Report {
    pub fn new(machine: Machine, versions: Vec<Version>, settings: Settings, turns: Vec<(String, Vec<Round>)>) -> Self {
        let mut rows: Vec<Row> = turns.into_iter().map(|(name, rounds)| Row::new(name, rounds)).collect();
        if let Some(base) = rows.first().filter(|first| first.is_clean()).map(|first| first.cost) {
            for row in rows.iter_mut().filter(|row| row.is_clean()) {
                row.ratio = Some(row.cost / base).filter(|ratio| ratio.is_finite());
            }
        }
        Self {
            machine,
            versions,
            settings,
            rows,
        }
    }

    /// Whether every request of every row was answered well.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(Row::is_clean)
    }
}

impl Row {
    fn new(name: String, rounds: Vec<Round>) -> Self {
        let median_of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let latencies: Option<Vec<Latency>> = rounds.iter().map(|round| round.latency).collect();
        let latency = latencies.map(|latencies| Latency {
            p50_us: median(latencies.iter().map(|latency| latency.p50_us).collect()),
            p99_us: median(latencies.iter().map(|latency| latency.p99_us).collect()),
        });
        Self {
            cost: median_of(|round| round.cost),
            ratio: None,
            per_second: median_of(|round| round.per_second),
            latency,
            non_2xx: rounds.iter().map(|round| round.non_2xx).sum(),
            socket_errors: rounds
                .iter()
                .fold(SocketErrors::default(), |sum, round| sum.plus(round.socket_errors)),
            rss_mib: median_of(|round| round.rss_mib),
            name,
            rounds,
        }
    }

    pub fn is_clean(&self) -> bool {
        self.non_2xx == 0 && self.socket_errors.total() == 0
    }
}

impl Round {
    /// `rss_mib` is all that the proxy has at the end.
    pub fn new(work: Work, load: &Load, spent: Spent, rss_mib: f64) -> Self {
        Self {
            cost: spent.by(work, load.count),
            per_second: load.per_second,
            latency: load.latency,
            non_2xx: load.non_2xx,
            socket_errors: load.socket_errors,
            rss_mib,
        }
    }
}

/// The middle value, or the mean of the two in the middle; 0 for none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => 0.0,
        (0, Some(upper)) => (values[middle - 1] + upper) / 2.0,
        (_, Some(middle)) => *middle,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of one round each: name, CPU microseconds, responses that were not 2xx.
    pub(crate) fn report_of(rows: &[(&str, f64, u64)]) -> Report {
        let turn = |&(name, cpu_us, non_2xx): &(&str, f64, u64)| (name.to_owned(), vec![round(cpu_us, non_2xx)]);
        let machine = Machine {
            date: "2026-02-03".to_owned(),
            cpu_model: "Example CPU".to_owned(),
            cores: 2,
            kernel: "6.1.0".to_owned(),
        };
        let versions = vec![Version {
            program: "HAProxy".to_owned(),
            version: "2.6.12".to_owned(),
        }];
        let settings = Settings {
            work: Work::Http1,
            path: "/".to_owned(),
            connections: 64,
            seconds: 3,
            rounds: 1,
            proxy_core: 0,
            load_core: 1,
        };
        Report::new(machine, versions, settings, rows.iter().map(turn).collect())
    }

    fn round(cost: f64, non_2xx: u64) -> Round {
        Round {
            cost,
            per_second: 1e6 / cost,
            latency: Some(Latency {
                p50_us: 945.0,
                p99_us: 2_430.0,
            }),
            non_2xx,
            socket_errors: SocketErrors::default(),
            rss_mib: 12.4,
        }
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(vec![9.0, 1.0, 5.0, 6.0]), 5.5);
        assert_eq!(median(vec![7.0]), 7.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn cost_is_cpu_time_or_memory_over_what_was_done() {
        let load = Load {
            count: 2_000_000,
            per_second: 1.0,
            latency: None,
            non_2xx: 0,
            socket_errors: SocketErrors::default(),
        };
        let spent = Spent {
            cpu_seconds: 30.0,
            rss_mib: 1_000.0,
        };
        let cost = |work| Round::new(work, &load, spent, 1.0).cost;
        assert_eq!([Work::Http2, Work::Idle].map(cost), [15.0, 0.512]);
    }

    #[test]
    fn ratios_are_to_the_first_row() {
        let report = report_of(&[("haproxy", 16.0, 0), ("tamis", 12.0, 0)]);
        let ratios: Vec<_> = report.rows.iter().map(|row| row.ratio).collect();
        assert_eq!(ratios, [Some(1.0), Some(0.75)]);
        assert!(report.is_clean());
    }

    #[test]
    fn errors_take_a_row_its_ratio_and_the_first_row_takes_all() {
        let ratios = |rows: &[_]| report_of(rows).rows.iter().map(|row| row.ratio).collect::<Vec<_>>();
        assert_eq!(ratios(&[("haproxy", 16.0, 0), ("tamis", 1.0, 3)]), [Some(1.0), None]);
        assert_eq!(ratios(&[("haproxy", 16.0, 1), ("tamis", 12.0, 0)]), [None, None]);
    }
}
