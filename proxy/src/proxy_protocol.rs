//! The header of the PROXY protocol, versions 1 and 2: what a proxy in front says before the first byte of a client.
//!
//! Data plane; pure: it says how many bytes are still needed, so that not one behind the header is taken, and reads them
//! once they are there. Written after <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. It knows no sockets
//! and no clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What both versions have at least: `PROXY UNKNOWN` with its line end, and the fixed part of version 2.
const LEAST: usize = 15;
/// The longest line of version 1, with its end (section 2.1).
const MAX_LINE: usize = 107;
/// Of version 2, extensions included. A client certificate's chain is the longest that balancers send, of some KiB.
const MAX_BINARY: usize = 16 << 10;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl Version {
    /// The header of a connection for this client, who connected to this address. What is not known of either makes it
    /// one of the proxy's own.
    pub fn header(self, client: Option<SocketAddr>, local: Option<SocketAddr>) -> Vec<u8> {
        let addresses = client.zip(local).map(|(client, local)| in_one_family(client, local));
        match self {
            Self::V1 => written_line(addresses),
            Self::V2 => written_binary(addresses),
        }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The proxy itself asks (a health check), or does not know: the connection's own addresses hold.
    Own,
    Proxied {
        client: SocketAddr,
        local: SocketAddr,
    },
}

/// Not a header, or one that is longer than any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// At least so many more belong to it.
    Needs(usize),
    Whole(Header),
}

/// Reads a header off `bytes`, which hold nothing behind it as long as no more is added than was needed.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.len() < LEAST {
        let is_either = SIGNATURE.starts_with(&bytes[..bytes.len().min(SIGNATURE.len())])
            || b"PROXY ".starts_with(&bytes[..bytes.len().min(6)]);
        return match is_either {
            true => Ok(Parsed::Needs(LEAST - bytes.len())),
            false => Err(Malformed),
        };
    }
    match bytes.strip_prefix(SIGNATURE) {
        Some(_) => binary(bytes),
        None => line(bytes),
    }
}

fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(text) = bytes.strip_suffix(b"\r\n") else {
        // One byte at a time: the line may end with each.
        return match bytes.starts_with(b"PROXY ") && bytes.len() < MAX_LINE && !bytes.contains(&b'\n') {
            true => Ok(Parsed::Needs(1)),
            false => Err(Malformed),
        };
    };
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(Parsed::Whole(Header::Own)),
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            addresses::<Ipv4Addr>([from, to], [from_port, to_port]).map(Parsed::Whole)
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            addresses::<Ipv6Addr>([from, to], [from_port, to_port]).map(Parsed::Whole)
        }
        _ => Err(Malformed),
    }
}

fn addresses<T>(ips: [&str; 2], ports: [&str; 2]) -> Result<Header, Malformed>
where
    T: std::str::FromStr + Into<IpAddr>,
{
    let ip = |text: &str| text.parse::<T>().map(Into::into).map_err(|_| Malformed);
    let port = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| Malformed),
        false => Err(Malformed),
    };
    Ok(proxied(
        SocketAddr::new(ip(ips[0])?, port(ports[0])?),
        SocketAddr::new(ip(ips[1])?, port(ports[1])?),
    ))
}

fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Parsed::Needs(FIXED - bytes.len()));
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED + length > MAX_BINARY || rest.len() > length {
        return Err(Malformed);
    }
    if rest.len() < length {
        return Ok(Parsed::Needs(length - rest.len()));
    }
    match (fixed[12], fixed[13]) {
        // LOCAL: whatever follows is to be ignored (section 2.2).
        (0x20, _) => Ok(Parsed::Whole(Header::Own)),
        (0x21, 0x11) => with_addresses::<4>(rest, |octets| Ipv4Addr::from(octets).into()),
        (0x21, 0x21) => with_addresses::<16>(rest, |octets| Ipv6Addr::from(octets).into()),
        // Unix sockets and what is unspecified have no address that we know a use for.
        (0x21, 0x00 | 0x31) => Ok(Parsed::Whole(Header::Own)),
        _ => Err(Malformed),
    }
}

fn with_addresses<const LENGTH: usize>(rest: &[u8], ip: impl Fn([u8; LENGTH]) -> IpAddr) -> Result<Parsed, Malformed> {
    let read = || {
        let (from, rest) = rest.split_first_chunk::<LENGTH>()?;
        let (to, rest) = rest.split_first_chunk::<LENGTH>()?;
        let (from_port, rest) = rest.split_first_chunk::<2>()?;
        let (to_port, _) = rest.split_first_chunk::<2>()?;
        let client = SocketAddr::new(ip(*from), u16::from_be_bytes(*from_port));
        let local = SocketAddr::new(ip(*to), u16::from_be_bytes(*to_port));
        Some(Parsed::Whole(proxied(client, local)))
    };
    read().ok_or(Malformed)
}

/// A header has one family for both: IPv4 goes into IPv6.
fn in_one_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let (client, local) = (plain(client), plain(local));
    match client.is_ipv4() == local.is_ipv4() {
        true => (client, local),
        false => (wide(client), wide(local)),
    }
}

fn written_line(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((client, local)) = addresses else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), local.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port()).into_bytes()
}

