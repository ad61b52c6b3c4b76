//! What a client's connection tells of the client: its TLS handshake, and the certificate that it has shown.
//!
//! Data plane. Made once when the handshake is over, shared by all exchanges of the connection and never written. Pure: it
//! knows no TLS library and no certificate's encoding.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderValue;

/// What `x-forwarded-client-cert` may take; names that find no room are left out.
const MAX_FORWARDED_BYTES: usize = 8 << 10;

/// Lives as long as its connection.
#[derive(Debug)]
pub struct Tls {
    /// As in `TLSv1.3`.
    pub version: &'static str,
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<String>,
    /// The protocol that was agreed on (ALPN), by its registered name.
    pub alpn: Option<String>,
    /// Verified; `None` when none was asked for or shown.
    pub certificate: Option<ClientCertificate>,
}

/// A client's certificate, whose chain leads to an authority of the listener.
#[derive(Debug)]
pub struct ClientCertificate {
    pub der: Bytes,
    /// As RFC 4514 writes it, as in `CN=web,O=Acme`.
    pub subject: String,
    pub names: Vec<SubjectName>,
    /// The same as texts, as in `DNS:a.example` and `URI:spiffe://b`.
    pub name_texts: Vec<String>,
    /// All of these in one, with commas between.
    pub names_text: String,
    /// SHA-256 of the certificate, in 64 hexadecimal digits.
    pub fingerprint: String,
    /// The value of `x-forwarded-client-cert`.
    pub forwarded: HeaderValue,
}

/// One of a certificate's subject alternative names; of other kinds there is no use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    Dns(String),
    Uri(String),
    Email(String),
    Ip(IpAddr),
}

impl ClientCertificate {
    pub fn new(der: Bytes, subject: String, names: Vec<SubjectName>, fingerprint: String) -> Self {
        let name_texts: Vec<String> = names.iter().map(SubjectName::text).collect();
        Self {
            forwarded: forwarded(&subject, &names, &fingerprint),
            names_text: name_texts.join(","),
            name_texts,
            der,
            subject,
            names,
            fingerprint,
        }
    }
}

impl SubjectName {
    fn text(&self) -> String {
        let (kind, value) = match self {
            Self::Dns(name) => ("DNS", name.clone()),
            Self::Uri(uri) => ("URI", uri.clone()),
            Self::Email(address) => ("email", address.clone()),
            Self::Ip(address) => ("IP", address.to_string()),
        };
        format!("{kind}:{value}")
    }
}

/// In the form that Envoy has made usual: `Hash=..;Subject="..";URI=..;DNS=..`.
fn forwarded(subject: &str, names: &[SubjectName], fingerprint: &str) -> HeaderValue {
    let mut text = format!("Hash={fingerprint};Subject={}", quoted(subject));
    for name in names {
        let pair = match name {
            SubjectName::Uri(uri) => format!(";URI={}", value(uri)),
            SubjectName::Dns(name) => format!(";DNS={}", value(name)),
            SubjectName::Email(_) | SubjectName::Ip(_) => continue,
        };
        if text.len() + pair.len() > MAX_FORWARDED_BYTES {
            break;
        }
        text.push_str(&pair);
    }
    text.truncate(MAX_FORWARDED_BYTES);
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// What separates pairs and elements must not come from a name.
fn value(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'=' | b'"' | b'\\');
    match text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// In quotes, printable ASCII alone: other bytes become `%NN`, so that two subjects never look the same.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b'%' | 0..=0x1f | 0x7f.. => {
                // Writing to a `String` does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(subject: &str, names: Vec<SubjectName>) -> String {
        let certificate = ClientCertificate::new(Bytes::new(), subject.into(), names, "00ff".into());
        String::from_utf8(certificate.forwarded.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_header_says_who_it_is() {
        let names = vec![
            SubjectName::Uri("spiffe://acme/web".into()),
            SubjectName::Dns("web.acme.example".into()),
            SubjectName::Ip(IpAddr::from([127, 0, 0, 1])),
        ];
        let expected = "Hash=00ff;Subject=\"CN=web,O=Acme\";URI=spiffe://acme/web;DNS=web.acme.example";
        assert_eq!(header("CN=web,O=Acme", names.clone()), expected);
        let certificate = ClientCertificate::new(Bytes::new(), "CN=web".into(), names, String::new());
        let expected = "URI:spiffe://acme/web,DNS:web.acme.example,IP:127.0.0.1";
        assert_eq!(certificate.names_text, expected);
    }

    #[test]
    fn a_name_stays_inside_its_pair() {
        assert_eq!(
            header(
                "CN=\"x\";Hash=1\r\n\\é%",
                vec![SubjectName::Uri("a:b;DNS=c,Hash=2".into())]
            ),
            "Hash=00ff;Subject=\"CN=\\\"x\\\";Hash=1%0D%0A\\\\%C3%A9%25\";URI=\"a:b;DNS=c,Hash=2\""
        );
    }

    #[test]
    fn the_header_is_bounded() {
        let names = vec![SubjectName::Dns("a".repeat(60)); 10_000];
        let text = header("CN=x", names);
        assert!(
            text.len() <= MAX_FORWARDED_BYTES && text.ends_with('a'),
            "{}",
            text.len()
        );
        // An own subject can be as long as the handshake allows.
        assert!(header(&"é".repeat(30_000), Vec::new()).len() <= MAX_FORWARDED_BYTES);
    }
}
