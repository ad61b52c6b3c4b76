//! TLS towards the endpoints of one cluster.
//!
//! Built by the control plane, shared by all workers. Sessions are resumed; those of another cluster are unknown here,
//! whoever it trusts.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::{MinVersion, Pair, PairFault, Session, provider, roots};

/// Lives as long as its cluster.
#[derive(Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    /// Asked for and verified in place of the endpoint's own.
    name: Option<ServerName<'static>>,
    /// See [`Settings::files`].
    pub files: BTreeMap<String, String>,
}

/// Everything that the control plane decides.
pub struct Settings {
    pub trust: Trust,
    /// A host name or an address.
    pub server_name: Option<String>,
    pub pair: Option<Pair>,
    /// Best first; none is offered when it is empty.
    pub protocols: Vec<Vec<u8>>,
    pub min_version: MinVersion,
    /// Digests of the files that all this comes from, by their keys in the configuration.
    pub files: BTreeMap<String, String>,
}

/// Whom to believe.
pub enum Trust {
    /// The operating system's authorities.
    System,
    Authorities(Vec<CertificateDer<'static>>),
    /// Anybody.
    Everyone,
}

/// What is wrong with the settings.
#[derive(Debug)]
pub enum BuildFault {
    Pair(PairFault),
    Authorities(String),
    Other(String),
}

impl Client {
    pub fn new(settings: Settings) -> Result<Self, BuildFault> {
        let other = |error: rustls::Error| BuildFault::Other(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(settings.min_version.versions())
            .map_err(other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier(settings.trust).map_err(BuildFault::Authorities)?);
        let mut config = match settings.pair {
            Some(pair) => {
                let key = pair.certified().map_err(BuildFault::Pair)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = settings.protocols;
        let name = settings.server_name.map(ServerName::try_from).transpose();
        Ok(Self {
            config: Arc::new(config),
            files: settings.files,
            name: name.map_err(|error| BuildFault::Other(format!("server_name: {error}")))?,
        })
    }

    /// A session with the endpoint at this address, if it has one, to which `name` led, if there is one.
    pub(crate) fn session(&self, address: Option<IpAddr>, name: Option<&str>) -> io::Result<Session> {
        // A name that is looked up may end with a dot; in a certificate none does (RFC 6066 3).
        let host = name.and_then(|name| ServerName::try_from(name.trim_end_matches('.').to_owned()).ok());
        let own = || host.or_else(|| address.map(|address| ServerName::IpAddress(address.into())));
        let name = self.name.clone().or_else(own);
        let name = name.ok_or_else(|| super::broken(rustls::Error::General("no name to verify".into())))?;
        let connection = ClientConnection::new(Arc::clone(&self.config), name).map_err(super::broken)?;
        Ok(Session::new(connection.into()))
    }
}

fn verifier(trust: Trust) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let authorities = match trust {
        Trust::Everyone => return Ok(Arc::new(Everyone)),
        Trust::Authorities(authorities) => roots(authorities)?,
        Trust::System => {
            let loaded = rustls_native_certs::load_native_certs();
            let mut roots = rustls::RootCertStore::empty();
            // Some that it has are of kinds that nobody uses any more.
            let (added, _) = roots.add_parsable_certificates(loaded.certs);
            if added == 0 {
                let why = loaded
                    .errors
                    .first()
                    .map(|error| format!(" ({error})"))
                    .unwrap_or_default();
                return Err(format!(
                    "the operating system names no authorities that it trusts{why}; install `ca-certificates`, or \
                     write `ca`"
                ));
            }
            roots
        }
    };
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider())).build();
    let built = built.map(|verifier| verifier as Arc<dyn ServerCertVerifier>);
    built.map_err(|error| error.to_string())
}

/// Believes everybody who has the key of the certificate that he shows.
#[derive(Debug)]
struct Everyone;

impl ServerCertVerifier for Everyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
