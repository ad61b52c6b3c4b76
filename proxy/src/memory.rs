//! How much memory the process may use, and how much it uses.
//!
//! Control plane. Asked a few times a second, and told to the data plane as one [`Pressure`]. What
//! counts is what the kernel kills by: the nearest control group with a limit, in version 2 or 1 of the interface, and
//! without one the process's own resident memory against a part of the machine's. Everything is read below a root that
//! tests can put elsewhere. It changes nothing by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::overload::{self, Level, Pressure, Thresholds};
use crate::worker::{Command, Live, Workers};

/// Ten times a second: at a gigabit a second 12 MB come in between, and a look costs a few reads from the kernel.
const LOOK: Duration = Duration::from_millis(100);
/// Of five parts of the machine's memory, those that the process may fill when nobody grants it another amount. The
/// kernel needs the rest for sockets and files.
const MACHINE_SHARE: u64 = 4;

/// Looks at the memory for as long as the process lives.
pub async fn watch(live: Arc<Live>, workers: Workers) {
    let memory = Memory::below(Path::new("/"));
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut is_blind = false;
    loop {
        look.tick().await;
        let snapshot = live.load();
        let (pressure, thresholds) = (&snapshot.overload.pressure, &snapshot.overload.memory);
        let reading = match thresholds {
            Some(thresholds) => memory.read(thresholds.limit),
            None => Ok(Reading { used: 0, limit: 0 }),
        };
        let reading = match reading {
            Ok(reading) => {
                is_blind = false;
                reading
            }
            Err(error) => {
                // Said once: nobody is helped by the same line ten times a second.
                if !std::mem::replace(&mut is_blind, true) {
                    tracing::error!(error, "memory cannot be looked at; no load is shed for it");
                }
                Reading { used: 0, limit: 0 }
            }
        };
        if note(pressure, thresholds.as_ref(), reading) {
            for worker in &workers {
                // One that has ended sheds all.
                let _ = worker.send(Command::Relieve);
            }
        }
        if pressure.level() > Level::Normal {
            overload::give_back();
        }
    }
}

/// Whether the level is another one.
fn note(pressure: &Pressure, thresholds: Option<&Thresholds>, reading: Reading) -> bool {
    let Reading { used, limit } = reading;
    let level = match thresholds {
        Some(thresholds) if limit > 0 => thresholds.level(pressure.level(), used, limit),
        _ => Level::Normal,
    };
    let Some(before) = pressure.set(level, used, limit) else {
        return false;
    };
    let (now, before) = (level.as_str(), before.as_str());
    match level {
        Level::Normal => tracing::info!(level = now, before, used, limit, "memory is no longer short"),
        _ => tracing::warn!(level = now, before, used, limit, "memory is short"),
    }
    true
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    used: u64,
    limit: u64,
}

/// Where the numbers stand.
struct Memory {
    root: PathBuf,
    group: Option<Group>,
}

/// The nearest control group that has a limit.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    interface: &'static Interface,
}

/// What the files of a version of the interface are called.
#[derive(Debug, PartialEq, Eq)]
struct Interface {
    limits: &'static [&'static str],
    usage: &'static str,
    /// The keys in `memory.stat` of what the kernel takes back before it kills: pages of files, and its own caches.
    reclaimable: &'static [&'static str],
}

const V1: Interface = Interface {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file", "total_active_file"],
};
const V2: Interface = Interface {
    // Above `high` the kernel does not kill, but makes all that allocate wait.
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    reclaimable: &["inactive_file", "active_file", "slab_reclaimable"],
};

impl Memory {
    fn below(root: &Path) -> Self {
        let machine = machine(root).unwrap_or(u64::MAX);
        Self {
            group: Group::find(root, machine),
            root: root.to_owned(),
        }
    }

    /// `limit`: bytes that the process may have resident, whatever else it is granted.
    fn read(&self, limit: Option<u64>) -> Result<Reading, String> {
        if let Some(limit) = limit {
            let used = resident(&self.root)?;
            return Ok(Reading { used, limit });
        }
        if let Some(group) = &self.group
            && let Some(limit) = group.limit()
        {
            let used = group.used()?;
            return Ok(Reading { used, limit });
        }
        Ok(Reading {
            used: resident(&self.root)?,
            limit: machine(&self.root)? / 5 * MACHINE_SHARE,
        })
    }
}

impl Group {
    /// A limit of more than the machine has is none; without one, the next group above is looked at.
    fn find(root: &Path, machine: u64) -> Option<Self> {
        let (interface, mount, path) = own_group(root)?;
        let mut folder = existing(&mount, &path);
        loop {
            let group = Self {
                folder: folder.clone(),
                interface,
            };
            if group.limit().is_some_and(|limit| limit < machine) {
                return Some(group);
            }
            if folder == mount || !folder.pop() {
                return None;
            }
        }
    }

