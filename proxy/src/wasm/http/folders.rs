//! Folders that a component may read.
//!
//! Control plane opens them, once for each configuration that is loaded; every instance reads by the same handles.
//! Invariant: nothing outside of a folder is reached by any path or link, and nothing in it is changed: that is
//! `wasmtime-wasi`'s sandbox. Reading is not done by workers but by threads of their runtimes for what blocks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

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
