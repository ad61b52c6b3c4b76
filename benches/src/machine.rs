//! Where and when a figure was taken: no figure leaves this program without it.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// UTC, `YYYY-MM-DD`.
    pub date: String,
    pub cpu_model: String,
    /// Processors that the kernel shows, whether or not this process may use them.
    pub cores: usize,
    pub kernel: String,
}

impl Machine {
    pub fn here_and_now() -> Result<Self> {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
        Ok(Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            cpu_model: cpu_model(&cpu_info),
            cores: cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: kernel.trim().to_owned(),
        })
    }
}

/// Refuses to go on unless this process may run on both cores; the proxies get one for themselves.
pub fn require_cores(needed: [usize; 2]) -> Result<()> {
    let allowed = sched_getaffinity(None).context("cannot read the affinity mask")?;
    for core in needed {
        ensure!(
            allowed.is_set(core),
            "core {core} does not exist here or is not allowed to this process ({} in all); the proxies need core {} \
             for themselves, origin and load generator need core {}",
            allowed.count(),
            needed[0],
            needed[1],
        );
    }
    Ok(())
}

/// Keeps this program itself off the core that is measured.
pub fn move_to_core(core: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).with_context(|| format!("cannot move to core {core}"))
}

/// Not every architecture names its model (arm64 gives numbers only).
fn cpu_model(cpu_info: &str) -> String {
    let value = |line: &str| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned());
    cpu_info
        .lines()
        .find_map(value)
        .unwrap_or_else(|| format!("unnamed {} CPU", std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_model_or_names_the_architecture() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: Example 9000 @ 3 GHz\nflags\t: fpu\n"),
            "Example 9000 @ 3 GHz"
        );
        assert!(cpu_model("processor\t: 0\nBogoMIPS\t: 50.00\n").starts_with("unnamed "));
    }

    #[test]
    fn a_core_that_is_not_there_is_refused_by_number() {
        let message = format!("{:#}", require_cores([0, 1023]).unwrap_err());
        assert!(
            message.contains("core 1023 does not exist") || message.contains("core 0 does not exist"),
            "{message}"
        );
    }

    #[test]
    fn the_date_is_a_plain_day() {
        let machine = Machine::here_and_now().unwrap();
        assert_eq!(machine.date.len(), 10);
        assert!(machine.cores > 0 && !machine.kernel.is_empty());
    }
}
