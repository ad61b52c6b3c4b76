//! One exchange as one line of the access log.
//!
//! Data plane. Its invariant: whatever bytes a client, an upstream or a guest chose, the line stays one line, holds no
//! control character, and no value can pass for another field's. It knows nothing of where the line goes.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::head::Attributes;
use crate::peer::{ClientCertificate, Tls};

/// The facts of one exchange, borrowed from it at its end. Bytes are as the wire gave them.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When the exchange began.
    pub time: SystemTime,
    pub request_id: &'a str,
    pub listener: &'a str,
    /// `None` when no route took the request.
    pub route: Option<&'a str>,
    pub cluster: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// `None` on a Unix socket without PROXY header.
    pub client: Option<IpAddr>,
    pub method: &'a [u8],
    pub authority: Option<&'a [u8]>,
    /// With the query.
    pub path: &'a [u8],
    /// As in `HTTP/1.1`.
    pub protocol: &'a str,
    /// `None` when the client was gone before a response began.
    pub status: Option<u16>,
    /// Why the proxy answered by itself; a fixed word.
    pub reason: Option<&'a str>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration: Duration,
    /// To the end of the upstream's response head.
    pub upstream: Option<Duration>,
    /// How often it was sent, or tried to be.
    pub attempts: u32,
    pub user_agent: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
    /// What filters left; `None` when the request was no exchange.
    pub attributes: Option<&'a Attributes>,
    /// `None` on a connection of plain text.
    pub tls: Option<&'a Tls>,
    /// `None` when the request was no call of gRPC, or came to no status.
    pub grpc_status: Option<u8>,
}

/// What a record can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    Time,
    RequestId,
    Listener,
    Route,
    Cluster,
    Endpoint,
    Client,
    Method,
    Authority,
    Path,
    Protocol,
    Status,
    Reason,
    RequestBytes,
    ResponseBytes,
    DurationMs,
    UpstreamMs,
    Attempts,
    UserAgent,
    Referer,
    Attributes,
    TlsVersion,
    Sni,
    ClientSubject,
    ClientSans,
    ClientFingerprint,
    GrpcStatus,
}

/// How a record is written; lives as long as its generation.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// One object with every field; `null` for what is not known.
    Json,
    /// Fields between literals; `-` for what is not known.
    Text(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Written as it is, but for control characters other than the tab.
    Literal(String),
    Field(Field),
    /// One of the attributes that filters leave.
    Attribute(String),
}

