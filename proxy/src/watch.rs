//! Watching the files that a configuration depends on.
//!
//! Control plane. What has changed is judged by what the paths lead to, not by what the kernel says of an event:
//! folders are watched on the way to each file, so that one replaced by a rename, by a symbolic link or with its whole folder
//! is seen like one written in place, and a slow look at everything finds what an event missed. A change is told when two
//! looks in a row see the same, slow ones where no event tells of the end of a write, and never while somebody who is
//! writing a file has not closed it. It knows nothing of
//! what is in the files. Bounded: events leave marks on what is known, and none of them is kept.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode};

/// Between two looks that have to see the same: an editor's or a build's writes belong together.
const QUIET: Duration = Duration::from_millis(50);
/// A file that never rests is told of after so long all the same, if it is replaced and not written.
const LONGEST: Duration = Duration::from_secs(2);
/// Network file systems and lost events: everything is looked at this often, whatever the kernel said.
const POLL: Duration = Duration::from_secs(5);
/// For a thread to start and ask the kernel.
const ARM_PATIENCE: Duration = Duration::from_secs(1);
/// Symbolic links on one way; the kernel's own bound.
const MAX_LINKS: usize = 40;

/// Ends its thread when it is dropped.
pub struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    armed: Condvar,
}

#[derive(Default)]
struct State {
    /// New paths to watch, with what they led to when they were set.
    set: Option<Marks>,
    /// Something has happened on a way.
    happened: bool,
    /// What an event can be about: files, links and folders on the ways, each as its real folder and its name.
    steps: HashSet<PathBuf>,
    /// Files of these that somebody has written to and not closed.
    unfinished: HashSet<PathBuf>,
    /// Watched folders that are gone.
    lost: HashSet<PathBuf>,
    /// The paths that were set first are watched.
    is_armed: bool,
    stop: bool,
}

type Marks = HashMap<PathBuf, Option<Mark>>;

/// What tells two versions of a file apart.
#[derive(Clone, PartialEq, Eq)]
struct Mark {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What tells two folders of one name apart; numbers alone are given out again.
type FolderMark = (u64, u64, Option<SystemTime>);

impl Watcher {
    /// Calls `changed` from its own thread after any of the paths has changed and come to rest.
    pub fn start(changed: impl Fn() + Send + 'static) -> Result<Self, notify::Error> {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let notifier = notify::recommended_watcher(move |event: notify::Result<notify::Event>| told.take(event.ok()))?;
        let watch = Watch {
            shared: Arc::clone(&shared),
            notifier,
            folders: HashMap::new(),
            marks: Marks::new(),
            seen: None,
            since: None,
            awaited: None,
            is_told_by_events: false,
            wait: POLL,
            changed,
        };
        std::thread::Builder::new()
            .name("tamis-watch".into())
            .spawn(move || watch.run())
            .map_err(notify::Error::io)?;
        Ok(Self { shared })
    }

    /// Watches these paths in place of those before. Whatever happens to them from now on is a change.
    pub fn set(&self, paths: Vec<PathBuf>) {
        let marked = paths.into_iter().map(|path| {
            let path = std::path::absolute(&path).unwrap_or(path);
            let mark = mark(&path);
            (path, mark)
        });
        self.shared.lock().set = Some(marked.collect());
        self.shared.changed.notify_one();
    }

    /// Waits until the paths that were set first are watched: what is read from then on is read under a watch.
    pub fn wait_armed(&self) {
        let state = self.shared.lock();
        // A watch that takes longer misses nothing that its slow look does not find.
        let armed = self
            .shared
            .armed
            .wait_timeout_while(state, ARM_PATIENCE, |state| !state.is_armed);
        drop(armed);
    }

    /// A file that somebody is in the middle of writing, if there is one.
    pub fn unfinished(&self) -> Option<PathBuf> {
        self.shared.lock().unfinished.iter().next().cloned()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the notifier's thread. `None` is an event that could not be had.
    fn take(&self, event: Option<notify::Event>) {
        let mut state = self.lock();
        let is_news = match event {
            Some(event) if !event.need_rescan() => state.take(&event),
            _ => {
                // Events are lost, the end of a write perhaps among them.
                state.unfinished.clear();
                true
            }
        };
        if is_news {
            state.happened = true;
            drop(state);
            self.changed.notify_one();
        }
    }
}

impl State {
    /// Whether it is about anything on the ways.
    fn take(&mut self, event: &notify::Event) -> bool {
        let paths = event.paths.iter().filter(|path| self.steps.contains(*path));
        let paths: Vec<PathBuf> = paths.cloned().collect();
        if paths.is_empty() {
            return false;
        }
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => self.unfinished.extend(paths),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.unfinished.retain(|file| !paths.contains(file));
            }
            // Our own reading, for one.
            EventKind::Access(_) => return false,
            _ => {
                // Another file stands there now, or none.
                self.unfinished.retain(|file| !paths.contains(file));
                if matches!(
                    event.kind,
                    EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                ) {
                    self.lost.extend(paths);
                }
            }
        }
        true
    }

