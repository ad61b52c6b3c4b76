//! One look-up on its way through the index: what it asks about and the best answer so far.
//!
//! Data plane; per look-up. Invariant: the answer only ever moves forward in the table, and a list is left at its first
//! match and at the first route behind the best one. It must not know how the lists it is shown were found.

use std::cell::OnceCell;

use super::Target;
use super::query::Parameters;
use super::rule::Rule;

/// One look-up on its way through the index.
pub(super) struct Search<'a> {
    rules: &'a [Rule],
    probe: &'a Probe<'a>,
    /// The lowest route known to match; `usize::MAX` before the first.
    best: usize,
}

/// One look-up's target, with what is worked out once for all its candidates.
pub(super) struct Probe<'a> {
    target: &'a Target<'a>,
    parameters: OnceCell<Parameters<'a>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(rules: &'a [Rule], probe: &'a Probe<'a>) -> Search<'a> {
        Search {
            rules,
            probe,
            best: usize::MAX,
        }
    }

    /// `routes` ascending, each of them known to match the host.
    pub(super) fn try_in_order(&mut self, routes: &[usize]) {
        for &route in routes {
            if self.is_past(route) {
                return;
            }
            if self.rules[route].matches_below_host(self.probe) {
                self.best = route;
                return;
            }
        }
    }

    pub(super) fn probe(&self) -> &'a Probe<'a> {
        self.probe
    }

    pub(super) fn target(&self) -> &'a Target<'a> {
        self.probe.target()
    }

    /// Whether `route` and all behind it have lost already.
    pub(super) fn is_past(&self, route: usize) -> bool {
        self.best <= route
    }

    pub(super) fn best(&self) -> Option<usize> {
        (self.best < usize::MAX).then_some(self.best)
    }
}

impl<'a> Probe<'a> {
    pub(super) fn new(target: &'a Target<'a>) -> Probe<'a> {
        Probe {
            target,
            parameters: OnceCell::new(),
        }
    }

    pub(super) fn target(&self) -> &'a Target<'a> {
        self.target
    }

    pub(super) fn parameters(&self) -> &Parameters<'a> {
        self.parameters
            .get_or_init(|| Parameters::parse(self.target.query.unwrap_or_default()))
    }
}
