//! The battery in Rust, without the SDK: what `wit-bindgen` makes of the contract, and nothing else.
//!
//! `../../README.md` says what it does. An instance serves many exchanges, one after the other, so a variable holds the
//! exchange's state, and `on_request_head`, the first hook of every exchange, sets it anew.

use std::cell::RefCell;

#[cfg(feature = "words")]
use battery::words::transform::{swapped, upper};
use exports::tamis::filter::completion::Outcome;
use exports::tamis::filter::{
    completion, configure, held_body, request_body, request_head, response_body, response_head,
};
use tamis::filter::types::{
    BodyVerdict, EndVerdict, Ending, Header, HeldVerdict, OverMax, ReadBody, Reply, RequestVerdict, Verdict,
};
use tamis::filter::{clock, exchange, key_value, log, metrics, outbound, random, request, response};

#[cfg(not(feature = "words"))]
wit_bindgen::generate!({
    path: ["../../../filter-abi/wit", "../wit"],
    world: "tamis:battery/battery",
    generate_all,
});

// The battery in two languages, `../../two`.
#[cfg(feature = "words")]
wit_bindgen::generate!({
    path: ["../../../filter-abi/wit", "../wit", "../words/wit", "wit"],
    world: "tamis:battery-two/battery",
    generate_all,
});

struct Battery;

export!(Battery);

/// What an exchange leaves for its later hooks.
#[derive(Default)]
struct State {
    /// How many request heads: more than one shows a leak.
    seen: u32,
    body_mode: Option<Vec<u8>>,
    response_mode: Option<Vec<u8>>,
    request_bytes: usize,
}

thread_local! {
    /// Lives as long as the instance.
    static MARK: RefCell<String> = const { RefCell::new(String::new()) };
    /// Lives as long as the exchange.
    static STATE: RefCell<State> = RefCell::default();
}

impl configure::Guest for Battery {
    fn configure(config: String) -> Result<(), String> {
        let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
        match config["mark"].as_str() {
            Some(mark) if !mark.is_empty() => {
                MARK.set(mark.to_owned());
                Ok(())
            }
            _ => Err("battery: config.mark must be a non-empty string".to_owned()),
        }
    }
}

impl request_head::Guest for Battery {
    fn on_request_head() -> RequestVerdict {
        let command = request::header("x-battery-do").unwrap_or_default();
        STATE.set(State {
            body_mode: request::header("x-battery-body"),
            response_mode: request::header("x-battery-response"),
            ..State::default()
        });
        for name in ["x-battery-do", "x-battery-body", "x-battery-response"] {
            request::remove_header(name).expect(EDIT);
        }
        STATE.with_borrow_mut(|state| state.seen += 1);
        set_header("x-battery", mark());
        if STATE.with_borrow(|state| state.body_mode.is_none()) {
            request::pass_body();
        }
        obey(&command)
    }
}

impl held_body::Guest for Battery {
    fn on_held_body(body: Vec<u8>, complete: bool) -> HeldVerdict {
        set_header("x-held", format!("{}:{complete}", body.len()));
        HeldVerdict::Replace(upper(&body))
    }
}

impl request_body::Guest for Battery {
    fn on_request_body(chunk: Vec<u8>) -> BodyVerdict {
        STATE.with_borrow_mut(|state| {
            state.request_bytes += chunk.len();
            match state.body_mode.as_deref() {
                Some(b"swap") => BodyVerdict::Replace(swapped(&chunk)),
                Some(b"drop") => BodyVerdict::Drop,
                _ => BodyVerdict::Keep,
            }
        })
    }

    fn on_request_end(_: Vec<Header>) -> EndVerdict {
        STATE.with_borrow(|state| match state.body_mode.as_deref() {
            Some(b"swap") => finish(format!("[{}]", state.request_bytes)),
            _ => EndVerdict::Keep,
        })
    }
}

impl response_head::Guest for Battery {
    fn on_response_head() -> Verdict {
        STATE.with_borrow(|state| {
            let seen = format!("{}:{}", state.seen, mark());
            response::set_header("x-battery-seen", seen.as_bytes()).expect(EDIT);
            if state.response_mode.is_none() {
                response::pass_body();
            }
        });
        if response::status() == 299 {
            return Verdict::Reply(Reply {
                status: 503,
                headers: Vec::new(),
                body: b"replaced\n".to_vec(),
            });
        }
        Verdict::Proceed
    }
}

