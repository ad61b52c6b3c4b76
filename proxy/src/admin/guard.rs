//! Who may ask: the check that a request comes from this machine and not from a stranger's page in a local browser.
//!
//! Control plane, pure. A browser on this machine reaches the loopback address for any page that it shows: by a name that
//! the page's owner points here (DNS rebinding), or with a plain form (CSRF). The first shows in `Host`, the second in
//! `Origin`.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::Method;
use http::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use http::uri::{Authority, PathAndQuery, Uri};

/// What the request came in by. No page reaches a Unix socket by a name of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Tcp,
    Unix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Host,
    Origin,
}

impl Refusal {
    pub fn message(self) -> &'static str {
        match self {
            Self::Host => "refused: the Host must be localhost or a loopback address\n",
            Self::Origin => "refused: the Origin is not on this machine\n",
        }
    }
}

pub fn check(door: Door, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    if door == Door::Tcp && !host_is_local(uri, headers) {
        return Err(Refusal::Host);
    }
    // Everything that changes something is a POST, and browsers send `Origin` with each.
    if method == Method::POST && !headers.get_all(ORIGIN).iter().all(origin_is_local) {
        return Err(Refusal::Origin);
    }
    Ok(())
}

/// Exactly one `Host` (RFC 9112 3.2), and the same rule for the authority of an absolute target, which overrides it.
fn host_is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let named = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    named.is_some_and(|host| is_loopback(&host)) && uri.authority().is_none_or(is_loopback)
}

/// `null` is the origin of whatever hides its own.
fn origin_is_local(origin: &HeaderValue) -> bool {
    let Some(uri) = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok()) else {
        return false;
    };
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let bare = uri
        .path_and_query()
        .is_none_or(|path| *path == PathAndQuery::from_static("/"));
    web && bare && uri.authority().is_some_and(is_loopback)
}

/// `localhost`, 127.0.0.0/8 in its usual form, or `[::1]`, with or without a port; never with user information.
fn is_loopback(authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(v6) = v6 {
        return v6.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(http::HeaderName, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).expect("a value");
        let mut headers = HeaderMap::new();
        for (name, text) in fields {
            headers.append(name, value(text));
        }
        headers
    }

    #[test]
    fn only_a_host_on_this_machine_is_let_in() {
        for (host, let_in) in [
            ("localhost", true),
            ("LocalHost:9901", true),
            ("127.0.0.1", true),
            ("127.0.0.1:9901", true),
            ("127.255.0.3:1", true),
            ("[::1]", true),
            ("[::1]:9901", true),
            ("", false),
            (":9901", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1@evil.example", false),
            ("evil.example@127.0.0.1", false),
            ("0.0.0.0", false),
            ("10.0.0.1:9901", false),
            ("2130706433", false),
            ("0177.0.0.1", false),
            ("127.1", false),
            ("::1", false),
            ("[::2]", false),
            ("[::ffff:10.0.0.1]", false),
            ("localhost, evil.example", false),
            ("localhost/x", false),
            ("löcalhost", false),
        ] {
            let checked = check(
                Door::Tcp,
                &Method::GET,
                &Uri::from_static("/"),
                &headers(&[(HOST, host)]),
            );
            assert_eq!(checked.is_ok(), let_in, "{host:?}");
        }
    }

    #[test]
    fn a_host_is_named_once_and_by_the_target_alike() {
        let both = headers(&[(HOST, "localhost"), (HOST, "localhost")]);
        let local = headers(&[(HOST, "localhost")]);
        for (uri, headers, let_in) in [
            ("/", &HeaderMap::new(), false),
            ("/", &both, false),
            ("http://localhost/", &local, true),
            ("http://evil.example/", &local, false),
        ] {
            assert_eq!(
                check(Door::Tcp, &Method::GET, &Uri::from_static(uri), headers).is_ok(),
                let_in,
                "{uri}"
            );
        }
    }

    #[test]
    fn only_an_origin_on_this_machine_may_change_anything() {
        for (origin, let_in) in [
            ("http://localhost", true),
            ("http://localhost:9901", true),
            ("https://127.0.0.1:3000", true),
            ("http://[::1]:9901", true),
            ("null", false),
            ("", false),
            ("localhost", false),
            ("http://evil.example", false),
            ("http://localhost.evil.example", false),
            ("http://localhost@evil.example", false),
            ("http://localhost/path", false),
            ("file://", false),
            ("ftp://localhost", false),
            ("chrome-extension://localhost", false),
        ] {
            for (door, host) in [(Door::Tcp, "localhost"), (Door::Unix, "anything")] {
                let fields = headers(&[(HOST, host), (ORIGIN, origin)]);
                let checked = check(door, &Method::POST, &Uri::from_static("/reload"), &fields);
                assert_eq!(
                    checked,
                    if let_in { Ok(()) } else { Err(Refusal::Origin) },
                    "{origin:?}"
                );
                assert_eq!(check(door, &Method::GET, &Uri::from_static("/"), &fields), Ok(()));
            }
        }
        let two = headers(&[
            (HOST, "localhost"),
            (ORIGIN, "http://localhost"),
            (ORIGIN, "http://evil.example"),
        ]);
        assert_eq!(
            check(Door::Tcp, &Method::POST, &Uri::from_static("/"), &two),
            Err(Refusal::Origin)
        );
    }

    #[test]
    fn a_unix_socket_needs_no_host() {
        assert_eq!(
            check(
                Door::Unix,
                &Method::POST,
                &Uri::from_static("/reload"),
                &HeaderMap::new()
            ),
            Ok(())
        );
    }
}
