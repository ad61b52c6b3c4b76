//! What filters see and may edit: the heads of one exchange, and the facts around them.
//!
//! Data plane. A [`Message`] is owned by its exchange and lent to one filter at a time. Every edit is checked here, so
//! that native filters and guests are held to the same rules: framing and hop-by-hop fields belong to the host, names
//! and values are what RFC 9110 section 5 allows, paths are normalised like a client's. It knows nothing of engines,
//! sockets or configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::guard;
use crate::hop;
use crate::name::Name;
use crate::peer::Tls;

/// Fields in one head after filters have written to it. Twice the default of a client's head (100), so that filters
/// have room, and far from the 32,768 at which `HeaderMap` gives up.
pub const MAX_FIELDS: usize = 200;
/// Attributes of one exchange.
pub const MAX_ATTRIBUTES: usize = 32;
/// Name and value of one attribute together.
pub const MAX_ATTRIBUTE_BYTES: usize = 4096;

/// One exchange as its filters see it. Lives from the end of the request head to the log line.
#[derive(Debug)]
pub struct Message {
    pub request: RequestHead,
    /// `None` until there is an answer.
    pub response: Option<ResponseHead>,
    pub stage: Stage,
    pub facts: Facts,
    pub attributes: Attributes,
    pub clusters: Clusters,
    /// The filter whose head hook is running wants to see nothing of the body.
    pub passes_body: bool,
    /// The `x-request-id` that the client sent; nobody believes it unless told to.
    pub client_request_id: Option<HeaderValue>,
}

/// How far the exchange has come, and so what can still be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is no exchange yet, only its connection.
    Connection,
    /// Up to the moment at which the request is sent.
    Request,
    /// The request is on its way.
    Sent,
    ResponseHead,
    /// The response's head is on its way.
    Answered,
}

/// The clusters that the route names, and the one that a filter chose among them.
#[derive(Debug, Default)]
pub struct Clusters {
    /// The first one is held in place: most routes name no other.
    first: Option<Name>,
    others: Vec<Name>,
    chosen: Option<usize>,
}

#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Normalised path and the query as it came.
    pub target: PathAndQuery,
    pub version: Version,
    /// With exactly one `host`, the authority of the request.
    pub headers: HeaderMap,
}

#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// What is known of an exchange besides its heads; fixed before the first filter runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `None` for a Unix socket.
    pub client: Option<SocketAddr>,
    /// What the client connected to; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// `None` on a connection of plain text.
    pub tls: Option<Arc<Tls>>,
    pub listener: Name,
    /// `None` when no route matched.
    pub route: Option<Name>,
    pub request_id: HeaderValue,
}

/// Why an edit was refused; the guest's `edit-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditError {
    Invalid,
    Forbidden,
    TooLarge,
    TooLate,
}

impl Message {
    /// The request, for editing; `TooLate` once it is sent.
    pub fn request_mut(&mut self) -> Result<&mut RequestHead, EditError> {
        match self.stage {
            Stage::Request => Ok(&mut self.request),
            _ => Err(EditError::TooLate),
        }
    }

    /// The response, for editing; `TooLate` (for want of a better time) while there is none, and once it is sent.
    pub fn response_mut(&mut self) -> Result<&mut ResponseHead, EditError> {
        match self.stage {
            Stage::ResponseHead => self.response.as_mut().ok_or(EditError::TooLate),
            _ => Err(EditError::TooLate),
        }
    }

    pub fn choose_cluster(&mut self, name: &str) -> Result<(), EditError> {
        match self.stage {
            Stage::Request => self.clusters.choose(name),
            _ => Err(EditError::TooLate),
        }
    }
}

impl Clusters {
    /// In the route's order.
    pub fn new(mut names: impl Iterator<Item = Name>) -> Self {
        Self {
            first: names.next(),
            others: names.collect(),
            chosen: None,
        }
    }

    /// The position in the route's order of the one that a filter chose.
    pub fn chosen(&self) -> Option<usize> {
        self.chosen
    }

    pub fn chosen_name(&self) -> Option<&str> {
        self.names().nth(self.chosen?).map(Name::as_str)
    }

    fn names(&self) -> impl Iterator<Item = &Name> {
        self.first.iter().chain(&self.others)
    }

    fn choose(&mut self, name: &str) -> Result<(), EditError> {
        let found = self.names().position(|known| known.as_str() == name);
        self.chosen = Some(found.ok_or(EditError::Invalid)?);
        Ok(())
    }
}

impl RequestHead {
    pub fn authority(&self) -> &[u8] {
        self.headers.get(http::header::HOST).map_or(&[], HeaderValue::as_bytes)
    }

    pub fn set_method(&mut self, method: &str) -> Result<(), EditError> {
        if method.len() > guard::MAX_METHOD_BYTES {
            return Err(EditError::TooLarge);
        }
        match Method::from_bytes(method.as_bytes()) {
            Ok(Method::CONNECT) | Err(_) => Err(EditError::Invalid),
            Ok(method) => {
                self.method = method;
                Ok(())
            }
        }
    }

