//! Guests that no tool chain would build: components written as text, one hostile act after another.
//!
//! The shape is that of a component made by `wit-component` for the world `tamis:filter/filter@0.1.0`: types imported
//! as an instance, hooks exported as instances. Only what the acts need is imported.

use std::fmt::Write;

use crate::wat::Act::*;

const VERSION: &str = "0.1.0";

/// Where the host puts the result of an edit: 0 or 1 for ok or error, then the error's number.
const RESULT: usize = 16;
/// One digit for each edit tried in this hook, up to `ZEROES`; later ones take the last place.
const OUTCOMES: usize = 64;
/// A `proceed` verdict, and an `ok` of `configure`: zeroes.
const ZEROES: usize = 512;
/// Where strings and replies begin.
const DATA: usize = 1024;
const PAGE: usize = 64 * 1024;

/// Digits of a number in decimal are written backwards from here; up to where `DATA` begins.
const DIGITS_END: usize = DATA;

/// How a verdict says that it is a reply: which case it is, and where its payload begins.
#[derive(Clone, Copy, Debug)]
struct ReplyCase {
    number: u8,
    offset: usize,
}

/// Another case of this variant has a `u64`, so payloads begin at a multiple of eight.
const REQUEST_REPLY: ReplyCase = ReplyCase { number: 1, offset: 8 };
const RESPONSE_REPLY: ReplyCase = ReplyCase { number: 1, offset: 4 };
const HELD_REPLY: ReplyCase = ReplyCase { number: 2, offset: 4 };
const BODY_REPLY: ReplyCase = ReplyCase { number: 4, offset: 4 };

/// What `on-completion` is given, flat: status, whether it is complete, the reason, two counts of bytes, two times, two
/// names.
const OUTCOME: &str = "(param i32 i32 i32 i32 i32 i64 i64 i64 i32 i64 i32 i32 i32 i32 i32 i32)";

