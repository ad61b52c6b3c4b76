//! Hop-by-hop fields, and the fields with which a proxy speaks for itself: X-Forwarded-*, Via. Data plane; pure.
//!
//! Invariant: after [`strip_request`] or [`strip_response`] no field of the connection behind is left, and nothing that
//! Connection nominated took away a field that the next hop, the origin or this proxy relies on. Both are idempotent.
//! They run before the filters, who cannot write the fields that frame or bind to a connection ([`is_host_owned`]).
//!
//! Must not know: hyper, sockets, configuration. Framing fields are hyper's and `h1`'s to write; here they are only kept
//! from contradicting each other. What Upgrade asked for is handed back by the strip; who makes a tunnel
//! [says it anew](switch).

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What one hop tells the next and no further (RFC 9110 7.6.1), with the credentials that are meant for a proxy
/// (RFC 9110 11.7): a reverse proxy neither asks for them nor lets an origin ask. Trailer is not among them, as the
/// trailers themselves are relayed. TE is, and comes back as `trailers` alone.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "upgrade",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
];

/// Of `HOP_BY_HOP` in what one pass finds.
const UPGRADE_BIT: u16 = 1 << 4;

/// What Connection cannot remove, however it is nominated. RFC 9110 7.6.1 forbids nominating fields for all
/// recipients; a client that does so anyway wants to hide what an earlier hop or this proxy says (`Connection:
/// x-forwarded-for`), or to change what the message is. Hop-by-hop fields go by themselves.
const NOT_NOMINABLE: [&str; 20] = [
    // The message and its routing.
    "host",
    "content-length",
    "transfer-encoding",
    "trailer",
    "content-type",
    "content-encoding",
    "cache-control",
    "expect",
    // Who asks.
    "authorization",
    "cookie",
    "set-cookie",
    "origin",
    // What proxies say.
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-client-cert",
    "x-real-ip",
    "x-request-id",
];

/// Removes what the client told this hop alone. `TE: trailers` is said anew to the upstream, with the nomination that
/// it needs (RFC 9110 10.1.4). Of two framing fields the coding stays (RFC 9112 6.3). Returns the protocols that the
/// client would change to, which only Connection makes a request for it (RFC 9110 7.8).
pub fn strip_request(headers: &mut HeaderMap) -> Upgrade {
    let found = Found::in_names_of(headers);
    if found.framing == Framing::Both {
        headers.remove(header::CONTENT_LENGTH);
    }
    if found.client_cert {
        headers.remove(&X_FORWARDED_CLIENT_CERT);
    }
    if found.hop_by_hop == 0 {
        return Upgrade::default();
    }
    let upgrade = match found.hop_by_hop & UPGRADE_BIT != 0 && lists(headers, header::CONNECTION, b"upgrade") {
        true => Upgrade(headers.get_all(header::UPGRADE).iter().cloned().collect()),
        false => Upgrade::default(),
    };
    let takes_trailers = lists(headers, header::TE, b"trailers");
    found.remove_from(headers);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    upgrade
}

/// The protocols that a client would change its connection to, the dearest first (RFC 9110 7.8).
#[derive(Debug, Default)]
pub struct Upgrade(Vec<HeaderValue>);

impl Upgrade {
    pub fn to(protocol: &HeaderValue) -> Self {
        Self(vec![protocol.clone()])
    }

    /// The first that is among `allowed`, as the client wrote it; names of protocols have no case.
    pub fn first_of(&self, allowed: &[Box<str>]) -> Option<HeaderValue> {
        let protocols = self
            .0
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let is_allowed = |protocol: &&[u8]| {
            let mut names = allowed.iter().map(|name| name.as_bytes());
            names.any(|name| name.eq_ignore_ascii_case(protocol))
        };
        let first = protocols.map(<[u8]>::trim_ascii).find(is_allowed)?;
        HeaderValue::from_bytes(first).ok()
    }
}

/// Says to the next hop that the connection is to change, or has changed, to this protocol. Nothing else is said to it:
/// what comes behind is not HTTP.
pub fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.remove(header::TE);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Takes [`switch`] back: the message is one like others.
pub fn stay(headers: &mut HeaderMap) {
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
}

