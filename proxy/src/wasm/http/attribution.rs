//! Which exchange a guest speaks for when it serves several at once.
//!
//! Data plane. What is written to the log and what is asked of others carries the request id of its exchange. The engine
//! knows by its call stack which exchange's task has called; the functions that matter ask it first, and then do what WASI
//! says. An instance that serves one exchange at a time needs none of this.

use wasmtime::component::{Access, Accessor, Linker, Resource, StreamReader};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::p2::bindings::io::streams::{self, Host as _, HostOutputStream as _};
use wasmtime_wasi::p2::{DynOutputStream, StreamResult};
use wasmtime_wasi::p3::bindings::cli::{stderr, stdout};
use wasmtime_wasi_http::p3::Request;
use wasmtime_wasi_http::p3::bindings::http::client;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _};

use super::state::State;

/// Of the same releases as those that it puts itself before.
const STREAMS: &str = "wasi:io/streams@0.2.12";
const STDOUT: &str = "wasi:cli/stdout@0.3.0";
const STDERR: &str = "wasi:cli/stderr@0.3.0";
const CLIENT: &str = "wasi:http/client@0.3.0";

/// Takes the places of functions that are linked already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut streams = linker.instance(STREAMS)?;
    streams.func_wrap(
        "[method]output-stream.write",
        |mut store: StoreContextMut<'_, State>, (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            hear(&mut store)?;
            let table = store.data_mut().ctx().table;
            let written = table.write(stream, bytes);
            Ok((told(&mut store, written)?,))
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.blocking-write-and-flush",
        |mut store: StoreContextMut<'_, State>, (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            Box::new(async move {
                hear(&mut store)?;
                let table = store.data_mut().ctx().table;
                let written = table.blocking_write_and_flush(stream, bytes).await;
                Ok((told(&mut store, written)?,))
            })
        },
    )?;
    linker.instance(STDOUT)?.func_wrap(
        "write-via-stream",
        |mut store: StoreContextMut<'_, State>, (data,): (StreamReader<u8>,)| {
            hear(&mut store)?;
            let access = Access::<State, WasiCli>::new(store, State::cli);
            Ok((<WasiCli as stdout::HostWithStore<State>>::write_via_stream(
                access, data,
            )?,))
        },
    )?;
    linker.instance(STDERR)?.func_wrap(
        "write-via-stream",
        |mut store: StoreContextMut<'_, State>, (data,): (StreamReader<u8>,)| {
            hear(&mut store)?;
            let access = Access::<State, WasiCli>::new(store, State::cli);
            Ok((<WasiCli as stderr::HostWithStore<State>>::write_via_stream(
                access, data,
            )?,))
        },
    )?;
    linker.instance(CLIENT)?.func_wrap_concurrent(
        "send",
        |accessor: &Accessor<State>, (request,): (Resource<Request>,)| {
            Box::pin(async move {
                accessor.with(|mut access| hear(&mut access.as_context_mut()))?;
                let accessor = accessor.with_getter::<WasiHttp>(State::http);
                // The call is placed before anything else is heard.
                let sent = <WasiHttp as client::HostWithStore<State>>::send(&accessor, request).await;
                Ok((match sent {
                    Ok(response) => Ok(response),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )
}

/// The guest speaks for whoever's task has called.
fn hear(store: &mut StoreContextMut<'_, State>) -> wasmtime::Result<()> {
    let task = store.async_call_stack()?.last();
    store.data().speak_for(task);
    Ok(())
}

fn told(
    store: &mut StoreContextMut<'_, State>,
    written: StreamResult<()>,
) -> wasmtime::Result<Result<(), streams::StreamError>> {
    let table = store.data_mut().ctx().table;
    written.map_or_else(|error| table.convert_stream_error(error).map(Err), |()| Ok(Ok(())))
}
