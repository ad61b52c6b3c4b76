//! Closed sets of words, such as `least_request`.
//!
//! Control plane. One table per set gives the reader, the schema and the way back to text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::model::{
    Alpn, ClientAuthMode, ComponentKind, Grant, GrpcTimeout, LoadBalancing, LogField, OnFailure, Protocol,
    ProxyVersion, RetryOn, ServiceGrant, TlsVersion, UpstreamProtocol, WhenGood,
};
use crate::node::{Node, Value};
use crate::reader::{FromNode, Reader, quote};
use crate::suggest::suggestion;
use crate::units::Count;

/// A value that one word stands for.
pub(crate) trait Word: Copy + PartialEq + Sized + 'static {
    const NAME: &'static str;
    const DESCRIPTION: &'static str;
    const WORDS: &'static [(&'static str, Self)];

    fn parse(text: &str) -> Result<Self, String> {
        find(text)
    }

    fn word(self) -> &'static str {
        // Every value is in its table; the tests hold them together.
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("", |(word, _)| *word)
    }
}

/// ``the word `https` ``, or ``one of the words `v1`, `v2` ``.
fn one_of<W: Word>() -> String {
    let words: Vec<_> = W::WORDS.iter().map(|(word, _)| format!("`{word}`")).collect();
    match &*words {
        [word] => format!("the word {word}"),
        words => format!("one of the words {}", words.join(", ")),
    }
}

fn find<W: Word>(text: &str) -> Result<W, String> {
    let found = W::WORDS.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let suggestion = suggestion(text, W::WORDS.iter().map(|(word, _)| *word));
        format!("`{}` is not known{suggestion}", quote(text))
    })
}

impl Word for LoadBalancing {
    const NAME: &'static str = "LoadBalancing";
    const DESCRIPTION: &'static str = "`round_robin` takes endpoints in turn, by weight; `least_request` takes the one with fewest exchanges in flight, of two at random; `random` draws by weight; `ring_hash` and `maglev` send requests with the same key to the same endpoint.";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("least_request", Self::LeastRequest),
        ("random", Self::Random),
        ("ring_hash", Self::RingHash),
        ("maglev", Self::Maglev),
    ];
}

/// A hash key that needs no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashWord {
    ClientAddress,
    Path,
}

impl Word for HashWord {
    const NAME: &'static str = "HashKey";
    const DESCRIPTION: &'static str =
        "`client_address` is the client's IP address, `path` that of the request, without its query.";
    const WORDS: &'static [(&'static str, Self)] = &[("client_address", Self::ClientAddress), ("path", Self::Path)];
}

impl Word for ProxyVersion {
    const NAME: &'static str = "ProxyVersion";
    const DESCRIPTION: &'static str = "A version of the PROXY protocol: `v1` is a line of text, `v2` is binary.";
    const WORDS: &'static [(&'static str, Self)] = &[("v1", Self::V1), ("v2", Self::V2)];
}

impl Word for Protocol {
    const NAME: &'static str = "Protocol";
    const DESCRIPTION: &'static str = "What a client may speak on a listener.";
    const WORDS: &'static [(&'static str, Self)] = &[("http1", Self::Http1), ("http2", Self::Http2)];
}

impl Word for UpstreamProtocol {
    const NAME: &'static str = "UpstreamProtocol";
    const DESCRIPTION: &'static str = "What is spoken to upstream servers. `http2` on clear text takes for known that they speak it; `auto` is what the TLS handshake agrees on, and HTTP/1.1 on clear text.";
    const WORDS: &'static [(&'static str, Self)] =
        &[("http1", Self::Http1), ("http2", Self::Http2), ("auto", Self::Auto)];
}

impl Word for GrpcTimeout {
    const NAME: &'static str = "GrpcTimeout";
    const DESCRIPTION: &'static str =
        "`honor` ends a call of gRPC when its client's own deadline is over; `ignore` leaves that to the client.";
    const WORDS: &'static [(&'static str, Self)] = &[("honor", Self::Honor), ("ignore", Self::Ignore)];
}