    pub fn set_authority(&mut self, authority: &str) -> Result<(), EditError> {
        let host = guard::check_authority(authority.as_bytes()).map_err(|_| EditError::Invalid)?;
        self.headers.insert(http::header::HOST, host);
        Ok(())
    }

    pub fn set_path(&mut self, path: &str) -> Result<(), EditError> {
        let path = guard::normalise_path(path).map_err(|_| EditError::Invalid)?;
        self.set_target(&path, self.target.query().map(str::to_owned).as_deref())
    }

    pub fn set_query(&mut self, query: Option<&str>) -> Result<(), EditError> {
        let path = self.target.path().to_owned();
        self.set_target(&path, query)
    }

    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), EditError> {
        let text = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        if !is_target(&text) {
            return Err(EditError::Invalid);
        }
        if text.len() > guard::MAX_WRITTEN_TARGET_BYTES {
            return Err(EditError::TooLarge);
        }
        self.target = PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| EditError::Invalid)?;
        Ok(())
    }
}

impl ResponseHead {
    /// 200 to 599: informational answers are not final (RFC 9110 15.2), and the rest is undefined (15).
    pub fn set_status(&mut self, status: u16) -> Result<(), EditError> {
        self.status = final_status(status)?;
        Ok(())
    }
}

/// Path and query that may stand in a request line (RFC 9112 3.2).
pub fn is_target(text: &str) -> bool {
    let is_sound = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'#';
    text.starts_with('/') && text.bytes().all(is_sound)
}

pub fn final_status(status: u16) -> Result<StatusCode, EditError> {
    match status {
        200..=599 => StatusCode::from_u16(status).map_err(|_| EditError::Invalid),
        _ => Err(EditError::Invalid),
    }
}

/// A field that passed [`writable`].
pub type Field = (HeaderName, HeaderValue);

/// Replaces all values of the field's name.
pub fn insert(headers: &mut HeaderMap, (name, value): Field) -> Result<(), EditError> {
    if headers.len() >= MAX_FIELDS && !headers.contains_key(&name) {
        return Err(EditError::TooLarge);
    }
    headers.insert(name, value);
    Ok(())
}

pub fn append(headers: &mut HeaderMap, (name, value): Field) -> Result<(), EditError> {
    if headers.len() >= MAX_FIELDS {
        return Err(EditError::TooLarge);
    }
    headers.append(name, value);
    Ok(())
}

/// A field that a filter may write (RFC 9110 5.1 and 5.5), or why not. Blanks around a value are not part of it: the next
/// filter sees what every recipient reads.
pub fn writable(name: &[u8], value: &[u8]) -> Result<Field, EditError> {
    Ok((writable_name(name)?, writable_value(value)?))
}

pub fn writable_value(value: &[u8]) -> Result<HeaderValue, EditError> {
    HeaderValue::from_bytes(without_blanks(value)).map_err(|_| EditError::Invalid)
}

fn without_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

pub fn writable_name(name: &[u8]) -> Result<HeaderName, EditError> {
    let name = HeaderName::from_bytes(name).map_err(|_| EditError::Invalid)?;
    // The authority has a setter of its own, which keeps it valid and single. What some upstreams take for a framing
    // field is as bad as one (RFC 9110 16.3.2.1).
    if hop::is_host_owned(&name) || name == http::header::HOST || guard::is_twin(name.as_str()) {
        return Err(EditError::Forbidden);
    }
    Ok(name)
}

/// Short texts that filters leave for one another and for the access log.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<(String, String)>);

