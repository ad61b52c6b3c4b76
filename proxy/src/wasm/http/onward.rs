//! What a middleware passes on: its imported handler is the rest of its exchange's chain.
//!
//! Data plane. The engine knows by its call stack whose request is passed on. It goes to the exchange as a value, once;
//! the answer comes back the same way. A second one is refused: what stands behind runs once in an exchange.

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use wasmtime::AsContextMut as _;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi_http::p3::Request;
use wasmtime_wasi_http::p3::bindings::http::client;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttp, WasiHttpView as _};

use super::state::{Sent, State, sent};

/// Of the same release as the rest of `wasi:http` that is linked.
const HANDLER: &str = "wasi:http/handler@0.3.0";

/// The request, and where the answer to it goes. Dropped without one, the guest is told that there is none.
pub(super) struct Onward {
    pub request: http::Request<WasiBody>,
    pub answer: oneshot::Sender<http::Response<WasiBody>>,
}

/// `handle` is to a middleware what `send` is to a client.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(HANDLER)?.func_wrap_concurrent(
        "handle",
        |accessor: &Accessor<State>, (request,): (Resource<Request>,)| {
            Box::pin(async move {
                accessor.with(|mut access| {
                    let mut store = access.as_context_mut();
                    let task = store.async_call_stack()?.last();
                    store.data().speak_for(task);
                    store.data_mut().pass_on(task);
                    wasmtime::error::Ok(())
                })?;
                let http = accessor.with_getter::<WasiHttp>(State::http);
                let mut sending = std::pin::pin!(<WasiHttp as client::HostWithStore<State>>::send(&http, request));
                // What it does at first is to hand the request over, if it is one.
                let at_once = sending.as_mut().now_or_never();
                accessor.with(|mut access| access.get().has_passed_on());
                let answered = match at_once {
                    Some(answered) => answered,
                    None => sending.await,
                };
                Ok((match answered {
                    Ok(response) => Ok(response),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )
}

pub(super) async fn send(
    onward: Option<oneshot::Sender<Onward>>,
    request: http::Request<WasiBody>,
) -> Result<Sent, Error> {
    let onward = onward.ok_or_else(|| {
        Error::InternalError(Some("the rest of the chain has had this exchange's request".to_owned()))
    })?;
    let (answer, answered) = oneshot::channel();
    // An exchange that is gone takes its answer with it.
    let _ = onward.send(Onward { request, answer });
    answered.await.map(sent).map_err(|_| Error::ConnectionTerminated)
}
