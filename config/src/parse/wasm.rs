//! Bounds of the WebAssembly engine.
//!
//! Control plane. Knows no filter; each filter's own limits lie within these.

use std::path::PathBuf;
use std::time::Duration;

use super::or_default;
use crate::model::Wasm;
use crate::reader::Reader;
use crate::shape::{At, OffOr};
use crate::vocabulary;

/// At 16 MiB each these are 16 GiB of address space, and in practice far less memory.
const MAX_INSTANCES: u32 = 1_000;
/// Four times a filter's default.
const MAX_MEMORY: u64 = 64 << 20;
/// Twice a filter's default.
const MAX_TABLE_ELEMENTS: usize = 32_768;
/// As many as of filters; each brings more along, and each serves whole exchanges.
const MAX_SERVICE_INSTANCES: u32 = 1_000;
/// Interpreters with their libraries take some ten MiB before they begin to serve.
const MAX_SERVICE_MEMORY: u64 = 256 << 20;
/// wasmtime's own default, enough for interpreters that recurse.
const MAX_STACK: usize = 512 << 10;
/// Components that bring an interpreter have 10 to 40 MiB.
const MAX_COMPONENT: u64 = 64 << 20;
/// Traffic keeps the other cores.
const COMPILE_THREADS: usize = 1;
/// A reload that takes longer looks stuck.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn wasm(wasm: Option<vocabulary::Wasm>, reader: &mut Reader) -> Wasm {
    let wasm = wasm.unwrap_or_default();
    Wasm {
        max_instances: wasm.max_instances.map_or(MAX_INSTANCES, |count| count.as_u32()),
        max_memory: wasm.max_memory.map_or(MAX_MEMORY, |size| size.0),
        max_table_elements: wasm
            .max_table_elements
            .map_or(MAX_TABLE_ELEMENTS, |count| count.as_usize()),
        max_service_instances: wasm
            .max_service_instances
            .map_or(MAX_SERVICE_INSTANCES, |count| count.as_u32()),
        max_service_memory: wasm.max_service_memory.map_or(MAX_SERVICE_MEMORY, |size| size.0),
        max_stack: wasm.max_stack.map_or(MAX_STACK, |size| size.as_usize()),
        cache: reader.within("wasm", |reader| cache(wasm.cache, reader)),
        max_component: wasm.max_component.map_or(MAX_COMPONENT, |size| size.0),
        compile_threads: wasm.compile_threads.map_or(COMPILE_THREADS, |count| count.as_usize()),
        compile_timeout: or_default(wasm.compile_timeout, COMPILE_TIMEOUT),
    }
}

/// Off by default, because nobody expects of a proxy that it writes to disk unasked.
fn cache(cache: Option<OffOr<At<String>>>, reader: &mut Reader) -> Option<PathBuf> {
    let Some(OffOr::On(folder)) = cache else { return None };
    if folder.value.is_empty() {
        reader.error_at(
            &folder.place,
            "cache",
            "an empty path; write the path of a folder, or `off`",
        );
        return None;
    }
    Some(reader.resolve(&folder.value))
}
