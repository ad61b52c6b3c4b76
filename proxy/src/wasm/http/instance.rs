//! A live guest: what goes on in it, as one future.
//!
//! Data plane. Exchanges, what an exchange leaves to be done after its answer, and streams; `running` says who moves it. It
//! ends when the guest may serve no more and has nothing left to do, when the guest traps, or when somebody ends it.
//! Invariant: whoever waits for a guest that is gone is told why, never that all went well.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use std::{fmt, future};

use futures_util::stream::{FuturesUnordered, Stream};
use http::HeaderValue;
use tokio::sync::oneshot;
use wasmtime::component::{Accessor, GuestTaskId};
use wasmtime::{AsContextMut as _, Store, StoreContextMut};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView as _, p2, p3};

use super::codes;
use super::onward::Onward;
use super::pipe::Given;
use super::pool::{Handle, Turn};
use super::service::{Pre, Service};
use super::state::{self, Account, Hooks, State};
use crate::outbound::Desk;
use crate::service::Fault;
use crate::wasm::engine::Seat;
use crate::wasm::host::told;
use crate::wasm::stint::Stint;

/// An interpreter reads its libraries, for some ten milliseconds; a guest that waits for ever is none.
const START_WALL: Duration = Duration::from_secs(5);

/// An exchange, as the guest gets it.
pub(super) struct Job {
    pub request: http::Request<Given>,
    pub is_secure: bool,
    pub request_id: Option<HeaderValue>,
    pub answer: oneshot::Sender<Answer>,
    /// Where a middleware passes its request on.
    pub onward: Option<oneshot::Sender<Onward>>,
    pub turn: Rc<Turn>,
}

pub(super) type Answer = Result<http::Response<WasiBody>, Fault>;

/// An instance that has not begun to serve.
pub(super) struct Started {
    store: Store<State>,
    proxy: Proxy,
    cpu_ticks: u32,
    /// Dropped after the store.
    _seat: Option<Seat>,
}

enum Proxy {
    P2(p2::bindings::Proxy),
    P3(p3::bindings::Service),
}

/// Why an instance did not start.
#[derive(Debug)]
pub(super) enum StartError {
    /// There are as many as there may be.
    NoRoom,
    Failed(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom => formatter.write_str("there is no room for another instance"),
            Self::Failed(why) => write!(formatter, "does not start: {why}"),
        }
    }
}

pub(super) async fn start(service: &Service, seat: Option<Seat>, desk: Option<&Desk>) -> Result<Started, StartError> {
    let mut store = state::store(service, desk);
    let stint = Arc::clone(store.data().stint());
    let starting = stint.run(async {
        Ok(match &service.pre {
            Pre::P2(pre) => Proxy::P2(pre.instantiate_async(&mut store).await?),
            Pre::P3(pre) => Proxy::P3(pre.instantiate_async(&mut store).await?),
        })
    });
    let started: wasmtime::Result<Proxy> = tokio::time::timeout(START_WALL, starting)
        .await
        .map_err(|_| StartError::Failed(format!("it took longer than {START_WALL:?}")))?;
    let proxy = started.map_err(
        |error| match error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>() {
            Some(_) => StartError::NoRoom,
            None => StartError::Failed(told(&error)),
        },
    )?;
    store.data_mut().rest();
    Ok(Started {
        store,
        proxy,
        cpu_ticks: service.limits.cpu_ticks,
        _seat: seat,
    })
}

impl Started {
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// Serves what the handle brings, to the instance's end.
    pub async fn run(mut self, handle: Rc<Handle>) {
        // Whatever becomes of this future, those who wait are told.
        let ending = Ending(handle);
        let (handle, proxy, cpu_ticks) = (&ending.0, &self.proxy, self.cpu_ticks);
        let stint = Arc::clone(self.store.data().stint());
        let serving = self.store.run_concurrent(async |accessor| {
            let guest = Guest {
                accessor,
                proxy,
                handle,
                stint: &stint,
                cpu_ticks,
            };
            guest.serve().await
        });
        let served = stint.run(serving).await;
        if let Err(error) = served.and_then(|served| served) {
            let fault = self.store.data().fault(&error);
            handle.fail(fault);
            let (component, reason) = (handle.component(), fault.as_str());
            tracing::warn!(component, reason, error = told(&error), "a component has failed");
        }
    }
}

struct Ending(Rc<Handle>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// An instance at work.
struct Guest<'a> {
    accessor: &'a Accessor<State>,
    proxy: &'a Proxy,
    handle: &'a Rc<Handle>,
    stint: &'a Stint,
    /// For each exchange.
    cpu_ticks: u32,
}