/// Whether a 101 changes to this protocol and to no other (RFC 9110 7.8: never to one that was not asked for).
pub fn switches_to(headers: &HeaderMap, protocol: &HeaderValue) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let is_it = protocols
        .next()
        .is_some_and(|said| said.as_bytes().trim_ascii().eq_ignore_ascii_case(protocol.as_bytes()));
    is_it && protocols.next().is_none() && lists(headers, header::CONNECTION, b"upgrade")
}

/// Removes what the upstream told this hop alone.
pub fn strip_response(headers: &mut HeaderMap) {
    let found = Found::in_names_of(headers);
    if found.hop_by_hop != 0 {
        found.remove_from(headers);
    }
}

/// The fields that filters may read but not write: framing and hop-by-hop, as `filter-abi/wit/tamis.wit` lists them.
pub fn is_host_owned(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-length"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "upgrade"
    )
}

/// Says who asked, replacing whatever was claimed by what is believed of it (`identity`); Forwarded (RFC 7239) would say
/// the same again. `client` is the client, and the trusted proxies behind it if there are any, without ports; `None` for a
/// Unix socket.
pub fn forwarded(
    headers: &mut HeaderMap,
    client: Option<HeaderValue>,
    scheme: &'static str,
    host: Option<HeaderValue>,
) {
    headers.remove(header::FORWARDED);
    set(headers, &X_FORWARDED_FOR, client);
    set(headers, &X_FORWARDED_PROTO, Some(HeaderValue::from_static(scheme)));
    set(headers, &X_FORWARDED_HOST, host);
}

/// Says which certificate the client has shown; nobody else is believed, see [`strip_request`].
pub fn forwarded_certificate(headers: &mut HeaderMap, certificate: &HeaderValue) {
    headers.insert(X_FORWARDED_CLIENT_CERT.clone(), certificate.clone());
}

/// This process in the Via field (RFC 9110 7.6.3). Two instances may stand one behind the other; a message that comes
/// back to the same one is a loop. Lifetime: the worker, so that the shared bytes' reference count stays on one core.
#[derive(Debug)]
pub struct Via {
    /// `1.1 tamis-INSTANCE`.
    entry: HeaderValue,
    /// `2 tamis-INSTANCE`.
    http2: HeaderValue,
}

impl Via {
    /// `instance`: random, the same for all workers of the process; letters and digits, others are left out.
    pub fn new(instance: &str) -> Self {
        let instance: String = instance.chars().filter(char::is_ascii_alphanumeric).collect();
        let entry = |protocol: &str| {
            HeaderValue::try_from(format!("{protocol} tamis-{instance}"))
                .expect("letters, digits, dots, dashes and spaces make a field value")
        };
        Self {
            entry: entry("1.1"),
            http2: entry("2"),
        }
    }

    /// Says of a response what its upstream speaks.
    pub fn append(&self, headers: &mut HeaderMap, received: Version) {
        headers.append(header::VIA, self.entry(received).clone());
    }

    /// What a request that came in this version carries on; 1.1 for an HTTP/1.0 client too.
    pub fn entry(&self, received: Version) -> &HeaderValue {
        match received {
            Version::HTTP_2 => &self.http2,
            _ => &self.entry,
        }
    }

    /// Whether the message was here before. Reads `received-protocol received-by [comment]`, comma-separated.
    pub fn seen(&self, headers: &HeaderMap) -> bool {
        let pseudonym = self.entry.as_bytes().split(|byte| *byte == b' ').next_back();
        let is_ours = |entry: &[u8]| {
            let mut words = entry
                .split(|byte| matches!(byte, b' ' | b'\t'))
                .filter(|word| !word.is_empty());
            words
                .nth(1)
                .zip(pseudonym)
                .is_some_and(|(name, ours)| name.eq_ignore_ascii_case(ours))
        };
        headers
            .get_all(header::VIA)
            .iter()
            .any(|value| value.as_bytes().split(|byte| *byte == b',').any(is_ours))
    }
}

/// What one pass over the names finds; cheaper than looking nine names up.
struct Found {
    /// A bit for each of `HOP_BY_HOP`.
    hop_by_hop: u16,
    framing: Framing,
    /// A client says what certificate it has shown, which is for this proxy to say.
    client_cert: bool,
}

