//! A place in a configuration file, as people and editors write it.
//!
//! Control plane. Cheap to clone: every node of a document has one. Knows nothing of what stands at the place.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// `file:line:column`, or the file alone when the whole file is meant.
///
/// All places are equal: a cluster that moved down a line is still the same cluster, and a reload keeps its
/// connections because of it.
#[derive(Clone, Debug)]
pub struct Place {
    file: Arc<Path>,
    position: Option<Position>,
}

/// Both count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl Place {
    /// The file as a whole.
    pub fn file(file: &Path) -> Self {
        Self {
            file: file.into(),
            position: None,
        }
    }

    /// Stands in for a place where the configuration did not come from a file, as in `tamis demo`.
    pub fn synthetic() -> Self {
        Self::file(Path::new("<built in>"))
    }

    /// A place in the same file.
    pub(crate) fn at(&self, position: Position) -> Self {
        Self {
            file: Arc::clone(&self.file),
            position: Some(position),
        }
    }

    /// Counts from 1; 0 when the whole file is meant.
    pub fn line(&self) -> u64 {
        self.position.map_or(0, |position| position.line)
    }

    /// Counts from 1, in characters; 0 when the whole file is meant.
    pub fn column(&self) -> u64 {
        self.position.map_or(0, |position| position.column)
    }
}

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.position {
            Some(Position { line, column }) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}