impl Guest<'_> {
    async fn serve(&self) -> wasmtime::Result<()> {
        match self.handle.at_once() {
            1 => self.serve_one_by_one().await,
            _ => self.serve_at_once().await,
        }
    }

    /// Polled at each step that the guest takes, so it does no more than it must.
    async fn serve_one_by_one(&self) -> wasmtime::Result<()> {
        let handle = self.handle;
        loop {
            let job = future::poll_fn(|_| match handle.next() {
                Some(job) => Poll::Ready(Some(job)),
                None if handle.is_over() => Poll::Ready(None),
                None => Poll::Pending,
            });
            let Some(job) = job.await else { return Ok(()) };
            self.exchange(job).await?;
            // An exchange may leave something to be done after its answer.
            future::poll_fn(|context| self.accessor.poll_no_interesting_tasks(context)).await;
            self.rest();
        }
    }

    async fn serve_at_once(&self) -> wasmtime::Result<()> {
        let handle = self.handle;
        let mut exchanges = std::pin::pin!(FuturesUnordered::new());
        future::poll_fn(|context| {
            if self.stint.is_measured() {
                // Whoever goes on is interrupted at once, which says whose time it is.
                self.accessor
                    .with(|mut store| store.as_context_mut().set_epoch_deadline(0));
            }
            loop {
                if let Poll::Ready(Some(exchange)) = exchanges.as_mut().poll_next(context) {
                    let ended: wasmtime::Result<()> = exchange;
                    if let Err(error) = ended {
                        return Poll::Ready(Err(error));
                    }
                    continue;
                }
                if let Some(job) = handle.next() {
                    exchanges.push(self.exchange(job));
                    continue;
                }
                if !exchanges.is_empty() || self.accessor.poll_no_interesting_tasks(context).is_pending() {
                    return Poll::Pending;
                }
                if !handle.is_quiet() {
                    self.rest();
                }
                return match handle.is_over() {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                };
            }
        })
        .await
    }

    /// Nothing goes on in it.
    fn rest(&self) {
        self.handle.rest(self.accessor.with(|mut store| {
            let state = store.data_mut();
            state.rest();
            state.memory_bytes()
        }));
    }

    fn account(&self, request_id: Option<HeaderValue>, onward: Option<oneshot::Sender<Onward>>) -> Account {
        let account = Account::new(self.cpu_ticks, request_id, onward);
        match self.handle.at_once() {
            1 => account,
            _ => account.shared(),
        }
    }

    async fn exchange(&self, job: Job) -> wasmtime::Result<()> {
        match self.proxy {
            Proxy::P2(proxy) => self.exchange_p2(proxy, job).await,
            Proxy::P3(service) => self.exchange_p3(service, job).await,
        }
    }

    async fn exchange_p3(&self, service: &p3::bindings::Service, job: Job) -> wasmtime::Result<()> {
        let Job {
            request,
            request_id,
            answer,
            onward,
            turn: _turn,
            ..
        } = job;
        let handle = service.wasi_http_handler().func_handle();
        let mut hooks = Hooks::default();
        let (request, request_sent) = p3::Request::from_http(&mut hooks, request);
        let call = self.accessor.with(|mut store| {
            let request = store.data_mut().http().table.push(request)?;
            let call = handle.start_call_concurrent(store.as_context_mut(), (request,))?;
            let account = self.account(request_id, onward);
            begin(&mut store.as_context_mut(), call.task(), account);
            wasmtime::error::Ok(call)
        })?;
        let (answered,) = handle.finish_call_concurrent(self.accessor, call).await?;
        let answered = match answered {
            Ok(response) => {
                let response = self.accessor.with(|mut store| {
                    let response = store.data_mut().http().table.delete(response)?;
                    response.into_http(store.as_context_mut(), request_sent)
                });
                // What the guest made cannot be sent; that is no reason to end it.
                response.map_err(|error| {
                    tracing::debug!(error = format!("{error:#}"), "a service's response is none");
                    Fault::Malformed
                })
            }
            Err(code) => Err(refusal(code.into())),
        };
        // Whoever waited may have left.
        let _ = answer.send(answered);
        Ok(())
    }

    async fn exchange_p2(&self, proxy: &p2::bindings::Proxy, job: Job) -> wasmtime::Result<()> {
        let Job {
            request,
            is_secure,
            request_id,
            answer,
            turn,
            ..
        } = job;
        // For the guest, and, if it leaves without a word, for us.
        let answer = Arc::new(Mutex::new(Some(answer)));
        let handle = proxy.wasi_http_incoming_handler().func_handle();
        let call = self.accessor.with(|mut store| {
            let mut view = store.data_mut().http();
            let scheme = if is_secure { Scheme::Https } else { Scheme::Http };
            let request = view.new_incoming_request(scheme, request)?;
            let guests = Arc::clone(&answer);
            let out = view.new_response_outparam_from_callback(move |answered| {
                say(&guests, answered.map_err(|code| refusal(code.into())));
            })?;
            let call = handle.start_call_concurrent(store.as_context_mut(), (request, out))?;
            let account = self.account(request_id, None);
            begin(&mut store.as_context_mut(), call.task(), account);
            wasmtime::error::Ok(call)
        })?;
        let returned = handle.finish_call_concurrent(self.accessor, call).await;
        if returned.is_ok() {
            say(&answer, Err(Fault::Silent));
            // Nothing more comes of this guest.
            turn.fall_silent();
        }
        returned
    }
}

fn begin(store: &mut StoreContextMut<'_, State>, task: GuestTaskId, account: Account) {
    // The last deadline is long past; it would cost a tick at once.
    store.set_epoch_deadline(1);
    store.data_mut().begin(task, account);
}

fn say(answer: &Mutex<Option<oneshot::Sender<Answer>>>, answered: Answer) {
    let sender = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(sender) = sender {
        // Whoever waited may have left.
        let _ = sender.send(answered);
    }
}

fn refusal(code: Error) -> Fault {
    tracing::debug!(%code, "a service answered with an error code");
    Fault::Code(codes::status(&code))
}
