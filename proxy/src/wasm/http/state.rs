//! What the host keeps for one instance, and what the instance can call.
//!
//! Data plane. All of WASI is linked; what was not granted is inert: no environment, no directories, closed input, output
//! that goes nowhere, sockets that refuse. Whoever serves several exchanges at once is held to account task by task.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, header};
use tokio::sync::oneshot;
use wasmtime::component::{GuestTaskId, Linker, ResourceTable};
use wasmtime::{Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

use super::attribution;
use super::calls::{self, Calls};
use super::folders;
use super::grants::Grant;
use super::key_value::{self, KeyValue};
use super::onward::{self, Onward};
use super::service::{Instances, Role, Service};
use crate::outbound::Desk;
use crate::outbox;
use crate::service::Fault;
use crate::store::Table;
use crate::wasm::engine::TICK;
use crate::wasm::filter::LogBudget;
use crate::wasm::host::{MAX_LOG_LINE, one_line};
use crate::wasm::instance::{MemoryLimit, OutOfTime};
use crate::wasm::stint::{Spent, Stint, Suspicion};
use crate::wasm::wasi::MAX_RANDOM_BYTES;

/// What a guest hands over of a body at once. As much as one read of an upstream's body takes: more would only lie in
/// memory.
const CHUNK_BYTES: usize = 64 << 10;
/// What a guest may write to its output at once; the rest waits for the next call.
const WRITE_BYTES: usize = 8 << 10;
/// Open streams and the like that a language runtime keeps from exchange to exchange.
const RUNTIME_HANDLES: usize = 256;
/// Ticks that an exchange computes through until it is measured: where others share the instance, and pay for it too,
/// nobody is for the one that short ones meet by chance.
const PATIENCE_TICKS: u32 = 1;
const PATIENCE_TICKS_SHARED: u32 = 2;
/// Processor time of an instance's start: an interpreter reads its libraries.
const START_CPU: Duration = Duration::from_secs(5);

pub(super) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Hooks,
    config: Arc<WasiConfigVariables>,
    key_value: Option<Arc<Table>>,
    memory: MemoryLimit,
    stint: Arc<Stint>,
    /// Processor time left to each exchange, by its task. Tasks' names are used again, so there are no more than tasks.
    exchanges: HashMap<GuestTaskId, Account>,
    /// Of whatever belongs to no exchange.
    cpu_left: Duration,
    /// Those whose suspicion is confirmed: while there are any, it is measured what the instance computes.
    suspects: HashSet<GuestTaskId>,
    /// Who computes: whose task was interrupted last, or has begun since.
    runs: Option<GuestTaskId>,
    speaker: Arc<Speaker>,
}

/// What one exchange has left, and whose it is.
pub(super) struct Account {
    cpu_left: Duration,
    suspicion: Suspicion,
    request_id: Option<HeaderValue>,
    /// Where a middleware passes its request on; taken when it has.
    onward: Option<oneshot::Sender<Onward>>,
}

impl Account {
    pub fn new(cpu_ticks: u32, request_id: Option<HeaderValue>, onward: Option<oneshot::Sender<Onward>>) -> Self {
        Self {
            cpu_left: TICK * cpu_ticks,
            suspicion: Suspicion::after(PATIENCE_TICKS),
            request_id,
            onward,
        }
    }

    /// Of an exchange that shares its instance with others.
    pub fn shared(self) -> Self {
        Self {
            suspicion: Suspicion::after(PATIENCE_TICKS_SHARED),
            ..self
        }
    }
}

/// For whom the guest speaks: the request id of its exchange.
#[derive(Default)]
pub(super) struct Speaker(Mutex<Option<HeaderValue>>);

impl Speaker {
    fn set(&self, request_id: Option<HeaderValue>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = request_id;
    }

    pub fn field(&self) -> Option<HeaderValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn request_id(&self) -> String {
        self.field()
            .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned())
            .unwrap_or_default()
    }
}

pub(super) fn link(linker: &mut Linker<State>, role: Role, instances: Instances) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    wasmtime_wasi_config::add_to_linker(linker, |state: &mut State| WasiConfig::from(&*state.config))?;
    key_value::link(linker)?;
    folders::link(linker)?;
    if role == Role::Middleware {
        onward::link(linker)?;
    }
    match instances {
        Instances::Concurrent { .. } => attribution::link(linker),
        Instances::Fresh | Instances::Exclusive { .. } => Ok(()),
    }
}

