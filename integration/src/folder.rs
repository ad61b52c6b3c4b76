//! A temporary folder for one test: configuration, components, sockets, logs.
//!
//! It goes away with its value; a proxy or an nginx that was started in it holds a share of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::DEADLINE;
use crate::wait::wait_for;

#[derive(Clone, Debug)]
pub struct Folder {
    shared: Arc<TempDir>,
}

impl Folder {
    pub fn new() -> Self {
        let shared = TempDir::with_prefix("tamis-").expect("a temporary folder can be made");
        Self {
            shared: Arc::new(shared),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.shared.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.shared.path()
    }

    /// Writes the file in place: a reader can see half of it.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let parent = path.parent().expect("a path inside the folder has a parent");
        fs::create_dir_all(parent).expect("a folder can be made");
        fs::write(&path, contents).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Writes beside the file and renames over it: a reader sees the old or the new.
    pub fn replace(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let fresh = self.write(&format!("{name}.new"), contents);
        let path = self.path(name);
        fs::rename(&fresh, &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The file's lines once there are at least `count`; a line without its end does not count yet. The file may not
    /// exist at first. Panics when they do not come.
    pub fn wait_lines(&self, name: &str, count: usize) -> Vec<String> {
        wait_for(&format!("{count} lines in {name}"), DEADLINE, || {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines: Vec<_> = whole.lines().map(str::to_owned).collect();
            if lines.len() >= count { Ok(lines) } else { Err(text) }
        })
    }

    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let bytes = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.write(name, bytes)
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}