fn written_binary(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some((client, local)) = addresses else {
        header.extend([0x20, 0x00, 0, 0]);
        return header;
    };
    let mut block = Vec::new();
    for ip in [client.ip(), local.ip()] {
        match ip {
            IpAddr::V4(ip) => block.extend(ip.octets()),
            IpAddr::V6(ip) => block.extend(ip.octets()),
        }
    }
    block.extend([client.port().to_be_bytes(), local.port().to_be_bytes()].concat());
    header.extend([0x21, if client.is_ipv4() { 0x11 } else { 0x21 }]);
    // 12 or 36.
    header.extend([0, block.len() as u8]);
    header.extend(block);
    header
}

fn proxied(client: SocketAddr, local: SocketAddr) -> Header {
    Header::Proxied { client, local }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the listener does it: no byte is taken that is not known to belong to the header. What it says, and what is left.
    fn read(mut bytes: &[u8]) -> (Result<Parsed, Malformed>, usize) {
        let mut taken = Vec::new();
        loop {
            match parse(&taken) {
                Ok(Parsed::Needs(count)) if count <= bytes.len() => {
                    assert!(count > 0);
                    taken.extend_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                }
                parsed => return (parsed, bytes.len()),
            }
        }
    }

    fn header(client: &str, local: &str) -> Result<Parsed, Malformed> {
        Ok(Parsed::Whole(proxied(client.parse().unwrap(), local.parse().unwrap())))
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    #[test]
    fn lines() {
        let own = Ok(Parsed::Whole(Header::Own));
        let cases = [
            (
                "PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\r\n",
                header("192.0.2.7:5000", "10.0.0.1:80"),
            ),
            (
                "PROXY TCP6 2001:db8::7 ::1 5000 80\r\n",
                header("[2001:db8::7]:5000", "[::1]:80"),
            ),
            ("PROXY UNKNOWN\r\n", own),
            ("PROXY UNKNOWN ffff::1 x 1 2\r\n", own),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 5000\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 5000 80 1\r\n", Err(Malformed)),
            ("PROXY TCP4 2001:db8::7 ::1 5000 80\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 +5000 80\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n", Err(Malformed)),
            ("PROXY TCP4  192.0.2.7 10.0.0.1 5000 80\r\n", Err(Malformed)),
            ("PROXY UDP4 192.0.2.7 10.0.0.1 5000 80\r\n", Err(Malformed)),
            ("proxy UNKNOWN\r\n", Err(Malformed)),
            ("GET / HTTP/1.1\r\n", Err(Malformed)),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text.as_bytes()).0, expected, "{text:?}");
            let more = [text.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            let (parsed, left) = read(&more);
            assert_eq!(parsed, expected, "{text:?} and more");
            assert!(expected.is_err() || left == 18, "{text:?}: {left} are left");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        assert_eq!(read(long.as_bytes()).0, Err(Malformed));
    }

    #[test]
    fn binaries() {
        let own = Ok(Parsed::Whole(Header::Own));
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x13, 0x88, 0, 80];
        let v6 = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 1, 0, 2]].concat();
        let cases = [
            (binary(0x21, 0x11, &v4), header("192.0.2.7:5000", "10.0.0.1:80")),
            (
                binary(0x21, 0x11, &[v4.as_slice(), b"\x04\0\x01x"].concat()),
                header("192.0.2.7:5000", "10.0.0.1:80"),
            ),
            (binary(0x21, 0x21, &v6), header("[::1]:1", "[::2]:2")),
            (binary(0x20, 0x00, b""), own),
            (binary(0x20, 0x11, b"anything"), own),
            (binary(0x21, 0x00, b""), own),
            (binary(0x21, 0x31, &[0; 216]), own),
            (binary(0x21, 0x11, &v4[..11]), Err(Malformed)),
            (binary(0x21, 0x21, &v4), Err(Malformed)),
            (binary(0x21, 0x12, &v4), Err(Malformed)),
            (binary(0x11, 0x11, &v4), Err(Malformed)),
            (binary(0x22, 0x11, &v4), Err(Malformed)),
            (binary(0x21, 0x11, &vec![0; MAX_BINARY]), Err(Malformed)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read(&bytes).0, expected, "{}", bytes.escape_ascii());
            let (parsed, left) = read(&[bytes.as_slice(), b"GET /"].concat());
            assert_eq!(parsed, expected);
            assert!(expected.is_err() || left == 5);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, prefix in 0..3usize) {
            let prefix: &[u8] = [b"".as_slice(), b"PROXY ", SIGNATURE][prefix];
            let (parsed, _) = read(&[prefix, &bytes].concat());
            if let Ok(Parsed::Needs(count)) = parsed {
                prop_assert!((1..=MAX_BINARY).contains(&count));
            }
        }

        #[test]
        fn what_is_written_is_read(client: SocketAddr, local: SocketAddr) {
            let (from, to) = in_one_family(client, local);
            prop_assert_eq!(from.ip().to_canonical(), client.ip().to_canonical());
            for version in [Version::V1, Version::V2] {
                let header = version.header(Some(client), Some(local));
                prop_assert_eq!(read(&header), (Ok(Parsed::Whole(proxied(from, to))), 0), "{}", header.escape_ascii());
                for unknown in [version.header(None, Some(local)), version.header(Some(client), None)] {
                    prop_assert_eq!(read(&unknown), (Ok(Parsed::Whole(Header::Own)), 0));
                }
            }
        }
    }
}