enum Value<'a> {
    Unknown,
    Bytes(&'a [u8]),
    Number(u64),
    Millis(Duration),
    Time(SystemTime),
    Client(IpAddr),
    Attributes(&'a Attributes),
}

impl Format {
    /// Appends the line, without its end.
    pub fn render(&self, record: &Record, out: &mut String) {
        match self {
            Self::Json => render_json(record, out),
            Self::Text(parts) => parts.iter().for_each(|part| match part {
                Part::Literal(text) => push_literal(text, out),
                Part::Field(field) => push_text(&record.value(*field), out),
                Part::Attribute(name) => push_text(&record.attribute(name), out),
            }),
        }
    }
}

fn render_json(record: &Record, out: &mut String) {
    let mut separator = "{\"";
    for field in Field::ALL {
        out.push_str(separator);
        out.push_str(field.name());
        out.push_str("\":");
        push_json(&record.value(field), out);
        separator = ",\"";
    }
    out.push('}');
}

impl<'a> Record<'a> {
    fn value(&self, field: Field) -> Value<'a> {
        let text = |text: &'a str| Value::Bytes(text.as_bytes());
        let text_if = |maybe: Option<&'a str>| maybe.map_or(Value::Unknown, text);
        let bytes_if = |maybe: Option<&'a [u8]>| maybe.map_or(Value::Unknown, Value::Bytes);
        match field {
            Field::Time => Value::Time(self.time),
            Field::RequestId => text(self.request_id),
            Field::Listener => text(self.listener),
            Field::Route => text_if(self.route),
            Field::Cluster => text_if(self.cluster),
            Field::Endpoint => text_if(self.endpoint),
            Field::Client => self.client.map_or(Value::Unknown, Value::Client),
            Field::Method => Value::Bytes(self.method),
            Field::Authority => bytes_if(self.authority),
            Field::Path => Value::Bytes(self.path),
            Field::Protocol => text(self.protocol),
            Field::Status => self
                .status
                .map_or(Value::Unknown, |status| Value::Number(status.into())),
            Field::Reason => text_if(self.reason),
            Field::RequestBytes => Value::Number(self.request_bytes),
            Field::ResponseBytes => Value::Number(self.response_bytes),
            Field::DurationMs => Value::Millis(self.duration),
            Field::UpstreamMs => self.upstream.map_or(Value::Unknown, Value::Millis),
            Field::Attempts => Value::Number(self.attempts.into()),
            Field::UserAgent => bytes_if(self.user_agent),
            Field::Referer => bytes_if(self.referer),
            Field::Attributes => self.attributes.map_or(Value::Unknown, Value::Attributes),
            Field::TlsVersion => text_if(self.tls.map(|tls| tls.version)),
            Field::Sni => text_if(self.tls.and_then(|tls| tls.server_name.as_deref())),
            Field::ClientSubject => text_if(self.certificate().map(|shown| &*shown.subject)),
            Field::ClientSans => text_if(self.certificate().map(|shown| &*shown.names_text)),
            Field::ClientFingerprint => text_if(self.certificate().map(|shown| &*shown.fingerprint)),
            Field::GrpcStatus => self
                .grpc_status
                .map_or(Value::Unknown, |status| Value::Number(status.into())),
        }
    }

    fn certificate(&self) -> Option<&'a ClientCertificate> {
        self.tls?.certificate.as_ref()
    }

    fn attribute(&self, name: &str) -> Value<'a> {
        let value = self.attributes.and_then(|attributes| attributes.get(name));
        value.map_or(Value::Unknown, |value| Value::Bytes(value.as_bytes()))
    }
}

fn push_json(value: &Value, out: &mut String) {
    match value {
        Value::Unknown => out.push_str("null"),
        Value::Number(_) | Value::Millis(_) => push_plain(value, out),
        Value::Bytes(bytes) => {
            out.push('"');
            push_json_bytes(bytes, out);
            out.push('"');
        }
        Value::Time(_) | Value::Client(_) => {
            out.push('"');
            push_plain(value, out);
            out.push('"');
        }
        Value::Attributes(attributes) => push_object(attributes, out),
    }
}

/// Names are unique, as JSON objects want them.
fn push_object(attributes: &Attributes, out: &mut String) {
    out.push('{');
    for (index, (name, value)) in attributes.iter().enumerate() {
        out.push_str(if index == 0 { "\"" } else { ",\"" });
        push_json_bytes(name.as_bytes(), out);
        out.push_str("\":\"");
        push_json_bytes(value.as_bytes(), out);
        out.push('"');
    }
    out.push('}');
}

fn push_text(value: &Value, out: &mut String) {
    match value {
        Value::Unknown => out.push('-'),
        // An empty value would shift the columns of whoever splits at blanks.
        Value::Bytes([]) => out.push('-'),
        Value::Attributes(attributes) if attributes.is_empty() => out.push('-'),
        // As `name=value`, one after the other; names and values are escaped, so that a comma is the only separator.
        Value::Attributes(attributes) => {
            for (index, (name, value)) in attributes.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                push_item_bytes(name.as_bytes(), out);
                out.push('=');
                push_item_bytes(value.as_bytes(), out);
            }
        }
        Value::Bytes(bytes) => push_text_bytes(bytes, out),
        Value::Number(_) | Value::Millis(_) | Value::Time(_) | Value::Client(_) => push_plain(value, out),
    }
}