impl Word for OnFailure {
    const NAME: &'static str = "OnFailure";
    const DESCRIPTION: &'static str =
        "`closed` fails the exchange when the filter fails; `open` skips the filter for that exchange.";
    const WORDS: &'static [(&'static str, Self)] = &[("closed", Self::Closed), ("open", Self::Open)];
}

impl Word for ComponentKind {
    const NAME: &'static str = "ComponentKind";
    const DESCRIPTION: &'static str = "`filter` has the hooks of `tamis:filter`; `middleware` is one of `wasi:http`.";
    const WORDS: &'static [(&'static str, Self)] = &[("filter", Self::Filter), ("middleware", Self::Middleware)];
}

impl Word for WhenGood {
    const NAME: &'static str = "WhenGood";
    const DESCRIPTION: &'static str =
        "`promote` gives a candidate that was good all exchanges; `hold` leaves it at its share, and judges it on.";
    const WORDS: &'static [(&'static str, Self)] = &[("promote", Self::Promote), ("hold", Self::Hold)];
}

impl Word for ClientAuthMode {
    const NAME: &'static str = "ClientAuth";
    const DESCRIPTION: &'static str =
        "`required` refuses clients without a certificate; `optional` takes them, and leaves it to filters.";
    const WORDS: &'static [(&'static str, Self)] = &[("required", Self::Required), ("optional", Self::Optional)];
}

impl Word for TlsVersion {
    const NAME: &'static str = "TlsVersion";
    const DESCRIPTION: &'static str = "A version of TLS.";
    const WORDS: &'static [(&'static str, Self)] = &[("tls1.2", Self::Tls12), ("tls1.3", Self::Tls13)];
}

impl Word for Alpn {
    const NAME: &'static str = "Alpn";
    const DESCRIPTION: &'static str = "A protocol that is agreed on in the handshake, by its registered name.";
    const WORDS: &'static [(&'static str, Self)] = &[("h2", Self::H2), ("http/1.1", Self::Http11)];
}

/// The scheme of a redirect that has no other part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpsWord {
    Https,
}

impl Word for HttpsWord {
    const NAME: &'static str = "HttpsRedirect";
    const DESCRIPTION: &'static str = "To the same host and path, port 443.";
    const WORDS: &'static [(&'static str, Self)] = &[("https", Self::Https)];
}

/// A key of a candidate that needs no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyWord {
    RequestId,
    ClientAddress,
}

impl Word for KeyWord {
    const NAME: &'static str = "CandidateKey";
    const DESCRIPTION: &'static str =
        "`request_id` draws each request for itself; with `client_address` a client stays with one version.";
    const WORDS: &'static [(&'static str, Self)] =
        &[("request_id", Self::RequestId), ("client_address", Self::ClientAddress)];
}

/// A capability that needs no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantWord {
    Metrics,
    Clock,
    Random,
    KeyValue,
    Wasi,
    Clocks,
    Stdio,
    OwnTable,
    UnsafeSockets,
}

impl Word for GrantWord {
    const NAME: &'static str = "Grant";
    const DESCRIPTION: &'static str = "A capability beyond configuration, log, and the exchange itself. `key_value` is a table of the filter's own; `wasi` are the interfaces that language runtimes import. Of a middleware: `clocks` tells the time and sleeps, `random` gives random numbers, with `stdio` output goes to the log, `keyvalue` is a table of its own, and `unsafe_sockets` lets it speak TCP and UDP with whomever this process may.";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("metrics", Self::Metrics),
        ("clock", Self::Clock),
        ("random", Self::Random),
        ("key_value", Self::KeyValue),
        ("wasi", Self::Wasi),
        ("clocks", Self::Clocks),
        ("stdio", Self::Stdio),
        ("keyvalue", Self::OwnTable),
        ("unsafe_sockets", Self::UnsafeSockets),
    ];

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "outbound" => Err("`outbound` needs to know where to; write `outbound: [CLUSTER]`".to_owned()),
            "http" | "env" | "config" | "dir" => ServiceGrantWord::parse(text).map(|_| Self::Random),
            _ => find(text),
        }
    }
}

