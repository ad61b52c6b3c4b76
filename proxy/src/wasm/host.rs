//! What a guest can call: `tamis:filter@0.1.0`'s imports, each a few lines over the exchange's message.
//!
//! Data plane. A guest's arguments are looked at in its own memory and copied only once they are accepted. The rules
//! for writing are [`head`](crate::head)'s, the same as for native filters.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use wasmtime::component::{Linker, LinkerInstance, WasmList, WasmStr};
use wasmtime::{Result, StoreContextMut, bail};

use super::bindings::{self, Call, CallError, Claimed, EditError, Header, Label, LogLevel, StoreError};
use super::instance::{Change, GuestMetric, State};
use super::outbound::{Outbound, Placed};
use crate::head::{self, Message, Stage};
use crate::peer::Tls;
use crate::store::{self, Table};

/// One log line of a guest.
pub(super) const MAX_LOG_LINE: usize = 8 << 10;
/// What a guest may count in one hook; more is dropped.
const MAX_METRIC_CALLS: usize = 64;
/// Bytes of a metric's name; longer ones are dropped.
const MAX_METRIC_NAME: usize = 64;

/// Random bytes of one call, enough for any key or nonce; the WIT says so.
const MAX_RANDOM_BYTES: u32 = 4096;

/// What `monotonic-ms` counts from: one point for the whole process, because what a guest keeps in its table outlives it.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

type Guest<'a> = StoreContextMut<'a, State>;
type Edited = Result<(std::result::Result<(), EditError>,)>;

/// The interfaces that every filter may import.
pub fn add_exchange(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(bindings::TYPES)?;
    add_request(&mut linker.instance(bindings::REQUEST)?)?;
    add_response(&mut linker.instance(bindings::RESPONSE)?)?;
    add_facts(&mut linker.instance(bindings::EXCHANGE)?)?;
    add_peer(&mut linker.instance(bindings::PEER)?)?;
    linker.instance(bindings::LOG)?.func_wrap("write", write_log)
}

fn add_request(request: &mut LinkerInstance<State>) -> Result<()> {
    request.func_wrap("method", |guest: Guest, ()| {
        Ok((message(&guest)?.request.method.as_str().to_owned(),))
    })?;
    request.func_wrap("scheme", |guest: Guest, ()| {
        Ok((message(&guest)?.request.scheme.to_owned(),))
    })?;
    request.func_wrap("authority", |guest: Guest, ()| {
        Ok((lossy(message(&guest)?.request.authority()),))
    })?;
    request.func_wrap("path", |guest: Guest, ()| {
        Ok((message(&guest)?.request.target.path().to_owned(),))
    })?;
    request.func_wrap("query", |guest: Guest, ()| {
        Ok((message(&guest)?.request.target.query().map(str::to_owned),))
    })?;
    request.func_wrap("set-method", |mut guest: Guest, (method,): (WasmStr,)| -> Edited {
        let method = text(&mut guest, &method)?;
        edit(&mut guest, |message| message.request_mut()?.set_method(&method?))
    })?;
    request.func_wrap(
        "set-authority",
        |mut guest: Guest, (authority,): (WasmStr,)| -> Edited {
            let authority = text(&mut guest, &authority)?;
            edit(&mut guest, |message| message.request_mut()?.set_authority(&authority?))
        },
    )?;
    request.func_wrap("set-path", |mut guest: Guest, (path,): (WasmStr,)| -> Edited {
        let path = text(&mut guest, &path)?;
        edit(&mut guest, |message| message.request_mut()?.set_path(&path?))
    })?;
    request.func_wrap(
        "set-query",
        |mut guest: Guest, (query,): (Option<WasmStr>,)| -> Edited {
            let query = query.map(|query| text(&mut guest, &query)).transpose()?;
            edit(&mut guest, |message| {
                message.request_mut()?.set_query(query.transpose()?.as_deref())
            })
        },
    )?;
    request.func_wrap("pass-body", |guest: Guest, ()| pass_body(guest, Stage::Request))?;
    add_headers(request, request_headers, |message| {
        Ok(&mut message.request_mut()?.headers)
    })
}

fn add_response(response: &mut LinkerInstance<State>) -> Result<()> {
    response.func_wrap("status", |guest: Guest, ()| {
        Ok((message(&guest)?
            .response
            .as_ref()
            .map_or(0, |response| response.status.as_u16()),))
    })?;
    response.func_wrap("set-status", |mut guest: Guest, (status,): (u16,)| -> Edited {
        edit(&mut guest, |message| message.response_mut()?.set_status(status))
    })?;
    response.func_wrap("pass-body", |guest: Guest, ()| pass_body(guest, Stage::ResponseHead))?;
    add_headers(response, response_headers, |message| {
        Ok(&mut message.response_mut()?.headers)
    })
}

