//! The index over all routes: by host, and below each host by path, down to shelves of routes that share both.
//!
//! Data plane; per generation. Invariant: a search meets every route that matches (and others, which the search itself
//! rules out), and a route's hosts are decided here exactly. It must not know of methods, headers or queries.

use std::collections::HashMap;
use std::iter;

use super::HostPattern;
use super::rule::{PathRule, Rule};
use super::search::Search;
use super::shelf::Shelf;
use super::trie::Trie;

/// By host.
#[derive(Debug)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Paths>,
    /// By labels from the right; a node's routes want at least one more label.
    below: Trie<Paths>,
    any: Paths,
}

/// The routes of one host pattern, by path.
#[derive(Debug)]
struct Paths {
    /// The lowest route of all; `usize::MAX` when there is none.
    first: usize,
    exact: HashMap<Box<str>, Shelf>,
    /// By segments: prefixes, regexes at the folder they are known to lie below, and at the root what asks for no path.
    below: Trie<Shelf>,
}

impl Index {
    pub(super) fn build(rules: &[Rule]) -> Index {
        let (mut exact, mut below, mut any) = (HashMap::<_, Vec<_>>::new(), Trie::<Vec<_>>::new(), Vec::new());
        for (route, rule) in rules.iter().enumerate() {
            for host in &rule.hosts {
                match host {
                    HostPattern::Exact(name) => exact.entry(name.as_str().into()).or_default().push(route),
                    HostPattern::Suffix(name) => below.entry(name.rsplit('.')).push(route),
                }
            }
            if rule.hosts.is_empty() {
                any.push(route);
            }
        }
        Index {
            exact: exact
                .into_iter()
                .map(|(host, routes)| (host, Paths::build(rules, routes)))
                .collect(),
            below: below.map(|routes| Paths::build(rules, routes)),
            any: Paths::build(rules, any),
        }
    }

    pub(super) fn search(&self, search: &mut Search<'_>) {
        let host = search.target().host;
        if let Some(paths) = self.exact.get(host) {
            paths.search(search);
        }
        for paths in self.below.walk(labels_behind_others(host)) {
            paths.search(search);
        }
        self.any.search(search);
    }
}

impl Paths {
    /// `routes` ascending.
    fn build(rules: &[Rule], routes: Vec<usize>) -> Paths {
        let first = routes.first().copied().unwrap_or(usize::MAX);
        let (mut exact, mut below) = (HashMap::<_, Vec<_>>::new(), Trie::<Vec<_>>::new());
        for route in routes {
            match &rules[route].path {
                PathRule::Any => below.entry(iter::empty()).push(route),
                PathRule::Exact(path) => exact.entry(path.as_str().into()).or_default().push(route),
                PathRule::Prefix(path) | PathRule::Regex { folder: path, .. } => {
                    below.entry(segments(path)).push(route);
                }
            }
        }
        Paths {
            first,
            exact: exact
                .into_iter()
                .map(|(path, routes)| (path, Shelf::build(rules, routes)))
                .collect(),
            below: below.map(|routes| Shelf::build(rules, routes)),
        }
    }

    fn search(&self, search: &mut Search<'_>) {
        if search.is_past(self.first) {
            return;
        }
        let path = search.target().path;
        if let Some(shelf) = self.exact.get(path) {
            shelf.search(search);
        }
        for shelf in self.below.walk(segments(path)) {
            shelf.search(search);
        }
    }
}

/// `c` and `b` of `a.b.c`: from the right, each label that has something in front.
fn labels_behind_others(host: &str) -> impl Iterator<Item = &str> {
    let mut rest = host;
    iter::from_fn(move || {
        let (front, label) = rest.rsplit_once('.')?;
        rest = front;
        (!front.is_empty()).then_some(label)
    })
}

/// `a` and `b` of `/a/b`; none of the empty path, one empty one of `/`.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}
