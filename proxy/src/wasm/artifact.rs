//! One compiled component, known by the digest of its bytes.
//!
//! Control plane. Compiling takes milliseconds to seconds and never happens on a worker. The bytes that are hashed are
//! the bytes that are compiled. Two filters with the same component share one artifact.

use std::fmt;
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
    /// Reads a component's bytes; refuses what is not a regular file or is longer than `max_bytes` without reading it.
    pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, String> {
        let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if !metadata.is_file() {
            return Err(format!("{}: not a regular file", path.display()));
        }
        if metadata.len() > max_bytes {
            return Err(format!(
                "{}: {} bytes, more than wasm.max_component, which is {max_bytes}",
                path.display(),
                metadata.len()
            ));
        }
        std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Binary components only: no text format, no core module.
    pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self, String> {
        match bytes {
            [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => {}
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
                return Err("this is a core WebAssembly module, not a component; build a component from it with `wasm-tools component new`".into());
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