/// What needs no escape in either format.
fn push_plain(value: &Value, out: &mut String) {
    let written = match value {
        Value::Unknown | Value::Bytes(_) | Value::Attributes(_) => Ok(()),
        Value::Number(number) => write!(out, "{number}"),
        Value::Millis(duration) => {
            // 128 bits, which a division by the processor does not have, are for longer than any exchange.
            let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            write!(out, "{}.{:03}", micros / 1_000, micros % 1_000)
        }
        Value::Time(time) => write!(out, "{}", humantime::format_rfc3339_millis(within_calendar(*time))),
        Value::Client(address) => write!(out, "{address}"),
    };
    debug_assert!(written.is_ok(), "a String takes everything");
}

/// RFC 3339 has four digits for the year, and the formatter panics before 1970. A clock that is set so wrong shows as
/// the nearest time that can be written.
fn within_calendar(time: SystemTime) -> SystemTime {
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    UNIX_EPOCH + time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST)
}

/// Printable ASCII as it is; quotes and backslashes behind a backslash; every other byte as `\xNN`, UTF-8 included, so
/// that nothing in the line can move a terminal's cursor or look like what it is not.
fn push_text_bytes(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => push_hex(byte, out),
        }
    }
}

/// As [`push_text_bytes`], with the comma, which separates items, behind a backslash too.
fn push_item_bytes(bytes: &[u8], out: &mut String) {
    for (index, item) in bytes.split(|byte| *byte == b',').enumerate() {
        out.push_str(if index == 0 { "" } else { "\\," });
        push_text_bytes(item, out);
    }
}

/// UTF-8 as it is, but for what JSON demands to be escaped (RFC 8259 7) and what a terminal or a viewer would act on.
/// Each sequence that is not UTF-8 becomes one U+FFFD, because a JSON string has no bytes: anything spelled out in
/// ASCII could as well have been sent.
fn push_json_bytes(bytes: &[u8], out: &mut String) {
    // Most values are plain, and are then copied whole. Every byte is looked at, without a branch between them.
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\');
    if bytes.iter().fold(true, |all, byte| all & plain(*byte)) {
        return out.push_str(std::str::from_utf8(bytes).unwrap_or_default());
    }
    for chunk in bytes.utf8_chunks() {
        chunk
            .valid()
            .chars()
            .for_each(|character| push_json_char(character, out));
        if !chunk.invalid().is_empty() {
            out.push_str("\\ufffd");
        }
    }
}

fn push_json_char(character: char, out: &mut String) {
    match character {
        '"' | '\\' => out.extend(['\\', character]),
        _ if !acts_on_viewers(character) => out.push(character),
        _ => {
            let written = write!(out, "\\u{:04x}", u32::from(character));
            debug_assert!(written.is_ok(), "a String takes everything");
        }
    }
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and those that change the direction of text. All
/// of them are below U+10000, so that four digits are enough.
fn acts_on_viewers(character: char) -> bool {
    let direction = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || direction || matches!(character, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{feff}')
}

fn push_literal(text: &str, out: &mut String) {
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            character
                .encode_utf8(&mut [0; 4])
                .bytes()
                .for_each(|byte| push_hex(byte, out));
        } else {
            out.push(character);
        }
    }
}

fn push_hex(byte: u8, out: &mut String) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    out.extend(['\\', 'x', digit(byte >> 4), digit(byte)]);
}

