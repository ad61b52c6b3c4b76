//! Files that are there whole or not at all, whatever happens to the process or the machine in between.
//!
//! A file is written beside its place, made durable, and renamed over it; then the folder is made durable. Every step
//! can be the last one, and the tests make it so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files under another name than their own; whoever finds one may remove it.
const UNFINISHED: &str = "part";

/// What writing takes. The tests' one fails at a step of their choice.
pub trait Disk {
    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Disk for System {
    /// Durable once this returns; its name is so with its folder.
    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Puts a file in the place of the one that is there, or of none.
pub fn replace(disk: &impl Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    disk.create(&unfinished, content)?;
    disk.rename(&unfinished, path)?;
    let folder = path.parent().ok_or_else(|| io::Error::other("a file is in a folder"))?;
    disk.sync_folder(folder)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    path.with_file_name(name)
}
