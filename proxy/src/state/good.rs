//! The last good generation on disk: the configuration's text as it was written, and its components by their content.
//!
//! ```text
//! FOLDER/last-good          one line with the digest of the rest, then JSON: the text, and which component is which
//! FOLDER/objects/SHA-256    a component's bytes
//! ```
//!
//! Objects come first and the file that names them last, so at any moment it names what is there. Whatever does not
//! have the digest that it should have is refused, all of it: a half-written, foreign or mixed generation is never
//! served. The text holds no secret that it did not hold before: `${NAME}` and `file:PATH` stay as they are, and are
//! looked up anew when it is used. Only the last one is kept, so its size is that of what the configuration names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tamis_config::{Config, FilterKind};

use super::disk::{self, Disk};
use crate::wasm::Digest;

const NAME: &str = "last-good";
const OBJECTS: &str = "objects";
/// The first word of the file; another version's is refused.
const FORMAT: &str = "tamis-last-good-1";
/// A configuration has 16 MiB at most, and JSON escapes some of it. Not a setting, because the other bound is none: this
/// one is there for a file that is not ours.
const MAX_BYTES: u64 = 64 << 20;
/// All components together: hundreds of usual ones, a dozen of the largest. Not a setting, because nobody has more and
/// only the last generation is kept: it bounds what a mistake can cost the disk, and a folder that is not ours can cost
/// the memory. Whoever is beyond it serves all the same, and is told that nothing is kept.
pub const MAX_OBJECTS_BYTES: u64 = 1 << 30;

/// What is kept of a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Good {
    /// Of the configuration, absolute: another file's generation is not this one's.
    pub file: PathBuf,
    pub text: String,
    /// Each component's path as the configuration resolves it, and its digest.
    pub components: BTreeMap<PathBuf, String>,
    /// The version of Tamis that served it.
    pub version: String,
}

/// Where it is kept.
pub struct Store<D> {
    folder: PathBuf,
    disk: D,
}

impl<D: Disk> Store<D> {
    pub fn new(folder: &Path, disk: D) -> Self {
        Self {
            folder: folder.to_owned(),
            disk,
        }
    }

    /// Writes a component down, if it is not there; its digest. Nothing refers to it before [`Store::save`].
    pub fn stage(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = Digest::of(bytes).to_string();
        let objects = self.folder.join(OBJECTS);
        if !objects.is_dir() {
            DirBuilder::new().mode(0o700).create(&objects)?;
            self.disk.sync_folder(&self.folder)?;
        }
        let path = objects.join(&digest);
        let is_there = read(&path, MAX_OBJECTS_BYTES).is_ok_and(|kept| kept == bytes);
        if !is_there {
            disk::replace(&self.disk, &path, bytes)?;
        }
        Ok(digest)
    }

    /// From now on this is the last good generation; what only the one before had is removed.
    pub fn save(&self, good: &Good) -> io::Result<()> {
        let body = serde_json::to_string(good)?;
        let content = format!("{FORMAT} {}\n{body}", hex_digest(body.as_bytes()));
        if content.len() as u64 > MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        disk::replace(&self.disk, &self.folder.join(NAME), content.as_bytes())?;
        self.sweep(good)
    }

    fn sweep(&self, good: &Good) -> io::Result<()> {
        let kept: BTreeSet<&str> = good.components.values().map(String::as_str).collect();
        let Ok(entries) = fs::read_dir(self.folder.join(OBJECTS)) else {
            // No generation has had a component.
            return Ok(());
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                self.disk.remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The last good generation of this configuration file, every byte checked. An error says why there is none.
    pub fn load(&self, file: &Path) -> Result<Good, String> {
        let path = self.folder.join(NAME);
        let refused = |why: &str| format!("{}: {why}", path.display());
        let content = read(&path, MAX_BYTES).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refused("no generation has been kept yet"),
            _ => refused(&error.to_string()),
        })?;
        let good = Good::parse(&content).ok_or_else(|| refused("it is not sound, and so it is not used"))?;
        if good.file != file {
            return Err(refused(&format!(
                "it is of another configuration, {}",
                good.file.display()
            )));
        }
        for (component, digest) in &good.components {
            let object = self.object(digest);
            let is_sound =
                read(&object, MAX_OBJECTS_BYTES).is_ok_and(|bytes| Digest::of(&bytes).to_string() == *digest);
            if !is_sound {
                return Err(refused(&format!("its copy of {} is not sound", component.display())));
            }
        }
        Ok(good)
    }

