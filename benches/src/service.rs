//! A running child process: pinned to its cores, in a process group of its own, gone when this value is.
//!
//! Invariant: no child outlives this program. The destructor ends the whole group, on return and on panic alike; an
//! interruption becomes an ordinary error ([`Interrupt`]) so that destructors run; and should this program be killed
//! outright, the kernel signals the child.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::usage::{self, Usage};

/// Short against a round of whole seconds, long enough to cost the load core nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Envoy needs about a second, a proxy that compiles filters a few; beyond this it hangs.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What a proxy gets between SIGTERM and SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Lines of a failed child's output that are worth showing.
const LOG_LINES: usize = 12;

/// Set by Ctrl-C, SIGTERM and SIGHUP; seen by whatever waits.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot handle signals")?;
        }
        Ok(Self(flag))
    }

    fn pause(&self) -> Result<()> {
        thread::sleep(POLL_INTERVAL);
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

pub struct Service {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Standard output and error both go to `folder/NAME.log`.
    /// `cores` is a list as taskset takes it.
    pub fn start<S: AsRef<OsStr>>(name: &str, command: &[S], cores: impl Display, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let errors = output.try_clone().context("cannot share a log file")?;
        let child = Command::new("setpriv")
            // The last resort for when no destructor runs; SIGTERM, so that a master takes its workers along.
            .args(["--pdeathsig", "TERM", "taskset", "--cpu-list", &cores.to_string()])
            .args(command)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub fn wait_until_listening(&mut self, port: u16, interrupt: &Interrupt) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            self.require_alive()?;
            if Instant::now() > deadline {
                bail!(
                    "{} does not listen on {address} after {START_LIMIT:?}{}",
                    self.name,
                    self.log_tail()
                );
            }
            interrupt.pause()?;
        }
        // Somebody else may have been given the port; then ours has failed to bind it and is gone.
        self.require_alive()
    }

    /// For a program that ends by itself: its whole output.
    pub fn wait_for_output(mut self, limit: Duration, interrupt: &Interrupt) -> Result<(ExitStatus, String)> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .with_context(|| format!("cannot wait for {}", self.name))?
            {
                return Ok((status, self.output()));
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {limit:?}{}", self.name, self.log_tail());
            }
            interrupt.pause()?;
        }
    }

    pub fn usage(&mut self) -> Result<Usage> {
        self.require_alive()?;
        usage::of_tree(self.child.id()).with_context(|| format!("cannot measure {}", self.name))
    }

    fn require_alive(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("cannot watch {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}){}", self.name, self.log_tail()),
        }
    }

    fn output(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        if tail.is_empty() {
            "; it printed nothing".to_owned()
        } else {
            format!("; it printed:\n{}", tail.join("\n"))
        }
    }

    fn signal_group(&self, signal: Signal) {
        // Fails only when the group is gone already, which is what was wanted.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.signal_group(Signal::TERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        // Also for members that outlived the leader.
        self.signal_group(Signal::KILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupt() -> Interrupt {
        Interrupt(Arc::default())
    }

    #[test]
    fn returns_output_of_a_program_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(
            "echo",
            &["sh", "-c", "echo out; echo err >&2; exit 3"],
            0,
            folder.path(),
        )
        .unwrap();
        let (status, output) = service.wait_for_output(Duration::from_secs(20), &interrupt()).unwrap();
        assert_eq!((status.code(), output.as_str()), (Some(3), "out\nerr\n"));
    }

    #[test]
    fn a_service_that_dies_shows_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut service =
            Service::start("mortal", &["sh", "-c", "echo no such port; exit 1"], 0, folder.path()).unwrap();
        let message = format!("{:#}", service.wait_until_listening(1, &interrupt()).unwrap_err());
        assert!(
            message.contains("mortal has ended") && message.contains("no such port"),
            "{message}"
        );
    }

    #[test]
    fn an_interruption_ends_the_wait() {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start("sleeper", &["sleep", "60"], 0, folder.path()).unwrap();
        let pressed = Interrupt(Arc::new(AtomicBool::new(true)));
        let message = format!(
            "{:#}",
            service.wait_for_output(Duration::from_secs(20), &pressed).unwrap_err()
        );
        assert_eq!(message, "interrupted");
    }

    #[test]
    fn dropping_ends_the_whole_group_even_if_it_ignores_sigterm() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; sleep 60 & echo $!; wait";
        let service = Service::start("stubborn", &["sh", "-c", script], 0, folder.path()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while service.output().is_empty() && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        let grandchild = service.output().trim().to_owned();
        let leader = service.child.id();
        drop(service);
        let running = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        assert!(!grandchild.is_empty() && !running(&leader.to_string()));
        // Its adoptive parent takes a moment to collect it, but it runs no more.
        let deadline = Instant::now() + Duration::from_secs(20);
        while running(&grandchild) {
            assert!(Instant::now() < deadline, "process {grandchild} still runs");
            thread::sleep(POLL_INTERVAL);
        }
    }
}
