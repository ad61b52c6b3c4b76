//! `tamis upgrade`: asks the process that uses a state folder for a successor, and tells what comes of it.
//!
//! Blocks. The process that is asked does the work, because the new one is to have its environment, its folder and its
//! output, and not those of whoever asks.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::control::{NAME, Reply, Request};

/// Beyond what the new process is given: the steps after it is ready are bounded by less.
const GRACE: Duration = Duration::from_secs(60);

/// Returns when the old process has ended. `tell` is given each step and the time since the start.
pub fn upgrade(
    folder: &Path,
    program: Option<&Path>,
    timeout: Duration,
    tell: impl Fn(Duration, &str),
) -> Result<(), String> {
    let start = Instant::now();
    let program = program.map(std::path::absolute).transpose();
    let program = program.map_err(|error| format!("--binary: {error}"))?;
    let stream = connect(folder)?;
    let lost = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            "the running process does not answer; its log may say why".into()
        }
        _ => format!("the running process broke off: {error}; its log says why"),
    };
    ask(&stream, program, timeout).map_err(lost)?;
    for line in BufReader::new(&stream).lines() {
        let reply: Reply = serde_json::from_str(&line.map_err(lost)?).map_err(|error| lost(error.into()))?;
        match reply {
            Reply::Step(step) => tell(start.elapsed(), &step),
            Reply::Failed(why) => return Err(format!("no upgrade; the running process serves on: {why}")),
            Reply::Draining { pid, timeout_ms } => {
                let at_most = humantime::format_duration(Duration::from_millis(timeout_ms));
                tell(
                    start.elapsed(),
                    &format!("process {pid} finishes what it has begun, {at_most} at most"),
                );
                return wait_for_end(&stream)
                    .map_err(lost)
                    .map(|()| tell(start.elapsed(), &format!("process {pid} has ended")));
            }
        }
    }
    Err("the running process ended before the upgrade was over; its log says why".into())
}

fn ask(mut stream: &UnixStream, program: Option<PathBuf>, timeout: Duration) -> std::io::Result<()> {
    stream.set_read_timeout(Some(timeout.saturating_add(GRACE)))?;
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let mut request = serde_json::to_vec(&Request::Upgrade { program, timeout_ms })?;
    request.push(b'\n');
    stream.write_all(&request)
}

/// The socket is where its owner alone can have put it, and its owner answers.
fn connect(folder: &Path) -> Result<UnixStream, String> {
    let path = folder.join(NAME);
    let stream = UnixStream::connect(&path).map_err(|error| {
        format!(
            "{}: {error}; is `tamis run --state {}` running?",
            path.display(),
            folder.display()
        )
    })?;
    let checked = fs::metadata(folder).and_then(|metadata| {
        let answers = rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw();
        let ours = rustix::process::geteuid().as_raw();
        let is_trusted = ours == 0 || ours == metadata.uid();
        Ok(is_trusted && answers == metadata.uid() && metadata.mode() & 0o022 == 0)
    });
    match checked {
        Ok(true) => Ok(stream),
        Ok(false) => Err(format!(
            "{}: refused: it is not the folder of this user alone, or another user answers there",
            folder.display()
        )),
        Err(error) => Err(format!("{}: {error}", folder.display())),
    }
}

fn wait_for_end(stream: &UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(None)?;
    match BufReader::new(stream).fill_buf() {
        Ok(_) => Ok(()),
        // The process has ended with something of ours unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}