impl Field {
    /// In the order of a JSON line.
    pub const ALL: [Self; 27] = [
        Self::Time,
        Self::RequestId,
        Self::Listener,
        Self::Route,
        Self::Cluster,
        Self::Endpoint,
        Self::Client,
        Self::Method,
        Self::Authority,
        Self::Path,
        Self::Protocol,
        Self::Status,
        Self::Reason,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::DurationMs,
        Self::UpstreamMs,
        Self::Attempts,
        Self::UserAgent,
        Self::Referer,
        Self::Attributes,
        Self::TlsVersion,
        Self::Sni,
        Self::ClientSubject,
        Self::ClientSans,
        Self::ClientFingerprint,
        Self::GrpcStatus,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::RequestId => "request_id",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Client => "client",
            Self::Method => "method",
            Self::Authority => "authority",
            Self::Path => "path",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::Reason => "reason",
            Self::RequestBytes => "request_bytes",
            Self::ResponseBytes => "response_bytes",
            Self::DurationMs => "duration_ms",
            Self::UpstreamMs => "upstream_ms",
            Self::Attempts => "attempts",
            Self::UserAgent => "user_agent",
            Self::Referer => "referer",
            Self::Attributes => "attributes",
            Self::TlsVersion => "tls_version",
            Self::Sni => "sni",
            Self::ClientSubject => "client_subject",
            Self::ClientSans => "client_sans",
            Self::ClientFingerprint => "client_fingerprint",
            Self::GrpcStatus => "grpc_status",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            request_id: "0123",
            listener: "web",
            route: Some("api"),
            cluster: Some("app"),
            endpoint: Some("127.0.0.1:9000"),
            client: Some(Ipv4Addr::LOCALHOST.into()),
            method: b"GET",
            authority: Some(b"example.com"),
            path: b"/v1/a?b=c",
            protocol: "HTTP/1.1",
            status: Some(200),
            reason: None,
            request_bytes: 0,
            response_bytes: 512,
            duration: Duration::from_micros(1_500),
            upstream: Some(Duration::from_micros(70)),
            attempts: 1,
            user_agent: None,
            referer: None,
            attributes: None,
            tls: None,
            grpc_status: None,
        }
    }

    fn json(record: &Record) -> String {
        let mut out = String::new();
        Format::Json.render(record, &mut out);
        out
    }

    fn text(parts: Vec<Part>, record: &Record) -> String {
        let mut out = String::new();
        Format::Text(parts).render(record, &mut out);
        out
    }

    fn all_fields() -> Vec<Part> {
        Field::ALL
            .into_iter()
            .flat_map(|field| [Part::Field(field), Part::Literal(" ".to_owned())])
            .collect()
    }

    #[test]
    fn a_json_line_to_the_byte() {
        let line = json(&record());
        let expected = "{\"time\":\"2023-11-14T22:13:20.042Z\",\"request_id\":\"0123\",\"listener\":\"web\",\
            \"route\":\"api\",\"cluster\":\"app\",\"endpoint\":\"127.0.0.1:9000\",\"client\":\"127.0.0.1\",\
            \"method\":\"GET\",\"authority\":\"example.com\",\"path\":\"/v1/a?b=c\",\"protocol\":\"HTTP/1.1\",\
            \"status\":200,\"reason\":null,\"request_bytes\":0,\"response_bytes\":512,\"duration_ms\":1.500,\
            \"upstream_ms\":0.070,\"attempts\":1,\"user_agent\":null,\"referer\":null,\"attributes\":null,\
            \"tls_version\":null,\"sni\":null,\"client_subject\":null,\"client_sans\":null,\
            \"client_fingerprint\":null,\"grpc_status\":null}";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_text_line_to_the_byte() {
        let line = text(all_fields(), &record());
        let expected = "2023-11-14T22:13:20.042Z 0123 web api app 127.0.0.1:9000 127.0.0.1 GET example.com \
            /v1/a?b=c HTTP/1.1 200 - 0 512 1.500 0.070 1 - - - - - - - - - ";
        assert_eq!(line, expected);
    }

    #[test]
    fn attributes_stay_inside_their_quotes() {
        let mut attributes = Attributes::default();
        assert_eq!(attributes.set("tenant", "acme"), Ok(()));
        assert_eq!(attributes.set("a\"b", "x,y=z\n\u{202e}"), Ok(()));
        let record = Record {
            attributes: Some(&attributes),
            ..record()
        };
        let value: serde_json::Value = serde_json::from_str(&json(&record)).expect("JSON");
        assert_eq!(
            value["attributes"],
            serde_json::json!({ "tenant": "acme", "a\"b": "x,y=z\n\u{202e}" })
        );
        assert!(json(&record).contains("\\u202e"), "{}", json(&record));
        let parts = vec![
            Part::Attribute("tenant".into()),
            Part::Literal(" ".into()),
            Part::Attribute("none".into()),
            Part::Literal(" ".into()),
            Part::Field(Field::Attributes),
        ];
        let expected = "acme - tenant=acme,a\\\"b=x\\,y=z\\x0a\\xe2\\x80\\xae";
        assert_eq!(text(parts, &record), expected);
    }

    #[test]
    fn nothing_known_is_nothing_said() {
        let bare = Record {
            route: None,
            cluster: None,
            endpoint: None,
            client: None,
            method: b"",
            authority: None,
            status: None,
            upstream: None,
            ..record()
        };
        let value: serde_json::Value = serde_json::from_str(&json(&bare)).expect("JSON");
        for field in [
            "route",
            "cluster",
            "endpoint",
            "client",
            "authority",
            "status",
            "reason",
            "upstream_ms",
        ] {
            assert!(value[field].is_null(), "{field}");
        }
        let parts = [Field::Status, Field::Method, Field::Client].map(Part::Field);
        assert_eq!(text(parts.to_vec(), &bare), "---");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (millis, written) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"), // 2100 is no leap year
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        ] {
            let record = Record {
                time: UNIX_EPOCH + Duration::from_millis(millis),
                ..record()
            };
            assert_eq!(text(vec![Part::Field(Field::Time)], &record), written, "{millis}");
        }
        let before = Record {
            time: UNIX_EPOCH - Duration::from_secs(1),
            ..record()
        };
        assert_eq!(
            text(vec![Part::Field(Field::Time)], &before),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn hostile_bytes_are_spelled_out() {
        for (bytes, as_text, as_json) in [
            (&b"a\r\nb"[..], r"a\x0d\x0ab", r"a\u000d\u000ab"),
            (b"\x1b[31m\x00\x7f", r"\x1b[31m\x00\x7f", r"\u001b[31m\u0000\u007f"),
            (b"\"\\", r#"\"\\"#, r#"\"\\"#),
            (b"\xff\xfe", r"\xff\xfe", r"\ufffd\ufffd"),
            (b"\xe2\x82", r"\xe2\x82", r"\ufffd"), // cut short
            ("é".as_bytes(), r"\xc3\xa9", "é"),
            ("\u{85}\u{9b}".as_bytes(), r"\xc2\x85\xc2\x9b", r"\u0085\u009b"),
            (
                "\u{2028}\u{202e}".as_bytes(),
                r"\xe2\x80\xa8\xe2\x80\xae",
                r"\u2028\u202e",
            ),
            ("😀".as_bytes(), r"\xf0\x9f\x98\x80", "😀"),
        ] {
            let record = Record {
                user_agent: Some(bytes),
                ..record()
            };
            assert_eq!(text(vec![Part::Field(Field::UserAgent)], &record), as_text);
            let line = json(&record);
            assert!(line.contains(&format!("\"user_agent\":\"{as_json}\",")), "{line}");
        }
    }

    #[test]
    fn a_literal_may_hold_a_tab_and_no_other_control() {
        let parts = vec![Part::Literal("é\t\"\n\u{9b}".to_owned())];
        assert_eq!(text(parts, &record()), "é\t\"\\x0a\\xc2\\x9b");
    }

    proptest! {
        #[test]
        fn a_line_is_one_line_whatever_is_in_it(
            bytes in proptest::array::uniform5(proptest::collection::vec(any::<u8>(), 0..64)),
            strings in proptest::array::uniform4(any::<String>()),
            micros in any::<u64>(),
        ) {
            let record = Record {
                request_id: &strings[0],
                listener: &strings[1],
                route: Some(&strings[2]),
                reason: Some(&strings[3]),
                method: &bytes[0],
                authority: Some(&bytes[1]),
                path: &bytes[2],
                user_agent: Some(&bytes[3]),
                referer: Some(&bytes[4]),
                duration: Duration::from_micros(micros),
                response_bytes: micros,
                ..record()
            };
            let line = json(&record);
            prop_assert!(!line.chars().any(acts_on_viewers), "{line:?}");
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            prop_assert_eq!(value.as_object().map(|fields| fields.len()), Some(Field::ALL.len()));
            prop_assert_eq!(value["listener"].as_str(), Some(&*strings[1]));
            prop_assert_eq!(value["path"].as_str(), Some(&*String::from_utf8_lossy(&bytes[2])));
            let line = text(all_fields(), &record);
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
        }
    }
}
