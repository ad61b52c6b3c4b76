//! Header fields that a route changes.
//!
//! Control plane.

use std::collections::HashSet;

use super::{OWN_FIELDS, header_name, pairs};
use crate::model::HeaderEdits;
use crate::parse::pattern;
use crate::reader::Reader;
use crate::shape::{At, Pairs};
use crate::vocabulary;

/// In all lists together: as many as a client's head may have by default.
const MAX_EDITS: usize = 100;

/// None given is none made.
pub(super) fn edits(edits: Option<vocabulary::HeaderEdits>, reader: &mut Reader) -> Option<HeaderEdits> {
    let Some(edits) = edits else {
        return Some(HeaderEdits::default());
    };
    let remove = reader.within("remove", |reader| names(edits.remove.unwrap_or_default(), reader));
    let set = reader.within("set", |reader| fields(edits.set, reader));
    let append = reader.within("append", |reader| fields(edits.append, reader));
    Some(HeaderEdits {
        remove: remove?,
        set: set?,
        append: append?,
    })
}

fn names(listed: Vec<At<String>>, reader: &mut Reader) -> Option<Vec<String>> {
    if let Some(last) = listed.get(MAX_EDITS) {
        reader.error(&last.place, format!("more than {MAX_EDITS} fields; remove some"));
        return None;
    }
    let mut seen = HashSet::new();
    let names: Vec<_> = listed.iter().map(|name| writable(name, &mut seen, reader)).collect();
    names.into_iter().collect()
}

fn fields(listed: Option<Pairs<At<String>>>, reader: &mut Reader) -> Option<Vec<(String, String)>> {
    if let Some((last, _)) = listed.as_ref().and_then(|Pairs(listed)| listed.get(MAX_EDITS)) {
        reader.error(&last.place, format!("more than {MAX_EDITS} fields; remove some"));
        return None;
    }
    let mut seen = HashSet::new();
    pairs(listed, |(name, value)| {
        let header = writable(&name, &mut seen, reader)?;
        if let Err(message) = pattern::check_header_value(&value.value) {
            reader.within(header.clone(), |reader| reader.error(&value.place, message));
        }
        Some((header, value.value))
    })
}

fn writable(name: &At<String>, seen: &mut HashSet<String>, reader: &mut Reader) -> Option<String> {
    let header = header_name(name, seen, reader)?;
    if OWN_FIELDS.contains(&header.as_str()) {
        reader.error(&name.place, format!("`{header}` is set by the proxy; remove it"));
        return None;
    }
    if header == "host" {
        reader.error(&name.place, "`host` is no field to edit; use `rewrite.host`");
        return None;
    }
    Some(header)
}