    /// The tightest of its limits; a word for none, or a file that is not there, is none.
    fn limit(&self) -> Option<u64> {
        let limit = |name: &&str| number(&self.folder.join(name)).ok();
        self.interface.limits.iter().filter_map(limit).min()
    }

    fn used(&self) -> Result<u64, String> {
        let used = number(&self.folder.join(self.interface.usage))?;
        let statistics = text(&self.folder.join("memory.stat"))?;
        let keys = self.interface.reclaimable.iter();
        let reclaimable: u64 = keys.filter_map(|key| field(&statistics, key)).sum();
        Ok(used.saturating_sub(reclaimable))
    }
}

/// The interface to memory, where it is mounted, and the process's own group in it.
fn own_group(root: &Path) -> Option<(&'static Interface, PathBuf, String)> {
    let groups = text(&root.join("proc/self/cgroup")).ok()?;
    let lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let mount = root.join("sys/fs/cgroup");
    for (controllers, path) in lines {
        if controllers.split(',').any(|controller| controller == "memory") {
            return Some((&V1, mount.join("memory"), path.to_owned()));
        }
        if controllers.is_empty() && mount.join("cgroup.controllers").exists() {
            return Some((&V2, mount, path.to_owned()));
        }
    }
    None
}

/// In a container the path may be the one that the host knows, of which only an end, or nothing, is mounted.
fn existing(mount: &Path, path: &str) -> PathBuf {
    let mut rest = path.trim_matches('/');
    loop {
        let folder = mount.join(rest);
        if !rest.split('/').any(|part| part == "..") && folder.is_dir() {
            return folder;
        }
        match rest.split_once('/') {
            Some((_, tail)) => rest = tail,
            None => return mount.to_owned(),
        }
    }
}

/// What the machine has.
fn machine(root: &Path) -> Result<u64, String> {
    kibibytes(&root.join("proc/meminfo"), "MemTotal:")
}

/// What the process has of it.
fn resident(root: &Path) -> Result<u64, String> {
    kibibytes(&root.join("proc/self/status"), "VmRSS:")
}

fn kibibytes(path: &Path, key: &str) -> Result<u64, String> {
    let found = field(&text(path)?, key).ok_or_else(|| format!("{}: no {key}", path.display()))?;
    Ok(found.saturating_mul(1024))
}

/// The number behind a key at the beginning of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == key).then(|| words.next()?.parse().ok())?
    })
}

