//! What a guest can call: `tamis:filter@0.1.0`'s imports, each a few lines over the exchange's message.
//!
//! Data plane. A guest's arguments are looked at in its own memory and copied only once they are accepted. The rules
//! for writing are [`head`](crate::head)'s, the same as for native filters.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use wasmtime::component::{Linker, LinkerInstance, WasmList, WasmStr};
use wasmtime::{Result, StoreContextMut, bail};

use super::bindings::{self, EditError, Header, LogLevel};
use super::instance::{GuestMetric, State};
use crate::head::{self, Message};

/// One log line of a guest.
const MAX_LOG_LINE: usize = 8 << 10;
/// What a guest may count in one hook; more is dropped.
const MAX_METRIC_CALLS: usize = 64;
/// Bytes of a metric's name; longer ones are dropped.
const MAX_METRIC_NAME: usize = 64;

type Guest<'a> = StoreContextMut<'a, State>;
type Edited = Result<(std::result::Result<(), EditError>,)>;

/// The interfaces that every filter may import.
pub fn add_exchange(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(bindings::TYPES)?;
    add_request(&mut linker.instance(bindings::REQUEST)?)?;
    add_response(&mut linker.instance(bindings::RESPONSE)?)?;
    add_facts(&mut linker.instance(bindings::EXCHANGE)?)?;
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
    add_headers(response, response_headers, |message| {
        Ok(&mut message.response_mut()?.headers)
    })
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
        Ok((headers
            .map(|headers| headers.iter().map(header).collect())
            .unwrap_or_else(Vec::<Header>::new),))
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
        Ok((message(&guest)?
            .facts
            .client
            .map(|client| client.to_string())
            .unwrap_or_default(),))
    })?;
    exchange.func_wrap("listener", |guest: Guest, ()| {
        Ok((message(&guest)?.facts.listener.as_str().to_owned(),))
    })?;
    exchange.func_wrap("route", |guest: Guest, ()| {
        Ok((message(&guest)?.facts.route.map(|route| route.as_str().to_owned()),))
    })?;
    exchange.func_wrap("request-id", |guest: Guest, ()| {
        Ok((lossy(message(&guest)?.facts.request_id.as_bytes()),))
    })?;
    exchange.func_wrap("attribute", |guest: Guest, (name,): (WasmStr,)| {
        let message = message(&guest)?;
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
    metrics.func_wrap("counter-add", |guest: Guest, (name, by): (WasmStr, u64)| {
        count(guest, &name, |name| GuestMetric::CounterAdd(name, by))
    })?;
    metrics.func_wrap("gauge-set", |guest: Guest, (name, value): (WasmStr, f64)| {
        count(guest, &name, |name| GuestMetric::GaugeSet(name, value))
    })?;
    metrics.func_wrap("histogram-observe", |guest: Guest, (name, value): (WasmStr, f64)| {
        count(guest, &name, |name| GuestMetric::HistogramObserve(name, value))
    })
}

fn count(mut guest: Guest, name: &WasmStr, metric: impl FnOnce(String) -> GuestMetric) -> Result<()> {
    let name = name.to_str(&guest)?;
    if name.len() <= MAX_METRIC_NAME && guest.data().metrics.len() < MAX_METRIC_CALLS {
        let metric = metric(name.into_owned());
        guest.data_mut().metrics.push(metric);
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
    let start = std::time::Instant::now();
    clock.func_wrap("monotonic-ms", move |_: Guest, ()| {
        Ok((u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),))
    })
}

/// The exchange in hand; a guest that asks outside a hook (in `configure`) traps.
fn message<'a>(guest: &'a Guest) -> Result<&'a Message> {
    match guest.data().message.as_deref() {
        Some(message) => Ok(message),
        None => bail!("there is no exchange: its functions can be called in hooks only"),
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
    let field = head::writable(name.as_bytes(), value);
    guest.data_mut().header_bytes_left = left;
    Ok(field)
}

fn header((name, value): (&HeaderName, &HeaderValue)) -> Header {
    Header {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec(),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// At most [`MAX_LOG_LINE`] bytes, without anything that could break a line or move a terminal's cursor.
fn one_line(text: &str) -> String {
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