/// Without effect outside the head hook of the body's own message.
fn pass_body(mut guest: Guest, stage: Stage) -> Result<()> {
    if let Some(message) = &mut guest.data_mut().message
        && message.stage == stage
    {
        message.passes_body = true;
    }
    Ok(())
}

fn request_headers(message: &Message) -> Option<&HeaderMap> {
    Some(&message.request.headers)
}

fn response_headers(message: &Message) -> Option<&HeaderMap> {
    message.response.as_ref().map(|response| &response.headers)
}

/// The six functions on fields, the same for requests and responses.
fn add_headers(
    instance: &mut LinkerInstance<State>,
    read: fn(&Message) -> Option<&HeaderMap>,
    write: fn(&mut Message) -> std::result::Result<&mut HeaderMap, head::EditError>,
) -> Result<()> {
    instance.func_wrap("header", move |guest: Guest, (name,): (WasmStr,)| {
        let headers = read(message(&guest)?);
        let name = name.to_str(&guest)?;
        Ok((headers
            .and_then(|headers| headers.get(&*name))
            .map(|value| value.as_bytes().to_vec()),))
    })?;
    instance.func_wrap("header-values", move |guest: Guest, (name,): (WasmStr,)| {
        let headers = read(message(&guest)?);
        let name = name.to_str(&guest)?;
        let values = headers.map(|headers| {
            headers
                .get_all(&*name)
                .iter()
                .map(|value| value.as_bytes().to_vec())
                .collect()
        });
        Ok((values.unwrap_or_else(Vec::<Vec<u8>>::new),))
    })?;
    instance.func_wrap("headers", move |guest: Guest, ()| {
        let headers = read(message(&guest)?);
        Ok((headers.map(Header::all_of).unwrap_or_default(),))
    })?;
    instance.func_wrap(
        "set-header",
        move |mut guest: Guest, (name, value): (WasmStr, WasmList<u8>)| -> Edited {
            let field = field(&mut guest, &name, &value)?;
            edit(&mut guest, |message| head::insert(write(message)?, field?))
        },
    )?;
    instance.func_wrap(
        "append-header",
        move |mut guest: Guest, (name, value): (WasmStr, WasmList<u8>)| -> Edited {
            let field = field(&mut guest, &name, &value)?;
            edit(&mut guest, |message| head::append(write(message)?, field?))
        },
    )?;
    instance.func_wrap(
        "remove-header",
        move |mut guest: Guest, (name,): (WasmStr,)| -> Edited {
            let name = head::writable_name(name.to_str(&guest)?.as_bytes());
            edit(&mut guest, |message| {
                write(message)?.remove(&name?);
                Ok(())
            })
        },
    )
}

fn add_facts(exchange: &mut LinkerInstance<State>) -> Result<()> {
    exchange.func_wrap("client-address", |guest: Guest, ()| {
        Ok((shown(scene(&guest)?.facts.client),))
    })?;
    exchange.func_wrap("listener", |guest: Guest, ()| {
        Ok((scene(&guest)?.facts.listener.as_str().to_owned(),))
    })?;
    exchange.func_wrap("route", |guest: Guest, ()| {
        Ok((scene(&guest)?.facts.route.map(|route| route.as_str().to_owned()),))
    })?;
    exchange.func_wrap("request-id", |guest: Guest, ()| {
        Ok((lossy(scene(&guest)?.facts.request_id.as_bytes()),))
    })?;
    exchange.func_wrap("cluster", |guest: Guest, ()| {
        Ok((scene(&guest)?.clusters.chosen_name().map(str::to_owned),))
    })?;
    exchange.func_wrap("set-cluster", |mut guest: Guest, (name,): (WasmStr,)| -> Edited {
        let name = text(&mut guest, &name)?;
        edit(&mut guest, |message| message.choose_cluster(&name?))
    })?;
    exchange.func_wrap("attribute", |guest: Guest, (name,): (WasmStr,)| {
        let message = scene(&guest)?;
        Ok((message.attributes.get(&name.to_str(&guest)?).map(str::to_owned),))
    })?;
    exchange.func_wrap(
        "set-attribute",
        |mut guest: Guest, (name, value): (WasmStr, WasmStr)| -> Edited {
            let name = text(&mut guest, &name)?;
            let value = text(&mut guest, &value)?;
            edit(&mut guest, |message| message.attributes.set(&name?, &value?))
        },
    )
}

