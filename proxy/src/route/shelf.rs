//! A shelf: the routes that share host and path, found by what else they ask for.
//!
//! Data plane; per generation. Invariant: every route stands on its shelf under one of its own conditions, so a request
//! that lacks the condition cannot match the route and need not try it; lists ascend. It must not know how hosts and
//! paths are indexed.

use std::collections::HashMap;
use std::iter;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};

use super::regexes::Regexes;
use super::rule::{PathRule, Rule, ValueRule};
use super::search::Search;

/// A list this long is tried one by one: a check costs some 5 to 20 ns, a look-up by condition 30 to 100 ns.
const FEW: usize = 8;

#[derive(Debug)]
pub(super) enum Shelf {
    Few(Vec<usize>),
    Many(Box<Sorted>),
}

/// Routes, each under the condition that the fewest others share.
#[derive(Debug)]
pub(super) struct Sorted {
    first: usize,
    /// Asking for nothing more.
    plain: Vec<usize>,
    /// Asking for nothing but a method; under each of their methods.
    methods: HashMap<Method, Vec<usize>>,
    keyed: Keyed,
}

/// Routes by the one [`Key`] that each stands under.
#[derive(Debug)]
struct Keyed {
    paths: Regexes,
    headers: HashMap<HeaderName, Values>,
    query: HashMap<Box<[u8]>, Values>,
}

/// Routes by what they ask of one header's or parameter's value.
#[derive(Debug, Default)]
struct Values {
    present: Vec<usize>,
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    regexes: Regexes,
}

