//! Any edits of a guest: what the host accepts is a head that means one thing to everybody.
//!
//! The same edits are made by a guest, through the functions of the WIT, and natively, through `head`; both must come to
//! the same heads. These are then written as they are sent and read by a strict reader.

use std::cell::LazyCell;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, request};
use tamis::filter::{HeldVerdict, Verdict};
use tamis::guard::{self, Refusal};
use tamis::h1::{Encoder, RequestLines};
use tamis::head::{self, EditError, Message, RequestHead, ResponseHead, Stage};
use tamis::hop;
use tamis::passage::{Forward, Passage};

use crate::guest::{self, Bench};
use crate::{UNIT, head as strict, records};

/// As in the guest's limits.
const HEADER_BYTES: usize = 4 << 10;

/// A bound on what one run takes; it is four times what one hook may write.
const MAX_BYTES: usize = 16 << 10;

const CONFIGURATION: &str = "
wasm: { max_instances: 4 }
listeners: { web: { address: 127.0.0.1:0 } }
filters: { edits: { GUEST } }
routes: [{ filters: [edits], respond: { status: 200 } }]
";

/// Each record is an edit: a letter, then the parts.
///
/// Of the request: `m` method, `h` authority, `p` path, `q` query, `Q` no query, `s` sets a field, `a` appends one, `r`
/// removes one. Of the response: `t` status, `S`, `A`, `R` as before. `n` sets an attribute. `>` goes on with the
/// response's head.
pub fn edits(script: &[u8]) {
    thread_local! {
        static BENCH: LazyCell<Bench> =
            LazyCell::new(|| Bench::new(include_str!("guest/edits.wat"), CONFIGURATION));
    }
    if script.len() > MAX_BYTES {
        return;
    }
    let edits: Vec<Edit> = records(script).filter_map(Edit::read).collect();
    let natively = made_natively(&edits);
    let by_guest = BENCH.with(|bench| made_by_guest(bench, &edits));
    assert_eq!(shown(&by_guest), shown(&natively), "guest and native differ");
    check_request(&natively.request);
    if let Some(response) = &natively.response {
        check_response(response);
    }
    let attributes: Vec<_> = natively.attributes.iter().collect();
    assert!(attributes.len() <= head::MAX_ATTRIBUTES);
    for (name, value) in attributes {
        assert!(name.len() + value.len() <= head::MAX_ATTRIBUTE_BYTES);
    }
}

struct Edit<'a> {
    act: u8,
    first: &'a [u8],
    second: &'a [u8],
}

impl<'a> Edit<'a> {
    fn read(record: &'a [u8]) -> Option<Self> {
        let (act, parts) = record.split_first()?;
        let mut parts = parts.split(|byte| *byte == UNIT);
        Some(Self {
            act: *act,
            first: parts.next().unwrap_or_default(),
            second: parts.next().unwrap_or_default(),
        })
    }

    fn status(&self) -> u16 {
        let digits = std::str::from_utf8(self.first).unwrap_or_default();
        digits.parse().unwrap_or_default()
    }

    /// As the guest reads it.
    fn write(&self, into: &mut Vec<u8>) {
        let status = self.status().to_le_bytes();
        let first = if self.act == b't' { &status } else { self.first };
        into.push(self.act);
        for part in [first, self.second] {
            into.extend((part.len() as u32).to_le_bytes());
            into.extend(part);
        }
    }
}

/// Through the passage of an exchange. A hook that fails leaves what it has edited before.
fn made_by_guest(bench: &Bench, edits: &[Edit]) -> Message {
    let mut script = Vec::new();
    edits.iter().for_each(|edit| edit.write(&mut script));
    let passage = bench.passage(0);
    bench.runtime.block_on(async {
        let forwards = guest::forward(&passage).await;
        let [Forward::Hold(turn, _)] = forwards[..] else {
            panic!("the guest asks for the body")
        };
        let held = passage
            .held(turn, &Bytes::from(script), true, &mut Instant::now())
            .await;
        if let Ok(HeldVerdict::Proceed) = held {
            answer(&passage);
            // Whether it fails on its way is the model's to know, and seen in the heads.
            let _ = passage
                .backward(turn, &mut None)
                .await
                .map(|verdict| assert!(matches!(verdict, Verdict::Proceed)));
        }
    });
    let message = passage.message().take().expect("no hook is under way");
    *message
}

fn answer(passage: &Passage) {
    if let Some(message) = &mut *passage.message() {
        answer_message(message);
    }
}

fn answer_message(message: &mut Message) {
    message.stage = Stage::ResponseHead;
    message.response = Some(ResponseHead {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(http::header::DATE, HeaderValue::from_static("now"))]),
    });
}

/// As a native filter makes them, within what a hook of a guest may write. What a guest cannot say (a text that is not
/// UTF-8) ends its hook.
fn made_natively(edits: &[Edit]) -> Message {
    let mut message = guest::message();
    let end = edits.iter().position(|edit| edit.act == b'>').unwrap_or(edits.len());
    let (request, response) = edits.split_at(end);
    if hook(&mut message, request).is_some() {
        answer_message(&mut message);
        let response = response.get(1..).unwrap_or_default();
        let end = response.iter().position(|edit| edit.act == b'>');
        let _ = hook(&mut message, &response[..end.unwrap_or(response.len())]);
    }
    message
}

/// `None` when the guest traps.
fn hook(message: &mut Message, edits: &[Edit]) -> Option<()> {
    let mut left = HEADER_BYTES;
    for edit in edits {
        // Refused or not, the next one comes.
        let _ = make(message, edit, &mut left)?;
    }
    Some(())
}

