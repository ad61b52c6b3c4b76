//! Many regexes over one text, each with its routes: the prefilter that spares trying them one by one.
//!
//! Data plane; per generation. Invariant: a route is tried whenever its regex matches, in linear time whatever regex and
//! text are. It must not know what the text is.

use regex::bytes::{RegexSet, RegexSetBuilder};

use super::search::Search;

/// As few as this are tried one by one: a set costs an allocation and some 200 ns.
const FEW: usize = 8;

/// Regexes in one set: one pass over the text however many they are. 64 take twice the time in all; with 16,384 the
/// automaton outgrows its cache (2 MiB a thread) and a pass takes 2 ms instead of 200 ns.
const SET: usize = 256;

/// One set's compiled size, which bounds that automaton as well: 256 times `\w+`, which is large in Unicode, would not
/// fit.
const SET_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Regexes(Vec<Batch>);

#[derive(Debug)]
struct Batch {
    /// The lowest route of all.
    first: usize,
    /// `None` for a few: then every route is tried.
    set: Option<RegexSet>,
    /// For each regex of the set.
    routes: Vec<Vec<usize>>,
}

impl Regexes {
    /// In sets of neighbours, so that a good match spares the sets behind it.
    pub(super) fn build(mut regexes: Vec<(&str, Vec<usize>)>) -> Regexes {
        regexes.sort_unstable_by_key(|(_, routes)| routes[0]);
        Regexes(regexes.chunks(SET).flat_map(Batch::build).collect())
    }

    pub(super) fn search(&self, text: &[u8], search: &mut Search<'_>) {
        for batch in &self.0 {
            if search.is_past(batch.first) {
                return;
            }
            batch.search(text, search);
        }
    }
}

impl Batch {
    /// One, or as many as it takes to keep each set within [`SET_BYTES`].
    fn build(regexes: &[(&str, Vec<usize>)]) -> Vec<Batch> {
        if regexes.len() <= FEW {
            return vec![Batch::new(regexes, None)];
        }
        if let Some(set) = compile(regexes.iter().map(|(regex, _)| *regex)) {
            return vec![Batch::new(regexes, Some(set))];
        }
        let (front, back) = regexes.split_at(regexes.len() / 2);
        [front, back].into_iter().flat_map(Batch::build).collect()
    }

    fn new(regexes: &[(&str, Vec<usize>)], set: Option<RegexSet>) -> Batch {
        let routes = regexes.iter().map(|(_, routes)| routes.clone()).collect();
        Batch {
            first: regexes[0].1[0],
            set,
            routes,
        }
    }

    fn search(&self, text: &[u8], search: &mut Search<'_>) {
        match &self.set {
            Some(set) => set
                .matches(text)
                .iter()
                .for_each(|regex| search.try_in_order(&self.routes[regex])),
            None => self.routes.iter().for_each(|routes| search.try_in_order(routes)),
        }
    }
}

fn compile<'r>(regexes: impl Iterator<Item = &'r str>) -> Option<RegexSet> {
    RegexSetBuilder::new(regexes).size_limit(SET_BYTES).build().ok()
}
