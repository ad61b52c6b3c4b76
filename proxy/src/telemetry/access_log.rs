//! The access log's way out: a bounded queue and one thread that writes.
//!
//! Data plane in front of the queue, where nothing ever waits: a line that finds no place is dropped and counted. Behind
//! the queue a slow disk, a full one, or a pipe that nobody reads costs lines and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Bytes that may wait in the queue, over all lines: hostile heads make lines of 100 KB and more, and the queue's bound
/// is in lines.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// One write to the kernel carries up to so much; some 200 lines.
const BATCH_BYTES: usize = 64 << 10;

/// The longest pause between two batches, and so the longest that a line waits for a writer that is not behind.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// How often failures to write are reported; all are counted.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Who owns the process reads the log, its group may, others may not: paths and addresses are personal data.
const FILE_MODE: u32 = 0o640;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    File(PathBuf),
}

/// A handle on the writer, for each worker to hold. The writer ends when it is closed or the last handle is gone.
#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    state: Arc<State>,
}

enum Message {
    Line(String),
    /// Look at the flags.
    Wake,
}

#[derive(Default)]
struct State {
    dropped: AtomicU64,
    errors: AtomicU64,
    queued_bytes: AtomicUsize,
    reopen: AtomicBool,
    closing: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

impl AccessLog {
    /// Opens the target and starts the writer. `queue`: lines that may wait; at least one.
    pub fn start(target: Target, queue: usize) -> io::Result<Self> {
        let output = BufWriter::with_capacity(BATCH_BYTES, open(&target)?);
        let (sender, receiver) = sync_channel(queue.max(1));
        let state = Arc::new(State::default());
        let writer = Writer {
            queue: receiver,
            state: state.clone(),
            target,
            output,
            pause: pause(queue),
            complaint: Complaint::default(),
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self { queue: sender, state })
    }

    /// Hands a line over, without its end. Never waits.
    pub fn write(&self, line: String) {
        let bytes = line.len();
        let waiting = self.state.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = waiting.saturating_add(bytes) <= MAX_QUEUED_BYTES && !self.state.closing.load(Ordering::Relaxed);
        if !fits || self.queue.try_send(Message::Line(line)).is_err() {
            self.state.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Failed writes, flushes and openings since the start.
    pub fn errors(&self) -> u64 {
        self.state.errors.load(Ordering::Relaxed)
    }

    /// Has the writer open its file again, after the lines that it took before: for log rotation by renaming. Returns at
    /// once; where the file cannot be opened, the writer goes on with the one that it has.
    pub fn reopen(&self) {
        self.state.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Takes no more lines and waits until those in the queue are written, `deadline` at most. A writer that is stuck in
    /// the kernel is left behind.
    pub fn close(&self, deadline: Duration) -> io::Result<()> {
        self.state.closing.store(true, Ordering::Release);
        self.wake();
        let ended = self.state.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = self
            .state
            .end
            .wait_timeout_while(ended, deadline, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        match *ended {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the access log was not written in time",
            )),
        }
    }

    /// A full queue needs no wake-up: the writer has lines to take, and looks at the flags after each batch.
    fn wake(&self) {
        drop(self.queue.try_send(Message::Wake));
    }
}

/// A pause that a million lines a second cannot outrun: shorter for a shorter queue.
fn pause(queue: usize) -> Duration {
    Duration::from_micros(u64::try_from(queue).unwrap_or(u64::MAX)).min(MAX_PAUSE)
}

fn open(target: &Target) -> io::Result<File> {
    match target {
        // A descriptor of its own: without the standard library's buffer and lock, and with its errors.
        Target::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        Target::File(path) => open_file(path),
    }
}

/// A pipe that nobody reads is an error, not a wait for a reader: a reload must not be held up by it.
fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    // The writer has a thread of its own, and waits there.
    fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
    Ok(file)
}

/// The thread behind the queue.
struct Writer {
    queue: Receiver<Message>,
    state: Arc<State>,
    target: Target,
    output: BufWriter<File>,
    pause: Duration,
    complaint: Complaint,
}

impl Writer {
    /// Waits for a line only when a whole pause went by without one. Under load the writer sleeps between batches
    /// instead, because a sender that must wake a waiting receiver pays a system call for each line.
    fn run(mut self) {
        let mut idle = true;
        loop {
            let mut taken = 0;
            if idle {
                match self.queue.recv() {
                    Ok(message) => taken += self.take(message),
                    Err(_) => break,
                }
            }
            let connected = self.drain(&mut taken);
            self.flush();
            if self.state.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            if self.state.closing.load(Ordering::Acquire) || !connected {
                break;
            }
            idle = taken == 0;
            if !idle {
                thread::sleep(self.pause);
            }
        }
        self.end();
    }

