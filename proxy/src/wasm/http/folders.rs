//! Folders that a component may read.
//!
//! Control plane opens them, once for each configuration that is loaded; every instance reads by the same handles.
//! Invariant: nothing outside of a folder is reached by any path or link, and nothing in it is changed: that is
//! `wasmtime-wasi`'s sandbox. Reading is not done by workers but by threads of their runtimes for what blocks. What guests
//! open leaves descriptors to everybody else.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemCtx, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{self as p2, Host as _, HostDescriptor as _};
use wasmtime_wasi::p3::bindings::filesystem::types::{self as p3, HostDescriptorWithStore};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::state::State;
use crate::descriptors::{Taker, leave_some};

/// Of the same releases as those that they put themselves before.
const TYPES_P2: &str = "wasi:filesystem/types@0.2.12";
const TYPES_P3: &str = "wasi:filesystem/types@0.3.0";
const OPEN: &str = "[method]descriptor.open-at";

/// Open ones. They stay what they are when something else is put at their paths.
#[derive(Clone)]
pub struct Folders {
    pub(super) handles: WasiFilesystemCtx,
    identity: String,
}

impl Folders {
    /// By the paths under which the component finds them.
    pub fn open(folders: &[(String, PathBuf)]) -> Result<Self, String> {
        let mut builder = WasiCtxBuilder::new();
        let mut identity = String::new();
        for (guest, host) in folders {
            let fault = |why: String| format!("dir `{guest}`: {}: {why}", host.display());
            let found = fs::metadata(host).map_err(|error| fault(error.to_string()))?;
            if !found.is_dir() {
                return Err(fault("is not a folder".to_owned()));
            }
            identity += &format!("{guest} {}:{} ", found.dev(), found.ino());
            let opened = builder.preopened_dir(host, guest, FsPerms::ReadOnly);
            opened.map_err(|error| fault(error.to_string()))?;
        }
        Ok(Self {
            handles: builder.build().filesystem().clone(),
            identity,
        })
    }

    /// Another one when something else is put at a path.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

type OpenP2 = (
    Resource<Descriptor>,
    p2::PathFlags,
    String,
    p2::OpenFlags,
    p2::DescriptorFlags,
);
type OpenP3 = (
    Resource<Descriptor>,
    p3::PathFlags,
    String,
    p3::OpenFlags,
    p3::DescriptorFlags,
);

/// Takes the places of the functions that open files.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(TYPES_P2)?.func_wrap_async(
        OPEN,
        |mut store: StoreContextMut<'_, State>, (folder, links, path, open, flags): OpenP2| {
            Box::new(async move {
                let mut files = store.data_mut().filesystem();
                let opened = files.open_at(folder, links, path, open, flags).await;
                Ok((match opened {
                    Ok(opened) => hold(files.table, opened)?.ok_or(p2::ErrorCode::Quota),
                    Err(error) => Err(files.convert_error_code(error)?),
                },))
            })
        },
    )?;
    linker.instance(TYPES_P3)?.func_wrap_concurrent(
        OPEN,
        |accessor: &Accessor<State>, (folder, links, path, open, flags): OpenP3| {
            Box::pin(async move {
                let files = accessor.with_getter::<WasiFilesystem>(State::filesystem);
                let opened = <WasiFilesystem as HostDescriptorWithStore<State>>::open_at(
                    &files, folder, links, path, open, flags,
                );
                Ok((match opened.await {
                    Ok(opened) => files
                        .with(|mut access| hold(access.get().table, opened))?
                        .ok_or(p3::ErrorCode::Quota),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )
}

/// Unless it is one of those that are for others; then it is closed.
fn hold(table: &mut ResourceTable, opened: Resource<Descriptor>) -> wasmtime::Result<Option<Resource<Descriptor>>> {
    let descriptor = match table.get(&opened)? {
        Descriptor::File(file) => &file.file,
        Descriptor::Dir(folder) => &folder.dir,
    };
    if leave_some(&**descriptor, Taker::Guest).is_ok() {
        return Ok(Some(opened));
    }
    table.delete(opened)?;
    Ok(None)
}
