//! What a request tells the filter to do, as a field `x-act: WORD ARGUMENTS`.

use std::time::Duration;

use tamis_filter::key_value::Computed;
use tamis_filter::{Exchange, Failure, OverMax, Reply, Request, RequestVerdict};
use tamis_filter::{clock, key_value, metrics, outbound, random};

use crate::head;

/// Long enough for a test, whose proxy may be slow.
const MINUTE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(5);

/// What came of an act.
pub enum Done {
    /// A text for the client.
    Result(String),
    /// The end of the request-head hook.
    Verdict(RequestVerdict),
    /// Both bodies are to be in capitals.
    Capitals,
    /// The response is to have this status.
    Rewrite(u16),
}

/// Does what the field says. An act that is not known is a failure, and so is one that fails.
pub fn act(line: &str, request: &mut Request, exchange: &mut Exchange) -> Result<Done, Failure> {
    let words: Vec<&str> = line.split(' ').collect();
    let result = match words[..] {
        ["reply", status] => return verdict(Reply::new(status.parse()?).text("everything\n").into()),
        ["hold", max] => return read_body(max, OverMax::Refuse),
        ["peek", max] => return read_body(max, OverMax::Continue),
        ["capitals"] => return Ok(Done::Capitals),
        ["rewrite", status] => return Ok(Done::Rewrite(status.parse()?)),
        ["pass"] => {
            request.pass_body();
            "passed".to_owned()
        }
        ["cluster", name] => match exchange.set_cluster(name) {
            Ok(()) => exchange.cluster().unwrap_or_default(),
            Err(error) => error.to_string(),
        },
        ["peer"] => {
            let peer = exchange.peer();
            let certificate = peer.certificate().map_or(0, |certificate| certificate.len());
            let (name, alpn) = (peer.server_name(), peer.alpn());
            format!("{} {name:?} {alpn:?} {certificate}", peer.local_address())
        }
        ["now"] => format!("{} {}", clock::now_ms(), clock::monotonic_ms()),
        ["random", length] => hex(&random::bytes(length.parse()?)),
        ["call", cluster, target] => call(cluster, target),
        ["stream", cluster, target] => stream(cluster, target),
        ["facts"] => head::facts(exchange),
        ["measure", name, value] => {
            let value = value.parse::<u16>()?.into();
            metrics::gauge_set(&format!("{name}_now"), value);
            metrics::histogram_observe(name, value);
            "measured".to_owned()
        }
        _ => match head::act(&words, request) {
            Some(result) => result,
            None => table(&words)?,
        },
    };
    Ok(Done::Result(result))
}

fn verdict(verdict: RequestVerdict) -> Result<Done, Failure> {
    Ok(Done::Verdict(verdict))
}

fn read_body(max: &str, over: OverMax) -> Result<Done, Failure> {
    verdict(RequestVerdict::ReadBody {
        max: max.parse()?,
        over,
    })
}

fn call(cluster: &str, target: &str) -> String {
    match outbound::get(cluster, target).header("x-everything", "1").send() {
        Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
        Err(error) => error.to_string(),
    }
}

/// Reads an answer in pieces, and closes it after the first that ends with a full stop.
fn stream(cluster: &str, target: &str) -> String {
    let mut read = Vec::new();
    let reader = match outbound::get(cluster, target).timeout(WAIT).open() {
        Ok(reader) => reader,
        Err(error) => return error.to_string(),
    };
    for piece in reader {
        match piece {
            Ok(piece) => read.extend(piece),
            Err(error) => return error.to_string(),
        }
        if read.ends_with(b".") {
            break;
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn table(words: &[&str]) -> Result<String, Failure> {
    Ok(match *words {
        ["get", key] => shown(key_value::get(key)),
        ["set", key, value] => {
            key_value::set(key, value, Some(MINUTE))?;
            "set".to_owned()
        }
        ["delete", key] => key_value::delete(key).to_string(),
        ["swap", key, "none", value] => key_value::compare_and_swap(key, None, value, Some(MINUTE))?.to_string(),
        ["swap", key, expected, value] => {
            key_value::compare_and_swap(key, Some(expected.as_bytes()), value, Some(MINUTE))?.to_string()
        }
        ["add", key, by] => key_value::add(key, by.parse()?, Some(MINUTE))?.to_string(),
        ["compute", key, value] => shown(key_value::get_or_compute(key, WAIT, || {
            Ok(Some(Computed::new(value).kept_for(MINUTE)))
        })?),
        _ => return Err(Failure::new(format!("not an act: {words:?}"))),
    })
}

fn shown(value: Option<Vec<u8>>) -> String {
    value.map_or("none".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
