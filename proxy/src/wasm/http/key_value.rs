//! `wasi:keyvalue`: what a component remembers from one exchange to the next, and all its instances share.
//!
//! Data plane. A component has one bucket, a [`Table`] of its own, and knows no other by any name. What does not fit is an
//! error that the guest can read; what was not used for longest makes room. Invariant: no call takes longer than a
//! tick of the guest's own time might.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use self::bindings::wasi::keyvalue::store::{Error, KeyResponse};
use self::bindings::wasi::keyvalue::{atomics, batch, store};
use super::grants::Grant;
use super::state::State;
use crate::store::{StoreError, Table};

/// The interfaces; `wit/README.md` says where they are from.
mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue",
        world: "imports",
        imports: { default: trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
    });
}

/// What the one bucket is called: nothing, as in `wasmtime serve`, or what guests write who must write something.
const NAMES: [&str; 2] = ["", "default"];

/// Keys of one call: some 300 us, in which the worker does nothing else.
const BATCH_KEYS: usize = 1_000;

/// Values of one answer, however often they are asked for: a millisecond's copying.
const BATCH_BYTES: usize = 4 << 20;

/// Held by a guest.
pub struct Bucket(Arc<Table>);

/// The host's side of one instance.
pub(super) struct KeyValue<'a> {
    pub handles: &'a mut ResourceTable,
    /// `None` without the grant.
    pub table: Option<&'a Arc<Table>>,
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, HasKeyValue>(linker, State::key_value)?;
    atomics::add_to_linker::<_, HasKeyValue>(linker, State::key_value)?;
    batch::add_to_linker::<_, HasKeyValue>(linker, State::key_value)
}

/// The table that is granted.
pub(super) fn granted(grants: &[Grant]) -> Option<&Arc<Table>> {
    grants.iter().find_map(|grant| match grant {
        Grant::KeyValue(table) => Some(table),
        _ => None,
    })
}

struct HasKeyValue;

impl HasData for HasKeyValue {
    type Data<'a> = KeyValue<'a>;
}

impl KeyValue<'_> {
    fn table(&self, bucket: &Resource<Bucket>) -> wasmtime::Result<&Table> {
        Ok(&self.handles.get(bucket)?.0)
    }
}

impl store::Host for KeyValue<'_> {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        let Some(table) = self.table else {
            return Ok(Err(Error::AccessDenied));
        };
        if !NAMES.contains(&&*identifier) {
            return Ok(Err(Error::NoSuchStore));
        }
        Ok(Ok(self.handles.push(Bucket(Arc::clone(table)))?))
    }
}

impl store::HostBucket for KeyValue<'_> {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let value = self.table(&bucket)?.get(&key, Instant::now());
        Ok(Ok(value.map(Vec::from)))
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        Ok(set(self.table(&bucket)?, &key, value))
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        self.table(&bucket)?.delete(&key, Instant::now());
        Ok(Ok(()))
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        Ok(Ok(self.table(&bucket)?.get(&key, Instant::now()).is_some()))
    }

    fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        let (keys, cursor) = self.table(&bucket)?.keys(cursor, Instant::now());
        let keys = keys.iter().map(|key| key.to_string()).collect();
        Ok(Ok(KeyResponse { keys, cursor }))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.handles.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for KeyValue<'_> {
    /// A number is its digits, as in other hosts: guests may set one, and read one.
    fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Answer<u64> {
        let mut incremented = Err(Error::Other(
            "the value is no number, or as large as one can be".to_owned(),
        ));
        let updated = self.table(&bucket)?.update(
            &key,
            |present| {
                let sum = present.map_or(Some(0), number)?.checked_add(delta)?;
                incremented = Ok(sum);
                Some(sum.to_string().into())
            },
            Instant::now(),
        );
        Ok(updated.map_err(too_large).and(incremented))
    }
}

impl batch::Host for KeyValue<'_> {
    fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let table = self.table(&bucket)?;
        Ok(check_count(keys.len()).and_then(|()| get_many(table, keys)))
    }

    fn set_many(&mut self, bucket: Resource<Bucket>, pairs: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let table = self.table(&bucket)?;
        let mut pairs = pairs.into_iter();
        Ok(check_count(pairs.len()).and_then(|()| pairs.try_for_each(|(key, value)| set(table, &key, value))))
    }

    fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let (table, now) = (self.table(&bucket)?, Instant::now());
        Ok(check_count(keys.len()).map(|()| {
            for key in keys {
                table.delete(&key, now);
            }
        }))
    }
}

fn set(table: &Table, key: &str, value: Vec<u8>) -> Result<(), Error> {
    let value = Bytes::from(value.into_boxed_slice());
    table.set(key, value, None, Instant::now()).map_err(too_large)
}

fn get_many(table: &Table, keys: Vec<String>) -> Result<Vec<Option<(String, Vec<u8>)>>, Error> {
    let now = Instant::now();
    let mut bytes = 0;
    let mut get = |key: String| {
        let Some(value) = table.get(&key, now) else {
            return Ok(None);
        };
        bytes += value.len();
        match bytes > BATCH_BYTES {
            true => Err(Error::Other(format!(
                "more than {BATCH_BYTES} bytes at once; ask for fewer keys"
            ))),
            false => Ok(Some((key, Vec::from(value)))),
        }
    };
    keys.into_iter().map(&mut get).collect()
}

fn check_count(keys: usize) -> Result<(), Error> {
    match keys > BATCH_KEYS {
        true => Err(Error::Other(format!("{keys} keys at once, more than {BATCH_KEYS}"))),
        false => Ok(()),
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn too_large(error: StoreError) -> Error {
    Error::Other(error.to_string())
}