fn make(message: &mut Message, edit: &Edit, left: &mut usize) -> Option<Result<(), EditError>> {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(match edit.act {
        b'm' => pay(text(edit.first)?, left).and_then(|method| message.request_mut()?.set_method(method)),
        b'h' => pay(text(edit.first)?, left).and_then(|host| message.request_mut()?.set_authority(host)),
        b'p' => pay(text(edit.first)?, left).and_then(|path| message.request_mut()?.set_path(path)),
        b'q' => pay(text(edit.first)?, left).and_then(|query| message.request_mut()?.set_query(Some(query))),
        b'Q' => message.request_mut().and_then(|request| request.set_query(None)),
        b's' | b'a' => {
            let field = field(text(edit.first)?, edit.second, left);
            let headers = message.request_mut().map(|request| &mut request.headers);
            write(edit.act == b's', headers, field)
        }
        b'S' | b'A' => {
            let field = field(text(edit.first)?, edit.second, left);
            let headers = message.response_mut().map(|response| &mut response.headers);
            write(edit.act == b'S', headers, field)
        }
        b'r' => {
            let name = head::writable_name(text(edit.first)?.as_bytes());
            let headers = message.request_mut().map(|request| &mut request.headers);
            remove(headers, name)
        }
        b'R' => {
            let name = head::writable_name(text(edit.first)?.as_bytes());
            let headers = message.response_mut().map(|response| &mut response.headers);
            remove(headers, name)
        }
        b't' => message
            .response_mut()
            .and_then(|response| response.set_status(edit.status())),
        b'n' => {
            let name = pay(text(edit.first)?, left);
            let value = pay(text(edit.second)?, left);
            name.and_then(|name| message.attributes.set(name, value?))
        }
        _ => Ok(()),
    })
}

fn pay<'a>(text: &'a str, left: &mut usize) -> Result<&'a str, EditError> {
    *left = left.checked_sub(text.len()).ok_or(EditError::TooLarge)?;
    Ok(text)
}

fn field(name: &str, value: &[u8], left: &mut usize) -> Result<head::Field, EditError> {
    *left = left.checked_sub(name.len() + value.len()).ok_or(EditError::TooLarge)?;
    head::writable(name.as_bytes(), value)
}

fn write(
    replaces: bool,
    headers: Result<&mut HeaderMap, EditError>,
    field: Result<head::Field, EditError>,
) -> Result<(), EditError> {
    match replaces {
        true => head::insert(headers?, field?),
        false => head::append(headers?, field?),
    }
}

fn remove(
    headers: Result<&mut HeaderMap, EditError>,
    name: Result<http::HeaderName, EditError>,
) -> Result<(), EditError> {
    headers?.remove(name?);
    Ok(())
}

/// All that an edit can change.
fn shown(message: &Message) -> String {
    let (request, response) = (&message.request, &message.response);
    format!(
        "{} {} {:?} {response:?} {:?}",
        request.method, request.target, request.headers, message.attributes
    )
}

/// As it goes upstream, read strictly; and as if a client had sent it.
fn check_request(request: &RequestHead) {
    assert!(request.headers.len() <= head::MAX_FIELDS);
    check_owned(&request.headers);
    let via = HeaderValue::from_static("1.1 tamis-bench");
    let lines = RequestLines {
        method: &request.method,
        target: &request.target,
        headers: &request.headers,
        via: &via,
    };
    let mut bytes = Vec::new();
    Encoder::begin(&lines, Some(0), &mut bytes);
    let read = strict::read(&bytes);
    assert_eq!(read.length, bytes.len(), "{}", bytes.escape_ascii());
    let first = format!("{} {} HTTP/1.1", request.method, request.target);
    assert_eq!(read.first, first.as_bytes());
    let mut expected = fields(&request.headers);
    expected.push((b"via", via.as_bytes()));
    assert_eq!(read.fields, expected);
    admitted(request);
}

/// A client's request that says the same is admitted, and is normal already. Expect is not looked at by a filter's
/// upstream in our place.
fn admitted(request: &RequestHead) {
    let mut parts = request::Builder::new()
        .method(request.method.clone())
        .uri(request.target.as_str())
        .body(())
        .expect("its parts are sound")
        .into_parts()
        .0;
    parts.headers = request.headers.clone();
    let limits = guard::Limits {
        max_target_bytes: guard::MAX_WRITTEN_TARGET_BYTES,
        max_field_bytes: HEADER_BYTES,
        max_fields: head::MAX_FIELDS,
    };
    match guard::admit(&mut parts, &limits) {
        Ok(admitted) => {
            assert_eq!(admitted.target, request.target);
            assert_eq!(parts.headers, request.headers);
        }
        Err(Refusal::Expectation) => {}
        Err(refusal) => panic!("a client may not send this: {refusal:?}\n{request:?}"),
    }
}

fn check_response(response: &ResponseHead) {
    assert!((200..600).contains(&response.status.as_u16()));
    assert!(response.headers.len() <= head::MAX_FIELDS);
    check_owned(&response.headers);
    let mut bytes = format!("HTTP/1.1 {} \r\n", response.status.as_u16()).into_bytes();
    for (name, value) in &response.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    let read = strict::read(&bytes);
    assert_eq!(read.length, bytes.len(), "{}", bytes.escape_ascii());
    assert_eq!(read.fields, fields(&response.headers));
}

/// There was no such field before, so whichever is there was written.
fn check_owned(headers: &HeaderMap) {
    let owned = headers.keys().find(|name| hop::is_host_owned(name));
    assert_eq!(owned, None, "the host's alone");
}

fn fields(headers: &HeaderMap) -> Vec<(&[u8], &[u8])> {
    let fields = headers.iter();
    fields
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
        .collect()
}