impl GrantWord {
    /// What it is to a filter, and what to a middleware.
    pub fn means(self) -> (Option<Grant>, Option<ServiceGrant>) {
        match self {
            Self::Metrics => (Some(Grant::Metrics), None),
            Self::Clock => (Some(Grant::Clock), None),
            Self::Random => (Some(Grant::Random), Some(ServiceGrant::Random)),
            Self::KeyValue => (Some(Grant::KeyValue(None)), None),
            Self::Wasi => (Some(Grant::Wasi), None),
            Self::Clocks => (None, Some(ServiceGrant::Clocks)),
            Self::Stdio => (None, Some(ServiceGrant::Stdio)),
            Self::OwnTable => (None, Some(ServiceGrant::KeyValue)),
            Self::UnsafeSockets => (None, Some(ServiceGrant::UnsafeSockets)),
        }
    }
}

impl Grant {
    /// The capability's name in YAML, without its object.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::KeyValue(_) => "key_value",
            Self::Outbound(_) => "outbound",
            Self::Wasi => "wasi",
        }
    }
}

/// A capability of a component that serves, without an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceGrantWord {
    Clocks,
    Random,
    Stdio,
    KeyValue,
    UnsafeSockets,
}

impl Word for ServiceGrantWord {
    const NAME: &'static str = "ServiceGrant";
    const DESCRIPTION: &'static str = "A capability of WASI. `clocks` tells the time and sleeps; `random` gives random numbers; with `stdio` output goes to the log; `keyvalue` is a table of the component's own; `unsafe_sockets` lets it speak TCP and UDP with whomever this process may.";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("clocks", Self::Clocks),
        ("random", Self::Random),
        ("stdio", Self::Stdio),
        ("keyvalue", Self::KeyValue),
        ("unsafe_sockets", Self::UnsafeSockets),
    ];

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "http" => Err("`http` needs to know where to; write `http: [CLUSTER]`".to_owned()),
            "env" => Err("`env` needs the variables; write `env: { NAME: value }`".to_owned()),
            "dir" => Err("`dir` needs the folders; write `dir: { /data: PATH }`".to_owned()),
            "config" => Err("`config` needs the values; write `config: { KEY: value }`".to_owned()),
            _ => find(text),
        }
    }
}

/// How exchanges share instances, without a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstancesWord {
    Fresh,
    Exclusive,
}

impl Word for InstancesWord {
    const NAME: &'static str = "Instances";
    const DESCRIPTION: &'static str = "`fresh`: each exchange has an instance of its own; `exclusive`: an instance serves one exchange at a time; `concurrent: N`: up to N at once.";
    const WORDS: &'static [(&'static str, Self)] = &[("fresh", Self::Fresh), ("exclusive", Self::Exclusive)];

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "concurrent" => Err("`concurrent` needs to know how many; write `concurrent: 16`".to_owned()),
            _ => find(text),
        }
    }
}

/// A condition of retries that is no single status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryWord {
    ConnectFailure,
    Reset,
    Timeout,
    GatewayError,
    ServerError,
}

impl Word for RetryWord {
    const NAME: &'static str = "RetryWord";
    const DESCRIPTION: &'static str = "`connect_failure`: there was no connection, so nothing was sent. `reset`: the connection broke before there was a response, or what came was none. `timeout`: none came in time. `gateway_error`: it was 502, 503 or 504. `5xx`: it was 500 to 599.";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("connect_failure", Self::ConnectFailure),
        ("reset", Self::Reset),
        ("timeout", Self::Timeout),
        ("gateway_error", Self::GatewayError),
        ("5xx", Self::ServerError),
    ];
}

/// A word, or a status.
pub(crate) struct RetryCondition(pub(crate) RetryOn);

