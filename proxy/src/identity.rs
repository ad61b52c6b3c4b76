//! Who a client is, when proxies stand in front: what of X-Forwarded-* and Forwarded (RFC 7239) is believed.
//!
//! Data plane; pure. Decided once for each exchange, before routes, filters and the log see it. Invariant: nothing is
//! believed that a peer without our trust has said; of a list only the part that trusted proxies have added, and the one
//! address that the first of them has seen. It knows no sockets and no configuration.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use ipnet::IpNet;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Proxies that are followed from one to the next. Nobody has so many; a list of a thousand costs a walk for each request.
const MAX_PROXIES: usize = 32;

/// Whose word is taken. Lives as long as its generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    pub networks: Vec<IpNet>,
    /// Whoever connects to a Unix socket.
    pub unix: bool,
}

impl Peers {
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// `None` is a peer on a Unix socket.
    pub fn have(&self, peer: Option<IpAddr>) -> bool {
        match peer.map(|peer| peer.to_canonical()) {
            Some(peer) => self.networks.iter().any(|network| network.contains(&peer)),
            None => self.unix,
        }
    }
}

/// What trusted proxies say of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// The port is 0 when it was not said. `None` when they name nobody.
    pub client: Option<SocketAddr>,
    /// For the next hop's X-Forwarded-For: the client, and those who stand between, up to the one that is connected.
    pub route: Option<HeaderValue>,
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    pub host: Option<HeaderValue>,
}

/// What a peer says of the request's client; `None` when it is not trusted.
pub fn claim(headers: &HeaderMap, peer: Option<SocketAddr>, trusted: &Peers) -> Option<Box<Claim>> {
    if trusted.is_empty() || !trusted.have(peer.map(|peer| peer.ip())) {
        return None;
    }
    // A proxy that writes the one and passes on the other would pass on what a client has written.
    let claim = match headers.contains_key(&X_FORWARDED_FOR) || !headers.contains_key(header::FORWARDED) {
        true => by_fields(headers, peer, trusted),
        false => by_forwarded(headers, peer, trusted),
    };
    Some(Box::new(claim))
}

fn by_fields(headers: &HeaderMap, peer: Option<SocketAddr>, trusted: &Peers) -> Claim {
    let values = headers.get_all(&X_FORWARDED_FOR).iter();
    let nodes: Vec<&[u8]> = values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .collect();
    let (walk, _) = Walk::along(nodes.into_iter().rev(), |node| *node, peer, trusted);
    Claim {
        client: walk.client,
        route: walk.route(),
        scheme: single(headers, &X_FORWARDED_PROTO).and_then(|value| scheme(value.as_bytes())),
        host: single(headers, &X_FORWARDED_HOST)
            .filter(|value| is_authority(value.as_bytes()))
            .cloned(),
    }
}

fn by_forwarded(headers: &HeaderMap, peer: Option<SocketAddr>, trusted: &Peers) -> Claim {
    let values = headers.get_all(header::FORWARDED).iter();
    let elements: Vec<Element<'_>> = values
        .flat_map(|value| split(value.as_bytes(), b','))
        .map(Element::read)
        .collect();
    let (walk, last) = Walk::along(elements.into_iter().rev(), |element| element.node, peer, trusted);
    // Of the proxy that the client has spoken to.
    let said = last.unwrap_or_default();
    Claim {
        client: walk.client,
        route: walk.route(),
        scheme: scheme(said.proto),
        host: match is_authority(said.host) {
            true => HeaderValue::from_bytes(said.host).ok(),
            false => None,
        },
    }
}

/// From the peer back to the first who is not trusted.
struct Walk {
    client: Option<SocketAddr>,
    /// From the peer on.
    seen: Vec<IpAddr>,
}

impl Walk {
    /// The nodes come last first. With the one that names the client; what cannot be read ends the walk before it.
    fn along<T>(
        nodes: impl Iterator<Item = T>,
        address: impl Fn(&T) -> &[u8],
        peer: Option<SocketAddr>,
        trusted: &Peers,
    ) -> (Self, Option<T>) {
        let mut walk = Self {
            client: peer,
            seen: peer.map(|peer| peer.ip().to_canonical()).into_iter().collect(),
        };
        let mut last = None;
        for node in nodes.take(MAX_PROXIES) {
            if !trusted.have(walk.client.map(|client| client.ip())) {
                break;
            }
            let Some(before) = node_address(address(&node)) else {
                break;
            };
            walk.client = Some(before);
            walk.seen.push(before.ip());
            last = Some(node);
        }
        (walk, last)
    }

