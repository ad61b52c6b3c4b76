//! Compiled code on disk, by content and engine, so that a start need not compile what was compiled before.
//!
//! Control plane. Compiled code is machine code: an entry is trusted only with the authentication code that this cache's
//! own key gives it, which covers the component's digest, the engine's version and settings, and every byte. The folder
//! belongs to this user alone, or it is not used. Whatever is wrong with an entry, the component is compiled anew; a
//! cache that cannot be written costs a line in the log and nothing else.
//!
//! The one file with `unsafe`: loading machine code is, and the argument above is why it is sound.

#![expect(
    unsafe_code,
    reason = "loads machine code that this process's user has written and authenticated"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wasmtime::component::Component;

use super::artifact::{Artifact, Digest};
use super::engine::Engine;

type Authenticator = Hmac<Sha256>;

const KEY_BYTES: usize = 32;
const CODE_BYTES: usize = 32;
const KEY_FILE: &str = "key";
/// Compiled code is some five times its component, and 64 MiB of component are the default's bound; whatever is larger
/// was not written here.
const MAX_ENTRY_BYTES: u64 = 1 << 30;

/// Lives as long as the process.
pub struct Cache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
}

impl Cache {
    /// Opens the folder, or makes it; refuses one that others could write to.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("wasm.cache: {}: {error}", folder.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(cannot)?;
        check_private(folder)?;
        let key = key(&folder.join(KEY_FILE)).map_err(cannot)?;
        Ok(Self {
            folder: folder.to_owned(),
            key,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The component's code, if it is here and sound.
    pub fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(engine, digest);
        let metadata = fs::metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > MAX_ENTRY_BYTES {
            tracing::warn!(%digest, "an entry of wasm.cache is nothing that was written there; the component is compiled anew");
            return None;
        }
        let entry = fs::read(path).ok()?;
        let (code, compiled) = entry.split_at_checked(CODE_BYTES).unwrap_or((&[], &entry[..]));
        if self.authenticator(engine, digest, compiled).verify_slice(code).is_err() {
            tracing::warn!(%digest, "an entry of wasm.cache is not sound; the component is compiled anew");
            return None;
        }
        // SAFETY: these bytes are what `Component::serialize` gave this user's process for an engine of the same version
        // and settings: nobody else has the key that the authentication code was made with.
        match unsafe { Component::deserialize(engine.inner(), compiled) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(%digest, %error, "an entry of wasm.cache does not load; the component is compiled anew");
                None
            }
        }
    }

    /// Keeps the artifact's code. The entry appears whole or not at all.
    pub fn store(&self, engine: &Engine, artifact: &Artifact) {
        let stored = artifact
            .component()
            .serialize()
            .map_err(io::Error::other)
            .and_then(|compiled| self.write(engine, artifact.digest(), &compiled));
        if let Err(error) = stored {
            tracing::warn!(folder = %self.folder.display(), %error, "wasm.cache cannot be written");
        }
    }

    fn write(&self, engine: &Engine, digest: Digest, compiled: &[u8]) -> io::Result<()> {
        let path = self.path(engine, digest);
        let unfinished = path.with_extension(format!("{}.part", std::process::id()));
        let code = self.authenticator(engine, digest, compiled).finalize().into_bytes();
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| {
                file.write_all(&code)?;
                file.write_all(compiled)
            })
            .and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            // What is half-written is of no use to anybody.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn path(&self, engine: &Engine, digest: Digest) -> PathBuf {
        self.folder
            .join(format!("{digest}-{:016x}.cwasm", compatibility(engine)))
    }

    fn authenticator(&self, engine: &Engine, digest: Digest, compiled: &[u8]) -> Authenticator {
        let mut authenticator =
            Authenticator::new_from_slice(&self.key).expect("this authenticator takes a key of any length");
        authenticator.update(digest.as_bytes());
        authenticator.update(&compatibility(engine).to_le_bytes());
        authenticator.update(compiled);
        authenticator
    }
}

/// Differs wherever code of one engine must not run in another; the same from start to start.
fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.inner().precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

fn check_private(folder: &Path) -> Result<(), String> {
    let metadata = fs::metadata(folder).map_err(|error| format!("wasm.cache: {}: {error}", folder.display()))?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    let is_private = metadata.permissions().mode() & 0o022 == 0;
    if metadata.is_dir() && is_ours && is_private {
        return Ok(());
    }
    Err(format!(
        "wasm.cache: {}: must be a folder that only this user can write to; `chmod 700` it, or name another",
        folder.display()
    ))
}

/// The key that is there, or a new one. Two processes that begin at once end up with one key.
fn key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            file.write_all(&key)?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::open(path)?.read_exact(&mut key)?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::Reservation;
    use super::*;

    const COMPONENT: &str = r#"(component (core module $m (func (export "f"))))"#;

    fn engine() -> Engine {
        Engine::new(Reservation {
            instances: 1,
            memory_bytes: 1 << 20,
            stack_bytes: 512 << 10,
            table_elements: 1000,
        })
        .unwrap()
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
            .collect()
    }

    #[test]
    fn what_was_compiled_is_loaded_and_what_is_not_sound_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("cache");
        let (engine, bytes) = (engine(), wat::parse_str(COMPONENT).unwrap());
        let artifact = Artifact::compile(&engine, &bytes).unwrap();
        let cache = Cache::open(&place).unwrap();
        assert!(cache.load(&engine, artifact.digest()).is_none(), "nothing is there yet");
        cache.store(&engine, &artifact);
        let again = Cache::open(&place).unwrap();
        assert!(again.load(&engine, artifact.digest()).is_some());
        let entry = entries(&place).remove(0);
        let sound = fs::read(&entry).unwrap();
        for at in [0, CODE_BYTES, sound.len() / 2, sound.len() - 1] {
            let mut bent = sound.clone();
            bent[at] ^= 1;
            fs::write(&entry, bent).unwrap();
            assert!(again.load(&engine, artifact.digest()).is_none(), "byte {at}");
        }
        for length in [0, CODE_BYTES - 1, CODE_BYTES, sound.len() - 1] {
            fs::write(&entry, &sound[..length]).unwrap();
            assert!(again.load(&engine, artifact.digest()).is_none(), "{length} bytes");
        }
        again.store(&engine, &artifact);
        assert!(again.load(&engine, artifact.digest()).is_some());
        // Another key, as a foreign cache has.
        fs::remove_file(place.join(KEY_FILE)).unwrap();
        assert!(Cache::open(&place).unwrap().load(&engine, artifact.digest()).is_none());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Cache::open(folder.path()).err().unwrap();
        assert!(refused.contains("only this user can write"), "{refused}");
    }
}