type RetryStatus = Count<400, 599>;

impl FromNode for RetryCondition {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Number(_) = node.value {
            let status = RetryStatus::from_node(node, reader)?;
            return Some(Self(RetryOn::Status(u16::try_from(status.0).ok()?)));
        }
        RetryWord::from_node(node, reader).map(|word| {
            Self(match word {
                RetryWord::ConnectFailure => RetryOn::ConnectFailure,
                RetryWord::Reset => RetryOn::Reset,
                RetryWord::Timeout => RetryOn::Timeout,
                RetryWord::GatewayError => RetryOn::GatewayError,
                RetryWord::ServerError => RetryOn::ServerError,
            })
        })
    }
}

impl JsonSchema for RetryCondition {
    fn schema_name() -> Cow<'static, str> {
        "RetryCondition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A condition by its word, or a status from 400 to 599.",
            "anyOf": [generator.subschema_for::<RetryWord>(), generator.subschema_for::<RetryStatus>()],
        })
    }
}

impl RetryOn {
    /// As in YAML; `None` for a status, which is a number there.
    pub(crate) fn word(self) -> Option<&'static str> {
        let word = match self {
            Self::ConnectFailure => RetryWord::ConnectFailure,
            Self::Reset => RetryWord::Reset,
            Self::Timeout => RetryWord::Timeout,
            Self::GatewayError => RetryWord::GatewayError,
            Self::ServerError => RetryWord::ServerError,
            Self::Status(_) => return None,
        };
        Some(word.word())
    }
}

impl Word for LogField {
    const NAME: &'static str = "LogField";
    const DESCRIPTION: &'static str = "What an access-log record can say.";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("time", Self::Time),
        ("request_id", Self::RequestId),
        ("listener", Self::Listener),
        ("route", Self::Route),
        ("cluster", Self::Cluster),
        ("endpoint", Self::Endpoint),
        ("client", Self::Client),
        ("method", Self::Method),
        ("authority", Self::Authority),
        ("path", Self::Path),
        ("protocol", Self::Protocol),
        ("status", Self::Status),
        ("reason", Self::Reason),
        ("request_bytes", Self::RequestBytes),
        ("response_bytes", Self::ResponseBytes),
        ("duration_ms", Self::DurationMs),
        ("upstream_ms", Self::UpstreamMs),
        ("attempts", Self::Attempts),
        ("user_agent", Self::UserAgent),
        ("referer", Self::Referer),
        ("attributes", Self::Attributes),
        ("tls_version", Self::TlsVersion),
        ("sni", Self::Sni),
        ("client_subject", Self::ClientSubject),
        ("client_sans", Self::ClientSans),
        ("client_fingerprint", Self::ClientFingerprint),
        ("grpc_status", Self::GrpcStatus),
    ];
}

macro_rules! readable {
    ($($type:ident),*) => {$(
        impl FromNode for $type {
            fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
                reader.parsed(node, &one_of::<Self>(), Self::parse)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                Self::NAME.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| *word).collect();
                json_schema!({ "type": "string", "description": Self::DESCRIPTION, "enum": words })
            }
        }
    )*};
}

readable!(
    LoadBalancing,
    HashWord,
    OnFailure,
    ComponentKind,
    ProxyVersion,
    GrantWord,
    ServiceGrantWord,
    InstancesWord,
    KeyWord,
    Protocol,
    UpstreamProtocol,
    GrpcTimeout,
    WhenGood,
    ClientAuthMode,
    TlsVersion,
    Alpn,
    HttpsWord,
    RetryWord
);

#[cfg(test)]
mod tests {
    use super::*;

