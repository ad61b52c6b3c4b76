//! Test cases of a filter: a YAML file to exchanges and to what is expected of them.
//!
//! Control plane. Every error names the file and the place. What a case says of a request is held to the proxy's own
//! rules for requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use super::walk::Script;
use crate::guard;
use crate::head;
use crate::outbound::{Failed, Given};

/// Under `tamis filter test --help`.
pub const HELP: &str = "\
The cases, a YAML file; all but `cases`, `name` and `expect` may be left out:

  config: { token: sesame }        # handed to `configure`; a case may have its own
  limits: { memory: 32MiB }        # as under `filters` in a configuration
  cases:
    - name: a token opens
      repeat: 1                    # so many times in a row, with one instance and one table; the last is compared
      request:
        method: GET
        scheme: http               # or https
        authority: test.example
        target: /                  # path and query
        headers: { x-token: sesame, accept: [a, b] }
        body: text                 # or a list of pieces
        client: 192.0.2.1:50000
        route: test                # `null` when none matched
        clusters: [app]            # those that the route names
      calls:                       # outbound calls, each answered once, by the first that fits; all must be made
        - { cluster: auth, method: GET, target: /check, status: 200, headers: {}, body: text }
        - { cluster: auth, error: timed-out }             # or unreachable, broken
      response: { status: 200, headers: {}, body: text }  # the upstream's; `body` may be a list of pieces
      expect:                      # what is not named is not compared; `null` means: not there
        verdict: proceed           # reply, too-large, cut, refuse-connection, failure
        failure: trap              # with `verdict: failure`: trap, memory, cpu, wall, start, bad_reply, bad_verdict
        request:                   # as the upstream gets it
          { method: GET, authority: test.example, path: /, target: /, headers: { x-filter: gate, x-token: null }, body: text }
        response:                  # as the client gets it
          { status: 200, headers: {}, body: text }
        attributes: { gate: open }
        cluster: app               # that the filter chose
        log: [opened]              # each is part of a line, in this order; [] means that nothing is logged

A case has an instance and a table of its own. The filter is granted all that it imports. What the proxy adds by itself
(`x-forwarded-*`, `x-request-id`, `via`) is there only if the case says so.";

/// The largest file; a body of megabytes belongs elsewhere.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// A checked file.
#[derive(Debug)]
pub struct Cases {
    pub limits: Map<String, Value>,
    pub cases: Vec<Case>,
}

#[derive(Debug)]
pub struct Case {
    /// `FILE:LINE:COLUMN`.
    pub place: String,
    pub name: String,
    /// JSON text.
    pub config: String,
    pub repeat: u32,
    pub script: Script,
    pub calls: Vec<Call>,
    pub expect: Expect,
}