    fn route(&self) -> Option<HeaderValue> {
        let addresses: Vec<String> = self.seen.iter().rev().map(IpAddr::to_string).collect();
        match addresses.is_empty() {
            true => None,
            false => HeaderValue::try_from(addresses.join(", ")).ok(),
        }
    }
}

/// One proxy's words in Forwarded (RFC 7239 4); empty where it says nothing.
#[derive(Default)]
struct Element<'a> {
    node: &'a [u8],
    proto: &'a [u8],
    host: &'a [u8],
}

impl<'a> Element<'a> {
    fn read(element: &'a [u8]) -> Self {
        let mut read = Self::default();
        for pair in split(element, b';') {
            let Some(at) = memchr::memchr(b'=', pair) else { continue };
            let (name, value) = (pair[..at].trim_ascii(), unquoted(pair[at + 1..].trim_ascii()));
            match name.to_ascii_lowercase().as_slice() {
                b"for" => read.node = value,
                b"proto" => read.proto = value,
                b"host" => read.host = value,
                _ => {}
            }
        }
        read
    }
}

/// At the separators that do not stand in a quoted string.
fn split(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    bytes.split(move |byte| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'"' if !was_escaped => is_quoted = !is_quoted,
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => {}
        }
        *byte == separator && !is_quoted
    })
}

/// Addresses, schemes and hosts need no escapes: what has one is none of them.
fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

/// `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:80`; neither `unknown` nor `_hidden`
/// (RFC 7239 6).
fn node_address(node: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(node.trim_ascii()).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 0),
        Err(_) => text.parse().ok()?,
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Two of them contradict each other, whatever they say.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn scheme(proto: &[u8]) -> Option<&'static str> {
    ["http", "https"]
        .into_iter()
        .find(|scheme| scheme.as_bytes().eq_ignore_ascii_case(proto))
}

