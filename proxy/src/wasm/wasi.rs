//! The inert part of WASI 0.2: clocks, random numbers, output to the log. No files, no sockets, no environment.
//!
//! Data plane, only for filters that are granted `wasi`. Interpreters and language runtimes import much of WASI and use
//! little of it; what is not there answers with an error, as on a machine that has none of it.

use std::sync::Arc;

use bytes::Bytes;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::filter::LogBudget;
use super::host::{MAX_LOG_LINE, one_line};
use super::instance::State;

/// What a guest may write at once; the rest waits for the next call.
const WRITE_BYTES: usize = 8 << 10;

/// Open streams, directories and the like of one guest; a runtime has some ten.
const MAX_RESOURCES: usize = 256;

/// Of one call for random bytes. They are made at once, and nothing interrupts that: a millisecond.
pub(super) const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// Whether the grant opens this import.
pub fn offers(import: &str) -> bool {
    const PACKAGES: [&str; 5] = [
        "wasi:io/",
        "wasi:clocks/",
        "wasi:random/",
        "wasi:cli/",
        "wasi:filesystem/",
    ];
    let is_0_2 = import
        .rsplit_once('@')
        .is_some_and(|(_, version)| version.starts_with("0.2."));
    is_0_2 && (PACKAGES.iter().any(|package| import.starts_with(package)) || import.starts_with("wasi:sockets/"))
}

pub fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// One guest's view of its world.
pub struct World {
    context: WasiCtx,
    table: ResourceTable,
}

impl World {
    pub fn new(filter: &Arc<str>, log: &Arc<LogBudget>) -> Box<Self> {
        let output = Output {
            filter: Arc::clone(filter),
            log: Arc::clone(log),
        };
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Box::new(Self {
            context: WasiCtxBuilder::new()
                .stdout(output.clone())
                .stderr(output)
                .max_random_size(MAX_RANDOM_BYTES)
                .build(),
            table,
        })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let world = self
            .wasi
            .as_mut()
            .expect("linked only into filters that are granted it");
        WasiCtxView {
            ctx: &mut world.context,
            table: &mut world.table,
        }
    }
}

/// Standard output and error: whole lines, in the proxy's log, within the filter's rate.
#[derive(Clone)]
struct Output {
    filter: Arc<str>,
    log: Arc<LogBudget>,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    /// The rest of the world is asynchronous; the log takes its lines at once.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines {
            output: self.clone(),
            begun: Vec::new(),
        })
    }
}

struct Lines {
    output: Output,
    /// A line whose end is not there yet; never longer than one log line may be.
    begun: Vec<u8>,
}

impl Lines {
    fn write_line(&mut self) {
        let line = std::mem::take(&mut self.begun);
        if !line.is_empty() && self.output.log.spend() {
            let (filter, line) = (&*self.output.filter, one_line(&String::from_utf8_lossy(&line)));
            tracing::info!(target: "tamis::guest", filter, "{line}");
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            let room = MAX_LOG_LINE.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.write_line();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.write_line();
    }
}

#[cfg(test)]
mod tests {
    use super::offers;

    #[test]
    fn only_wasi_0_2_is_offered_and_none_of_its_http() {
        for (import, offered) in [
            ("wasi:cli/environment@0.2.12", true),
            ("wasi:filesystem/preopens@0.2.0", true),
            ("wasi:sockets/tcp@0.2.9", true),
            ("wasi:http/types@0.2.12", false),
            ("wasi:cli/environment@0.3.0", false),
            ("wasi:clocks/wall-clock", false),
            ("tamis:filter/clock@0.1.0", false),
        ] {
            assert_eq!(offers(import), offered, "{import}");
        }
    }
}