    /// One arm for each value, so that a new one does not compile until it is here and thus in its table.
    #[test]
    fn every_value_has_a_word() {
        for (word, field) in LogField::WORDS {
            let expected = match field {
                LogField::Time => "time",
                LogField::RequestId => "request_id",
                LogField::Listener => "listener",
                LogField::Route => "route",
                LogField::Cluster => "cluster",
                LogField::Endpoint => "endpoint",
                LogField::Client => "client",
                LogField::Method => "method",
                LogField::Authority => "authority",
                LogField::Path => "path",
                LogField::Protocol => "protocol",
                LogField::Status => "status",
                LogField::Reason => "reason",
                LogField::RequestBytes => "request_bytes",
                LogField::ResponseBytes => "response_bytes",
                LogField::DurationMs => "duration_ms",
                LogField::UpstreamMs => "upstream_ms",
                LogField::Attempts => "attempts",
                LogField::UserAgent => "user_agent",
                LogField::Referer => "referer",
                LogField::Attributes => "attributes",
                LogField::TlsVersion => "tls_version",
                LogField::Sni => "sni",
                LogField::ClientSubject => "client_subject",
                LogField::ClientSans => "client_sans",
                LogField::ClientFingerprint => "client_fingerprint",
                LogField::GrpcStatus => "grpc_status",
            };
            assert_eq!((*word, field.word()), (expected, expected));
        }
        assert_eq!(LogField::WORDS.len(), 27);
        // Each word that needs no object is the name of what it grants.
        for (word, grant) in GrantWord::WORDS {
            let (of_filter, of_middleware) = grant.means();
            let of_filter = of_filter.as_ref().map(Grant::word);
            let said = of_filter.or(of_middleware.as_ref().map(ServiceGrant::word));
            assert_eq!((*word, said), (grant.word(), Some(*word)));
        }
        assert_eq!(GrantWord::WORDS.len(), 9);
        assert_eq!([OnFailure::Closed.word(), OnFailure::Open.word()], ["closed", "open"]);
        assert_eq!([WhenGood::Promote.word(), WhenGood::Hold.word()], ["promote", "hold"]);
        let keys = [KeyWord::RequestId.word(), KeyWord::ClientAddress.word()];
        assert_eq!(keys, ["request_id", "client_address"]);
        for (word, balancing) in LoadBalancing::WORDS {
            let expected = match balancing {
                LoadBalancing::RoundRobin => "round_robin",
                LoadBalancing::LeastRequest => "least_request",
                LoadBalancing::Random => "random",
                LoadBalancing::RingHash => "ring_hash",
                LoadBalancing::Maglev => "maglev",
            };
            assert_eq!((*word, balancing.word()), (expected, expected));
        }
        assert_eq!(LoadBalancing::WORDS.len(), 5);
        let keys = [HashWord::ClientAddress.word(), HashWord::Path.word()];
        assert_eq!(keys, ["client_address", "path"]);
        for (word, value) in RetryWord::WORDS {
            let expected = match value {
                RetryWord::ConnectFailure => "connect_failure",
                RetryWord::Reset => "reset",
                RetryWord::Timeout => "timeout",
                RetryWord::GatewayError => "gateway_error",
                RetryWord::ServerError => "5xx",
            };
            assert_eq!((*word, value.word()), (expected, expected));
        }
        assert_eq!(RetryWord::WORDS.len(), 5);
        let auth = [ClientAuthMode::Required.word(), ClientAuthMode::Optional.word()];
        assert_eq!(auth, ["required", "optional"]);
        assert_eq!(
            [TlsVersion::Tls12.word(), TlsVersion::Tls13.word()],
            ["tls1.2", "tls1.3"]
        );
        assert_eq!([Alpn::H2.word(), Alpn::Http11.word()], ["h2", "http/1.1"]);
        assert_eq!(HttpsWord::Https.word(), "https");
        assert_eq!(
            [GrpcTimeout::Honor.word(), GrpcTimeout::Ignore.word()],
            ["honor", "ignore"]
        );
        let protocols = [UpstreamProtocol::Http1, UpstreamProtocol::Http2, UpstreamProtocol::Auto];
        assert_eq!(protocols.map(Word::word), ["http1", "http2", "auto"]);
    }
}
