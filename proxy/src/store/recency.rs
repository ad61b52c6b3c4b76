//! The order in which entries were used.
//!
//! Data plane. A doubly linked list through a vector whose positions are those of the entries: each operation touches a
//! handful of links, however many there are. It knows nothing of what is used.

/// The position that is none.
const NONE: usize = usize::MAX;

pub(super) struct Recency {
    links: Vec<Link>,
    newest: usize,
    oldest: usize,
}

#[derive(Clone, Copy)]
struct Link {
    newer: usize,
    older: usize,
}

impl Recency {
    pub(super) fn new() -> Self {
        Self {
            links: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// The next position is there, and was used last.
    pub(super) fn push(&mut self) {
        self.links.push(Link {
            newer: NONE,
            older: NONE,
        });
        self.link(self.links.len() - 1);
    }

    /// The position was used last.
    pub(super) fn touch(&mut self, at: usize) {
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
    }

    /// As [`Vec::swap_remove`]: the last position becomes this one, and keeps its place in the order.
    pub(super) fn swap_remove(&mut self, at: usize) {
        self.unlink(at);
        self.links.swap_remove(at);
        if let Some(&moved) = self.links.get(at) {
            self.join(moved.newer, at);
            self.join(at, moved.older);
        }
    }

    pub(super) fn reserve_exact(&mut self, additional: usize) {
        self.links.reserve_exact(additional);
    }

    pub(super) fn shrink_to(&mut self, capacity: usize) {
        self.links.shrink_to(capacity);
    }

    /// The position that was not used for longest.
    pub(super) fn oldest(&self) -> Option<usize> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    fn link(&mut self, at: usize) {
        let second = self.newest;
        self.join(NONE, at);
        self.join(at, second);
    }

    fn unlink(&mut self, at: usize) {
        let Link { newer, older } = self.links[at];
        self.join(newer, older);
    }

    /// Makes the two neighbours; with none on one side, the other is that end of the order.
    fn join(&mut self, newer: usize, older: usize) {
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older].newer = newer,
        }
    }
}

#[cfg(test)]
impl Recency {
    pub(super) const LINK_BYTES: usize = size_of::<Link>();

    pub(super) fn capacity(&self) -> usize {
        self.links.capacity()
    }

    /// All positions, oldest first, by either direction of the links.
    pub(super) fn order(&self) -> Vec<usize> {
        let walk = |from: usize, next: fn(&Link) -> usize| {
            let some = |at: usize| (at != NONE).then_some(at);
            std::iter::successors(some(from), |at| some(next(&self.links[*at]))).collect::<Vec<_>>()
        };
        let upwards = walk(self.oldest, |link| link.newer);
        let downwards = walk(self.newest, |link| link.older);
        assert!(upwards.iter().eq(downwards.iter().rev()), "{upwards:?} {downwards:?}");
        upwards
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Touch(usize),
        Remove(usize),
    }

    proptest! {
        /// The model is the order itself, as names; `places` says which name is at which position.
        #[test]
        fn the_order_is_that_of_use(steps in prop::collection::vec(prop_oneof![
            3 => Just(Step::Push),
            2 => any::<usize>().prop_map(Step::Touch),
            2 => any::<usize>().prop_map(Step::Remove),
        ], 0..100)) {
            let mut recency = Recency::new();
            let (mut order, mut places) = (Vec::<usize>::new(), Vec::<usize>::new());
            for (name, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push => {
                        recency.push();
                        order.push(name);
                        places.push(name);
                    }
                    Step::Touch(index) if !places.is_empty() => {
                        let at = index % places.len();
                        recency.touch(at);
                        order.retain(|name| *name != places[at]);
                        order.push(places[at]);
                    }
                    Step::Remove(index) if !places.is_empty() => {
                        let at = index % places.len();
                        recency.swap_remove(at);
                        let name = places.swap_remove(at);
                        order.retain(|other| *other != name);
                    }
                    _ => (),
                }
                let found: Vec<_> = recency.order().into_iter().map(|at| places[at]).collect();
                prop_assert_eq!(&found, &order);
                prop_assert_eq!(recency.oldest().map(|at| places[at]), order.first().copied());
            }
        }
    }
}