/// One thing that a hook does.
#[derive(Clone, Debug)]
pub enum Act {
    SetRequestHeader(&'static str, Vec<u8>),
    AppendRequestHeader(&'static str, Vec<u8>),
    RemoveRequestHeader(&'static str),
    SetMethod(&'static str),
    SetAuthority(&'static str),
    SetPath(String),
    SetQuery(&'static str),
    /// Asks that the request's body passes by.
    PassBody,
    SetResponseHeader(&'static str, Vec<u8>),
    SetStatus(u16),
    SetAttribute(&'static str, String),
    /// Sets the request header `x-outcomes`: a digit for each edit so far, `0` for ok, then in the order of the WIT
    /// `1` invalid, `2` forbidden, `3` too large, `4` too late.
    TellUpstream,
    /// The same as a response header.
    TellClient,
    /// Writes a line at level `info`.
    Log(&'static str),
    /// Counts one in so many metrics, `m0`, `m1` and so on. Needs the grant `metrics`.
    Count(usize),
    /// Asks for the time. Needs the grant `clock`.
    Clock,
    /// Asks WASI for so many random bytes. Needs the grant `wasi`.
    Random(u64),
    /// Counts so far, which takes a nanosecond or so for each: a hook of some milliseconds is parked on its way, and others
    /// have their turn.
    Compute(u32),
    /// For ever.
    Loop,
    /// Asks for a value that is there, for ever: a call that may wait, and does not. Needs the grant `key_value`.
    Claims,
    Trap,
    /// Calls itself until the stack ends.
    Recurse,
    /// What follows runs from this call on, of all calls of hooks with such an act in one instance; 0 is the first. The
    /// calls before end here, and nothing comes of them.
    From(u32),
    /// Ends the request-head hook with the wish for so many bytes of the body; a longer one is refused.
    ReadBody(u64),
    /// Ends the connection hook, and the connection.
    RefuseConnection,
    /// In the completion hook: sets the attributes `status`, `reason`, `request-bytes` and `response-bytes`.
    TellRecord,
    /// Ends the hook with this reply.
    Reply(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// Ends `configure` with this error.
    Refuse(&'static str),
}

/// A component in the making.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    configure: Option<Vec<Act>>,
    connection: Option<Vec<Act>>,
    request_head: Option<Vec<Act>>,
    held_body: Option<Vec<Act>>,
    request_body: Option<Vec<Act>>,
    response_head: Option<Vec<Act>>,
    response_body: Option<Vec<Act>>,
    completion: Option<Vec<Act>>,
    foreign: Option<(&'static str, &'static str)>,
}

impl Guest {
    /// Exports nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn on_request(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.request_head = Some(acts.into());
        self
    }

    pub fn on_response(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.response_head = Some(acts.into());
        self
    }

    pub fn on_connection(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.connection = Some(acts.into());
        self
    }

    pub fn on_held_body(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.held_body = Some(acts.into());
        self
    }

    /// For each piece; the end is kept as it is.
    pub fn on_request_body(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.request_body = Some(acts.into());
        self
    }

    /// For each piece; the end is kept as it is.
    pub fn on_response_body(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.response_body = Some(acts.into());
        self
    }

    pub fn on_completion(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.completion = Some(acts.into());
        self
    }

    pub fn on_configure(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.configure = Some(acts.into());
        self
    }

    /// Also imports an instance that is not in the WIT, with one function.
    pub fn importing(mut self, interface: &'static str, function: &'static str) -> Self {
        self.foreign = Some((interface, function));
        self
    }

    /// The component's bytes.
    pub fn build(&self) -> Vec<u8> {
        let text = self.text();
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// The component as text.
    pub fn text(&self) -> String {
        let mut memory = Memory::default();
        let mut functions = String::new();
        for (hook, acts) in self.hooks() {
            let Hook { name, signature, case } = hook;
            let body: String = acts.iter().map(|act| act.core(&mut memory, case)).collect();
            let start = format!("(global.set $outcome (i32.const {OUTCOMES}))");
            let end = match name {
                // An enum comes back as itself: the connection is accepted.
                "connection" => "(i32.const 0)".to_owned(),
                "completion" => String::new(),
                _ => format!("(i32.const {ZEROES})"),
            };
            writeln!(functions, "(func (export \"{name}\") {signature} {start} {body} {end})").ok();
        }
        for end in [
            self.request_body.as_ref().map(|_| "request-end"),
            self.response_body.as_ref().map(|_| "response-end"),
        ] {
            let Some(name) = end else { continue };
            writeln!(
                functions,
                "(func (export \"{name}\") (param i32 i32) (result i32) (i32.const {ZEROES}))"
            )
            .ok();
        }
        let imports = self.imports();
        let mut text = String::from("(component\n");
        text.push_str(TYPES);
        imports.iter().for_each(|interface| text.push_str(&interface.text()));
        if let Some((interface, function)) = self.foreign {
            writeln!(
                text,
                "(import \"{interface}\" (instance (export \"{function}\" (func))))"
            )
            .ok();
        }
        text.push_str(&memory.module());
        text.push_str(&lowered(&imports));
        text.push_str(&guest_module(&imports, &functions));
        text.push_str(&self.exports());
        text.push_str(")\n");
        text
    }

    /// The hooks that there are, with their acts.
    fn hooks(&self) -> Vec<(Hook, &[Act])> {
        let piece = "(param i32 i32) (result i32)";
        let hook = |name, signature, case| Hook { name, signature, case };
        let all = [
            (hook("configure", piece, RESPONSE_REPLY), &self.configure),
            (hook("connection", "(result i32)", RESPONSE_REPLY), &self.connection),
            (hook("request-head", "(result i32)", REQUEST_REPLY), &self.request_head),
            (
                hook("held-body", "(param i32 i32 i32) (result i32)", HELD_REPLY),
                &self.held_body,
            ),
            (hook("request-body", piece, BODY_REPLY), &self.request_body),
            (
                hook("response-head", "(result i32)", RESPONSE_REPLY),
                &self.response_head,
            ),
            (hook("response-body", piece, BODY_REPLY), &self.response_body),
            (hook("completion", OUTCOME, RESPONSE_REPLY), &self.completion),
        ];
        all.into_iter()
            .filter_map(|(hook, acts)| Some((hook, acts.as_deref()?)))
            .collect()
    }

    /// The interfaces that the acts need, each once.
    fn imports(&self) -> Vec<Interface> {
        let hooks = self.hooks();
        let acts = hooks.iter().flat_map(|(_, acts)| acts.iter());
        let needed: Vec<&Function> = acts.flat_map(Act::needs).map(|name| function(name)).collect();
        let mut interfaces: Vec<Interface> = Vec::new();
        for function in needed {
            let position = interfaces
                .iter()
                .position(|interface| interface.name == function.interface);
            let position = position.unwrap_or_else(|| {
                interfaces.push(Interface {
                    name: function.interface,
                    functions: Vec::new(),
                });
                interfaces.len() - 1
            });
            let functions = &mut interfaces[position].functions;
            if !functions.contains(&function) {
                functions.push(function);
            }
        }
        interfaces
    }

    fn exports(&self) -> String {
        let mut text = String::new();
        if self.configure.is_some() {
            text.push_str(&export(
                "configure",
                "configure",
                "(param \"config\" string) (result (result (error string)))",
                "",
            ));
        }
        if self.request_head.is_some() {
            text.push_str(&export(
                "request-head",
                "on-request-head",
                "(result $request-verdict)",
                "(export \"request-verdict\" (type $request-verdict))",
            ));
        }
        if self.response_head.is_some() {
            text.push_str(&export(
                "response-head",
                "on-response-head",
                "(result $verdict)",
                "(export \"verdict\" (type $verdict))",
            ));
        }
        if self.connection.is_some() {
            text.push_str(ADMISSION);
            text.push_str(&export(
                "connection",
                "on-connection",
                "(result $admission)",
                "(export \"admission\" (type $admission))",
            ));
        }
        if self.held_body.is_some() {
            text.push_str(&export(
                "held-body",
                "on-held-body",
                "(param \"body\" (list u8)) (param \"complete\" bool) (result $held-verdict)",
                "(export \"held-verdict\" (type $held-verdict))",
            ));
        }
        for (side, acts) in [("request", &self.request_body), ("response", &self.response_body)] {
            if acts.is_some() {
                text.push_str(&export_body(side));
            }
        }
        if self.completion.is_some() {
            text.push_str(OUTCOME_TYPE);
            text.push_str(&export(
                "completion",
                "on-completion",
                "(param \"outcome\" $outcome)",
                "(export \"outcome\" (type $outcome))",
            ));
        }
        text
    }
}

/// One exported core function.
struct Hook {
    name: &'static str,
    signature: &'static str,
    case: ReplyCase,
}

impl Act {
    /// The host functions that the act calls.
    fn needs(&self) -> &'static [&'static str] {
        match self {
            SetRequestHeader(..) => &["request.set-header"],
            AppendRequestHeader(..) => &["request.append-header"],
            RemoveRequestHeader(..) => &["request.remove-header"],
            SetMethod(_) => &["request.set-method"],
            SetAuthority(_) => &["request.set-authority"],
            SetPath(_) => &["request.set-path"],
            SetQuery(_) => &["request.set-query"],
            PassBody => &["request.pass-body"],
            SetResponseHeader(..) => &["response.set-header"],
            SetStatus(_) => &["response.set-status"],
            SetAttribute(..) => &["exchange.set-attribute"],
            TellUpstream => &["request.set-header"],
            TellClient => &["response.set-header"],
            Log(_) => &["log.write"],
            Count(_) => &["metrics.counter-add"],
            Clock => &["clock.now-ms"],
            Random(_) => &["random.get-random-bytes"],
            Claims => &["key-value.set", "key-value.claim"],
            TellRecord => &["exchange.set-attribute"],
            Compute(_) | Loop | Trap | Recurse | From(_) | ReadBody(_) | RefuseConnection | Reply(..) | Refuse(_) => {
                &[]
            }
        }
    }

    /// The act as core instructions that leave the stack as it was, or return from the hook.
    fn core(&self, memory: &mut Memory, case: ReplyCase) -> String {
        let edit =
            |name: &str, arguments: String| format!("(call ${name} {arguments} (i32.const {RESULT})) (call $note)\n");
        let outcomes = format!("(i32.const {OUTCOMES}) (i32.sub (global.get $outcome) (i32.const {OUTCOMES}))");
        match self {
            SetRequestHeader(name, value) => edit("request.set-header", memory.string(name) + &memory.bytes(value)),
            AppendRequestHeader(name, value) => {
                edit("request.append-header", memory.string(name) + &memory.bytes(value))
            }
            RemoveRequestHeader(name) => edit("request.remove-header", memory.string(name)),
            SetMethod(text) => edit("request.set-method", memory.string(text)),
            SetAuthority(text) => edit("request.set-authority", memory.string(text)),
            SetPath(text) => edit("request.set-path", memory.string(text)),
            SetQuery(text) => edit("request.set-query", format!("(i32.const 1) {}", memory.string(text))),
            PassBody => "(call $request.pass-body)\n".to_owned(),
            SetResponseHeader(name, value) => edit("response.set-header", memory.string(name) + &memory.bytes(value)),
            SetStatus(status) => edit("response.set-status", format!("(i32.const {status})")),
            SetAttribute(name, value) => edit("exchange.set-attribute", memory.string(name) + &memory.string(value)),
            TellUpstream => edit("request.set-header", memory.string("x-outcomes") + &outcomes),
            TellClient => edit("response.set-header", memory.string("x-outcomes") + &outcomes),
            Log(message) => format!("(call $log.write (i32.const 1) {})\n", memory.string(message)),
            Count(names) => (0..*names)
                .map(|n| {
                    format!(
                        "(call $metrics.counter-add {} (i32.const 0) (i32.const 0) (i64.const 1))\n",
                        memory.string(&format!("m{n}"))
                    )
                })
                .collect(),
            Clock => "(drop (call $clock.now-ms))\n".to_owned(),
            Random(count) => {
                format!("(call $random.get-random-bytes (i64.const {count}) (i32.const {RESULT}))\n")
            }
            Compute(count) => format!("(call $compute (i32.const {count}))\n"),
            Loop => "(loop $again (br $again))\n".to_owned(),
            Claims => {
                let (key, value) = (memory.string("key"), memory.string(""));
                format!(
                    "(call $key-value.set {key} {value} (i32.const 0) (i64.const 0) (i32.const {RESULT}))\n\
                     (loop $again (call $key-value.claim {key} (i32.const 0) (i32.const {RESULT})) (br $again))\n"
                )
            }
            Trap => "(unreachable)\n".to_owned(),
            Recurse => "(drop (call $recurse (i32.const 1)))\n".to_owned(),
            From(call) => format!(
                "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))\n\
                 (if (i32.le_u (global.get $calls) (i32.const {call})) (then (return (i32.const {ZEROES}))))\n"
            ),
            ReadBody(max) => format!("(return (i32.const {}))\n", memory.read_body(*max)),
            // An enum comes back as itself.
            RefuseConnection => "(return (i32.const 1))\n".to_owned(),
            TellRecord => {
                let attribute = |name: &str, value: &str, memory: &mut Memory| {
                    let name = memory.string(name);
                    format!("(call $exchange.set-attribute {name} {value} (i32.const {RESULT}))\n")
                };
                let decimal = |number: &str| {
                    format!("(call $decimal {number}) (i32.sub (i32.const {DIGITS_END}) (global.get $digits))")
                };
                [
                    attribute("status", &decimal("(i64.extend_i32_u (local.get 0))"), memory),
                    attribute("reason", "(local.get 3) (local.get 4)", memory),
                    attribute("request-bytes", &decimal("(local.get 5)"), memory),
                    attribute("response-bytes", &decimal("(local.get 6)"), memory),
                ]
                .concat()
            }
            Reply(status, headers, body) => {
                format!("(return (i32.const {}))\n", memory.reply(case, *status, headers, body))
            }
            Refuse(message) => format!("(return (i32.const {}))\n", memory.refusal(message)),
        }
    }
}

/// A host function as the WIT has it, and as core code calls it.
#[derive(Debug, PartialEq)]
struct Function {
    interface: &'static str,
    name: &'static str,
    /// Parameters and result.
    kind: &'static str,
    /// The flat signature; a result that does not fit into one value goes through a last pointer parameter.
    core: &'static str,
}

const EDIT: &str = "(result (result (error $edit-error)))";

const FUNCTIONS: [(&str, Function); 18] = {
    const fn host(interface: &'static str, name: &'static str, kind: &'static str, core: &'static str) -> Function {
        Function {
            interface,
            name,
            kind,
            core,
        }
    }
    const PAIR: &str = "(param \"name\" string) (param \"value\" (list u8)) (result (result (error $edit-error)))";
    const ONE: &str = "(param i32 i32 i32)";
    const TWO: &str = "(param i32 i32 i32 i32 i32)";
    [
        ("request.set-header", host("request", "set-header", PAIR, TWO)),
        ("request.append-header", host("request", "append-header", PAIR, TWO)),
        (
            "request.remove-header",
            host("request", "remove-header", "(param \"name\" string) EDIT", ONE),
        ),
        ("request.pass-body", host("request", "pass-body", "", "")),
        (
            "request.set-method",
            host("request", "set-method", "(param \"method\" string) EDIT", ONE),
        ),
        (
            "request.set-authority",
            host("request", "set-authority", "(param \"authority\" string) EDIT", ONE),
        ),
        (
            "request.set-path",
            host("request", "set-path", "(param \"path\" string) EDIT", ONE),
        ),
        (
            "request.set-query",
            host(
                "request",
                "set-query",
                "(param \"query\" (option string)) EDIT",
                "(param i32 i32 i32 i32)",
            ),
        ),
        ("response.set-header", host("response", "set-header", PAIR, TWO)),
        (
            "response.set-status",
            host(
                "response",
                "set-status",
                "(param \"status\" u16) EDIT",
                "(param i32 i32)",
            ),
        ),
        (
            "exchange.set-attribute",
            host(
                "exchange",
                "set-attribute",
                "(param \"name\" string) (param \"value\" string) EDIT",
                TWO,
            ),
        ),
        (
            "log.write",
            host(
                "log",
                "write",
                "(param \"level\" $level) (param \"message\" string)",
                "(param i32 i32 i32)",
            ),
        ),
        (
            "metrics.counter-add",
            host(
                "metrics",
                "counter-add",
                "(param \"name\" string) (param \"labels\" (list $label)) (param \"by\" u64)",
                "(param i32 i32 i32 i32 i64)",
            ),
        ),
        ("clock.now-ms", host("clock", "now-ms", "(result u64)", "(result i64)")),
        (
            "clock.monotonic-ms",
            host("clock", "monotonic-ms", "(result u64)", "(result i64)"),
        ),
        (
            "random.get-random-bytes",
            host(
                "random",
                "get-random-bytes",
                "(param \"len\" u64) (result (list u8))",
                "(param i64 i32)",
            ),
        ),
        (
            "key-value.set",
            host(
                "key-value",
                "set",
                "(param \"key\" string) (param \"value\" (list u8)) (param \"ttl-ms\" (option u64)) \
                 (result (result (error $store-error)))",
                "(param i32 i32 i32 i32 i32 i64 i32)",
            ),
        ),
        (
            "key-value.claim",
            host(
                "key-value",
                "claim",
                "(param \"key\" string) (param \"wait-ms\" u32) (result $claimed)",
                "(param i32 i32 i32 i32)",
            ),
        ),
    ]
};

fn function(name: &str) -> &'static Function {
    let found = FUNCTIONS.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, function)| function)
        .unwrap_or_else(|| panic!("no host function {name}"))
}

impl Function {
    fn symbol(&self) -> String {
        format!("{}.{}", self.interface, self.name)
    }
}

/// An imported interface with those of its functions that are used.
#[derive(Debug)]
struct Interface {
    name: &'static str,
    functions: Vec<&'static Function>,
}

impl Interface {
    fn text(&self) -> String {
        let name = self.name;
        let import = match name {
            "random" => "wasi:random/random@0.2.0".to_owned(),
            _ => format!("tamis:filter/{name}@{VERSION}"),
        };
        let mut text = format!("(import \"{import}\" (instance ${name}\n");
        if self
            .functions
            .iter()
            .any(|function| function.kind.contains("EDIT") || function.kind.contains("$edit-error"))
        {
            text.push_str("  (alias outer 1 $edit-error (type $outer-edit-error))\n");
            text.push_str("  (export \"edit-error\" (type $edit-error (eq $outer-edit-error)))\n");
        }
        if self.name == "log" {
            text.push_str("  (type $level-kind (enum \"debug\" \"info\" \"warn\" \"error\"))\n");
            text.push_str("  (export \"level\" (type $level (eq $level-kind)))\n");
        }
        if self.name == "key-value" {
            text.push_str("  (type $store-error-kind (enum \"too-large\"))\n");
            text.push_str("  (export \"store-error\" (type $store-error (eq $store-error-kind)))\n");
            text.push_str(
                "  (type $claimed-kind (variant (case \"value\" (list u8)) (case \"yours\") (case \"timed-out\")))\n",
            );
            text.push_str("  (export \"claimed\" (type $claimed (eq $claimed-kind)))\n");
        }
        if self.name == "metrics" {
            text.push_str("  (type $label-kind (record (field \"name\" string) (field \"value\" string)))\n");
            text.push_str("  (export \"label\" (type $label (eq $label-kind)))\n");
        }
        for function in &self.functions {
            writeln!(
                text,
                "  (export \"{}\" (func {}))",
                function.name,
                function.kind.replace("EDIT", EDIT)
            )
            .ok();
        }
        text.push_str("))\n");
        text
    }
}

/// The interface `types`, and names for what the rest needs of it.
const TYPES: &str = r#"
(import "tamis:filter/types@0.1.0" (instance $types
  (type $header-kind (record (field "name" string) (field "value" (list u8))))
  (export "header" (type $header (eq $header-kind)))
  (type $reply-kind (record (field "status" u16) (field "headers" (list $header)) (field "body" (list u8))))
  (export "reply" (type $reply (eq $reply-kind)))
  (type $over-max-kind (enum "refuse" "continue"))
  (export "over-max" (type $over-max (eq $over-max-kind)))
  (type $read-body-kind (record (field "max" u64) (field "over" $over-max)))
  (export "read-body" (type $read-body (eq $read-body-kind)))
  (type $request-verdict-kind (variant (case "proceed") (case "reply" $reply) (case "read-body" $read-body)))
  (export "request-verdict" (type $request-verdict (eq $request-verdict-kind)))
  (type $verdict-kind (variant (case "proceed") (case "reply" $reply)))
  (export "verdict" (type $verdict (eq $verdict-kind)))
  (type $edit-error-kind (enum "invalid" "forbidden" "too-large" "too-late"))
  (export "edit-error" (type $edit-error (eq $edit-error-kind)))
  (type $held-verdict-kind (variant (case "proceed") (case "replace" (list u8)) (case "reply" $reply)))
  (export "held-verdict" (type $held-verdict (eq $held-verdict-kind)))
  (type $body-verdict-kind (variant (case "keep") (case "drop") (case "replace" (list u8))
    (case "pieces" (list (list u8))) (case "reply" $reply)))
  (export "body-verdict" (type $body-verdict (eq $body-verdict-kind)))
  (type $ending-kind (record (field "data" (list u8)) (field "trailers" (option (list $header)))))
  (export "ending" (type $ending (eq $ending-kind)))
  (type $end-verdict-kind (variant (case "keep") (case "finish" $ending) (case "reply" $reply)))
  (export "end-verdict" (type $end-verdict (eq $end-verdict-kind)))))
(alias export $types "header" (type $field))
(alias export $types "held-verdict" (type $held-verdict))
(alias export $types "body-verdict" (type $body-verdict))
(alias export $types "end-verdict" (type $end-verdict))
(alias export $types "request-verdict" (type $request-verdict))
(alias export $types "verdict" (type $verdict))
(alias export $types "edit-error" (type $edit-error))
"#;

/// A type that an interface has of its own must have a name before a function of that interface can be exported.
const ADMISSION: &str = r#"
(type $admission-kind (enum "accept" "refuse"))
(export $admission "admission" (type $admission-kind))
"#;

const OUTCOME_TYPE: &str = r#"
(type $outcome-kind (record (field "status" u16) (field "complete" bool) (field "reason" (option string))
  (field "request-bytes" u64) (field "response-bytes" u64) (field "duration-us" u64) (field "upstream-us" (option u64))
  (field "cluster" (option string)) (field "endpoint" (option string))))
(export $outcome "outcome" (type $outcome-kind))
"#;

/// The canonical functions from component to core, for every imported function.
fn lowered(imports: &[Interface]) -> String {
    let mut text = String::new();
    for function in imports.iter().flat_map(|interface| &interface.functions) {
        let (symbol, interface, name) = (function.symbol(), function.interface, function.name);
        let options = "(memory $memory) (realloc $realloc)";
        writeln!(
            text,
            "(core func ${symbol} (canon lower (func ${interface} \"{name}\") {options}))"
        )
        .ok();
    }
    text
}

/// The module with the hooks, and its instance.
fn guest_module(imports: &[Interface], functions: &str) -> String {
    let mut text = String::from("(core module $Guest\n(import \"store\" \"memory\" (memory 1))\n");
    let used: Vec<_> = imports.iter().flat_map(|interface| &interface.functions).collect();
    for function in &used {
        let symbol = function.symbol();
        writeln!(
            text,
            "(import \"host\" \"{symbol}\" (func ${symbol} {}))",
            function.core
        )
        .ok();
    }
    text.push_str(
        &HELPERS
            .replace("OUTCOMES", &OUTCOMES.to_string())
            .replace("LAST", &(ZEROES - 1).to_string())
            .replace("RESULT", &RESULT.to_string())
            .replace("DIGITS_END", &DIGITS_END.to_string()),
    );
    text.push_str(functions);
    text.push_str(
        ")\n(core instance $guest (instantiate $Guest (with \"store\" (instance $store)) (with \"host\" (instance\n",
    );
    for function in &used {
        let symbol = function.symbol();
        writeln!(text, "  (export \"{symbol}\" (func ${symbol}))").ok();
    }
    text.push_str("))))\n");
    text
}

const HELPERS: &str = r#"
(global $outcome (mut i32) (i32.const OUTCOMES))
(func $note
  (i32.store8 (global.get $outcome) (i32.add (i32.const 48) (select
    (i32.add (i32.const 1) (i32.load8_u offset=1 (i32.const RESULT)))
    (i32.const 0)
    (i32.load8_u (i32.const RESULT)))))
  (global.set $outcome (i32.add (global.get $outcome) (i32.lt_u (global.get $outcome) (i32.const LAST)))))
(global $calls (mut i32) (i32.const 0))
(global $digits (mut i32) (i32.const 0))
(func $decimal (param $number i64) (result i32)
  (global.set $digits (i32.const DIGITS_END))
  (loop $digit
    (global.set $digits (i32.sub (global.get $digits) (i32.const 1)))
    (i32.store8 (global.get $digits)
      (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
    (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
    (br_if $digit (i64.ne (local.get $number) (i64.const 0))))
  (global.get $digits))
(func $compute (param $left i32)
  (loop $again
    (i32.store8 (i32.const LAST) (i32.const 0))
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br_if $again (local.get $left))))
(func $recurse (param i32) (result i32)
  (i32.add (local.get 0) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
"#;

/// One exported hook: a function of the guest's instance, lifted, in an instance of its own.
fn export(interface: &str, name: &str, kind: &str, types: &str) -> String {
    let core = format!("(core func $guest \"{interface}\")");
    let options = "(memory $memory) (realloc $realloc)";
    format!(
        "(func ${name} {kind} (canon lift {core} {options}))\n\
         (instance ${interface}-hook {types} (export \"{name}\" (func ${name})))\n\
         (export \"tamis:filter/{interface}@{VERSION}\" (instance ${interface}-hook))\n"
    )
}

/// The two functions for one body.
fn export_body(side: &str) -> String {
    let options = "(memory $memory) (realloc $realloc)";
    format!(
        "(func $on-{side}-body (param \"chunk\" (list u8)) (result $body-verdict)\n  \
           (canon lift (core func $guest \"{side}-body\") {options}))\n\
         (func $on-{side}-end (param \"trailers\" (list $field)) (result $end-verdict)\n  \
           (canon lift (core func $guest \"{side}-end\") {options}))\n\
         (instance ${side}-body-hook (export \"field\" (type $field)) (export \"body-verdict\" (type $body-verdict))\n  \
           (export \"end-verdict\" (type $end-verdict)) (export \"on-{side}-body\" (func $on-{side}-body))\n  \
           (export \"on-{side}-end\" (func $on-{side}-end)))\n\
         (export \"tamis:filter/{side}-body@{VERSION}\" (instance ${side}-body-hook))\n"
    )
}

/// The guest's constant data, laid out as it is built.
#[derive(Debug, Default)]
struct Memory {
    data: Vec<u8>,
}

impl Memory {
    fn string(&mut self, text: &str) -> String {
        self.bytes(text.as_bytes())
    }

    /// Pointer and length as two core constants.
    fn bytes(&mut self, bytes: &[u8]) -> String {
        format!("(i32.const {}) (i32.const {}) ", self.put(bytes), bytes.len())
    }

    /// A `reply` verdict: the case, then status, headers and body as the canonical ABI lays them out.
    fn reply(&mut self, case: ReplyCase, status: u16, headers: &[(&str, &str)], body: &str) -> usize {
        let mut table = Vec::new();
        for (name, value) in headers {
            for text in [name, value] {
                table.extend([self.put(text.as_bytes()), text.len()]);
            }
        }
        let words: Vec<u8> = table.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect();
        let rest = [self.put(&words), headers.len(), self.put(body.as_bytes()), body.len()];
        let mut verdict = vec![0; case.offset];
        verdict[0] = case.number;
        verdict.extend(u32::from(status).to_le_bytes());
        verdict.extend(rest.iter().flat_map(|word| (*word as u32).to_le_bytes()));
        self.put(&verdict)
    }

    /// The verdict `read-body`, over `refuse`.
    fn read_body(&mut self, max: u64) -> usize {
        let mut verdict = vec![2, 0, 0, 0, 0, 0, 0, 0];
        verdict.extend(max.to_le_bytes());
        verdict.extend([0; 8]);
        self.put(&verdict)
    }

    /// An error of `configure`.
    fn refusal(&mut self, message: &str) -> usize {
        let words = [1, self.put(message.as_bytes()), message.len()];
        let bytes: Vec<u8> = words.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect();
        self.put(&bytes)
    }

    /// Every piece starts at a multiple of eight.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let at = DATA + self.data.len();
        self.data.extend_from_slice(bytes);
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        at
    }

    /// The module with memory, data and allocator, its instance, and names for the canonical options.
    fn module(&self) -> String {
        let end = (DATA + self.data.len()).next_multiple_of(16);
        let pages = end.div_ceil(PAGE) + 2;
        let data: String = self.data.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!(
            r#"(core module $Store
(memory (export "memory") {pages})
(global $next (mut i32) (i32.const {end}))
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (global.get $next)
  (global.set $next (i32.and (i32.add (i32.add (global.get $next) (local.get 3)) (i32.const 15)) (i32.const -16))))
(data (i32.const {DATA}) "{data}"))
(core instance $store (instantiate $Store))
(alias core export $store "memory" (core memory $memory))
(alias core export $store "cabi_realloc" (core func $realloc))
"#
        )
    }
}
