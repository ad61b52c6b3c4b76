//! The state folder: what outlives a process. Its lock, the socket of `tamis upgrade`, and the last good generation.
//!
//! Control plane. The folder is this user's alone and one process's at a time, and of its successor's while one
//! relieves the other. Its place is an argument and no setting of the configuration, because it is needed most when the
//! configuration cannot be read; there is no default, because nobody expects of a proxy that it writes to disk unasked.
//! [`disk`] writes so that what is there is whole, [`good`] says what is written, [`keeper`] when.

pub mod disk;
pub mod good;
pub mod keeper;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOCK: &str = "lock";

/// What `tamis run` is told of it.
pub struct Options {
    pub folder: PathBuf,
    /// How long a generation has to be live before it counts as good.
    pub good_after: Duration,
    pub fallback: Fallback,
}

/// What becomes of a start whose files do not load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It fails.
    Refuse,
    /// It serves the last good generation.
    LastGood,
}

/// Held as long as the process lives.
pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Opens the folder, or makes it; refuses one that others can look into, or that another process uses. The lock may
    /// come from a predecessor.
    pub fn open(path: &Path, inherited: Option<File>) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("--state {}: {error}", path.display());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(cannot)?;
        check_private(path)?;
        if let Some(lock) = inherited {
            return Ok(Self::locked(path, lock));
        }
        let mut options = OpenOptions::new();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK));
        let lock = lock.map_err(cannot)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self::locked(path, lock)),
            Err(TryLockError::WouldBlock) => Err(format!(
                "--state {}: another process uses it; stop that one, or name another folder",
                path.display()
            )),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    fn locked(path: &Path, lock: File) -> Self {
        Self {
            path: path.to_owned(),
            lock,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock, for a successor: whoever has it has the folder.
    pub fn lock(&self) -> std::io::Result<File> {
        self.lock.try_clone()
    }
}

fn check_private(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("--state {}: {error}", path.display()))?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && is_ours && metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(format!(
        "--state {}: must be a folder of this user alone, because configurations may hold secrets; `chmod 700` it, or \
         name another",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_process_s_and_nobody_looks_into_it() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("a/state");
        let first = Folder::open(&path, None).expect("it is made");
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o777, 0o700);
        let second = Folder::open(&path, None).err().expect("it is locked");
        assert!(second.contains("another process uses it"), "{second}");
        // The successor's is the same lock, and holds on when the predecessor has gone.
        let heir = Folder::open(&path, first.lock().ok()).expect("it came with the lock");
        drop(first);
        assert!(Folder::open(&path, None).is_err());
        drop(heir);
        Folder::open(&path, None).expect("nobody has it any more");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("it is ours");
        let open = Folder::open(&path, None).err().expect("others can look into it");
        assert!(open.contains("chmod 700"), "{open}");
    }
}