    /// What is about to be looked at, if there is any reason to.
    fn is_news(&self) -> bool {
        self.happened || self.set.is_some() || self.stop
    }
}

struct Watch<F> {
    shared: Arc<Shared>,
    notifier: RecommendedWatcher,
    folders: HashMap<PathBuf, FolderMark>,
    /// What was told last.
    marks: Marks,
    /// What looks have seen since then, if nobody was writing.
    seen: Option<(Marks, Instant)>,
    /// Since when there is something to tell.
    since: Option<Instant>,
    /// The file whose writer is waited for, as far as the log was told.
    awaited: Option<PathBuf>,
    /// Events tell of this change.
    is_told_by_events: bool,
    /// Until the next look, if nothing happens.
    wait: Duration,
    changed: F,
}

impl<F: Fn()> Watch<F> {
    fn run(mut self) {
        loop {
            let shared = Arc::clone(&self.shared);
            let state = shared.lock();
            let waited = shared
                .changed
                .wait_timeout_while(state, self.wait, |state| !state.is_news());
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
            let (set, lost) = (state.set.take(), std::mem::take(&mut state.lost));
            self.is_told_by_events |= std::mem::take(&mut state.happened);
            drop(state);
            for folder in lost.iter().filter(|folder| self.folders.remove(*folder).is_some()) {
                // It may go on under another name.
                let _ = notify::Watcher::unwatch(&mut self.notifier, folder);
            }
            if let Some(paths) = set {
                self.set(paths);
            }
            self.arm();
            if !self.marks.is_empty() {
                self.shared.lock().is_armed = true;
                self.shared.armed.notify_all();
            }
            self.look(Instant::now());
            if self.wait == QUIET {
                // Whatever happens: a storm of events must not be a storm of looks.
                std::thread::sleep(QUIET);
                self.wait = Duration::ZERO;
            }
        }
    }

    /// Keeps the marks of paths that stay: what happened to them before is still to be told.
    fn set(&mut self, paths: Marks) {
        let old = std::mem::take(&mut self.marks);
        let keep = |(path, new): (PathBuf, Option<Mark>)| {
            let mark = old.get(&path).cloned().unwrap_or(new);
            (path, mark)
        };
        self.marks = paths.into_iter().map(keep).collect();
        (self.seen, self.since) = (None, None);
    }

    /// Watches the folders that the ways lead through now.
    fn arm(&mut self) {
        let steps: HashSet<PathBuf> = self.marks.keys().flat_map(|path| steps(path)).collect();
        let folders: HashSet<&Path> = steps.iter().filter_map(|step| step.parent()).collect();
        let stale = |folder: &Path, was: &FolderMark| !folders.contains(folder) || folder_mark(folder) != Some(*was);
        for (gone, _) in self.folders.extract_if(|folder, was| stale(folder, was)) {
            // The kernel may have let go of it already.
            let _ = notify::Watcher::unwatch(&mut self.notifier, &gone);
        }
        for folder in folders {
            if self.folders.contains_key(folder) {
                continue;
            }
            // One that cannot be watched is left to the slow look, which tries again.
            let watched = notify::Watcher::watch(&mut self.notifier, folder, RecursiveMode::NonRecursive);
            if let (Ok(()), Some(mark)) = (watched, folder_mark(folder)) {
                self.folders.insert(folder.to_owned(), mark);
            }
        }
        let mut state = self.shared.lock();
        state.unfinished.retain(|file| steps.contains(file));
        state.steps = steps;
    }

    fn look(&mut self, now: Instant) {
        let marks: Marks = self.marks.keys().map(|path| (path.clone(), mark(path))).collect();
        self.wait = POLL;
        let seen = self.seen.take();
        if marks == self.marks {
            self.rest(marks);
            return;
        }
        let since = *self.since.get_or_insert(now);
        let unfinished = self.shared.lock().unfinished.iter().next().cloned();
        if unfinished != self.awaited {
            if let Some(file) = &unfinished {
                tracing::info!(file = %file.display(), "being written; it is read when its writer closes it");
            }
            self.awaited.clone_from(&unfinished);
        }
        if unfinished.is_some() {
            return;
        }
        let is_long = self.is_told_by_events && now.duration_since(since) >= LONGEST;
        let seen = seen.filter(|(seen, _)| *seen == marks);
        // An event may have cut the wait short.
        if is_long || seen.as_ref().is_some_and(|(_, at)| now.duration_since(*at) >= QUIET) {
            self.rest(marks);
            (self.changed)();
        } else {
            self.seen = seen.or(Some((marks, now)));
            if self.is_told_by_events {
                self.wait = QUIET;
            }
        }
    }