#[derive(PartialEq, Eq)]
enum Framing {
    None,
    Length,
    Coding,
    Both,
}

impl Found {
    fn in_names_of(headers: &HeaderMap) -> Self {
        let mut found = Self {
            hop_by_hop: 0,
            framing: Framing::None,
            client_cert: false,
        };
        for name in headers.keys() {
            found.note(name.as_str());
        }
        found
    }

    /// The length of a name rules most of them out.
    #[inline]
    fn note(&mut self, name: &str) {
        match name.len() {
            14 if name == "content-length" => self.framing = self.framing.with(Framing::Length),
            17 if name == "transfer-encoding" => self.framing = self.framing.with(Framing::Coding),
            23 if name == X_FORWARDED_CLIENT_CERT.as_str() => self.client_cert = true,
            2 | 7 | 10 | 14 | 16 | 18 | 19 | 25 => {
                if let Some(index) = HOP_BY_HOP.iter().position(|known| *known == name) {
                    self.hop_by_hop |= 1 << index;
                }
            }
            _ => {}
        }
    }

    fn remove_from(&self, headers: &mut HeaderMap) {
        remove_nominated(headers);
        for (index, name) in HOP_BY_HOP.iter().enumerate() {
            if self.hop_by_hop & 1 << index != 0 {
                headers.remove(*name);
            }
        }
    }
}

impl Framing {
    /// Each name comes once: `HeaderMap::keys` has no duplicates.
    fn with(&self, other: Framing) -> Framing {
        if *self == Framing::None { other } else { Framing::Both }
    }
}

/// Bounded by the head's limits: `max_fields` values, and a look-up for each name in them.
fn remove_nominated(headers: &mut HeaderMap) {
    let mut index = 0;
    while let Some(value) = headers.get_all(header::CONNECTION).iter().nth(index) {
        index += 1;
        if value == "keep-alive" || value == "close" {
            continue;
        }
        let value = value.clone();
        for name in value.as_bytes().split(|byte| *byte == b',') {
            remove_one_nominated(headers, name.trim_ascii());
        }
    }
}

fn remove_one_nominated(headers: &mut HeaderMap, name: &[u8]) {
    let Ok(name) = HeaderName::from_bytes(name) else {
        return;
    };
    if !NOT_NOMINABLE.contains(&name.as_str()) && !HOP_BY_HOP.contains(&name.as_str()) {
        headers.remove(name);
    }
}

