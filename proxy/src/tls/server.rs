//! TLS of one listener in one generation: its certificates by name, and who may come in.
//!
//! Built by the control plane, shared by all workers, never written. A session is resumed only where it was begun: the
//! keys of tickets belong to a listener and to what it asks of clients, so that a ticket proves nothing anywhere else.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;

use super::{Certificate, MinVersion, Pair, PairFault, Session, provider, roots};
use crate::peer::Tls;

/// Encrypts and decrypts tickets; makes itself a new key every six hours, and takes those of the last one.
pub type Ticketer = Arc<dyn ProducesTickets>;

/// Lives as long as a generation names it unchanged, or a connection was made by it.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    shelf: Arc<Shelf>,
    terms: String,
    /// See [`Settings::files`].
    pub files: BTreeMap<String, String>,
}

/// Everything that the control plane decides.
pub struct Settings {
    /// Never empty, the first is the default.
    pub pairs: Vec<Pair>,
    pub clients: Option<Clients>,
    pub min_version: MinVersion,
    /// What may be agreed on (ALPN), best first.
    pub protocols: Vec<Vec<u8>>,
    pub ticketer: Ticketer,
    /// What is asked of clients, spelled out: a connection made on other terms is not one of this listener's.
    pub terms: String,
    /// Digests of the files that all this comes from, by their keys in the configuration.
    pub files: BTreeMap<String, String>,
}

/// Whose certificates are asked for.
pub struct Clients {
    pub authorities: Vec<CertificateDer<'static>>,
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
    pub need: Need,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Required,
    Optional,
}

/// What is wrong with the settings.
#[derive(Debug)]
pub enum BuildFault {
    /// Of the pair with this index.
    Pair(usize, PairFault),
    Clients(String),
    Other(String),
}

/// New keys for tickets.
pub fn ticketer() -> Result<Ticketer, String> {
    rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| format!("no keys for session tickets: {error}"))
}

impl Server {
    pub fn new(settings: Settings) -> Result<Self, BuildFault> {
        let shelf = Arc::new(Shelf::new(settings.pairs)?);
        let other = |error: rustls::Error| BuildFault::Other(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(settings.min_version.versions())
            .map_err(other)?;
        let builder = match settings.clients {
            Some(clients) => builder.with_client_cert_verifier(verifier(clients).map_err(BuildFault::Clients)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&shelf) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = settings.protocols;
        // Tickets hold the session; nothing of it is kept here. There is no early data, whose replay nobody could tell.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = settings.ticketer;
        Ok(Self {
            config: Arc::new(config),
            shelf,
            terms: settings.terms,
            files: settings.files,
        })
    }

    pub(crate) fn session(&self) -> io::Result<Session> {
        let connection = ServerConnection::new(Arc::clone(&self.config)).map_err(super::broken)?;
        Ok(Session::new(connection.into()))
    }

    /// The certificates, the default first.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.shelf.entries.iter().map(|entry| &entry.certificate)
    }

    /// Whether a connection that was made by `other` could have been made by this one.
    pub fn has_terms_of(&self, other: &Self) -> bool {
        self.terms == other.terms
    }

    /// Whether the certificate that the client was shown is for this host, a name in lower case or an address
    /// (RFC 9110 section 7.4: else the request was sent to the wrong place).
    pub fn fits(&self, tls: &Tls, host: &str) -> bool {
        let shown = self.shelf.candidates(tls.server_name.as_deref());
        shown
            .iter()
            .any(|index| self.shelf.entries[*index].certificate.covers(host))
    }

    /// Whether the client's certificate still holds. It was verified when the session was begun, which may be half a
    /// day ago.
    pub(crate) fn is_current(certificate: &CertificateDer<'_>, now: SystemTime) -> bool {
        // One that cannot be read has no end that could be over.
        Certificate::read(certificate).map_or(true, |certificate| certificate.not_after >= now)
    }
}

fn verifier(clients: Clients) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let roots = Arc::new(roots(clients.authorities)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
    if !clients.revoked.is_empty() {
        // There need not be a list of every authority in between.
        builder = builder.with_crls(clients.revoked).allow_unknown_revocation_status();
    }
    if clients.need == Need::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| error.to_string())
}

/// Certificates by the names that they are for.
#[derive(Debug)]
struct Shelf {
    entries: Vec<Entry>,
    /// Indices into the entries; several where one name has certificates of several kinds.
    exact: HashMap<String, Vec<usize>>,
    /// `*.example.org` as `example.org`.
    wildcard: HashMap<String, Vec<usize>>,
    /// The first, and others for the same names.
    default: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    certificate: Certificate,
    key: Arc<CertifiedKey>,
}

impl Shelf {
    fn new(pairs: Vec<Pair>) -> Result<Self, BuildFault> {
        let entries = pairs.into_iter().enumerate().map(|(index, pair)| {
            let certificate = Certificate::read(&pair.chain[0]);
            let certificate = certificate.map_err(|fault| BuildFault::Pair(index, PairFault::Cert(fault)))?;
            let key = pair.certified().map_err(|fault| BuildFault::Pair(index, fault))?;
            Ok(Entry {
                certificate,
                key: Arc::new(key),
            })
        });
        let mut shelf = Self {
            entries: entries.collect::<Result<_, _>>()?,
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default: Vec::new(),
        };
        shelf.sort();
        Ok(shelf)
    }

    fn sort(&mut self) {
        let names = |entry: &Entry| {
            let mut names: Vec<String> = entry.certificate.hosts().map(str::to_owned).collect();
            names.sort_unstable();
            names
        };
        for (index, entry) in self.entries.iter().enumerate() {
            if names(entry) == names(&self.entries[0]) {
                self.default.push(index);
            }
            for name in names(entry) {
                match name.strip_prefix("*.") {
                    Some(parent) => self.wildcard.entry(parent.to_owned()).or_default().push(index),
                    None => self.exact.entry(name).or_default().push(index),
                }
            }
        }
    }

    /// Never empty.
    fn candidates(&self, name: Option<&str>) -> &[usize] {
        let found = name.and_then(|name| {
            let name = name.trim_end_matches('.');
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(wildcard)
        });
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Shelf {
    /// Of several for the name, the first that the client can verify.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let candidates = self.candidates(name.as_deref());
        let key = |index: &usize| &self.entries[*index].key;
        let verifiable = |index: &&usize| key(index).key.choose_scheme(hello.signature_schemes()).is_some();
        let index = candidates.iter().find(verifiable).or(candidates.first())?;
        Some(Arc::clone(key(index)))
    }
}
