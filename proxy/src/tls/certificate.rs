//! What stands in a certificate: whose it is, which names it is for, how long it holds.
//!
//! Either plane: the control plane reads its own, the data plane those of clients once they are verified. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::peer::{ClientCertificate, SubjectName};

/// Renewal is due long before: whoever is told so late still has time to do it by hand.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// As RFC 4514 writes it.
    pub subject: String,
    pub names: Vec<SubjectName>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// SHA-256, in hexadecimal digits.
    pub fingerprint: String,
}

impl Certificate {
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let certificate =
            x509_cert::Certificate::from_der(der).map_err(|error| format!("not a certificate: {error}"))?;
        let parts = &certificate.tbs_certificate;
        let names = parts.get::<SubjectAltName>();
        let names = names.map_err(|error| format!("its subject alternative names cannot be read: {error}"))?;
        Ok(Self {
            subject: parts.subject.to_string(),
            names: names
                .map(|(_, names)| names.0.iter().filter_map(subject_name).collect())
                .unwrap_or_default(),
            not_before: parts.validity.not_before.to_system_time(),
            not_after: parts.validity.not_after.to_system_time(),
            fingerprint: fingerprint(der),
        })
    }

    /// What whoever looks after it should know now.
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let until = humantime::format_rfc3339_seconds(self.not_after);
        match self.not_after.duration_since(now) {
            Err(_) => Some(format!("expired at {until}; renew it, clients refuse it")),
            Ok(left) if left < EXPIRES_SOON => Some(format!("expires at {until}; renew it")),
            Ok(_) if self.not_before > now => {
                let from = humantime::format_rfc3339_seconds(self.not_before);
                Some(format!("does not hold before {from}; is the clock right?"))
            }
            Ok(_) => None,
        }
    }

    /// The host names that it is for, in lower case, wildcards as in `*.example.org`.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| match name {
            SubjectName::Dns(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether it is for this host, a name in lower case or an address (RFC 9525 section 6.3: a wildcard stands for one
    /// whole label).
    pub fn covers(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(address) = address {
            return self.names.contains(&SubjectName::Ip(address));
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.hosts().any(|name| match name.strip_prefix("*.") {
            Some(wildcard) => parent == Some(wildcard),
            None => name == host,
        })
    }
}

/// A client's, which is verified already. One that webpki takes and this does not is shown without names.
pub(super) fn of_client(der: &CertificateDer<'_>) -> ClientCertificate {
    let bytes = Bytes::copy_from_slice(der);
    match Certificate::read(der) {
        Ok(read) => ClientCertificate::new(bytes, read.subject, read.names, read.fingerprint),
        Err(_) => ClientCertificate::new(bytes, String::new(), Vec::new(), fingerprint(der)),
    }
}

fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn subject_name(name: &GeneralName) -> Option<SubjectName> {
    match name {
        // In one form, as names are compared (RFC 4343).
        GeneralName::DnsName(name) => Some(SubjectName::Dns(
            name.as_str().trim_end_matches('.').to_ascii_lowercase(),
        )),
        GeneralName::UniformResourceIdentifier(uri) => Some(SubjectName::Uri(uri.to_string())),
        GeneralName::Rfc822Name(address) => Some(SubjectName::Email(address.to_string())),
        GeneralName::IpAddress(octets) => address(octets.as_bytes()).map(SubjectName::Ip),
        _ => None,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let sixteen = <[u8; 16]>::try_from(octets).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    four.or(sixteen).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: Vec<SubjectName>) -> Certificate {
        Certificate {
            subject: "CN=test".into(),
            names,
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(100 * 24 * 3600),
            fingerprint: String::new(),
        }
    }

    #[test]
    fn a_wildcard_is_one_label() {
        let names = ["a.example", "*.b.example", "c.example"].map(|name| SubjectName::Dns(name.into()));
        let certificate = certificate(names.to_vec());
        for (host, covered) in [
            ("a.example", true),
            ("a.example.", true),
            ("x.a.example", false),
            ("x.b.example", true),
            ("b.example", false),
            ("x.y.b.example", false),
            ("c.example", true),
            ("example", false),
            ("", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(certificate.covers(host), covered, "{host}");
        }
    }

    #[test]
    fn addresses_are_no_names() {
        let names = vec![
            SubjectName::Ip(IpAddr::from([127, 0, 0, 1])),
            SubjectName::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            SubjectName::Dns("10.0.0.1".into()),
        ];
        let certificate = certificate(names);
        for (host, covered) in [("127.0.0.1", true), ("[::1]", true), ("10.0.0.1", false)] {
            assert_eq!(certificate.covers(host), covered, "{host}");
        }
    }

    #[test]
    fn whoever_looks_after_it_is_told_in_time() {
        let certificate = certificate(Vec::new());
        let day = |day: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(day * 24 * 3600);
        assert_eq!(certificate.warning(day(85)), None);
        for (when, says) in [(87, "expires at 1970-04-11"), (101, "expired at 1970-04-11")] {
            let warning = certificate.warning(day(when));
            assert!(
                warning.as_ref().is_some_and(|text| text.starts_with(says)),
                "{warning:?}"
            );
        }
    }
}