/// Whether a comma-separated field has the word, with or without parameters.
fn lists(headers: &HeaderMap, name: HeaderName, word: &[u8]) -> bool {
    let is_word = |entry: &[u8]| {
        let end = entry.iter().position(|byte| *byte == b';').unwrap_or(entry.len());
        entry[..end].trim_ascii().eq_ignore_ascii_case(word)
    };
    headers
        .get_all(name)
        .iter()
        .any(|value| value.as_bytes().split(|byte| *byte == b',').any(is_word))
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        fields.iter().map(field).collect()
    }

    type Fields<'a> = &'a [(&'a str, &'a str)];

    const REQUESTS: &[(Fields, Fields)] = &[
        (&[("host", "h"), ("accept", "*/*")], &[("host", "h"), ("accept", "*/*")]),
        (
            &[("host", "h"), ("connection", "keep-alive"), ("keep-alive", "5")],
            &[("host", "h")],
        ),
        (
            &[
                ("Connection", "close, X-A ,x-b"),
                ("x-a", "1"),
                ("x-b", "2"),
                ("x-c", "3"),
            ],
            &[("x-c", "3")],
        ),
        (
            &[
                ("connection", "x-a"),
                ("connection", "connection"),
                ("connection", "x-b"),
                ("x-a", ""),
                ("x-b", ""),
            ],
            &[],
        ),
        (&[("connection", ",, ,\t, \"x\", x y"), ("x", "1")], &[("x", "1")]),
        (
            &[
                ("connection", "host, content-length, cookie, x-forwarded-for"),
                ("host", "h"),
                ("cookie", "c"),
                ("content-length", "1"),
                ("x-forwarded-for", "i"),
            ],
            &[
                ("host", "h"),
                ("cookie", "c"),
                ("content-length", "1"),
                ("x-forwarded-for", "i"),
            ],
        ),
        (
            &[
                ("connection", "upgrade, http2-settings"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMA"),
            ],
            &[],
        ),
        (
            &[
                ("proxy-connection", "close"),
                ("proxy-authorization", "Basic x"),
                ("proxy-authenticate", "x"),
            ],
            &[],
        ),
        (&[("te", "trailers")], &[("te", "trailers"), ("connection", "te")]),
        (
            &[("connection", "TE, close"), ("te", "gzip;q=1, Trailers ;q=0.5")],
            &[("te", "trailers"), ("connection", "te")],
        ),
        (&[("connection", "te"), ("te", "gzip"), ("te", "deflate")], &[]),
        (
            &[("connection", "trailer"), ("trailer", "x-sum")],
            &[("trailer", "x-sum")],
        ),
        (
            &[("content-length", "1"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked")],
        ),
        (
            &[("transfer-encoding", "chunked"), ("te", "x"), ("content-length", "1")],
            &[("transfer-encoding", "chunked")],
        ),
    ];

    #[test]
    fn requests() {
        for (before, after) in REQUESTS {
            let mut headers = map(before);
            strip_request(&mut headers);
            assert_eq!(headers, map(after), "{before:?}");
            strip_request(&mut headers);
            assert_eq!(headers, map(after), "again: {before:?}");
        }
    }

    #[test]
    fn responses() {
        let cases: &[(Fields, Fields)] = &[
            (&[("content-length", "1")], &[("content-length", "1")]),
            (
                &[("connection", "x-a, set-cookie"), ("x-a", ""), ("set-cookie", "c")],
                &[("set-cookie", "c")],
            ),
            (
                &[("te", "trailers"), ("upgrade", "h2c"), ("keep-alive", "timeout=5")],
                &[],
            ),
            (
                &[
                    ("proxy-authenticate", "Basic"),
                    ("proxy-authentication-info", "x"),
                    ("trailer", "a"),
                ],
                &[("trailer", "a")],
            ),
        ];
        for (before, after) in cases {
            let mut headers = map(before);
            strip_response(&mut headers);
            assert_eq!(headers, map(after), "{before:?}");
        }
    }

    #[test]
    fn what_is_asked_for_is_handed_back() {
        assert_eq!(HOP_BY_HOP[UPGRADE_BIT.trailing_zeros() as usize], "upgrade");
        let allowed: &[Box<str>] = &["websocket".into(), "foo/2".into()];
        let cases: &[(Fields, Option<&str>)] = &[
            (&[("upgrade", "websocket")], None),
            (&[("connection", "close"), ("upgrade", "websocket")], None),
            (
                &[("connection", "Upgrade"), ("upgrade", "WebSocket")],
                Some("WebSocket"),
            ),
            (
                &[("connection", "te, UPGRADE"), ("upgrade", "h2c, foo/2 ,websocket")],
                Some("foo/2"),
            ),
            (
                &[("connection", "upgrade"), ("upgrade", "h2c"), ("upgrade", "websocket")],
                Some("websocket"),
            ),
            (
                &[
                    ("connection", "upgrade"),
                    ("upgrade", "websocket/13, foo, \"websocket\""),
                ],
                None,
            ),
            (&[("connection", "upgrade")], None),
        ];
        for (fields, expected) in cases {
            let mut headers = map(fields);
            let asked = strip_request(&mut headers).first_of(allowed);
            let asked = asked.as_ref().map(|protocol| protocol.to_str().unwrap());
            assert_eq!(asked, *expected, "{fields:?}");
            assert_eq!(headers, HeaderMap::new(), "{fields:?}");
        }
    }

    #[test]
    fn a_change_of_protocol_is_what_was_asked_for() {
        let asked = HeaderValue::from_static("websocket");
        let cases: &[(Fields, bool)] = &[
            (&[("connection", "upgrade"), ("upgrade", "websocket")], true),
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], true),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "upgrade")], false),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], false),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
                false,
            ),
        ];
        for (fields, expected) in cases {
            assert_eq!(switches_to(&map(fields), &asked), *expected, "{fields:?}");
        }
        let mut headers = map(&[("connection", "te"), ("te", "trailers"), ("host", "h")]);
        switch(&mut headers, asked.clone());
        assert!(switches_to(&headers, &asked) && !headers.contains_key("te"));
        stay(&mut headers);
        assert_eq!(headers, map(&[("host", "h")]));
    }

    #[test]
    fn what_is_said_for_the_client() {
        let mut headers = map(&[
            ("forwarded", "for=1"),
            ("x-forwarded-for", "1"),
            ("x-forwarded-for", "2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
        ]);
        let (client, host) = (HeaderValue::from_static("192.0.2.7"), HeaderValue::from_static("h:80"));
        forwarded(&mut headers, Some(client), "http", Some(host));
        let said = [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "h:80"),
        ];
        assert_eq!(headers, map(&said));
        forwarded(&mut headers, None, "https", None);
        assert_eq!(headers, map(&[("x-forwarded-proto", "https")]));
    }

    #[test]
    fn loops_are_seen() {
        let via = Via::new("0000002a");
        let cases: &[(Fields, bool)] = &[
            (&[], false),
            (&[("via", "1.1 tamis-0000002a")], true),
            (
                &[("via", "1.0 fred, HTTP/1.1\t Tamis-0000002A (x)"), ("via", "1.1 last")],
                true,
            ),
            (&[("via", "1.0 fred"), ("via", "1.1 tamis-0000002a")], true),
            (
                &[("via", "1.1 tamis-0000002b, 1.1 tamis-0000002a0, tamis-0000002a")],
                false,
            ),
            (&[("x-via", "1.1 tamis-0000002a")], false),
        ];
        for (fields, seen) in cases {
            assert_eq!(via.seen(&map(fields)), *seen, "{fields:?}");
        }
        let mut headers = map(&[("via", "1.1 a")]);
        via.append(&mut headers, Version::HTTP_11);
        assert_eq!(headers, map(&[("via", "1.1 a"), ("via", "1.1 tamis-0000002a")]));
        assert!(via.seen(&headers));
        assert!(!Via::new("0000002b\n").seen(&headers));
    }

    #[test]
    fn names_that_filters_cannot_write() {
        let wit = "content-length, transfer-encoding, connection, keep-alive, proxy-connection, te, trailer, upgrade";
        assert!(
            wit.split(", ")
                .all(|name| is_host_owned(&HeaderName::from_bytes(name.as_bytes()).unwrap()))
        );
        assert!(!is_host_owned(&header::HOST) && !is_host_owned(&header::VIA));
    }

    proptest! {
        #[test]
        fn no_hop_by_hop_field_is_left(
            fields in proptest::collection::vec((
                "(connection|keep-alive|te|upgrade|proxy-connection|transfer-encoding|content-length|host|x-a|x-b|via)",
                "((te|x-a|X-B|host|connection|close|trailers|via)[, ;]{0,2}){0,4}",
            ), 0..12),
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let (mut request, mut response) = (map(&fields), map(&fields));
            let nominated: Vec<_> = ["x-a", "x-b"].into_iter().filter(|name| lists_exactly(&request, name)).collect();
            let kept = |headers: &HeaderMap| [header::HOST, header::VIA].map(|name| headers.get_all(name).iter().count());
            let before = kept(&request);
            strip_request(&mut request);
            strip_response(&mut response);
            for name in HOP_BY_HOP.iter().chain(&nominated) {
                prop_assert!(!response.contains_key(*name), "{}", name);
                let left = request.get(*name).map(HeaderValue::as_bytes);
                prop_assert!(matches!((*name, left), (_, None) | ("te", Some(b"trailers")) | ("connection", Some(b"te"))));
            }
            prop_assert_eq!(kept(&request), before);
            prop_assert_eq!(kept(&response), before);
            prop_assert!(!(request.contains_key("content-length") && request.contains_key("transfer-encoding")));
            let once = request.clone();
            strip_request(&mut request);
            prop_assert_eq!(request, once);
        }
    }

    /// A reference for nominations: the whole field as text.
    fn lists_exactly(headers: &HeaderMap, name: &str) -> bool {
        let all = headers
            .get_all("connection")
            .iter()
            .map(|value| value.to_str().unwrap().to_lowercase());
        all.collect::<Vec<_>>()
            .join(",")
            .split(',')
            .any(|entry| entry.trim() == name)
    }
}
