//! `wasmtime serve`: another host of the same components, on a port of its own.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::log::Log;
use crate::socket::Address;

/// It compiles the component first, and an interpreter has many megabytes of code.
const START: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Wasmtime {
    child: Child,
    address: Address,
    log: Log,
}

impl Wasmtime {
    /// `None` where there is no wasmtime: not every machine has it, but the one that decides has.
    pub fn serve(component: &Path) -> Option<Self> {
        Self::serve_with(component, &[] as &[&str])
    }

    /// With further arguments. Everything that a component may import is there, and what it finds is empty.
    pub fn serve_with(component: &Path, arguments: &[impl AsRef<OsStr>]) -> Option<Self> {
        let Some(binary) = binary() else {
            assert_ne!(env::var("CI").as_deref(), Ok("true"), "wasmtime: run `.ci/setup test`");
            println!("skipped, because there is no wasmtime: run `.ci/setup test`");
            return None;
        };
        let mut child = Command::new(binary)
            .args(["serve", "--addr", "127.0.0.1:0", "-Scli"])
            .args(arguments)
            .arg(component)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be run");
        let log = Log::follow(child.stderr.take().expect("stderr is a pipe"));
        let serving = log.wait_within(START, 0, "wasmtime serves", |line| address(&line.text).is_some());
        Some(Self {
            child,
            address: Address::parse(address(&serving.text).expect("it was just found")),
            log,
        })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it and the component say.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Wasmtime {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let lines: Vec<_> = self.log.lines().into_iter().map(|line| line.text).collect();
            eprintln!("--- log of wasmtime ---\n{}\n---", lines.join("\n"));
        }
    }
}

/// Where `.ci/setup test` puts it; the folder in between names the version of Python.
fn binary() -> Option<PathBuf> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/target/tools/venv/lib");
    let versions = fs::read_dir(library).ok()?.flatten();
    versions
        .map(|version| version.path().join("site-packages/wasmtime_cli/wasmtime"))
        .find(|binary| binary.exists())
}

/// `Serving HTTP on http://127.0.0.1:43461/`
fn address(line: &str) -> Option<&str> {
    line.strip_prefix("Serving HTTP on http://")?.strip_suffix('/')
}
