//! What a component may use beyond configuration, log, and the exchange itself.
//!
//! Control plane. What each capability means, and whether a component needs it, is for the proxy to say.

use std::collections::{HashMap, HashSet};

use crate::model::{Filter, Grant, ServiceGrant};
use crate::parse::Names;
use crate::parse::cluster::service;
use crate::reader::Reader;
use crate::shape::{At, ShortOr, check_name};
use crate::vocabulary::{self, GrantBlock, ServiceGrantBlock};

pub(super) fn grants(
    grants: Option<At<Vec<vocabulary::Grant>>>,
    names: &Names,
    reader: &mut Reader,
) -> Option<(Vec<Grant>, Vec<ServiceGrant>)> {
    let mut seen = HashSet::new();
    let mut convert = |At { place, value }: vocabulary::Grant| {
        let (grant, service) = match value {
            ShortOr::Short(word) => word.means(),
            ShortOr::Block(block) => with_object(block, names, reader)?,
        };
        let word = grant
            .as_ref()
            .map(Grant::word)
            .or(service.as_ref().map(ServiceGrant::word))?;
        if seen.insert(word) {
            return Some((grant, service));
        }
        reader.error(&place, format!("`{word}` stands here twice; remove one"));
        None
    };
    let listed = grants.map(|grants| grants.value).unwrap_or_default();
    let converted: Vec<_> = listed.into_iter().map(&mut convert).collect();
    let (of_filter, of_middleware): (Vec<_>, Vec<_>) =
        converted.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
    Some((
        of_filter.into_iter().flatten().collect(),
        of_middleware.into_iter().flatten().collect(),
    ))
}

/// What it is to a filter, and what to a middleware.
type Means = (Option<Grant>, Option<ServiceGrant>);

fn with_object(block: GrantBlock, names: &Names, reader: &mut Reader) -> Option<Means> {
    let GrantBlock {
        key_value,
        outbound,
        env,
        config,
        dir,
        http,
    } = block;
    let grant = match (key_value, outbound) {
        (Some(table), None) => reader.within("key_value", |reader| shared(table, reader)),
        (None, Some(clusters)) => reader.within("outbound", |reader| self::outbound(clusters, names, reader)),
        // More than one was noted when the block was read.
        _ => {
            let block = ServiceGrantBlock { env, config, dir, http };
            return service::with_object(block, names, reader).map(|grant| (None, Some(grant)));
        }
    };
    grant.map(|grant| (Some(grant), None))
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
