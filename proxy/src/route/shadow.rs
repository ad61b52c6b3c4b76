//! Which routes can never match, because an earlier one takes all that they could.
//!
//! Control plane. Invariant: the answer is that of trying every pair with [`Rule::covers`]; what is filed here only
//! spares the pairs whose hosts or paths have nothing to do with each other, so that a reload of 10,000 routes can
//! afford to ask. It must not know how a request finds its route.

use std::collections::HashMap;

use super::HostPattern;
use super::rule::{PathRule, Rule};

/// Each shadowed rule, with the first earlier one that covers it.
pub(super) fn find(rules: &[Rule]) -> Vec<(usize, usize)> {
    let mut shelf = Shelf::default();
    let mut found = Vec::new();
    for (later, rule) in rules.iter().enumerate() {
        let earlier = shelf.candidates(rule);
        let covering = earlier.filter_map(|earlier| earlier.iter().copied().find(|at| rules[*at].covers(rule)));
        found.extend(covering.min().map(|earlier| (later, earlier)));
        shelf.put(later, rule);
    }
    found
}

/// Rules in their order, by each of their hosts and by their path.
#[derive(Default)]
struct Shelf<'r>(HashMap<(HostKey<'r>, PathKey<'r>), Vec<usize>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum HostKey<'r> {
    Any,
    Exact(&'r str),
    Suffix(&'r str),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PathKey<'r> {
    Any,
    Exact(&'r str),
    Prefix(&'r str),
    Regex(&'r str),
    /// Whatever it says: it may match an exact path.
    SomeRegex,
}

impl<'r> Shelf<'r> {
    fn put(&mut self, at: usize, rule: &'r Rule) {
        let paths = match &rule.path {
            PathRule::Any => vec![PathKey::Any],
            PathRule::Exact(path) => vec![PathKey::Exact(path)],
            PathRule::Prefix(prefix) => vec![PathKey::Prefix(prefix)],
            PathRule::Regex { regex, .. } => vec![PathKey::Regex(regex.as_str()), PathKey::SomeRegex],
        };
        let hosts = match rule.hosts.as_slice() {
            [] => vec![HostKey::Any],
            hosts => hosts.iter().map(HostKey::of).collect(),
        };
        for host in hosts {
            for path in &paths {
                self.0.entry((host, *path)).or_default().push(at);
            }
        }
    }

    /// Lists of earlier rules, each in order, with all that may cover this one.
    fn candidates(&self, rule: &'r Rule) -> impl Iterator<Item = &Vec<usize>> {
        let hosts = rule.hosts.first().map_or_else(|| vec![HostKey::Any], HostKey::covering);
        let paths = PathKey::covering(&rule.path);
        let keys = hosts
            .into_iter()
            .flat_map(move |host| paths.clone().into_iter().map(move |path| (host, path)));
        keys.filter_map(move |key| self.0.get(&key))
    }
}

impl<'r> HostKey<'r> {
    fn of(pattern: &'r HostPattern) -> Self {
        match pattern {
            HostPattern::Exact(name) => Self::Exact(name),
            HostPattern::Suffix(name) => Self::Suffix(name),
        }
    }

    /// Of patterns that take every host of this one.
    fn covering(pattern: &'r HostPattern) -> Vec<Self> {
        let (HostPattern::Exact(name) | HostPattern::Suffix(name)) = pattern;
        let dots = name.match_indices('.');
        let above = dots.map(|(dot, _)| Self::Suffix(&name[dot + 1..]));
        [Self::Any, Self::of(pattern)].into_iter().chain(above).collect()
    }
}

impl<'r> PathKey<'r> {
    /// Of patterns that may take every path of this one.
    fn covering(path: &'r PathRule) -> Vec<Self> {
        let mut keys = vec![Self::Any];
        let (text, own) = match path {
            PathRule::Any => ("", vec![]),
            PathRule::Exact(path) => (path.as_str(), vec![Self::Exact(path), Self::SomeRegex]),
            PathRule::Prefix(prefix) => (prefix.as_str(), vec![]),
            PathRule::Regex { regex, folder } => (folder.as_str(), vec![Self::Regex(regex.as_str())]),
        };
        keys.extend(own);
        keys.push(Self::Prefix(text));
        // Prefixes end before a slash.
        keys.extend(text.match_indices('/').map(|(slash, _)| Self::Prefix(&text[..slash])));
        keys
    }
}
