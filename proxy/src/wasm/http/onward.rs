//! What a middleware passes on: its imported handler is the rest of its exchange's chain.
//!
//! Data plane. The engine knows by its call stack whose request is passed on. It goes to the exchange as a value, once;
//! the answer comes back the same way. A second one is refused: what stands behind runs once in an exchange.

use tokio::sync::oneshot;
use wasmtime::AsContextMut as _;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::{Request, Response};
use wasmtime_wasi_http::{WasiBody, WasiHttpView as _};

use super::pipe::Given;
use super::state::State;

/// Of the same release as the rest of `wasi:http` that is linked.
const HANDLER: &str = "wasi:http/handler@0.3.0";

/// A code for the guest, or its end.
type Error = TrappableError<ErrorCode>;

/// The request, and where the answer to it goes. Dropped without one, the guest is told that there is none.
pub(super) struct Onward {
    /// Apart, because it goes through many hands.
    pub head: Box<http::request::Parts>,
    pub body: WasiBody,
    pub answer: oneshot::Sender<http::Response<Given>>,
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(HANDLER)?.func_wrap_concurrent(
        "handle",
        |accessor: &Accessor<State>, (request,): (Resource<Request>,)| {
            Box::pin(async move {
                Ok((match handle(accessor, request).await {
                    Ok(response) => Ok(response),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )
}

async fn handle(accessor: &Accessor<State>, request: Resource<Request>) -> Result<Resource<Response>, Error> {
    // Dropped with the answer: what became of the request's body is what became of the request.
    let (_answered, is_answered) = oneshot::channel::<()>();
    let answer = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let task = store.async_call_stack().map_err(Error::trap)?.last();
        let state = store.data_mut();
        state.speak_for(task);
        let onward = state.pass_on(task);
        let request = state.http().table.delete(request);
        let request = request.map_err(Error::trap)?;
        // Taken out of the store even if it goes nowhere, or its streams would stay there.
        let (request, _) = request.into_http(store, async {
            let _ = is_answered.await;
            Ok(())
        })?;
        let Some(onward) = onward else {
            let why = "the rest of the chain has had this exchange's request";
            return Err(Error::from(ErrorCode::InternalError(Some(why.to_owned()))));
        };
        let (answer, answered) = oneshot::channel();
        let (head, body) = request.into_parts();
        let head = Box::new(head);
        // An exchange that is gone takes its answer with it.
        let _ = onward.send(Onward { head, body, answer });
        Ok(answered)
    })?;
    let answer = answer.await.map_err(|_| ErrorCode::ConnectionTerminated)?;
    accessor.with(|mut access| {
        // The last deadline is long past; the guest would look at the clock at once.
        access.as_context_mut().set_epoch_deadline(1);
        let http = access.get().http();
        let (response, _) = Response::from_http(http.hooks, answer);
        let response = http.table.push(response);
        response.map_err(Error::trap)
    })
}