fn add_peer(peer: &mut LinkerInstance<State>) -> Result<()> {
    peer.func_wrap("local-address", |guest: Guest, ()| {
        Ok((shown(scene(&guest)?.facts.local),))
    })?;
    peer.func_wrap("server-name", |guest: Guest, ()| {
        Ok((tls(&guest)?.and_then(|tls| tls.server_name.clone()),))
    })?;
    peer.func_wrap("alpn", |guest: Guest, ()| {
        Ok((tls(&guest)?.and_then(|tls| tls.alpn.clone()),))
    })?;
    peer.func_wrap("certificate", |guest: Guest, ()| {
        let certificate = tls(&guest)?.and_then(|tls| tls.certificate.as_ref());
        Ok((certificate.map(|certificate| certificate.der.to_vec()),))
    })
}

fn tls<'a>(guest: &'a Guest) -> Result<Option<&'a Tls>> {
    Ok(scene(guest)?.facts.tls.as_deref())
}

fn shown(address: Option<SocketAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

fn write_log(guest: Guest, (level, line): (LogLevel, WasmStr)) -> Result<()> {
    let state = guest.data();
    if !state.log.spend() {
        return Ok(());
    }
    let line = line.to_str(&guest)?;
    let line = one_line(&line);
    let (filter, request_id) = (
        &*state.filter,
        state
            .message
            .as_ref()
            .map(|message| lossy(message.facts.request_id.as_bytes())),
    );
    match level {
        LogLevel::Debug => tracing::debug!(target: "tamis::guest", filter, request_id, "{line}"),
        LogLevel::Info => tracing::info!(target: "tamis::guest", filter, request_id, "{line}"),
        LogLevel::Warn => tracing::warn!(target: "tamis::guest", filter, request_id, "{line}"),
        LogLevel::Error => tracing::error!(target: "tamis::guest", filter, request_id, "{line}"),
    }
    Ok(())
}

/// Grant `metrics`.
pub fn add_metrics(linker: &mut Linker<State>) -> Result<()> {
    let mut metrics = linker.instance(bindings::METRICS)?;
    metrics.func_wrap(
        "counter-add",
        |guest: Guest, (name, labels, by): (WasmStr, Vec<Label>, u64)| {
            count(guest, &name, labels, Change::CounterAdd(by))
        },
    )?;
    metrics.func_wrap(
        "gauge-set",
        |guest: Guest, (name, labels, value): (WasmStr, Vec<Label>, f64)| {
            count(guest, &name, labels, Change::GaugeSet(value))
        },
    )?;
    metrics.func_wrap(
        "histogram-observe",
        |guest: Guest, (name, labels, value): (WasmStr, Vec<Label>, f64)| {
            count(guest, &name, labels, Change::HistogramObserve(value))
        },
    )
}

fn count(mut guest: Guest, name: &WasmStr, labels: Vec<Label>, change: Change) -> Result<()> {
    let name = name.to_str(&guest)?;
    if name.len() <= MAX_METRIC_NAME && guest.data().metrics.len() < MAX_METRIC_CALLS {
        let name = name.into_owned();
        let labels = labels.into_iter().map(|label| (label.name, label.value)).collect();
        guest.data_mut().metrics.push(GuestMetric { name, labels, change });
    }
    Ok(())
}

/// Grant `clock`.
pub fn add_clock(linker: &mut Linker<State>) -> Result<()> {
    let mut clock = linker.instance(bindings::CLOCK)?;
    clock.func_wrap("now-ms", |_: Guest, ()| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok((u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),))
    })?;
    clock.func_wrap("monotonic-ms", |_: Guest, ()| {
        Ok((u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX),))
    })
}

/// Grant `random`.
pub fn add_random(linker: &mut Linker<State>) -> Result<()> {
    let mut random = linker.instance(bindings::RANDOM)?;
    random.func_wrap("bytes", |_: Guest, (length,): (u32,)| {
        if length > MAX_RANDOM_BYTES {
            bail!("{length} random bytes at once, more than {MAX_RANDOM_BYTES}");
        }
        let mut bytes = vec![0; length as usize];
        getrandom::fill(&mut bytes).map_err(|error| wasmtime::Error::msg(error.to_string()))?;
        Ok((bytes,))
    })
}

