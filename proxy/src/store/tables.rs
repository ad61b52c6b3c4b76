//! The tables of a process by name: how a table outlives a reload.
//!
//! Control plane. A table lives as long as a generation or an exchange holds it; who asks for the same name meanwhile
//! gets the same table. So a new generation has what the old one kept, and a name that no generation wants any more is
//! forgotten with its table.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Bounds, Stats, Table};

/// Whose a table is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableName {
    /// The filter's of that name alone.
    Own(String),
    /// All filters' that are granted this name.
    Shared(String),
    /// The component's that serves in that cluster.
    Service(String),
}

/// Lives as long as the process.
#[derive(Default)]
pub struct Tables {
    /// As many as the generations that are alive name; the dead ones go when one is opened.
    tables: Mutex<HashMap<TableName, Weak<Table>>>,
}

impl Tables {
    /// The table of that name, as it is; a new one with these bounds if there is none. A generation that goes live calls
    /// [`Table::resize`]: one that fails to must leave the table as it found it.
    pub fn open(&self, name: &TableName, bounds: Bounds) -> Arc<Table> {
        let mut tables = self.lock();
        if let Some(table) = tables.get(name).and_then(Weak::upgrade) {
            return table;
        }
        let table = Arc::new(Table::new(bounds));
        tables.retain(|_, table| table.strong_count() > 0);
        tables.insert(name.clone(), Arc::downgrade(&table));
        table
    }

    /// Of the tables that are alive, in the order of their names.
    pub fn stats(&self) -> Vec<(TableName, Stats)> {
        let alive = |(name, table): (&TableName, &Weak<Table>)| Some((name.clone(), table.upgrade()?.stats()));
        let mut stats: Vec<_> = self.lock().iter().filter_map(alive).collect();
        stats.sort_by(|(one, _), (other, _)| one.cmp(other));
        stats
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TableName, Weak<Table>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Tables {
    /// The dead ones included.
    pub(super) fn names(&self) -> usize {
        self.lock().len()
    }
}
