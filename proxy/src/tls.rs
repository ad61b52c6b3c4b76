//! TLS on both sides: what the control plane makes of certificates, and the sessions that streams speak through.
//!
//! [`Server`] and [`Client`] are built once for a generation, read by all workers and never written; a [`Session`] is one
//! connection's. It knows nothing of HTTP, and only this folder names rustls.

pub mod certificate;
pub mod client;
pub mod queue;
pub mod server;
mod session;

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{CertificateError, RootCertStore, SupportedProtocolVersion};

pub use certificate::Certificate;
pub use client::Client;
pub use server::Server;
pub(crate) use session::Session;

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    Tls12,
    Tls13,
}

/// Best first.
static VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => &VERSIONS,
            Self::Tls13 => &VERSIONS[..1],
        }
    }
}

/// A certificate with its chain, and its key, as files hold them.
pub struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pair {
    /// An error says which of the two texts is wrong, and how.
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, PairFault> {
        let chain = certificates(cert).map_err(PairFault::Cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            PairFault::Key(match error {
                rustls::pki_types::pem::Error::NoItemsFound => {
                    "no private key in it; it takes PEM, `-----BEGIN PRIVATE KEY-----`, without a password".to_owned()
                }
                other => format!("not PEM: {other}"),
            })
        })?;
        Ok(Self { chain, key })
    }

    fn certified(self) -> Result<rustls::sign::CertifiedKey, PairFault> {
        let Self { chain, key } = self;
        rustls::sign::CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                PairFault::Key("is not the key of this certificate; give the one that it was made with".to_owned())
            }
            rustls::Error::InvalidCertificate(_) => PairFault::Cert(format!("not a certificate: {error}")),
            other => PairFault::Key(format!("not a key that can be used: {other}")),
        })
    }
}

/// What is wrong with a pair, and in which of its files.
#[derive(Debug)]
pub enum PairFault {
    Cert(String),
    Key(String),
}

/// The certificates of a PEM text, at least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err("no certificate in it; it takes PEM, `-----BEGIN CERTIFICATE-----`".to_owned())
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("not PEM: {error}")),
    }
}

/// The revocation lists of a PEM text, at least one.
pub fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match read {
        Ok(lists) if lists.is_empty() => {
            Err("no revocation list in it; it takes PEM, `-----BEGIN X509 CRL-----`".to_owned())
        }
        Ok(lists) => Ok(lists),
        Err(error) => Err(format!("not PEM: {error}")),
    }
}

fn roots(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.into_iter().enumerate() {
        let added = roots.add(authority);
        added.map_err(|error| format!("certificate {} is not one of an authority: {error}", index + 1))?;
    }
    Ok(roots)
}

/// aws-lc-rs, X25519MLKEM768 before the other key exchanges.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// Why a handshake, or a session after it, came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first byte is not one of TLS, but may be one of HTTP.
    PlainHttp,
    /// The peer gave up, and said so by an alert.
    Alert,
    /// The peer has shown no certificate, and has to.
    NoCertificate,
    /// The peer's certificate is not one that is believed.
    BadCertificate,
    /// There is no version, cipher suite or protocol that both speak.
    Incompatible,
    /// What came is not TLS, or not as it should be.
    Malformed,
    /// The connection ended or broke.
    Closed,
}

impl Fault {
    /// A word for the log and for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http",
            Self::Alert => "alert",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::Incompatible => "incompatible",
            Self::Malformed => "malformed",
            Self::Closed => "closed",
        }
    }

    pub fn of(error: &io::Error) -> Self {
        let Some(inner) = error.get_ref() else {
            return Self::Closed;
        };
        if inner.is::<session::PlainHttp>() {
            return Self::PlainHttp;
        }
        match inner.downcast_ref::<rustls::Error>() {
            None => Self::Closed,
            Some(rustls::Error::AlertReceived(_)) => Self::Alert,
            Some(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(rustls::Error::InvalidCertificate(_)) => Self::BadCertificate,
            Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => Self::Incompatible,
            Some(_) => Self::Malformed,
        }
    }
}

/// Whether a connection failed in its TLS, and not below.
pub fn is_fault(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// What an operator is told of such a failure: webpki has names for some that mean nothing to whoever made the certificate.
pub fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            if other.to_string() == "CaUsedAsEndEntity" =>
        {
            "the server shows the certificate of an authority (CA:TRUE), as `openssl req -x509` makes it; give the \
             server one made with `-addext basicConstraints=critical,CA:FALSE`"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
