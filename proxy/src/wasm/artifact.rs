//! One compiled component, known by the digest of its bytes.
//!
//! Control plane. Compiling takes milliseconds to seconds and never happens on a worker. The bytes that are hashed are
//! the bytes that are compiled. Two filters with the same component share one artifact.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, types::ComponentItem};

use super::engine::Engine;

/// SHA-256 of a component's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check_file(path: &Path, metadata: &Metadata, max_bytes: u64) -> Result<(), String> {
    let path = path.display();
    if !metadata.is_file() {
        return Err(format!("{path}: not a regular file"));
    }
    match metadata.len() {
        bytes if bytes > max_bytes => Err(format!(
            "{path}: {bytes} bytes, more than wasm.max_component, which is {max_bytes}"
        )),
        _ => Ok(()),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Compiled code and its type. Lives as long as a generation or an instance uses it.
pub struct Artifact {
    digest: Digest,
    component: Component,
    /// Bytes of the component before compilation.
    size: usize,
}

impl Artifact {
    /// Reads a component's bytes; refuses what is not a regular file or is longer than `max_bytes` without reading it,
    /// and what is written meanwhile.
    pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, String> {
        let of_file = |error: std::io::Error| format!("{}: {error}", path.display());
        // Before opening, because opening a FIFO waits for a writer; and again on the open handle, because the path may
        // have been replaced in between.
        check_file(path, &std::fs::metadata(path).map_err(of_file)?, max_bytes)?;
        let file = File::open(path).map_err(of_file)?;
        let before = file.metadata().map_err(of_file)?;
        check_file(path, &before, max_bytes)?;
        let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0));
        // A file may grow while it is read: one byte more than it had is enough to notice.
        (&file)
            .take(before.len().saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(of_file)?;
        let after = file.metadata().map_err(of_file)?;
        let same = (after.len(), after.modified().ok()) == (before.len(), before.modified().ok());
        if same && bytes.len() as u64 == before.len() {
            Ok(bytes)
        } else {
            Err(format!(
                "{}: was written while it was read; try again when it is whole",
                path.display()
            ))
        }
    }

    /// Binary components only: no text format, no core module.
    pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self, String> {
        match bytes {
            [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => {}
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
                return Err(
                    "this is a core WebAssembly module, not a component; make one of it with \
                            `tamis filter component MODULE -o COMPONENT`"
                        .into(),
                );
            }
            _ => return Err("this is not a WebAssembly component (half-written file?)".into()),
        }
        let component =
            Component::from_binary(engine.inner(), bytes).map_err(|error| format!("does not compile: {error:#}"))?;
        Ok(Self {
            digest: Digest::of(bytes),
            component,
            size: bytes.len(),
        })
    }

    /// Of code that was compiled before, for these bytes.
    pub(super) fn ready(digest: Digest, component: Component, size: usize) -> Self {
        Self {
            digest,
            component,
            size,
        }
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes of the code that was made of it.
    pub fn compiled_size(&self) -> Result<usize, String> {
        let serialized = self.component.serialize();
        serialized
            .map(|code| code.len())
            .map_err(|error| format!("cannot be written down: {error:#}"))
    }

    /// Names of what the component asks of its host, in its own order.
    pub fn imports(&self) -> Vec<String> {
        let engine = self.component.engine();
        self.component
            .component_type()
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// Names of the interfaces that the component offers.
    pub fn exports(&self) -> Vec<String> {
        let engine = self.component.engine();
        let component = self.component.component_type();
        component
            .exports(engine)
            .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    pub(super) fn component(&self) -> &Component {
        &self.component
    }
}