/// A condition that a route can stand under.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'r> {
    Path(&'r str),
    Header(&'r HeaderName, Asked<'r>),
    Query(&'r str, Asked<'r>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Asked<'r> {
    Present,
    Exact(&'r str),
    Regex(&'r str),
}

impl Shelf {
    /// `routes` ascending.
    pub(super) fn build(rules: &[Rule], mut routes: Vec<usize>) -> Shelf {
        routes.dedup();
        match routes.len() {
            ..=FEW => Shelf::Few(routes),
            _ => Shelf::Many(Box::new(Sorted::build(rules, &routes))),
        }
    }

    pub(super) fn search(&self, search: &mut Search<'_>) {
        match self {
            Shelf::Few(routes) => search.try_in_order(routes),
            Shelf::Many(sorted) => sorted.search(search),
        }
    }
}

impl Sorted {
    fn build(rules: &[Rule], routes: &[usize]) -> Sorted {
        let (mut plain, mut methods, mut keyed) =
            (Vec::new(), HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        let sharing = sharing(rules, routes);
        for &route in routes {
            let rule = &rules[route];
            match keys(rule).min_by_key(|key| key.cost(sharing[key])) {
                Some(key) => keyed.entry(key).or_default().push(route),
                None if rule.methods.is_empty() => plain.push(route),
                None => rule
                    .methods
                    .iter()
                    .for_each(|method| methods.entry(method.clone()).or_default().push(route)),
            }
        }
        Sorted {
            first: routes[0],
            plain,
            methods,
            keyed: Keyed::build(keyed),
        }
    }

    /// The cheap lists first: what they find shortens the others.
    fn search(&self, search: &mut Search<'_>) {
        if search.is_past(self.first) {
            return;
        }
        search.try_in_order(&self.plain);
        if let Some(routes) = self.methods.get(search.target().method) {
            search.try_in_order(routes);
        }
        self.keyed.search(search);
    }
}

impl Keyed {
    fn build(keyed: HashMap<Key<'_>, Vec<usize>>) -> Keyed {
        let (mut paths, mut headers, mut query) =
            (Vec::new(), HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (key, routes) in keyed {
            match key {
                Key::Path(regex) => paths.push((regex, routes)),
                Key::Header(name, asked) => headers.entry(name.clone()).or_default().push((asked, routes)),
                Key::Query(name, asked) => query.entry(name.as_bytes().into()).or_default().push((asked, routes)),
            }
        }
        Keyed {
            paths: Regexes::build(paths),
            headers: headers
                .into_iter()
                .map(|(name, asked)| (name, Values::build(asked)))
                .collect(),
            query: query
                .into_iter()
                .map(|(name, asked)| (name, Values::build(asked)))
                .collect(),
        }
    }

    fn search(&self, search: &mut Search<'_>) {
        self.search_headers(search);
        self.search_query(search);
        self.paths.search(search.target().path.as_bytes(), search);
    }

    /// From the side that has fewer names, the shelf or the request.
    fn search_headers(&self, search: &mut Search<'_>) {
        let headers = search.target().headers;
        if self.headers.len() <= headers.keys_len() {
            self.headers
                .iter()
                .for_each(|(name, values)| values.search(lines(headers, name), search));
        } else {
            let known = headers.keys().filter_map(|name| Some((name, self.headers.get(name)?)));
            known.for_each(|(name, values)| values.search(lines(headers, name), search));
        }
    }

    fn search_query(&self, search: &mut Search<'_>) {
        if self.query.is_empty() {
            return;
        }
        let probe = search.probe();
        for (name, sent) in probe.parameters().by_name() {
            if let Some(values) = self.query.get(name) {
                values.search(sent, search);
            }
        }
    }
}

impl Values {
    fn build(asked: Vec<(Asked<'_>, Vec<usize>)>) -> Values {
        let (mut present, mut exact, mut regexes) = (Vec::new(), HashMap::new(), Vec::new());
        for (asked, routes) in asked {
            match asked {
                Asked::Present => present = routes,
                Asked::Exact(value) => drop(exact.insert(value.as_bytes().into(), routes)),
                Asked::Regex(regex) => regexes.push((regex, routes)),
            }
        }
        Values {
            present,
            exact,
            regexes: Regexes::build(regexes),
        }
    }

    /// `sent` are the request's values of this name, none when it has no such name.
    fn search<'v>(&self, mut sent: impl Iterator<Item = &'v [u8]>, search: &mut Search<'_>) {
        let Some(first) = sent.next() else {
            return;
        };
        search.try_in_order(&self.present);
        for value in iter::once(first).chain(sent) {
            if let Some(routes) = self.exact.get(value) {
                search.try_in_order(routes);
            }
            self.regexes.search(value, search);
        }
    }
}

impl Key<'_> {
    /// What a request is expected to pay for a route under this key: about the routes that it must try. A regex costs
    /// its share of a set's pass, so a value of the route's own is better.
    fn cost(&self, sharing: usize) -> usize {
        match self {
            Key::Path(_) | Key::Header(_, Asked::Regex(_)) | Key::Query(_, Asked::Regex(_)) => sharing.max(FEW),
            _ => sharing,
        }
    }
}

/// How many routes could stand under each key.
fn sharing<'r>(rules: &'r [Rule], routes: &[usize]) -> HashMap<Key<'r>, usize> {
    let mut sharing = HashMap::new();
    for key in routes.iter().flat_map(|&route| keys(&rules[route])) {
        *sharing.entry(key).or_default() += 1;
    }
    sharing
}

fn keys(rule: &Rule) -> impl Iterator<Item = Key<'_>> {
    let path = match &rule.path {
        PathRule::Regex { regex, .. } => Some(Key::Path(regex.as_str())),
        _ => None,
    };
    let headers = rule.headers.iter().map(|(name, value)| Key::Header(name, asked(value)));
    let query = rule.query.iter().map(|(name, value)| Key::Query(name, asked(value)));
    path.into_iter().chain(headers).chain(query)
}

fn asked(value: &ValueRule) -> Asked<'_> {
    match value {
        ValueRule::Present => Asked::Present,
        ValueRule::Exact(value) => Asked::Exact(value),
        ValueRule::Regex(regex) => Asked::Regex(regex.as_str()),
    }
}

fn lines<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}