/// Grant `key_value`.
pub fn add_key_value(linker: &mut Linker<State>) -> Result<()> {
    let mut table = linker.instance(bindings::KEY_VALUE)?;
    table.func_wrap("get", |guest: Guest, (key,): (WasmStr,)| {
        let value = store(&guest)?.get(&key.to_str(&guest)?, Instant::now());
        Ok((value.map(Vec::from),))
    })?;
    table.func_wrap(
        "set",
        |mut guest: Guest, (key, value, ttl): (WasmStr, WasmList<u8>, Option<u64>)| {
            let value = Bytes::copy_from_slice(value.as_le_slice(&guest));
            let key = key.to_str(&guest)?.into_owned();
            let set = store(&guest)?.set(&key, value, millis(ttl), Instant::now());
            guest.data_mut().claims.retain(|claim| claim.key() != key);
            Ok((set.map_err(StoreError::from),))
        },
    )?;
    table.func_wrap("delete", |guest: Guest, (key,): (WasmStr,)| {
        Ok((store(&guest)?.delete(&key.to_str(&guest)?, Instant::now()),))
    })?;
    table.func_wrap(
        "compare-and-swap",
        |guest: Guest, (key, expected, value, ttl): (WasmStr, Option<WasmList<u8>>, WasmList<u8>, Option<u64>)| {
            let expected = expected.as_ref().map(|expected| expected.as_le_slice(&guest));
            let value = Bytes::copy_from_slice(value.as_le_slice(&guest));
            let key = key.to_str(&guest)?;
            let swapped = store(&guest)?.compare_and_swap(&key, expected, value, millis(ttl), Instant::now());
            Ok((swapped.map_err(StoreError::from),))
        },
    )?;
    table.func_wrap("add", |guest: Guest, (key, by, ttl): (WasmStr, i64, Option<u64>)| {
        let sum = store(&guest)?.add(&key.to_str(&guest)?, by, millis(ttl), Instant::now());
        Ok((sum.map_err(StoreError::from),))
    })?;
    table.func_wrap_async("claim", |guest: Guest, (key, wait_ms): (WasmStr, u32)| {
        Box::new(claim(guest, key, Duration::from_millis(wait_ms.into())))
    })?;
    table.func_wrap("release", |mut guest: Guest, (key,): (WasmStr,)| {
        let key = key.to_str(&guest)?.into_owned();
        guest.data_mut().claims.retain(|claim| claim.key() != key);
        Ok(())
    })
}

async fn claim(mut guest: Guest<'_>, key: WasmStr, wait: Duration) -> Result<(Claimed,)> {
    let key = key.to_str(&guest)?.into_owned();
    // Who holds it would wait for itself.
    if guest.data().claims.iter().any(|claim| claim.key() == key) {
        return Ok((Claimed::Yours,));
    }
    let found = match store(&guest)?.claim(&key, Instant::now()) {
        store::Claimed::Value(value) => Found::Value(value),
        store::Claimed::Yours(claim) => Found::Claim(claim),
        store::Claimed::TooMany => Found::Nothing,
        store::Claimed::Wait(ticket) => match tokio::time::timeout(wait, ticket.wait()).await {
            Ok(store::Waited::Value(value)) => Found::Value(value),
            Ok(store::Waited::Yours(claim)) => Found::Claim(claim),
            Err(_) => Found::Nothing,
        },
    };
    Ok((match found {
        Found::Value(value) => Claimed::Value(value.into()),
        Found::Claim(claim) => {
            guest.data_mut().claims.push(claim);
            Claimed::Yours
        }
        Found::Nothing => Claimed::TimedOut,
    },))
}

enum Found {
    Value(Bytes),
    Claim(store::Claim),
    Nothing,
}

fn store(guest: &Guest) -> Result<Arc<Table>> {
    match &guest.data().store {
        Some(store) => Ok(Arc::clone(store)),
        None => bail!("no table is granted"),
    }
}

fn millis(ttl: Option<u64>) -> Option<Duration> {
    ttl.map(Duration::from_millis)
}

impl From<store::StoreError> for StoreError {
    fn from(error: store::StoreError) -> Self {
        match error {
            store::StoreError::TooLarge => Self::TooLarge,
        }
    }
}