    /// Takes what is in the queue. `false` when no handle is left.
    fn drain(&mut self, taken: &mut usize) -> bool {
        // Reopening and closing must have their turn under any load.
        const MAX_BATCH: usize = 65_536;
        while *taken < MAX_BATCH {
            match self.queue.try_recv() {
                Ok(message) => *taken += self.take(message),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// The number of lines taken.
    fn take(&mut self, message: Message) -> usize {
        let Message::Line(mut line) = message else { return 0 };
        self.state.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        line.push('\n');
        // The buffer keeps a line whole or refuses it: after a failure the file goes on where it was cut, not torn.
        if let Err(error) = self.output.write_all(line.as_bytes()) {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
            self.failed("written", &error);
        }
        1
    }

    fn flush(&mut self) {
        if let Err(error) = self.output.flush() {
            self.failed("written", &error);
        }
    }

    fn reopen(&mut self) {
        match open(&self.target) {
            Ok(file) => {
                // What the old file did not take is written to the new one.
                let old = std::mem::replace(&mut self.output, BufWriter::with_capacity(BATCH_BYTES, file));
                let (_, unwritten) = old.into_parts();
                if let Err(error) = self.output.write_all(&unwritten.unwrap_or_default()) {
                    self.failed("written", &error);
                }
            }
            Err(error) => self.failed("opened again", &error),
        }
    }

    /// The last lines, then word to whoever closes. What could not be written by now never will be.
    fn end(mut self) {
        while let Ok(message) = self.queue.try_recv() {
            self.take(message);
        }
        self.flush();
        let (_, _) = self.output.into_parts();
        *self.state.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.end.notify_all();
    }

    fn failed(&mut self, what: &str, error: &io::Error) {
        let errors = self.state.errors.fetch_add(1, Ordering::Relaxed) + 1;
        if self.complaint.is_due(Instant::now()) {
            tracing::warn!(%error, errors, target = ?self.target, "the access log cannot be {what}");
        }
    }
}

/// When failures were last reported.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.duration_since(last) >= REPORT_INTERVAL);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A log into a folder of its own.
    fn log(queue: usize) -> (tempfile::TempDir, PathBuf, AccessLog) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let log = AccessLog::start(Target::File(path.clone()), queue).expect("a log");
        (folder, path, log)
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).expect("a log file")
    }

    /// Waits until `true`, which the writer must make so.
    fn wait_for(what: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !what() {
            assert!(Instant::now() < deadline, "not in time");
            thread::yield_now();
        }
    }

    /// A writer into a pipe instead of a file.
    fn into_pipe(queue: usize) -> (PipeReader, AccessLog) {
        let (reader, pipe) = io::pipe().expect("a pipe");
        let (sender, receiver) = sync_channel(queue);
        let state = Arc::new(State::default());
        let writer = Writer {
            queue: receiver,
            state: state.clone(),
            target: Target::Stdout,
            output: BufWriter::with_capacity(BATCH_BYTES, File::from(std::os::fd::OwnedFd::from(pipe))),
            pause: Duration::ZERO,
            complaint: Complaint::default(),
        };
        thread::spawn(move || writer.run());
        (reader, AccessLog { queue: sender, state })
    }

