//! What a component may use beyond configuration, log, and the exchange itself.
//!
//! Control plane. What each capability means, and whether a component needs it, is for the proxy to say.

use std::collections::{HashMap, HashSet};

use crate::model::{Filter, Grant};
use crate::parse::Names;
use crate::reader::Reader;
use crate::shape::{At, ShortOr, check_name};
use crate::vocabulary::{self, GrantBlock};

pub(super) fn grants(
    grants: Option<At<Vec<vocabulary::Grant>>>,
    names: &Names,
    reader: &mut Reader,
) -> Option<Vec<Grant>> {
    let mut seen = HashSet::new();
    let mut convert = |At { place, value }: vocabulary::Grant| {
        let grant = match value {
            ShortOr::Short(word) => Grant::from(word),
            ShortOr::Block(block) => with_object(block, names, reader)?,
        };
        if seen.insert(grant.word()) {
            return Some(grant);
        }
        reader.error(&place, format!("`{}` stands here twice; remove one", grant.word()));
        None
    };
    let listed = grants.map(|grants| grants.value).unwrap_or_default();
    let converted: Vec<_> = listed.into_iter().map(&mut convert).collect();
    converted.into_iter().collect()
}

fn with_object(block: GrantBlock, names: &Names, reader: &mut Reader) -> Option<Grant> {
    match (block.key_value, block.outbound) {
        (Some(table), None) => reader.within("key_value", |reader| shared(table, reader)),
        (None, Some(clusters)) => reader.within("outbound", |reader| outbound(clusters, names, reader)),
        // Noted when the block was read.
        _ => None,
    }
}

fn shared(table: At<String>, reader: &mut Reader) -> Option<Grant> {
    let sound = check_name(&table.value).map_err(|message| reader.error(&table.place, message));
    sound.ok().map(|()| Grant::KeyValue(Some(table.value)))
}

fn outbound(clusters: At<Vec<At<String>>>, names: &Names, reader: &mut Reader) -> Option<Grant> {
    let mut seen = HashSet::new();
    let mut find = |name: &At<String>| {
        let cluster = names.cluster(name, reader)?;
        if seen.insert(cluster) {
            return Some(cluster);
        }
        reader.error(&name.place, format!("`{}` stands here twice; remove one", name.value));
        None
    };
    let found: Vec<_> = clusters.value.iter().map(&mut find).collect();
    found.into_iter().collect::<Option<_>>().map(Grant::Outbound)
}

/// A table has one size; were the filters to differ, the order in which they are loaded would decide.
pub(super) fn refuse_unequal_tables(filters: &[Filter], reader: &mut Reader) {
    let mut first: HashMap<&str, &Filter> = HashMap::new();
    for filter in filters {
        let Some(table) = filter.grants.iter().find_map(shared_table) else {
            continue;
        };
        let other = *first.entry(table).or_insert(filter);
        let size = |filter: &Filter| (filter.limits.key_value_bytes, filter.limits.key_value_keys);
        if size(other) != size(filter) {
            let message = format!(
                "the table `{table}` is of another size in filter `{}`; give both the same `key_value_bytes` and \
                 `key_value_keys`",
                other.name
            );
            let label = format!("filter `{}`", filter.name);
            reader.within_item(label, |reader| reader.error_at(&filter.place, "limits", message));
        }
    }
}

fn shared_table(grant: &Grant) -> Option<&str> {
    match grant {
        Grant::KeyValue(Some(table)) => Some(table),
        _ => None,
    }
}