/// Grant `outbound`.
pub fn add_outbound(linker: &mut Linker<State>) -> Result<()> {
    let mut outbound = linker.instance(bindings::OUTBOUND)?;
    outbound.func_wrap_async("send", |mut guest: Guest, (call,): (Call,)| {
        Box::new(async move {
            let answer = match place(&mut guest, call)? {
                Ok(placed) => placed.whole().await,
                Err(error) => Err(error),
            };
            Ok((answer,))
        })
    })?;
    outbound.func_wrap_async("open", |mut guest: Guest, (call,): (Call,)| {
        Box::new(async move {
            let answer = match place(&mut guest, call)? {
                Ok(placed) => placed.head().await,
                Err(error) => Err(error),
            };
            let outbound = calls(&mut guest)?;
            Ok((answer.map(|answer| outbound.keep(answer)),))
        })
    })?;
    outbound.func_wrap_async("read", |mut guest: Guest, (id,): (u32,)| {
        Box::new(async move {
            // Out of its place while it waits, so that the guest's state is not held meanwhile.
            let Some(mut answer) = calls(&mut guest)?.answers.remove(&id) else {
                return Ok((Err(CallError::Broken),));
            };
            let piece = answer.read().await.map_err(CallError::from);
            if let Ok(Some(_)) = piece {
                calls(&mut guest)?.answers.insert(id, answer);
            }
            Ok((piece.map(|piece| piece.map(Vec::from)),))
        })
    })?;
    outbound.func_wrap("close", |mut guest: Guest, (id,): (u32,)| {
        calls(&mut guest)?.answers.remove(&id);
        Ok(())
    })
}

fn place(guest: &mut Guest, call: Call) -> Result<std::result::Result<Placed, CallError>> {
    Ok(calls(guest)?.place(call))
}

fn calls<'a>(guest: &'a mut Guest) -> Result<&'a mut Outbound> {
    match &mut guest.data_mut().outbound {
        Some(outbound) => Ok(outbound),
        None => bail!("no outbound calls are granted"),
    }
}

/// The exchange in hand; a guest that asks outside an exchange's hooks (in `configure`, `on-tick`) traps.
fn message<'a>(guest: &'a Guest) -> Result<&'a Message> {
    match guest.data().message.as_deref() {
        Some(message) if message.stage != Stage::Connection => Ok(message),
        _ => bail!("there is no exchange: its functions can be called in an exchange's hooks only"),
    }
}

/// The exchange in hand, or the connection that has none yet.
fn scene<'a>(guest: &'a Guest) -> Result<&'a Message> {
    match guest.data().message.as_deref() {
        Some(message) => Ok(message),
        None => bail!("there is no exchange: its functions can be called in an exchange's hooks only"),
    }
}

fn edit(guest: &mut Guest, edit: impl FnOnce(&mut Message) -> std::result::Result<(), head::EditError>) -> Edited {
    match guest.data_mut().message.as_deref_mut() {
        Some(message) => Ok((edit(message).map_err(EditError::from),)),
        None => bail!("there is no exchange: its functions can be called in hooks only"),
    }
}

/// A text that the guest wants to write: paid for out of the hook's budget, and copied out of its memory.
fn text(guest: &mut Guest, text: &WasmStr) -> Result<std::result::Result<String, head::EditError>> {
    let text = text.to_str(&*guest)?;
    if text.len() > guest.data().header_bytes_left {
        return Ok(Err(head::EditError::TooLarge));
    }
    let text = text.into_owned();
    guest.data_mut().header_bytes_left -= text.len();
    Ok(Ok(text))
}

type Field = std::result::Result<head::Field, head::EditError>;

/// A field that the guest wants to write: paid for out of the hook's budget, checked, and copied.
fn field(guest: &mut Guest, name: &WasmStr, value: &WasmList<u8>) -> Result<Field> {
    let name = name.to_str(&*guest)?;
    let value = value.as_le_slice(&*guest);
    let Some(left) = guest.data().header_bytes_left.checked_sub(name.len() + value.len()) else {
        return Ok(Err(head::EditError::TooLarge));
    };
    let known = guest.data().names.find(name.as_bytes()).cloned();
    let is_known = known.is_some();
    let name = known.map_or_else(|| head::writable_name(name.as_bytes()), Ok);
    let field = name.and_then(|name| Ok((name, head::writable_value(value)?)));
    let state = guest.data_mut();
    state.header_bytes_left = left;
    if let (Ok((name, _)), false) = (&field, is_known) {
        state.names.keep(name);
    }
    Ok(field)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a failure is told by, as long as a log line may be: the names in it are the guest's.
pub(super) fn told(error: &wasmtime::Error) -> String {
    let mut text = format!("{error:#}");
    text.truncate(text.floor_char_boundary(MAX_LOG_LINE));
    text
}

/// At most [`MAX_LOG_LINE`] bytes, without anything that could break a line or move a terminal's cursor.
pub(super) fn one_line(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(MAX_LOG_LINE)];
    cut.chars()
        .flat_map(|character| {
            if character.is_control() {
                character.escape_default().collect()
            } else {
                vec![character]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_guest_cannot_break_a_log_line() {
        assert_eq!(one_line("a\nb\x1b[31mc\u{9b}"), "a\\nb\\u{1b}[31mc\\u{9b}");
        assert_eq!(one_line(&"x".repeat(20_000)).len(), super::MAX_LOG_LINE);
    }
}
