//! What a process and its descendants have used, read from `/proc/PID/stat`.
//!
//! A proxy may be one process or a tree of them (nginx: master and worker), so a figure is always the sum over the
//! tree. Time of descendants that have ended already is not in it: the peers keep theirs for the whole run.

use std::fs;

use anyhow::{Context, Result, ensure};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time together.
    pub cpu_seconds: f64,
    pub rss_mib: f64,
}

/// The sum over `root` and all its living descendants.
pub fn of_tree(root: u32) -> Result<Usage> {
    let stats = all_processes()?;
    let members = tree(&stats, root);
    ensure!(!members.is_empty(), "process {root} is gone");
    let ticks: u64 = members.iter().map(|stat| stat.cpu_ticks).sum();
    let pages: u64 = members.iter().map(|stat| stat.rss_pages).sum();
    Ok(Usage {
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        rss_mib: pages as f64 * rustix::param::page_size() as f64 / (1 << 20) as f64,
    })
}

/// The fields of one `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    pid: u32,
    parent: u32,
    cpu_ticks: u64,
    rss_pages: u64,
}

fn all_processes() -> Result<Vec<Stat>> {
    let entries = fs::read_dir("/proc").context("cannot list /proc; this program needs Linux")?;
    let numbered = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    // A process may end between the listing and the reading; such a file is simply not there.
    let texts = numbered.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    texts
        .map(|text| parse_stat(&text).with_context(|| format!("unknown form of /proc/PID/stat: {text}")))
        .collect()
}

/// proc(5): `pid (comm) state ppid ...`, where comm may hold spaces and parentheses; utime and stime are fields 14 and
/// 15, rss is field 24.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (_comm, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field_of_manual: usize| fields.get(field_of_manual - 3)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: number(14)? + number(15)?,
        rss_pages: number(24)?,
    })
}

fn tree(stats: &[Stat], root: u32) -> Vec<Stat> {
    let mut members: Vec<Stat> = stats.iter().filter(|stat| stat.pid == root).copied().collect();
    let mut visited = 0;
    while let Some(&Stat { pid, .. }) = members.get(visited) {
        members.extend(stats.iter().filter(|stat| stat.parent == pid && stat.pid != pid));
        visited += 1;
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: &str = "4242 (nginx: (w) 1) S 4200 4200 4100 0 -1 4194624 1202 0 3 0 \
        731 1269 11 12 20 0 1 0 880213 15241216 1456 18446744073709551615 1 1 0 0 0 0 0 0 402745863 0 0 0 17 0 0 0";

    #[test]
    fn reads_a_name_with_spaces_and_parentheses() {
        assert_eq!(
            parse_stat(WORKER),
            Some(Stat {
                pid: 4242,
                parent: 4200,
                cpu_ticks: 2000,
                rss_pages: 1456
            })
        );
    }

    #[test]
    fn refuses_a_cut_line() {
        for length in [0, 4, 12, 40, 90] {
            assert_eq!(parse_stat(&WORKER[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_tree_holds_descendants_and_nobody_else() {
        let stat = |pid, parent| Stat {
            pid,
            parent,
            cpu_ticks: 1,
            rss_pages: 1,
        };
        let stats = [stat(9, 5), stat(1, 0), stat(5, 1), stat(7, 5), stat(8, 7), stat(6, 1)];
        let pids = |root| tree(&stats, root).iter().map(|stat| stat.pid).collect::<Vec<_>>();
        assert_eq!(pids(5), [5, 9, 7, 8]);
        assert_eq!(pids(6), [6]);
        assert!(pids(77).is_empty());
    }

    #[test]
    fn this_process_has_a_size() {
        assert!(of_tree(std::process::id()).unwrap().rss_mib > 0.1);
    }
}