    /// Nothing is left to tell.
    fn rest(&mut self, marks: Marks) {
        self.marks = marks;
        (self.seen, self.since, self.awaited) = (None, None, None);
        self.is_told_by_events = false;
    }
}

/// What on the way to a path could change: the links, the file, and the folder that it is in. Each in its real folder.
fn steps(path: &Path) -> Vec<PathBuf> {
    let mut steps = Vec::new();
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let step = at.join(name);
        match std::fs::symlink_metadata(&step) {
            Ok(metadata) if metadata.is_symlink() && links < MAX_LINKS => {
                links += 1;
                steps.push(step.clone());
                let target = std::fs::read_link(&step).unwrap_or_default();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                let mut onwards = names(&target);
                onwards.append(&mut ahead);
                ahead = onwards;
            }
            Ok(metadata) if metadata.is_dir() && !ahead.is_empty() => at = step,
            // The file, or where the way ends without one.
            _ => {
                steps.push(step);
                break;
            }
        }
    }
    // The folder itself, in its own: it may be replaced as a whole.
    if at.parent().is_some() {
        steps.push(at);
    }
    steps
}

/// Without the root and without dots that say nothing.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn folder_mark(folder: &Path) -> Option<FolderMark> {
    let metadata = std::fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
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
    use std::sync::mpsc;

    fn watched(path: &Path) -> (Watcher, mpsc::Receiver<()>) {
        let (tell, told) = mpsc::channel();
        let watcher = Watcher::start(move || {
            let _ = tell.send(());
        })
        .unwrap();
        watcher.set(vec![path.to_owned()]);
        watcher.wait_armed();
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

    /// Files are looked at whole or not at all: a pause of their writer says nothing.
    #[test]
    fn a_file_that_is_being_written_is_left_alone_until_it_is_closed() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let (watcher, told) = watched(&file);
        let deadline = Instant::now() + PATIENCE;
        let mut writer = std::fs::File::create(&file).unwrap();
        while watcher.unfinished().is_none() {
            assert!(Instant::now() < deadline, "nobody noticed");
            writer.write_all(b"half").unwrap();
            std::thread::yield_now();
        }
        assert_eq!(
            told.recv_timeout(6 * QUIET),
            Err(mpsc::RecvTimeoutError::Timeout),
            "told of half a file"
        );
        drop(writer);
        told.recv_timeout(PATIENCE).expect("the whole file is told of");
        assert_eq!(watcher.unfinished(), None);
    }

    /// The kernel's queue was full: everything is looked at, and nobody is waited for whose end of writing may be among
    /// what was lost.
    #[test]
    fn lost_events_are_a_reason_to_look_and_none_to_wait() {
        let shared = Shared::default();
        shared.lock().unfinished.insert("a".into());
        shared.take(Some(
            notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan),
        ));
        let state = shared.lock();
        assert!(state.happened && state.unfinished.is_empty());
    }

    /// As a checkout or an unpacked archive is put in place of another, twice, so that the watch has to follow.
    #[test]
    fn sees_a_folder_that_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("conf");
        let file = folder.join("a.yaml");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, "1").unwrap();
        let (_watcher, told) = watched(&file);
        for n in 0..3 {
            let next = root.path().join("next");
            std::fs::create_dir(&next).unwrap();
            std::fs::write(next.join("a.yaml"), format!("{n}")).unwrap();
            std::fs::rename(&folder, root.path().join(format!("old-{n}"))).unwrap();
            std::fs::rename(&next, &folder).unwrap();
            told.recv_timeout(PATIENCE).expect("the new folder's file is seen");
            std::fs::write(&file, format!("{n} again")).unwrap();
            told.recv_timeout(PATIENCE)
                .expect("what is written in the new folder is seen");
        }
    }

    #[test]
    fn the_way_to_a_file_is_every_link_and_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("first")).unwrap();
        std::fs::write(root.join("first/a"), "1").unwrap();
        std::os::unix::fs::symlink("first", root.join("data")).unwrap();
        std::os::unix::fs::symlink("./data/a", root.join("a")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        let way = steps(&root.join("a"));
        let expected = ["a", "data", "first/a", "first"].map(|name| root.join(name));
        assert_eq!(way, expected);
        assert_eq!(steps(&root.join("gone/a"))[0], root.join("gone"));
        assert!(steps(&root.join("loop")).len() <= MAX_LINKS + 2);
    }

    #[test]
    fn many_writes_are_one_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "").unwrap();
        let (_watcher, told) = watched(&file);
        let started = Instant::now();
        for content in 0..50 {
            std::fs::write(&file, content.to_string()).unwrap();
        }
        told.recv_timeout(PATIENCE).unwrap();
        // However long this took: a rest comes before each.
        let told = 1 + told.try_iter().count();
        let rests = started.elapsed().div_duration_f64(QUIET);
        assert!(told as f64 <= rests, "told {told} times in {rests} times the rest");
    }
}