fn number(path: &Path) -> Result<u64, String> {
    let text = text(path)?;
    text.trim()
        .parse()
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBIBYTE: u64 = 1 << 30;
    /// What version 1 says where there is no limit.
    const UNLIMITED: &str = "9223372036854771712\n";

    struct Machine(tempfile::TempDir);

    impl Machine {
        /// Of 8 GiB, with a process of 100 MiB.
        fn new(groups: &str) -> Self {
            let machine = Self(tempfile::tempdir().expect("a folder"));
            machine.write(
                "proc/meminfo",
                "MemTotal:        8388608 kB\nMemFree:         1000000 kB\n",
            );
            machine.write("proc/self/status", "Name:\ttamis\nVmRSS:\t  102400 kB\nThreads:\t4\n");
            machine.write("proc/self/cgroup", groups);
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            fs::write(path, text).expect("it can be written");
        }

        fn v2(&self, group: &str, limit: &str, used: u64) {
            self.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
            self.write(&format!("sys/fs/cgroup/{group}/memory.max"), limit);
            self.write(&format!("sys/fs/cgroup/{group}/memory.high"), "max\n");
            self.write(&format!("sys/fs/cgroup/{group}/memory.current"), &format!("{used}\n"));
            let files = format!("inactive_file {}\nactive_file {}\n", 60 << 20, 30 << 20);
            let statistics = format!("anon 5\nfile 7\n{files}slab_reclaimable {}\n", 10 << 20);
            self.write(&format!("sys/fs/cgroup/{group}/memory.stat"), &statistics);
        }

        fn v1(&self, group: &str, limit: &str, used: u64) {
            let group = format!("sys/fs/cgroup/memory/{group}");
            self.write(&format!("{group}/memory.limit_in_bytes"), limit);
            self.write(&format!("{group}/memory.usage_in_bytes"), &format!("{used}\n"));
            let statistics = format!("inactive_file 1\ntotal_inactive_file {}\n", 100 << 20);
            self.write(&format!("{group}/memory.stat"), &statistics);
        }

        fn read(&self) -> Reading {
            Memory::below(self.0.path()).read(None).expect("it can be read")
        }
    }

    fn reading(used: u64, limit: u64) -> Reading {
        Reading { used, limit }
    }

    const MEBIBYTE: u64 = 1 << 20;

    #[test]
    fn the_own_group_of_version_2_counts_without_what_can_be_taken_back() {
        let machine = Machine::new("0::/system.slice/tamis.service\n");
        machine.v2("system.slice/tamis.service", "1073741824\n", 600 * MEBIBYTE);
        assert_eq!(machine.read(), reading(500 * MEBIBYTE, GIBIBYTE));
        machine.write(
            "sys/fs/cgroup/system.slice/tamis.service/memory.high",
            &(GIBIBYTE / 2).to_string(),
        );
        assert_eq!(machine.read(), reading(500 * MEBIBYTE, GIBIBYTE / 2));
    }

    #[test]
    fn a_group_without_a_limit_has_that_of_the_one_above() {
        let machine = Machine::new("0::/kubepods/pod/tamis\n");
        machine.v2("kubepods/pod/tamis", "max\n", 1);
        machine.v2("kubepods/pod", "2147483648\n", 300 * MEBIBYTE);
        machine.v2("kubepods", "1073741824\n", 900 * MEBIBYTE);
        assert_eq!(machine.read(), reading(200 * MEBIBYTE, 2 * GIBIBYTE));
    }

    #[test]
    fn a_container_sees_its_group_at_the_root() {
        let machine = Machine::new("0::/\n");
        machine.v2("", "1073741824\n", 300 * MEBIBYTE);
        assert_eq!(machine.read(), reading(200 * MEBIBYTE, GIBIBYTE));
        // The host's path, of which nothing is mounted.
        let machine = Machine::new("4:memory:/docker/0123\n0::/docker/0123\n");
        machine.v1("", "1073741824\n", 300 * MEBIBYTE);
        assert_eq!(machine.read(), reading(200 * MEBIBYTE, GIBIBYTE));
    }

    #[test]
    fn version_1_is_read_in_its_own_words() {
        let machine = Machine::new("5:cpu,cpuacct:/a\n4:memory:/b/c\n0::/\n");
        machine.v1("b/c", UNLIMITED, 1);
        machine.v1("b", "536870912\n", 300 * MEBIBYTE);
        assert_eq!(machine.read(), reading(200 * MEBIBYTE, GIBIBYTE / 2));
    }

    #[test]
    fn without_a_limit_the_process_has_a_part_of_the_machine() {
        let part = 8 * GIBIBYTE / 5 * 4;
        let machine = Machine::new("0::/a\n");
        machine.v2("a", "max\n", 7 * GIBIBYTE);
        assert_eq!(machine.read(), reading(100 * MEBIBYTE, part));
        let machine = Machine::new("4:memory:/\n");
        machine.v1("", UNLIMITED, 7 * GIBIBYTE);
        assert_eq!(machine.read(), reading(100 * MEBIBYTE, part));
        // No groups at all, or none that can be read.
        assert_eq!(Machine::new("").read(), reading(100 * MEBIBYTE, part));
        assert_eq!(Machine::new("0::/../../etc\n").read(), reading(100 * MEBIBYTE, part));
        assert_eq!(Machine::new("no\n:\n::\n").read(), reading(100 * MEBIBYTE, part));
    }

    #[test]
    fn a_given_limit_is_held_against_the_process_alone() {
        let machine = Machine::new("0::/a\n");
        machine.v2("a", "1073741824\n", 600 * MEBIBYTE);
        let memory = Memory::below(machine.0.path());
        assert_eq!(memory.read(Some(7)), Ok(reading(100 * MEBIBYTE, 7)));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let machine = Machine::new("");
        machine.write("proc/self/status", "Name:\ttamis\n");
        let memory = Memory::below(machine.0.path());
        let error = memory.read(None).expect_err("no number");
        assert!(error.ends_with("proc/self/status: no VmRSS:"), "{error}");
    }

    #[test]
    fn this_process_has_some_memory() {
        let reading = Memory::below(Path::new("/")).read(Some(GIBIBYTE)).expect("Linux");
        assert!(reading.used > MEBIBYTE, "{reading:?}");
    }

    /// What is not looked at any more is not shed for.
    #[test]
    fn levels_follow_the_readings() {
        let pressure = Pressure::default();
        let thresholds = Thresholds {
            limit: None,
            disable_keep_alive: 8_500,
            stop_accepting_requests: 9_000,
            stop_accepting_connections: 9_500,
            recovery: 500,
        };
        assert!(!note(&pressure, Some(&thresholds), reading(84, 100)));
        assert!(note(&pressure, Some(&thresholds), reading(93, 100)));
        assert_eq!(pressure.level(), Level::StopAcceptingRequests);
        assert!(note(&pressure, None, reading(0, 0)));
        assert_eq!(pressure.level(), Level::Normal);
    }
}
