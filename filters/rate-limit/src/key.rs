//! `key`: what a request is counted under. Different parts never give the same key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tamis_filter::{Exchange, Request, check_header};

/// Bytes of a key as it is stored, without the bucket's name. Longer ones are hashed: most keys are an address or an
/// identifier, which stays readable, and none takes more of the table than this.
pub const MAX_KEY_BYTES: usize = 128;

/// A part of a key, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// The client's address: an IPv4 one whole, of an IPv6 one the first 64 bits.
    ClientAddress,
    ClientNetwork {
        #[serde(default = "whole_ipv4")]
        ipv4: u8,
        #[serde(default = "subnet_ipv6")]
        ipv6: u8,
    },
    Header(String),
    Query(String),
    Attribute(String),
    Literal(String),
    Path,
    Method,
    Route,
    Listener,
}

fn whole_ipv4() -> u8 {
    32
}

/// A host has a whole /64 to choose its addresses from (RFC 4291 section 2.5.1), so less would be no limit.
fn subnet_ipv6() -> u8 {
    64
}

/// What to do without a header, parameter, attribute, route or address that the key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMissingKey {
    /// The limit does not apply.
    Skip,
    /// All such requests share one bucket.
    #[default]
    Share,
}

/// What a request has for a part.
enum Found {
    Nothing,
    One(Vec<u8>),
    /// The header or parameter stands there more than once. Which one the upstream takes is unknown, so whoever could
    /// choose the first could choose their bucket: all such requests share one.
    Several,
}

/// Checks what can be known of the parts beforehand.
pub fn check(parts: &[Part]) -> Result<(), String> {
    if parts.is_empty() {
        return Err("key: there is no part; `[{ literal: all }]` is one bucket for all".to_owned());
    }
    for (index, part) in parts.iter().enumerate() {
        part.check().map_err(|error| format!("key[{index}]: {error}"))?;
    }
    Ok(())
}

/// The key in the table for this request; none if a part is missing and the limit is to be skipped then.
pub fn key(
    bucket: &str,
    parts: &[Part],
    on_missing: OnMissingKey,
    request: &Request,
    exchange: &Exchange,
) -> Option<String> {
    let mut bytes = Vec::new();
    for part in parts {
        match part.find(request, exchange) {
            Found::Nothing if on_missing == OnMissingKey::Skip => return None,
            found => append(&mut bytes, &found),
        }
    }
    Some(stored(bucket, &bytes))
}

/// A part with its length before it, so that no value can look like two parts.
fn append(bytes: &mut Vec<u8>, found: &Found) {
    match found {
        Found::Nothing => bytes.push(b'-'),
        Found::Several => bytes.push(b'*'),
        Found::One(value) => {
            bytes.extend_from_slice(value.len().to_string().as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(value);
        }
    }
}

/// The table's keys are text. A bucket's name has neither `=` nor `#`.
fn stored(bucket: &str, bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= MAX_KEY_BYTES => format!("{bucket}={text}"),
        _ => {
            let mut key = format!("{bucket}#");
            for byte in Sha256::digest(bytes) {
                for digit in [byte >> 4, byte & 15] {
                    key.extend(char::from_digit(digit.into(), 16));
                }
            }
            key
        }
    }
}

impl Part {
    fn check(&self) -> Result<(), String> {
        match self {
            Part::ClientNetwork { ipv4, ipv6 } if *ipv4 > 32 || *ipv6 > 128 => {
                Err("client_network: a prefix is at most 32 bits of IPv4 and 128 of IPv6".to_owned())
            }
            // Framing fields are readable, but say nothing of who asks; `host` does.
            Part::Header(name) if !name.eq_ignore_ascii_case("host") => {
                check_header(name, "").map_err(|_| format!("header `{name}` is not a field that can be counted by"))
            }
            Part::Query(name) | Part::Attribute(name) if name.is_empty() => Err("its name is empty".to_owned()),
            _ => Ok(()),
        }
    }

    fn find(&self, request: &Request, exchange: &Exchange) -> Found {
        match self {
            Part::ClientAddress => network(&exchange.client_address(), whole_ipv4(), subnet_ipv6()),
            Part::ClientNetwork { ipv4, ipv6 } => network(&exchange.client_address(), *ipv4, *ipv6),
            Part::Header(name) => {
                let values = request.header_values(name);
                only(values.into_iter().map(|value| value.into_bytes()))
            }
            Part::Query(name) => only(parameters(
                request.query().unwrap_or_default().as_bytes(),
                name.as_bytes(),
            )),
            Part::Attribute(name) => only(exchange.attribute(name).into_iter().map(String::into_bytes)),
            Part::Literal(text) => Found::One(text.clone().into_bytes()),
            Part::Path => Found::One(request.path().into_bytes()),
            Part::Method => Found::One(request.method().into_bytes()),
            Part::Route => only(exchange.route().into_iter().map(String::into_bytes)),
            Part::Listener => Found::One(exchange.listener().into_bytes()),
        }
    }
}