    #[test]
    fn lines_of_several_workers_arrive_whole_and_in_each_ones_order() {
        let (_folder, path, log) = log(100_000);
        thread::scope(|scope| {
            for worker in 0..4 {
                let log = log.clone();
                scope.spawn(move || (0..1000).for_each(|number| log.write(format!("{worker} {number}"))));
            }
        });
        log.close(SOON).expect("closed in time");
        let text = read(&path);
        for worker in 0..4 {
            let prefix = format!("{worker} ");
            let numbers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
            assert!(
                numbers.into_iter().eq((0..1000).map(|number| number.to_string())),
                "worker {worker}"
            );
        }
        assert_eq!((text.lines().count(), log.dropped(), log.errors()), (4000, 0, 0));
        assert_eq!(log.state.queued_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_line_reaches_the_file_without_a_close() {
        let (_folder, path, log) = log(8);
        log.write("one".to_owned());
        wait_for(|| read(&path) == "one\n");
        log.write("two".to_owned());
        wait_for(|| read(&path) == "one\ntwo\n");
    }

    #[test]
    fn the_file_is_appended_to_and_not_for_everyone() {
        let (_folder, path, log) = log(8);
        log.write("one".to_owned());
        log.close(SOON).expect("closed in time");
        let again = AccessLog::start(Target::File(path.clone()), 8).expect("a log");
        again.write("two".to_owned());
        again.close(SOON).expect("closed in time");
        assert_eq!(read(&path), "one\ntwo\n");
        let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777 & !FILE_MODE, 0, "{mode:o}");
    }

    #[test]
    fn a_renamed_file_is_left_at_reopen() {
        let (folder, path, log) = log(8);
        let rotated = folder.path().join("access.log.1");
        log.write("old".to_owned());
        wait_for(|| read(&path) == "old\n");
        std::fs::rename(&path, &rotated).expect("renamed");
        log.reopen();
        wait_for(|| path.exists());
        log.write("new".to_owned());
        log.close(SOON).expect("closed in time");
        assert_eq!((read(&rotated), read(&path)), ("old\n".to_owned(), "new\n".to_owned()));
    }

    #[test]
    fn where_the_file_cannot_be_opened_again_the_old_one_goes_on() {
        let (folder, path, log) = log(8);
        let moved = folder.path().with_extension("moved");
        std::fs::rename(folder.path(), &moved).expect("renamed");
        log.reopen();
        wait_for(|| log.errors() == 1);
        log.write("still".to_owned());
        log.close(SOON).expect("closed in time");
        assert_eq!(read(&moved.join("access.log")), "still\n");
        assert!(!path.exists());
        std::fs::remove_dir_all(moved).expect("removed");
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_an_error_at_the_start() {
        let error = AccessLog::start(Target::File("/nowhere/access.log".into()), 8)
            .err()
            .expect("no log");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_reader_that_is_stuck_costs_lines_and_no_time() {
        let (mut reader, log) = into_pipe(4);
        let line = "x".repeat(200_000); // more than a pipe holds
        log.write(line.clone());
        wait_for(|| log.state.queued_bytes.load(Ordering::Relaxed) == 0); // taken: the writer is in the kernel
        for _ in 0..10 {
            log.write(line.clone());
        }
        assert_eq!(log.dropped(), 6, "four wait");
        let error = log.close(Duration::from_millis(20)).expect_err("stuck");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        log.write(line);
        assert_eq!(log.dropped(), 7, "closed");

        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        log.close(SOON).expect("closed in time");
        let text = reading.join().expect("no panic").expect("the pipe");
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let (mut reader, log) = into_pipe(1000);
        let line = "x".repeat(MAX_QUEUED_BYTES / 2 + 1);
        log.write(line.clone());
        wait_for(|| log.state.queued_bytes.load(Ordering::Relaxed) == 0);
        log.write(line.clone());
        log.write(line);
        assert_eq!(log.dropped(), 1);
        drop(thread::spawn(move || io::copy(&mut reader, &mut io::sink())));
        log.close(SOON).expect("closed in time");
    }

    #[test]
    fn a_reader_that_is_gone_is_counted_and_never_fatal() {
        let (reader, log) = into_pipe(8);
        drop(reader);
        log.write("one".to_owned());
        wait_for(|| log.errors() > 0);
        log.write("two".to_owned());
        log.close(SOON).expect("closed in time");
    }

    #[test]
    fn a_full_disk_is_counted_and_never_fatal() {
        let log = AccessLog::start(Target::File("/dev/full".into()), 8).expect("a log");
        log.write("one".to_owned());
        wait_for(|| log.errors() > 0);
        log.write("x".repeat(2 * BATCH_BYTES));
        wait_for(|| log.dropped() > 0);
        log.close(SOON).expect("closed in time");
    }

    #[test]
    fn the_writer_ends_with_its_last_handle() {
        let (_folder, path, log) = log(8);
        let state = Arc::downgrade(&log.state);
        log.write("last".to_owned());
        drop(log);
        wait_for(|| state.strong_count() == 0);
        assert_eq!(read(&path), "last\n");
    }

    #[test]
    fn failures_are_reported_once_a_minute() {
        let (start, mut complaint) = (Instant::now(), Complaint::default());
        let due = [0, 1, 59, 60, 61, 120].map(|second| complaint.is_due(start + Duration::from_secs(second)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
