//! Watching the files that a configuration depends on.
//!
//! Control plane. Folders are watched rather than files, so that a file replaced by a rename or by a symbolic link is
//! seen like one written in place. What has changed is judged by what the paths lead to, not by what the kernel says of
//! an event, and a slow look at all of them finds what an event missed. It knows nothing of what is in the files.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode};

/// A change counts when nothing more has come for so long: an editor's or a build's writes belong together.
const QUIET: Duration = Duration::from_millis(100);
/// But a file that never rests is looked at after so long all the same.
const LONGEST: Duration = Duration::from_secs(2);
/// Network file systems and lost events: everything is looked at this often, whatever the kernel said.
const POLL: Duration = Duration::from_secs(5);

/// Ends its thread when it is dropped.
pub struct Watcher {
    messages: mpsc::Sender<Message>,
}

enum Message {
    Paths(Vec<(PathBuf, Option<Mark>)>),
    Event,
    Stop,
}

/// What tells two versions of a file apart.
#[derive(Clone, PartialEq, Eq)]
struct Mark {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watcher {
    /// Calls `changed` from its own thread after any of the paths has changed and come to rest.
    pub fn start(changed: impl Fn() + Send + 'static) -> Result<Self, notify::Error> {
        let (messages, received) = mpsc::channel();
        let events = messages.clone();
        let notifier = notify::recommended_watcher(move |_| {
            // The thread has ended with its watcher.
            let _ = events.send(Message::Event);
        })?;
        let watch = Watch {
            notifier,
            folders: BTreeSet::new(),
            marks: HashMap::new(),
            changed,
        };
        std::thread::Builder::new()
            .name("tamis-watch".into())
            .spawn(move || watch.run(&received))
            .map_err(notify::Error::io)?;
        Ok(Self { messages })
    }

    /// Watches these paths in place of those before. Whatever happens to them from now on is a change.
    pub fn set(&self, paths: Vec<PathBuf>) {
        let marked = paths.into_iter().map(|path| {
            let mark = mark(&path);
            (path, mark)
        });
        // The thread ends with this watcher only.
        let _ = self.messages.send(Message::Paths(marked.collect()));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
    }
}

struct Watch<F> {
    notifier: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    marks: HashMap<PathBuf, Option<Mark>>,
    changed: F,
}

impl<F: Fn()> Watch<F> {
    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut since: Option<Instant> = None;
        loop {
            let wait = if since.is_some() { QUIET } else { POLL };
            match messages.recv_timeout(wait) {
                Ok(Message::Paths(paths)) => {
                    self.set(paths);
                    since.get_or_insert_with(Instant::now);
                }
                Ok(Message::Event) => {
                    let first = *since.get_or_insert_with(Instant::now);
                    if first.elapsed() >= LONGEST {
                        since = None;
                        self.look();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    since = None;
                    self.look();
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Keeps the marks of paths that stay: what happened to them before is still to be told.
    fn set(&mut self, paths: Vec<(PathBuf, Option<Mark>)>) {
        let old = std::mem::take(&mut self.marks);
        let keep = |(path, new): (PathBuf, Option<Mark>)| {
            let mark = old.get(&path).cloned().unwrap_or(new);
            (path, mark)
        };
        self.marks = paths.into_iter().map(keep).collect();
        self.watch_folders();
    }

    fn watch_folders(&mut self) {
        let folders: BTreeSet<PathBuf> = self.marks.keys().flat_map(|path| folders(path)).collect();
        for gone in self.folders.difference(&folders) {
            let _ = notify::Watcher::unwatch(&mut self.notifier, gone);
        }
        for new in folders.difference(&self.folders) {
            // A folder that does not exist (yet) is left to polling.
            let _ = notify::Watcher::watch(&mut self.notifier, new, RecursiveMode::NonRecursive);
        }
        self.folders = folders;
    }

    fn look(&mut self) {
        let mut changed = false;
        for (path, old) in &mut self.marks {
            let new = mark(path);
            changed |= *old != new;
            *old = new;
        }
        if changed {
            (self.changed)();
        }
    }
}

/// The folder that a path names, and the one that its links lead to.
fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let named = path.parent().map(|folder| {
        if folder.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            folder.to_owned()
        }
    });
    let led_to = path
        .canonicalize()
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned));
    named.into_iter().chain(led_to)
}

fn mark(path: &Path) -> Option<Mark> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Mark {
        inode: (metadata.dev(), metadata.ino()),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(path: &Path) -> (Watcher, mpsc::Receiver<()>) {
        let (tell, told) = mpsc::channel();
        let watcher = Watcher::start(move || {
            let _ = tell.send(());
        })
        .unwrap();
        watcher.set(vec![path.to_owned()]);
        (watcher, told)
    }

    /// Long enough for the slow look, too.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn sees_writes_renames_links_and_removal() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let (watcher, told) = watched(&file);
        let see = |what: &str| {
            told.recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("{what} was not seen"))
        };
        std::fs::write(&file, "22").unwrap();
        see("a write in place");
        std::fs::write(folder.path().join("b"), "333").unwrap();
        std::fs::rename(folder.path().join("b"), &file).unwrap();
        see("a rename");
        std::fs::remove_file(&file).unwrap();
        see("a removal");
        std::fs::write(folder.path().join("c"), "4").unwrap();
        std::os::unix::fs::symlink(folder.path().join("c"), &file).unwrap();
        see("a link");
        drop(watcher);
    }

    #[test]
    fn many_writes_are_one_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "").unwrap();
        let (_watcher, told) = watched(&file);
        for content in 0..50 {
            std::fs::write(&file, content.to_string()).unwrap();
        }
        told.recv_timeout(PATIENCE).unwrap();
        assert!(told.try_iter().count() < 5);
    }
}