fn only(mut values: impl Iterator<Item = Vec<u8>>) -> Found {
    match (values.next(), values.next()) {
        (None, _) => Found::Nothing,
        (Some(value), None) => Found::One(value),
        (Some(_), Some(_)) => Found::Several,
    }
}

/// The client's network in canonical form. A Unix socket's client has no address.
fn network(client: &str, ipv4_bits: u8, ipv6_bits: u8) -> Found {
    let Ok(client) = client.parse::<SocketAddr>() else {
        return Found::Nothing;
    };
    // RFC 4291 section 2.5.5.2: on a socket for both, IPv4 clients look like `::ffff:192.0.2.7`.
    let text = match client.ip().to_canonical() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4_bits)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).to_string()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_bits)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).to_string()
        }
    };
    Found::One(text.into_bytes())
}

/// The values of a parameter, decoded: to the upstream `k=a` and `k=%61` are one.
fn parameters(query: &[u8], name: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (key, value) = pair.split_at(equals);
        (decoded(key) == name).then(|| decoded(value.strip_prefix(b"=").unwrap_or(value)))
    })
}

/// The percent-decoding of application/x-www-form-urlencoded (WHATWG URL section 5.1): what is no escape stays.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let escape = match rest {
            [b'%', high, low, ..] => hexadecimal(*high).zip(hexadecimal(*low)),
            _ => None,
        };
        match escape {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &rest[3..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    bytes
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(found: Found) -> String {
        match found {
            Found::Nothing => "nothing".to_owned(),
            Found::Several => "several".to_owned(),
            Found::One(value) => String::from_utf8(value).unwrap(),
        }
    }

    #[test]
    fn addresses_are_cut_to_their_network() {
        let cases = [
            ("192.0.2.7:50312", 32, 64, "192.0.2.7"),
            ("192.0.2.7:50312", 24, 64, "192.0.2.0"),
            ("192.0.2.7:50312", 0, 64, "0.0.0.0"),
            ("[::ffff:192.0.2.7]:1", 32, 64, "192.0.2.7"),
            ("[2001:db8:1:2:3:4:5:6]:1", 32, 64, "2001:db8:1:2::"),
            ("[2001:db8:1:2:3:4:5:6]:1", 32, 48, "2001:db8:1::"),
            ("[2001:db8:1:2:3:4:5:6]:1", 32, 128, "2001:db8:1:2:3:4:5:6"),
            ("[2001:db8:1:2:3:4:5:6]:1", 32, 0, "::"),
            ("", 32, 64, "nothing"),
        ];
        for (client, ipv4_bits, ipv6_bits, expected) in cases {
            assert_eq!(text(network(client, ipv4_bits, ipv6_bits)), expected, "{client}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_alone() {
        let cases = [
            ("", "nothing"),
            ("kk=1&K=2", "nothing"),
            ("a=1&k=2&b=3", "2"),
            ("k", ""),
            ("k=", ""),
            ("k=a=b", "a=b"),
            ("k=%61+%2b%", "a +%"),
            ("%6b=1", "1"),
            ("k=1&k=1", "several"),
            ("k=1&%6B=2", "several"),
        ];
        for (query, expected) in cases {
            assert_eq!(text(only(parameters(query.as_bytes(), b"k"))), expected, "{query}");
        }
    }

    #[test]
    fn long_keys_and_bytes_are_hashed() {
        let longest = vec![b'x'; MAX_KEY_BYTES];
        assert_eq!(stored("l", &longest), format!("l={}", "x".repeat(MAX_KEY_BYTES)));
        assert_eq!(
            stored("l", b"\xff"),
            "l#a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89"
        );
        assert_eq!(stored("l", &vec![b'x'; 4096]).len(), 2 + 64);
    }

    fn found() -> impl Strategy<Value = Option<Option<Vec<u8>>>> {
        prop::option::of(prop::option::of(prop::collection::vec(any::<u8>(), 0..80)))
    }

    proptest! {
        #[test]
        fn different_parts_are_different_keys(
            one in prop::collection::vec(found(), 2),
            other in prop::collection::vec(found(), 2),
        ) {
            let key = |parts: &[Option<Option<Vec<u8>>>]| {
                let mut bytes = Vec::new();
                for part in parts {
                    append(&mut bytes, &match part {
                        None => Found::Nothing,
                        Some(None) => Found::Several,
                        Some(Some(value)) => Found::One(value.clone()),
                    });
                }
                stored("l", &bytes)
            };
            prop_assert_eq!(key(&one) == key(&other), one == other);
        }

        #[test]
        fn any_query_is_read(query in prop::collection::vec(any::<u8>(), 0..60)) {
            let values: usize = parameters(&query, b"k").map(|value| value.len()).sum();
            prop_assert!(values <= query.len());
        }
    }
}