fn is_authority(host: &[u8]) -> bool {
    !host.contains(&b'@') && Authority::try_from(host).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Fields<'a> = &'a [(&'static str, &'static str)];

    fn trusted() -> Peers {
        Peers {
            networks: ["10.0.0.0/8", "2001:db8:ffff::/48"]
                .map(|network| network.parse().unwrap())
                .to_vec(),
            unix: false,
        }
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    fn peer(address: &str) -> Option<SocketAddr> {
        Some(address.parse().unwrap())
    }

    /// Client and the next hop's X-Forwarded-For.
    fn found(fields: &[(&'static str, &'static str)], from: &str) -> Option<(String, String)> {
        let claim = claim(&map(fields), peer(from), &trusted())?;
        let route = claim.route.as_ref().map(|route| route.to_str().unwrap().to_owned());
        Some((claim.client.unwrap().to_string(), route.unwrap()))
    }

    #[test]
    fn nobody_is_believed_without_trust() {
        let spoof = map(&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")]);
        for from in ["192.0.2.9:1", "11.0.0.1:1", "[2001:db8::1]:1"] {
            assert_eq!(claim(&spoof, peer(from), &trusted()), None, "{from}");
        }
        assert_eq!(claim(&spoof, peer("10.0.0.1:1"), &Peers::default()), None);
        assert_eq!(claim(&spoof, None, &trusted()), None, "a Unix socket");
        let unix = Peers {
            unix: true,
            ..Peers::default()
        };
        let claim = claim(&spoof, None, &unix).unwrap();
        assert_eq!(claim.client, peer("192.0.2.1:0"));
        assert_eq!(claim.route.unwrap(), "192.0.2.1");
    }

    /// From the right, the first whom nobody has to believe.
    #[test]
    fn the_last_one_who_is_not_trusted_is_the_client() {
        let cases: &[(Fields, &str, &str)] = &[
            (&[], "10.0.0.1:5", "10.0.0.1"),
            (
                &[("x-forwarded-for", "192.0.2.7")],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "192.0.2.7:81")],
                "192.0.2.7:81",
                "192.0.2.7, 10.0.0.1",
            ),
            // What the client itself has written stands to the left.
            (
                &[("x-forwarded-for", "1.1.1.1, 192.0.2.7")],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "10.0.0.9, 192.0.2.7")],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "1.1.1.1,192.0.2.7 , 10.0.0.2")],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.2, 10.0.0.1",
            ),
            (
                &[
                    ("x-forwarded-for", "1.1.1.1"),
                    ("x-forwarded-for", "192.0.2.7"),
                    ("x-forwarded-for", "10.0.0.2"),
                ],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.2, 10.0.0.1",
            ),
            // Trusted ones only: the first of them asks for itself.
            (
                &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")],
                "10.0.0.3:0",
                "10.0.0.3, 10.0.0.2, 10.0.0.1",
            ),
            // What cannot be read names nobody, and nobody before it is believed.
            (&[("x-forwarded-for", "192.0.2.7, unknown")], "10.0.0.1:5", "10.0.0.1"),
            (&[("x-forwarded-for", "192.0.2.7, ")], "10.0.0.1:5", "10.0.0.1"),
            (
                &[("x-forwarded-for", "192.0.2.7, bad, 10.0.0.2")],
                "10.0.0.2:0",
                "10.0.0.2, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "2001:db8::7")],
                "[2001:db8::7]:0",
                "2001:db8::7, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "[2001:db8::7]:9")],
                "[2001:db8::7]:9",
                "2001:db8::7, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "[2001:db8::7]")],
                "[2001:db8::7]:0",
                "2001:db8::7, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "::ffff:192.0.2.7")],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "192.0.2.7, ::ffff:10.0.0.2")],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.2, 10.0.0.1",
            ),
            // The other field is the client's own, when a proxy has written this one.
            (
                &[("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=1.1.1.1")],
                "192.0.2.7:0",
                "192.0.2.7, 10.0.0.1",
            ),
            (&[("forwarded", "for=192.0.2.7")], "192.0.2.7:0", "192.0.2.7, 10.0.0.1"),
            (
                &[(
                    "forwarded",
                    "for=1.1.1.1, For=\"[2001:db8::7]:47011\";by=x , for=10.0.0.2;proto=http",
                )],
                "[2001:db8::7]:47011",
                "2001:db8::7, 10.0.0.2, 10.0.0.1",
            ),
            (
                &[("forwarded", "for=\"a,b=c;d\\\",e\", for=_hidden")],
                "10.0.0.1:5",
                "10.0.0.1",
            ),
            (&[("forwarded", "for=192.0.2.7, proto=https")], "10.0.0.1:5", "10.0.0.1"),
        ];
        for (fields, client, route) in cases {
            let expected = Some(((*client).to_owned(), (*route).to_owned()));
            assert_eq!(found(fields, "10.0.0.1:5"), expected, "{fields:?}");
        }
        let mapped = found(&[("x-forwarded-for", "192.0.2.7")], "[::ffff:10.0.0.1]:5");
        assert_eq!(mapped, Some(("192.0.2.7:0".into(), "192.0.2.7, 10.0.0.1".into())));
    }

    #[test]
    fn scheme_and_host_are_those_of_the_proxy_in_front() {
        let cases: &[(Fields, Option<&str>, Option<&str>)] = &[
            (
                &[("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "a.example:8443")],
                Some("https"),
                Some("a.example:8443"),
            ),
            (&[("x-forwarded-proto", "https, http")], None, None),
            (
                &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")],
                None,
                None,
            ),
            (
                &[("x-forwarded-proto", "ftp"), ("x-forwarded-host", "u@a.example")],
                None,
                None,
            ),
            (&[("x-forwarded-host", "a.example/x")], None, None),
            (&[("x-forwarded-host", "")], None, None),
            (
                &[(
                    "forwarded",
                    "for=192.0.2.7;proto=https;host=\"a.example:1\", for=10.0.0.2;proto=http;host=b",
                )],
                Some("https"),
                Some("a.example:1"),
            ),
            (
                &[("forwarded", "for=192.0.2.7"), ("x-forwarded-proto", "https")],
                None,
                None,
            ),
        ];
        for (fields, scheme, host) in cases {
            let claim = claim(&map(fields), peer("10.0.0.1:5"), &trusted()).unwrap();
            let said = claim.host.as_ref().map(|host| host.to_str().unwrap());
            assert_eq!((claim.scheme, said), (*scheme, *host), "{fields:?}");
        }
    }

    proptest! {
        /// Whatever a client writes, its own address is the one that the last trusted proxy has seen.
        #[test]
        fn what_a_client_writes_changes_nothing(own in "[ -~]{0,60}") {
            let mut headers = HeaderMap::new();
            headers.append(&X_FORWARDED_FOR, HeaderValue::from_str(&own).unwrap());
            headers.append(&X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.7"));
            headers.append(header::FORWARDED, HeaderValue::from_str(&own).unwrap());
            let claim = claim(&headers, peer("10.0.0.1:5"), &trusted()).unwrap();
            prop_assert_eq!(claim.client, peer("192.0.2.7:0"));
        }

        #[test]
        fn any_forwarded_is_read(own in "(for|proto|host|[=;,\"\\\\ 10.:\\[\\]a]){0,20}") {
            let mut headers = HeaderMap::new();
            headers.append(header::FORWARDED, HeaderValue::from_str(&own).unwrap());
            prop_assert!(claim(&headers, peer("10.0.0.1:5"), &trusted()).is_some());
        }
    }
}
