//! A table of series: counts under names, reached by an index once the names are known.
//!
//! Data plane. An id is an index with a stamp that is unique in the process. An id whose series was forgotten, or that
//! another worker's table gave out, matches no stamp: its counts are lost, never added to another series.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Series in one table; what comes after shares one series named [`OVERFLOW`]. Far above what a configuration of
/// sensible size names, and small enough (about 5 MiB of routes) for every worker to have as many.
pub const MAX_SERIES: usize = 16_384;

/// The label values of the series that stands for all beyond [`MAX_SERIES`].
pub const OVERFLOW: &str = "<overflow>";

/// Stamps are drawn only when a series is made, never when something is counted.
static NEXT_STAMP: AtomicU64 = AtomicU64::new(1);

/// Label values in the order of the table's label names.
pub type Labels<const N: usize> = [Arc<str>; N];

/// A series' place in the table that gave it out; good for as long as that series is not forgotten.
#[derive(Debug)]
pub struct SeriesId<V> {
    index: usize,
    stamp: u64,
    of: PhantomData<fn() -> V>,
}

// Derived, these would ask the same of `V`, which an id does not hold.
impl<V> Clone for SeriesId<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for SeriesId<V> {}

impl<V> PartialEq for SeriesId<V> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.stamp) == (other.index, other.stamp)
    }
}

impl<V> Eq for SeriesId<V> {}

pub struct Table<const N: usize, V> {
    slots: Vec<Slot<N, V>>,
    by_labels: HashMap<Labels<N>, SeriesId<V>>,
    free: Vec<usize>,
}

struct Slot<const N: usize, V> {
    /// Zero, which no id has, while the slot is free.
    stamp: u64,
    labels: Labels<N>,
    value: V,
}

impl<const N: usize, V> Default for Table<N, V> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            by_labels: HashMap::new(),
            free: Vec::new(),
        }
    }
}

impl<const N: usize, V: Default> Table<N, V> {
    /// The series of these labels, made when there is none yet.
    pub fn intern(&mut self, labels: [&str; N]) -> SeriesId<V> {
        let labels = labels.map(Arc::from);
        if let Some(id) = self.by_labels.get(&labels) {
            return *id;
        }
        if self.by_labels.len() < MAX_SERIES {
            return self.insert(labels);
        }
        let overflow = [(); N].map(|()| Arc::from(OVERFLOW));
        match self.by_labels.get(&overflow) {
            Some(id) => *id,
            None => self.insert(overflow),
        }
    }

    fn insert(&mut self, labels: Labels<N>) -> SeriesId<V> {
        let stamp = NEXT_STAMP.fetch_add(1, Ordering::Relaxed);
        let slot = Slot {
            stamp,
            labels: labels.clone(),
            value: V::default(),
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        let id = SeriesId {
            index,
            stamp,
            of: PhantomData,
        };
        self.by_labels.insert(labels, id);
        id
    }

    /// Forgets every series that `keep` does not want. Their ids match nothing from now on.
    pub fn retain(&mut self, keep: impl Fn([&str; N], &V) -> bool) {
        let slots = &mut self.slots;
        let free = &mut self.free;
        self.by_labels.retain(|labels, id| {
            let slot = &mut slots[id.index];
            let kept = keep(std::array::from_fn(|n| &*labels[n]), &slot.value);
            if !kept {
                slot.stamp = 0;
                slot.value = V::default();
                free.push(id.index);
            }
            kept
        });
    }
}

impl<const N: usize, V> Table<N, V> {
    /// `None` when the series was forgotten.
    #[inline]
    pub fn at(&mut self, id: SeriesId<V>) -> Option<&mut V> {
        let slot = self.slots.get_mut(id.index)?;
        (slot.stamp == id.stamp).then_some(&mut slot.value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Labels<N>, &V)> {
        self.slots
            .iter()
            .filter(|slot| slot.stamp != 0)
            .map(|slot| (&slot.labels, &slot.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(table: &Table<1, u64>) -> Vec<(String, u64)> {
        let mut values: Vec<_> = table.iter().map(|([name], value)| (name.to_string(), *value)).collect();
        values.sort();
        values
    }

    #[test]
    fn the_same_labels_are_the_same_series() {
        let mut table = Table::<1, u64>::default();
        let (one, two, again) = (table.intern(["a"]), table.intern(["b"]), table.intern(["a"]));
        assert!(one == again && one != two);
    }

    #[test]
    fn a_stale_id_never_counts_for_the_series_that_took_its_place() {
        let mut table = Table::<1, u64>::default();
        let stale = table.intern(["old"]);
        table.retain(|_, _| false);
        let fresh = table.intern(["new"]);
        assert_eq!(stale.index, fresh.index, "the slot is used again");
        assert!(table.at(stale).is_none());
        *table.at(fresh).expect("fresh") += 1;
        assert_eq!(values(&table), [("new".to_owned(), 1)]);
    }

    #[test]
    fn an_id_is_stale_even_when_its_own_labels_return() {
        let mut table = Table::<1, u64>::default();
        let stale = table.intern(["a"]);
        table.retain(|_, _| false);
        assert!(table.at(stale).is_none(), "a free slot");
        assert!(table.intern(["a"]) != stale);
        assert!(table.at(stale).is_none(), "a slot of the same name");
    }

    #[test]
    fn an_id_of_another_table_matches_nothing() {
        let (mut one, mut two) = (Table::<1, u64>::default(), Table::<1, u64>::default());
        let foreign = one.intern(["a"]);
        two.intern(["a"]);
        assert!(two.at(foreign).is_none());
    }

    #[test]
    fn a_table_is_bounded_and_says_so() {
        let mut table = Table::<1, u64>::default();
        for number in 0..MAX_SERIES {
            table.intern([&number.to_string()]);
        }
        let (one, two) = (table.intern(["one too many"]), table.intern(["two too many"]));
        assert!(one == two);
        assert_eq!(table.slots.len(), MAX_SERIES + 1);
        assert_eq!(table.iter().filter(|([name], _)| **name == *OVERFLOW).count(), 1);
    }
}