impl response_body::Guest for Battery {
    fn on_response_body(chunk: Vec<u8>) -> BodyVerdict {
        STATE.with_borrow(|state| match state.response_mode.as_deref() {
            Some(b"swap") => BodyVerdict::Replace(swapped(&chunk)),
            Some(b"split") => {
                let (first, rest) = chunk.split_at(chunk.len() / 2);
                BodyVerdict::Pieces(vec![first.to_vec(), rest.to_vec()])
            }
            _ => BodyVerdict::Keep,
        })
    }

    fn on_response_end(_: Vec<Header>) -> EndVerdict {
        STATE.with_borrow(|state| match state.response_mode.as_deref() {
            Some(b"swap") => finish("<end>".to_owned()),
            _ => EndVerdict::Keep,
        })
    }
}

impl completion::Guest for Battery {
    fn on_completion(outcome: Outcome) {
        exchange::set_attribute("battery-bytes", &outcome.response_bytes.to_string()).expect(EDIT);
    }
}

/// Why an edit's failure may be a panic, and so a trap: none goes unseen.
const EDIT: &str = "the host takes the edit";

/// Does what the header `x-battery-do` said.
fn obey(command: &[u8]) -> RequestVerdict {
    match command {
        b"reply" => {
            return RequestVerdict::Reply(Reply {
                status: 418,
                headers: vec![Header {
                    name: "x-from".to_owned(),
                    value: mark().into_bytes(),
                }],
                body: b"short and stout\n".to_vec(),
            });
        }
        b"trap" => panic!("as the request wished"),
        b"read" => return read_body(65536, OverMax::Refuse),
        b"read-on" => return read_body(16, OverMax::Continue),
        b"call" => call(),
        b"count" => count(),
        b"attr" => exchange::set_attribute("battery", &mark()).expect(EDIT),
        b"forbidden" => match request::set_header("content-length", b"5") {
            Ok(()) => set_header("x-edit", "ok"),
            Err(error) => set_header("x-edit", error.name()),
        },
        b"echo" => set_header("x-joined", request::header_values("x-multi").join(&b'|')),
        b"metrics" => measure(),
        b"log" => log::write(log::Level::Info, &format!("battery says {}", mark())),
        b"time" if clock::now_ms() > 1_600_000_000_000 => set_header("x-time-ok", "1"),
        b"random" => set_header("x-random-len", random::bytes(16).len().to_string()),
        _ => {}
    }
    RequestVerdict::Proceed
}

fn call() {
    let call = outbound::Call {
        cluster: "side".to_owned(),
        method: "GET".to_owned(),
        authority: None,
        target: format!("/side?from={}", mark()),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: None,
    };
    match outbound::send(&call) {
        Ok(answer) => set_header(
            "x-side",
            [format!("{}:", answer.status).as_bytes(), &answer.body].concat(),
        ),
        Err(error) => set_header("x-side", format!("error:{}", error.name())),
    }
}

fn count() {
    match key_value::add("count", 1, None) {
        Ok(sum) => set_header("x-count", sum.to_string()),
        Err(error) => set_header("x-count", format!("error:{}", error.name())),
    }
}

fn measure() {
    let kind = metrics::Label {
        name: "kind".to_owned(),
        value: "head".to_owned(),
    };
    metrics::counter_add("battery_calls", &[kind], 1);
    metrics::histogram_observe("battery_seconds", &[], 0.25);
}

fn mark() -> String {
    MARK.with_borrow(String::clone)
}

fn set_header(name: &str, value: impl AsRef<[u8]>) {
    request::set_header(name, value.as_ref()).expect(EDIT);
}

fn read_body(max: u64, over: OverMax) -> RequestVerdict {
    RequestVerdict::ReadBody(ReadBody { max, over })
}

fn finish(data: String) -> EndVerdict {
    EndVerdict::Finish(Ending {
        data: data.into_bytes(),
        trailers: None,
    })
}

#[cfg(not(feature = "words"))]
fn swapped(chunk: &[u8]) -> Vec<u8> {
    chunk
        .iter()
        .map(|byte| if *byte == b'a' { b'b' } else { *byte })
        .collect()
}

#[cfg(not(feature = "words"))]
fn upper(body: &[u8]) -> Vec<u8> {
    body.to_ascii_uppercase()
}
