//! What is wrong with a configuration: every fault that was found, each with its place and the way to mend it.
//!
//! Control plane. Meant for the person who wrote the file; nothing of it may reach a client of the proxy.

use std::fmt;

use crate::place::Place;

/// One fault. Prints as `file:line:column: what is wrong; the fix`, where the message starts with the part of the
/// configuration that it is about, as in ``route `api`: cluster: ...``.
#[derive(Clone, Debug)]
pub struct Error {
    pub place: Place,
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for Error {}

/// One fault or more, in file order. Prints one line each.
#[derive(Clone, Debug)]
pub struct Errors {
    first: Error,
    rest: Vec<Error>,
}

impl Errors {
    /// `None` when nothing is wrong.
    pub(crate) fn collect(mut errors: Vec<Error>) -> Option<Self> {
        errors.sort_by_key(|error| (error.place.line(), error.place.column()));
        let mut errors = errors.into_iter();
        Some(Self {
            first: errors.next()?,
            rest: errors.collect(),
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

impl From<Error> for Errors {
    fn from(first: Error) -> Self {
        Self {
            first,
            rest: Vec::new(),
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.rest.iter().try_for_each(|error| write!(f, "\n{error}"))
    }
}

impl std::error::Error for Errors {}