impl Attributes {
    /// In the order in which they were first set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        if name.len() + value.len() > MAX_ATTRIBUTE_BYTES {
            return Err(EditError::TooLarge);
        }
        if let Some((_, old)) = self.0.iter_mut().find(|(key, _)| key == name) {
            value.clone_into(old);
            return Ok(());
        }
        if self.0.len() >= MAX_ATTRIBUTES {
            return Err(EditError::TooLarge);
        }
        self.0.push((name.to_owned(), value.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("a.example"));
        Message {
            request: RequestHead {
                method: Method::GET,
                scheme: "http",
                target: PathAndQuery::from_static("/a?b=c"),
                version: Version::HTTP_11,
                headers,
            },
            response: None,
            stage: Stage::Request,
            facts: Facts {
                client: None,
                local: None,
                tls: None,
                listener: Name::new("web"),
                route: None,
                request_id: HeaderValue::from_static("id"),
            },
            attributes: Attributes::default(),
            clusters: Clusters::default(),
            passes_body: false,
            client_request_id: None,
        }
    }

    #[test]
    fn a_filter_chooses_among_the_routes_clusters() {
        let mut message = message();
        message.clusters = Clusters::new(["a", "b"].into_iter().map(Name::new));
        assert_eq!(message.clusters.chosen(), None);
        assert_eq!(message.choose_cluster("c"), Err(EditError::Invalid));
        assert_eq!(message.choose_cluster("b"), Ok(()));
        assert_eq!(
            (message.clusters.chosen(), message.clusters.chosen_name()),
            (Some(1), Some("b"))
        );
        message.stage = Stage::Sent;
        assert_eq!(message.choose_cluster("a"), Err(EditError::TooLate));
    }

    #[test]
    fn paths_and_queries_are_held_to_a_clients_rules() {
        let long = format!("/{}", "a".repeat(guard::MAX_WRITTEN_TARGET_BYTES));
        let cases: [(&str, Result<&str, EditError>); 9] = [
            ("/x/../y", Ok("/y?b=c")),
            ("/%7Ea", Ok("/~a?b=c")),
            ("x", Err(EditError::Invalid)),
            ("//evil", Ok("/evil?b=c")),
            ("http://evil/", Err(EditError::Invalid)),
            ("/../x", Err(EditError::Invalid)),
            ("/a\r\nx: y", Err(EditError::Invalid)),
            ("/a#b", Err(EditError::Invalid)),
            (&long, Err(EditError::TooLarge)),
        ];
        for (path, expected) in cases {
            let mut message = message();
            let edited = message.request.set_path(path).map(|()| message.request.target.as_str());
            assert_eq!(edited, expected, "{path}");
        }
        let mut message = message();
        assert_eq!(message.request.set_query(Some("x y")), Err(EditError::Invalid));
        assert_eq!(message.request.set_query(None), Ok(()));
        assert_eq!(message.request.target, "/a");
    }

    #[test]
    fn the_host_keeps_framing_and_authority() {
        let cases = [
            ("content-length", EditError::Forbidden),
            ("Transfer-Encoding", EditError::Forbidden),
            ("connection", EditError::Forbidden),
            ("host", EditError::Forbidden),
            ("Content_Length", EditError::Forbidden),
            ("transfer_encoding", EditError::Forbidden),
            ("x_forwarded-for", EditError::Forbidden),
            ("a b", EditError::Invalid),
            (":path", EditError::Invalid),
            ("", EditError::Invalid),
        ];
        for (name, error) in cases {
            assert_eq!(writable(name.as_bytes(), b"x").err(), Some(error), "{name}");
        }
        assert!(writable(b"content_type", b"x").is_ok());
        assert_eq!(writable(b"x", b"a\r\nb").err(), Some(EditError::Invalid));
        assert_eq!(writable(b"x", b"a\r\n").err(), Some(EditError::Invalid));
        assert_eq!(
            writable(b"x", b"\t a b  ").map(|field| field.1),
            Ok(HeaderValue::from_static("a b"))
        );
        assert_eq!(
            writable(b"x", b" ").map(|field| field.1),
            Ok(HeaderValue::from_static(""))
        );
        let mut message = message();
        assert_eq!(message.request.set_authority("B.example:80"), Ok(()));
        assert_eq!(message.request.authority(), b"b.example:80");
        assert_eq!(message.request.set_authority("a/b"), Err(EditError::Invalid));
        assert_eq!(message.request.set_method("CONNECT"), Err(EditError::Invalid));
    }

    #[test]
    fn what_is_sent_can_no_more_be_changed() {
        let mut message = message();
        assert_eq!(message.response_mut().err(), Some(EditError::TooLate));
        message.response = Some(ResponseHead {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
        });
        message.stage = Stage::ResponseHead;
        assert_eq!(message.request_mut().err(), Some(EditError::TooLate));
        let response = message.response_mut().unwrap();
        for (status, valid) in [
            (99, false),
            (101, false),
            (199, false),
            (200, true),
            (599, true),
            (600, false),
        ] {
            assert_eq!(response.set_status(status).is_ok(), valid, "{status}");
        }
    }

    #[test]
    fn heads_and_attributes_are_bounded() {
        let mut headers = HeaderMap::new();
        let field = || writable(b"x", b"1").unwrap();
        for _ in 0..MAX_FIELDS {
            assert_eq!(append(&mut headers, field()), Ok(()));
        }
        assert_eq!(append(&mut headers, field()), Err(EditError::TooLarge));
        assert_eq!(
            insert(&mut headers, writable(b"y", b"1").unwrap()),
            Err(EditError::TooLarge)
        );
        assert_eq!(insert(&mut headers, field()), Ok(()), "replacing makes no head larger");
        let mut attributes = Attributes::default();
        for number in 0..MAX_ATTRIBUTES {
            assert_eq!(attributes.set(&number.to_string(), "x"), Ok(()));
        }
        assert_eq!(attributes.set("one more", "x"), Err(EditError::TooLarge));
        assert_eq!(attributes.set("0", "y"), Ok(()));
        assert_eq!(attributes.get("0"), Some("y"));
        assert_eq!(
            attributes.set("0", &"x".repeat(MAX_ATTRIBUTE_BYTES)),
            Err(EditError::TooLarge)
        );
    }
}
