//! The route table: which route takes a request.
//!
//! Data plane; per generation, immutable. Invariant: [`Table::find`] answers exactly what trying every pattern in order
//! would, the first match winning over everything; the index below it only saves work. It must not know what a route
//! does, where its pattern was written, or anything of the configuration: a pattern here mirrors the configuration's
//! own, and whoever builds the generation copies one to the other.

mod index;
mod query;
mod regexes;
mod rule;
mod search;
mod shadow;
mod shelf;
mod trie;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;

use http::{HeaderMap, Method};

use crate::peer::ClientCertificate;

use self::index::Index;
use self::rule::Rule;
use self::search::{Probe, Search};

/// Host patterns (a route without counts as one) that are tried in order: the index costs 90 to 200 ns, each of these 5
/// to 15 ns.
const FEW: usize = 8;

/// Every route's pattern, compiled and indexed. Positions are those of the patterns given to [`Table::build`].
#[derive(Debug)]
pub struct Table {
    rules: Vec<Rule>,
    /// `None` for [`FEW`] routes.
    index: Option<Index>,
}

/// What one route asks of a request. All parts must hold; an empty part always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// Any one of them.
    pub hosts: Vec<HostPattern>,
    pub path: Option<PathPattern>,
    /// Any one of them, compared exactly (RFC 9110 9.1): `GET` does not imply `HEAD`.
    pub methods: Vec<String>,
    /// All of them.
    pub headers: Vec<HeaderPattern>,
    /// All of them.
    pub query: Vec<QueryPattern>,
    pub certificate: Option<CertificatePattern>,
}

/// Lower case, without port or trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.org` as `example.org`: one or more labels in front, never the bare name.
    Suffix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    Exact(String),
    /// On segment boundaries: `/v1` and `/v1/` both match `/v1`, `/v1/` and `/v1/x`, never `/v10`.
    Prefix(String),
    /// Anchored at both ends.
    Regex(String),
}

/// Holds when any of the field's lines does; a line is one value, commas in it are not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPattern {
    /// In any case.
    pub name: String,
    pub value: ValuePattern,
}

/// Holds when any parameter of that name does. Name and value are compared after decoding `%xx` and `+`, as a form
/// decodes them: `a`, `a=` and `%61=` are all `a` with an empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPattern {
    /// Decoded.
    pub name: String,
    /// Decoded.
    pub value: ValuePattern,
}

/// What the client's verified certificate has to be. All parts must hold; without any, every certificate will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificatePattern {
    pub subject: Option<ValuePattern>,
    /// Holds when any of its names does, which are written as in `DNS:a.example`.
    pub name: Option<ValuePattern>,
    /// Any one of them, in lower case.
    pub fingerprints: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    Present,
    Exact(String),
    /// Anchored at both ends, over bytes: a value need not be UTF-8.
    Regex(String),
}

/// What a route sees of a request.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Lower case, without port or trailing dot; empty when the request names none.
    pub host: &'a str,
    /// Normalised; starts with `/`.
    pub path: &'a str,
    /// As sent, without the `?`.
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// The client's, if it has shown one that leads to an authority of the listener.
    pub certificate: Option<&'a ClientCertificate>,
}

/// A pattern that cannot be compiled. The configuration has checked all of this before, so it is never the client's
/// fault.
#[derive(Debug)]
pub struct BuildError {
    /// Of the pattern.
    pub index: usize,
    pub source: Fault,
}

#[derive(Debug)]
pub enum Fault {
    /// Not a token (RFC 9110 9.1).
    Method(String),
    /// Not a token (RFC 9110 5.1).
    HeaderName(String),
    Regex(regex::Error),
}

impl Table {
    /// Compiles and indexes `patterns`; the first that cannot be compiled is the error.
    pub fn build(patterns: Vec<Pattern>) -> Result<Table, BuildError> {
        let compile = |(index, pattern)| Rule::compile(pattern).map_err(|source| BuildError { index, source });
        let rules = patterns
            .into_iter()
            .enumerate()
            .map(compile)
            .collect::<Result<Vec<_>, _>>()?;
        let hosts: usize = rules.iter().map(|rule| rule.hosts.len().max(1)).sum();
        let index = (hosts > FEW).then(|| Index::build(&rules));
        Ok(Table { rules, index })
    }

    /// The first pattern that matches. Allocates only when a candidate asks for the query and the request has one (one
    /// list, and each name and value that is not plain), or where many regexes compete for one host and path.
    pub fn find(&self, target: &Target<'_>) -> Option<usize> {
        let probe = Probe::new(target);
        let Some(index) = &self.index else {
            return self.rules.iter().position(|rule| rule.matches(&probe));
        };
        let mut search = Search::new(&self.rules, &probe);
        index.search(&mut search);
        search.best()
    }

    /// Routes that can never match, each with the first earlier one that takes everything it could match.
    ///
    /// Only certain ones: a route that several earlier ones take between them, or that a cleverer look at two regexes
    /// would find out, is not named.
    pub fn shadowed(&self) -> Vec<(usize, usize)> {
        shadow::find(&self.rules)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}: {}", self.index + 1, self.source)
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Method(method) => write!(f, "not a method: {method:?}"),
            Fault::HeaderName(name) => write!(f, "not a header name: {name:?}"),
            Fault::Regex(error) => write!(f, "regex: {error}"),
        }
    }
}

impl Error for Fault {}