    /// The configuration with its components where they are kept.
    pub fn config(&self, good: &Good, file: &Path) -> Result<Config, String> {
        let parsed = tamis_config::parse(&good.text, file, &tamis_config::System);
        let mut config = parsed.map_err(|errors| errors.to_string())?;
        for filter in &mut config.filters {
            let stable = match &mut filter.kind {
                FilterKind::Component(path) => Some(path),
                FilterKind::Native(_) => None,
            };
            let candidate = filter
                .candidate
                .as_mut()
                .and_then(|candidate| candidate.component.as_mut());
            for path in stable.into_iter().chain(candidate) {
                let digest = good.components.get(path);
                let digest = digest.ok_or_else(|| format!("component {} was not kept", path.display()))?;
                *path = self.object(digest);
            }
        }
        Ok(config)
    }

    fn object(&self, digest: &str) -> PathBuf {
        self.folder.join(OBJECTS).join(digest)
    }
}

impl Good {
    fn parse(content: &[u8]) -> Option<Self> {
        let (head, body) = content.split_at(content.iter().position(|byte| *byte == b'\n')?);
        let body = body.get(1..)?;
        let is_sound = head == format!("{FORMAT} {}", hex_digest(body)).as_bytes();
        let good: Self = is_sound.then(|| serde_json::from_slice(body).ok())??;
        // They become names of files.
        let is_digest = |digest: &String| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.components.values().all(is_digest).then_some(good)
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::disk::System;
    use super::*;

    /// Does so many steps, the last of them half, and nothing after: the process was killed there.
    struct Killed {
        left: Cell<usize>,
    }

    impl Killed {
        fn step(&self, whole: impl FnOnce() -> io::Result<()>, half: impl FnOnce()) -> io::Result<()> {
            match self.left.get() {
                0 => Err(io::ErrorKind::Interrupted.into()),
                1 => {
                    self.left.set(0);
                    half();
                    Err(io::ErrorKind::Interrupted.into())
                }
                left => {
                    self.left.set(left - 1);
                    whole()
                }
            }
        }
    }

    impl Disk for Killed {
        fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
            let half = || fs::write(path, &content[..content.len() / 2]).expect("half of it is written");
            self.step(|| System.create(path, content), half)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step(|| System.rename(from, to), || ())
        }

        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            self.step(|| System.sync_folder(path), || ())
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.step(|| System.remove(path), || ())
        }
    }

    fn file() -> &'static Path {
        Path::new("/etc/tamis/tamis.yaml")
    }

    /// A generation whose text and components all say `mark`.
    fn keep(store: &Store<impl Disk>, mark: &str) -> io::Result<()> {
        let component = |name: &str| {
            let digest = store.stage(format!("{name} {mark}").as_bytes())?;
            Ok((PathBuf::from(format!("/etc/tamis/{name}.wasm")), digest))
        };
        let components: io::Result<_> = ["a", "b"].into_iter().map(component).collect();
        store.save(&Good {
            file: file().to_owned(),
            text: format!("text {mark}"),
            components: components?,
            version: "0.1.0".into(),
        })
    }

    /// What a start would find: the mark, when it is the same everywhere.
    fn found(folder: &Path) -> Result<String, String> {
        let good = Store::new(folder, System).load(file())?;
        let mark = good.text.strip_prefix("text ").expect("it is one of ours").to_owned();
        for (path, digest) in &good.components {
            let bytes = fs::read(folder.join(OBJECTS).join(digest)).expect("it was just checked");
            let name = path.file_stem().expect("a name").to_string_lossy();
            assert_eq!(
                String::from_utf8_lossy(&bytes),
                format!("{name} {mark}"),
                "a mixed generation"
            );
        }
        Ok(mark)
    }

    /// "A crash between the steps of a swap": wherever the process is killed, what is found is the one or the other,
    /// and the next one can be kept.
    #[test]
    fn a_kill_at_any_step_leaves_a_whole_generation() {
        let steps = (1..).find(|steps| {
            let folder = tempfile::tempdir().expect("a folder");
            keep(&Store::new(folder.path(), System), "old").expect("kept");
            let disk = Killed {
                left: Cell::new(*steps),
            };
            let done = keep(&Store::new(folder.path(), disk), "new").is_ok();
            let mark = found(folder.path()).unwrap_or_else(|why| panic!("killed at step {steps}: {why}"));
            assert!(["old", "new"].contains(&mark.as_str()), "{mark}");
            assert!(!done || mark == "new");
            keep(&Store::new(folder.path(), System), "next").expect("kept");
            assert_eq!(found(folder.path()), Ok("next".into()), "killed at step {steps}");
            let objects = fs::read_dir(folder.path().join(OBJECTS)).expect("it is there").count();
            assert_eq!(objects, 2, "killed at step {steps}: something is left over");
            done
        });
        // Two objects and the file that names them at three steps each, and two removals; one more for none to be cut.
        assert_eq!(steps, Some(12));
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let none = found(folder.path()).expect_err("nothing is there");
        assert!(none.contains("no generation has been kept yet"), "{none}");
        keep(&Store::new(folder.path(), System), "mark").expect("kept");
        let path = folder.path().join(NAME);
        let sound = fs::read(&path).expect("it is there");
        for at in [0, FORMAT.len() + 3, sound.len() / 2, sound.len() - 2] {
            let mut bent = sound.clone();
            bent[at] ^= 1;
            fs::write(&path, bent).expect("bent");
            assert!(found(folder.path()).is_err(), "byte {at}");
            fs::write(&path, &sound[..at]).expect("cut");
            assert!(found(folder.path()).is_err(), "{at} bytes");
        }
        fs::write(&path, &sound).expect("mended");
        assert_eq!(found(folder.path()), Ok("mark".into()));
        let other = Store::new(folder.path(), System).load(Path::new("/etc/other.yaml"));
        assert!(other.expect_err("of another file").contains("another configuration"));
        let object = fs::read_dir(folder.path().join(OBJECTS))
            .expect("there")
            .next()
            .expect("one");
        fs::write(object.expect("an entry").path(), "a mar").expect("cut");
        let cut = found(folder.path()).expect_err("a component is cut");
        assert!(cut.contains("is not sound"), "{cut}");
    }

    #[test]
    fn secrets_are_kept_as_they_are_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        fs::write(&token, "sesame").expect("written");
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\n\
             filters: {{ gate: {{ native: headers, config: {{ a: \"file:{}\", b: \"${{HOME:-nowhere}}\" }} }} }}\n\
             routes: [{{ respond: {{ status: 200 }} }}]\n",
            token.display()
        );
        let store = Store::new(folder.path(), System);
        let good = Good {
            file: file().to_owned(),
            text,
            components: BTreeMap::new(),
            version: "0.1.0".into(),
        };
        store.save(&good).expect("kept");
        let kept = fs::read_to_string(folder.path().join(NAME)).expect("it is there");
        assert!(
            kept.contains("file:") && kept.contains("${HOME:-nowhere}") && !kept.contains("sesame"),
            "{kept}"
        );
        let config = store
            .config(&store.load(file()).expect("sound"), file())
            .expect("it loads");
        assert_eq!(config.filters[0].config.value["a"], "sesame", "looked up anew");
    }
}