/// `desk` takes the guest's own calls; without one they fail.
pub(super) fn store(service: &Service, desk: Option<&Desk>) -> Store<State> {
    let limits = &service.limits;
    let speaker = Arc::<Speaker>::default();
    let at_once = usize::try_from(service.instances.at_once()).unwrap_or(1);
    let handles = limits.handles.saturating_mul(at_once).saturating_add(RUNTIME_HANDLES);
    let mut table = ResourceTable::new();
    table.set_max_capacity(handles);
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(limits.header_bytes);
    let state = State {
        wasi: world(service, &speaker),
        http,
        table,
        hooks: Hooks {
            calls: desk.map(|desk| Calls::new(service, desk, &speaker)),
        },
        config: config(&service.grants),
        key_value: key_value::granted(&service.grants).cloned(),
        memory: MemoryLimit::new(limits.memory, limits.table_elements),
        stint: Arc::new(Stint::new(service.engine.clone())),
        exchanges: HashMap::new(),
        cpu_left: START_CPU,
        suspects: HashSet::new(),
        runs: None,
        speaker,
    };
    let mut store = Store::new(service.engine.inner(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(limits.lifted_bytes);
    store.set_max_component_handles(handles);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(on_tick);
    store
}

fn world(service: &Service, speaker: &Arc<Speaker>) -> WasiCtx {
    let mut builder = WasiCtxBuilder::new();
    // It says so itself, and nobody else has a say in what the process may open.
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    builder.max_random_size(MAX_RANDOM_BYTES);
    let mut folders = None;
    for grant in &service.grants {
        match grant {
            Grant::Clocks | Grant::Random | Grant::Http(_) | Grant::Config(_) | Grant::KeyValue(_) => {}
            Grant::Dir(granted) => folders = Some(granted.handles.clone()),
            Grant::UnsafeSockets => {
                builder.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
                builder.inherit_network();
            }
            Grant::Stdio => {
                let output = Output {
                    component: Arc::clone(service.name()),
                    log: Arc::clone(&service.log),
                    speaker: Arc::clone(speaker),
                };
                builder.stdout(output.clone()).stderr(output);
            }
            Grant::Env(variables) => {
                builder.envs(variables);
            }
        }
    }
    let mut world = builder.build();
    if let Some(folders) = folders {
        *world.filesystem() = folders;
    }
    world
}

/// Empty for whoever is granted none.
fn config(grants: &[Grant]) -> Arc<WasiConfigVariables> {
    let granted = grants.iter().find_map(|grant| match grant {
        Grant::Config(values) => Some(Arc::clone(values)),
        _ => None,
    });
    granted.unwrap_or_default()
}

impl State {
    pub fn key_value(&mut self) -> KeyValue<'_> {
        KeyValue {
            handles: &mut self.table,
            table: self.key_value.as_ref(),
        }
    }

    /// An exchange begins, as this task.
    pub fn begin(&mut self, task: GuestTaskId, account: Account) {
        self.speaker.set(account.request_id.clone());
        let spent = self.stint.settle();
        let left = self.cpu_left(self.runs);
        *left = left.saturating_sub(spent);
        self.runs = Some(task);
        self.exchanges.insert(task, account);
        // Of an exchange that had this name before.
        if self.suspects.remove(&task) && self.suspects.is_empty() {
            self.stint.measure(false);
        }
    }

    /// Where the exchange's request is passed on; once.
    pub fn pass_on(&mut self, task: Option<GuestTaskId>) -> Option<oneshot::Sender<Onward>> {
        let account = self.exchanges.get_mut(&task?);
        account?.onward.take()
    }

    /// What it says next it says for this exchange.
    pub fn speak_for(&self, task: Option<GuestTaskId>) {
        let account = task.and_then(|task| self.exchanges.get(&task));
        self.speaker.set(account.and_then(|account| account.request_id.clone()));
    }

    /// None is under way.
    pub fn rest(&mut self) {
        self.exchanges.clear();
        self.cpu_left = Duration::ZERO;
        self.runs = None;
        self.suspects.clear();
        self.stint.measure(false);
    }

    pub fn stint(&self) -> &Arc<Stint> {
        &self.stint
    }

    pub fn memory_bytes(&self) -> usize {
        self.memory.used()
    }

    /// Why a guest has come to a bad end.
    pub fn fault(&self, error: &wasmtime::Error) -> Fault {
        match () {
            () if error.downcast_ref::<OutOfTime>().is_some() => Fault::Cpu,
            () if self.memory.was_denied() => Fault::Memory,
            () => Fault::Trap,
        }
    }

    /// Charges whoever has computed. From here on it is this task that does.
    fn spend(&mut self, task: Option<GuestTaskId>, spent: Spent) -> Option<()> {
        let last = std::mem::replace(&mut self.runs, task);
        let left = self.cpu_left(last);
        let after = left.checked_sub(spent.measured);
        *left = after.unwrap_or_default();
        if last == task {
            after?;
        }
        let left = self.cpu_left(task);
        *left = left.checked_sub(spent.tick)?;
        // While the instance is measured, every step begins with an interruption, which is nobody's doing.
        let counts = spent.is_long || !self.stint.is_measured();
        if let Some(task) = task.filter(|_| counts)
            && let Some(account) = self.exchanges.get_mut(&task)
            && account.suspicion.is_confirmed(&spent)
        {
            self.suspects.insert(task);
            self.stint.measure(true);
        }
        Some(())
    }

    fn cpu_left(&mut self, task: Option<GuestTaskId>) -> &mut Duration {
        let account = task.and_then(|task| self.exchanges.get_mut(&task));
        account.map_or(&mut self.cpu_left, |account| &mut account.cpu_left)
    }
}

/// Runs each millisecond that a guest computes: gives the worker back to its other tasks, or ends the guest.
fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let spent = store.data().stint.interrupted();
    // The exchange is what called first.
    let task = store.async_call_stack()?.last();
    let state = store.data_mut();
    state.spend(task, spent).ok_or(OutOfTime)?;
    if !spent.is_long {
        return Ok(UpdateDeadline::Continue(1));
    }
    state.stint.goes_on();
    outbox::send_all();
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// What the host says to `wasi:http`.
#[derive(Default)]
pub(super) struct Hooks {
    /// `None` for a guest that may make none, or is only tried.
    calls: Option<Calls>,
}

impl WasiHttpHooks for Hooks {
    /// Framing and hop-by-hop fields are the host's, but for the length, which it checks.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> wasmtime_wasi_http::ForbiddenHeaderFilter {
        Arc::new(is_forbidden)
    }

    fn is_supported_scheme(&mut self, scheme: &Scheme) -> bool {
        *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _response: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let calls = self.calls.as_ref().ok_or(Error::HttpRequestDenied);
        let placed = calls.and_then(|calls| calls.place(request, options));
        Box::new(async move {
            let answer = calls::answer(placed?).await?;
            // It is moved by the worker, and says by itself how it ended.
            let ended: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(std::future::ready(Ok(())));
            Ok((answer, ended))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

pub(super) fn is_forbidden(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name) || *name == header::TE
}

/// Standard output and error: whole lines, in the proxy's log, within the service's rate.
#[derive(Clone)]
struct Output {
    component: Arc<str>,
    log: Arc<LogBudget>,
    speaker: Arc<Speaker>,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    /// Of whoever asks for it, whoever else speaks meanwhile.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        let speaker = Speaker::default();
        speaker.set(self.speaker.field());
        Box::new(Lines::new(&Self {
            speaker: Arc::new(speaker),
            ..self.clone()
        }))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines::new(self))
    }
}

struct Lines {
    output: Output,
    /// A line whose end is not there yet; never longer than one log line may be.
    begun: Vec<u8>,
}

impl Lines {
    fn new(output: &Output) -> Self {
        Self {
            output: output.clone(),
            begun: Vec::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
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
    }

    fn write_line(&mut self) {
        let line = std::mem::take(&mut self.begun);
        if !line.is_empty() && self.output.log.spend() {
            let (component, line) = (&*self.output.component, one_line(&String::from_utf8_lossy(&line)));
            let request_id = self.output.speaker.request_id();
            tracing::info!(target: "tamis::guest", component, request_id, "{line}");
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.write_line();
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl tokio::io::AsyncWrite for Lines {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.get_mut().take(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
