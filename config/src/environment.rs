//! What a configuration may take from outside its own text: environment variables and the files that it names.
//!
//! Control plane. An argument of `parse`, so that the same text and the same environment always give the same result.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Source of `${NAME}` and of `file:PATH`.
pub trait Environment {
    /// `None` when the variable is not set. An error says why a set variable cannot be used.
    fn variable(&self, name: &str) -> Result<Option<String>, String>;

    /// The content of a regular file of at most `max_bytes`; anything else is an error.
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>>;
}

/// The environment of this process and the file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Environment for System {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err("its value is not UTF-8".to_owned()),
        }
    }

    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        // Before opening, because opening a FIFO waits for a writer; and again on the open handle, because the path
        // may have been replaced in between.
        refuse_unless_regular(&std::fs::metadata(path)?, max_bytes)?;
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        refuse_unless_regular(&metadata, max_bytes)?;
        let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        // A file may grow while it is read: one byte more than allowed is enough to notice.
        (&file).take(max_bytes.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > max_bytes {
            return Err(too_large(max_bytes));
        }
        // A part of what was before and a part of what comes after may be sound together.
        if version(&file.metadata()?) != version(&metadata) {
            return Err(io::Error::other(
                "was written while it was read; try again when it is whole",
            ));
        }
        Ok(content)
    }
}

/// Writing changes it; replacing the file under its name does not.
fn version(metadata: &std::fs::Metadata) -> (u64, Option<std::time::SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

fn refuse_unless_regular(metadata: &std::fs::Metadata, max_bytes: u64) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    if metadata.len() > max_bytes {
        Err(too_large(max_bytes))
    } else {
        Ok(())
    }
}

fn too_large(max_bytes: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("is larger than {max_bytes} bytes"))
}