/// An outbound call that the filter is to make, and what comes of it.
#[derive(Clone, Debug)]
pub struct Call {
    pub cluster: String,
    pub method: Option<String>,
    pub target: Option<String>,
    pub answer: Result<Given, Failed>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub verdict: Option<VerdictName>,
    pub failure: Option<String>,
    #[serde(default)]
    pub request: ExpectRequest,
    #[serde(default)]
    pub response: ExpectResponse,
    #[serde(default)]
    pub attributes: BTreeMap<String, Value>,
    pub cluster: Option<String>,
    pub log: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictName {
    Proceed,
    Reply,
    TooLarge,
    Cut,
    RefuseConnection,
    Failure,
}

impl VerdictName {
    pub fn as_str(self) -> &'static str {
        match self {
            VerdictName::Proceed => "proceed",
            VerdictName::Reply => "reply",
            VerdictName::TooLarge => "too-large",
            VerdictName::Cut => "cut",
            VerdictName::RefuseConnection => "refuse-connection",
            VerdictName::Failure => "failure",
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectRequest {
    pub method: Option<String>,
    pub authority: Option<String>,
    pub path: Option<String>,
    pub target: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    pub body: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectResponse {
    pub status: Option<u16>,
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    pub body: Option<String>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    config: Value,
    #[serde(default)]
    limits: Map<String, Value>,
    cases: Vec<Spanned<Written>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    config: Option<Value>,
    #[serde(default = "once")]
    repeat: u32,
    #[serde(default)]
    request: WrittenRequest,
    #[serde(default)]
    calls: Vec<WrittenCall>,
    #[serde(default)]
    response: WrittenResponse,
    expect: Expect,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenRequest {
    method: String,
    scheme: Scheme,
    authority: String,
    target: String,
    headers: BTreeMap<String, Value>,
    body: Value,
    client: String,
    route: Option<String>,
    clusters: Vec<String>,
}

impl Default for WrittenRequest {
    fn default() -> Self {
        Self {
            method: "GET".into(),
            scheme: Scheme::Http,
            authority: "test.example".into(),
            target: "/".into(),
            headers: BTreeMap::new(),
            body: Value::Null,
            client: "192.0.2.1:50000".into(),
            route: Some("test".into()),
            clusters: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenResponse {
    status: u16,
    headers: BTreeMap<String, Value>,
    body: Value,
}

impl Default for WrittenResponse {
    fn default() -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            body: Value::Null,
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCall {
    cluster: String,
    method: Option<String>,
    target: Option<String>,
    error: Option<CallFailure>,
    #[serde(default = "success")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    body: Value,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CallFailure {
    TimedOut,
    Unreachable,
    Broken,
}

fn once() -> u32 {
    1
}

fn success() -> u16 {
    200
}

impl Cases {
    pub fn read(file: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: cannot be read: {error}", file.display());
        let length = std::fs::metadata(file).map_err(failed)?.len();
        if length > MAX_FILE_BYTES {
            return Err(format!("{}: larger than {MAX_FILE_BYTES} bytes", file.display()));
        }
        let text = std::fs::read_to_string(file).map_err(failed)?;
        Self::parse(&text, &file.display().to_string())
    }

    pub fn parse(text: &str, file: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! {
            duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
            strict_booleans: true,
            with_snippet: false,
        };
        let document: Document =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| explain(&error, file))?;
        if document.cases.is_empty() {
            return Err(format!("{file}: `cases` is empty"));
        }
        let case = |written: &Spanned<Written>| {
            let place = format!("{file}:{}:{}", written.defined.line(), written.defined.column());
            let name = written.value.name.clone();
            Case::check(written.value.clone(), &document.config, place.clone())
                .map_err(|error| format!("{place}: case `{name}`: {error}"))
        };
        Ok(Self {
            cases: document.cases.iter().map(case).collect::<Result<_, _>>()?,
            limits: document.limits,
        })
    }
}

fn explain(error: &serde_saphyr::Error, file: &str) -> String {
    let message = UserMessageFormatter.format_message(error.without_snippet());
    let message = message.replace(|c: char| c.is_control(), " ");
    match error.location() {
        Some(location) if location.line() > 0 => {
            format!("{file}:{}:{}: {message}", location.line(), location.column())
        }
        _ => format!("{file}: {message}"),
    }
}

impl Case {
    fn check(written: Written, config: &Value, place: String) -> Result<Self, String> {
        if written.repeat == 0 {
            return Err("repeat: at least 1".to_owned());
        }
        if written.expect.failure.is_some() && written.expect.verdict != Some(VerdictName::Failure) {
            return Err("expect.failure: needs `verdict: failure` beside it".to_owned());
        }
        let calls = written.calls.into_iter().enumerate();
        Ok(Self {
            place,
            name: written.name,
            config: written.config.as_ref().unwrap_or(config).to_string(),
            repeat: written.repeat,
            script: script(written.request, written.response)?,
            calls: calls
                .map(|(index, call)| call.check().map_err(|error| format!("calls[{index}].{error}")))
                .collect::<Result<_, _>>()?,
            expect: written.expect,
        })
    }
}

impl WrittenCall {
    fn check(self) -> Result<Call, String> {
        let answer = match self.error {
            Some(CallFailure::TimedOut) => Err(Failed::TimedOut),
            Some(CallFailure::Unreachable) => Err(Failed::Unreachable),
            Some(CallFailure::Broken) => Err(Failed::Broken),
            None => Ok(Given {
                status: status(self.status)?,
                headers: headers(&self.headers)?,
                body: pieces(&self.body)?.concat().into(),
            }),
        };
        Ok(Call {
            cluster: self.cluster,
            method: self.method,
            target: self.target,
            answer,
        })
    }
}

fn script(request: WrittenRequest, response: WrittenResponse) -> Result<Script, String> {
    let in_request = |error: String| format!("request.{error}");
    let in_response = |error: String| format!("response.{error}");
    let method = Method::from_bytes(request.method.as_bytes());
    let mut all = headers(&request.headers).map_err(in_request)?;
    let authority = guard::check_authority(request.authority.as_bytes());
    let authority = authority.map_err(|_| format!("request.authority: `{}` is none", request.authority))?;
    all.insert(header::HOST, authority);
    let client: SocketAddr = request
        .client
        .parse()
        .map_err(|_| format!("request.client: `{}` is not an address with a port", request.client))?;
    Ok(Script {
        method: method.map_err(|_| format!("request.method: `{}` is none", request.method))?,
        scheme: match request.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        },
        target: target(&request.target).map_err(in_request)?,
        headers: all,
        client,
        route: request.route,
        clusters: request.clusters,
        body: pieces(&request.body).map_err(in_request)?,
        status: status(response.status).map_err(in_response)?,
        response_headers: headers(&response.headers).map_err(in_response)?,
        response_body: pieces(&response.body).map_err(in_response)?,
    })
}

/// Normalised like a client's.
fn target(text: &str) -> Result<PathAndQuery, String> {
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let wrong = || format!("target: `{text}` is not a path with a query");
    let path = guard::normalise_path(path).map_err(|_| wrong())?;
    let whole = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    if !head::is_target(&whole) {
        return Err(wrong());
    }
    PathAndQuery::from_maybe_shared(Bytes::from(whole)).map_err(|_| wrong())
}

fn status(status: u16) -> Result<StatusCode, String> {
    head::final_status(status).map_err(|_| format!("status: {status} is not from 200 to 599"))
}

fn headers(written: &BTreeMap<String, Value>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in written {
        let place = format!("headers.{name}");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{place}: not a field's name"))?;
        for value in texts(values).ok_or_else(|| format!("{place}: text, or a list of texts"))? {
            let value =
                HeaderValue::from_bytes(value.as_bytes()).map_err(|_| format!("{place}: not a field's value"))?;
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

fn pieces(body: &Value) -> Result<Vec<Bytes>, String> {
    let texts = texts(body).ok_or("body: text, or a list of texts")?;
    Ok(texts.into_iter().map(Bytes::from).collect())
}

/// One text, several, or with `null` none. Numbers and booleans are the text that they are written as.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(values) => values.iter().map(text).collect(),
        one => text(one).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Cases, String> {
        Cases::parse(text, "cases.yaml")
    }

    #[test]
    fn a_case_has_defaults() {
        let cases = parse("cases:\n  - name: a\n    expect: { verdict: proceed }\n").expect("it is sound");
        let case = &cases.cases[0];
        assert_eq!(case.place, "cases.yaml:2:5");
        assert_eq!(case.config, "null");
        assert_eq!(case.script.method, Method::GET);
        assert_eq!(case.script.headers[header::HOST], "test.example");
        assert!(case.script.body.is_empty());
    }

    /// The example in the help is a file that can be used.
    #[test]
    fn the_help_is_true() {
        let lines = HELP.lines().skip(2).take_while(|line| !line.starts_with('A'));
        let yaml: String = lines
            .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)))
            .collect();
        let refused = parse(&yaml).expect_err("its `failure` needs another verdict");
        assert!(refused.contains("expect.failure"), "{refused}");
        let cases = parse(&yaml.replace("verdict: proceed", "verdict: failure")).expect("it is sound");
        let case = &cases.cases[0];
        assert_eq!(case.config, r#"{"token":"sesame"}"#);
        assert_eq!(case.script.headers.get_all("accept").iter().count(), 2);
        assert_eq!(case.calls.len(), 2);
        assert!(matches!(case.calls[1].answer, Err(Failed::TimedOut)));
    }

    #[test]
    fn errors_have_places() {
        let case = |line: &str| format!("cases:\n  - name: a\n    expect: {{}}\n    {line}\n");
        for (text, said) in [
            ("cases: []\n".to_owned(), vec!["cases.yaml", "empty"]),
            ("casos: []\n".to_owned(), vec!["cases.yaml:1:1", "casos"]),
            (case("reqest: {}"), vec!["cases.yaml:4:5", "reqest"]),
            (
                case("request: { target: a }"),
                vec!["cases.yaml:2:5", "`a`", "request.target"],
            ),
            (case("request: { client: here }"), vec!["request.client"]),
            (
                case("request: { headers: { \"a b\": c } }"),
                vec!["request.headers.a b"],
            ),
            (case("response: { status: 99 }"), vec!["response.status", "99"]),
            (case("calls: [{ cluster: a, status: 1 }]"), vec!["calls[0].status"]),
            (case("repeat: 0"), vec!["repeat"]),
            (case("expect: {}"), vec!["cases.yaml:4:5", "expect"]),
        ] {
            let error = parse(&text).expect_err(&text);
            for part in said {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
    }
}
