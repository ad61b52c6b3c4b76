//! Certificates, keys and authorities: read from their files, checked, and kept from generation to generation.
//!
//! Control plane. What is the same in every byte stays the same object, so that sessions can be resumed and connections
//! to upstreams live on; what has changed is built anew or refused with its place. Keys of session tickets outlive both:
//! they go with what the listener asks of clients.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tamis_config as config;
use tamis_config::{Environment, Place, System};

use super::{Build, address, socket_key};
use crate::tls::{self, MinVersion, Pair, PairFault, client, server};
use crate::wasm::Digest;

/// The operating system's own bundle of authorities has a quarter of a megabyte.
const MAX_PEM_BYTES: u64 = 4 << 20;
/// Everybody on the machine may read it.
const WORLD_READABLE: u32 = 0o004;

/// Faults with their places.
type Refused = Vec<(Place, String)>;

/// Both, or the faults of both.
fn both<A, B>(one: Result<A, Refused>, other: Result<B, Refused>) -> Result<(A, B), Refused> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => {
            let faults = one.err().into_iter().chain(other.err());
            Err(faults.flatten().collect())
        }
    }
}

/// All of them, or the faults of all.
fn all<T>(results: impl Iterator<Item = Result<T, Refused>>) -> Result<Vec<T>, Refused> {
    let (mut all, mut faults) = (Vec::new(), Refused::new());
    for result in results {
        match result {
            Ok(one) => all.push(one),
            Err(refused) => faults.extend(refused),
        }
    }
    match faults.is_empty() {
        true => Ok(all),
        false => Err(faults),
    }
}

/// The files of one listener or cluster, read at one moment.
#[derive(Default)]
struct Files {
    /// By the key under which the YAML names them.
    digests: BTreeMap<String, String>,
}

impl Files {
    fn read(&mut self, key: &str, path: &Path, place: &Place) -> Result<Vec<u8>, Refused> {
        let read = System.read(path, MAX_PEM_BYTES);
        let bytes = read.map_err(|error| refused(place, key, path, &error.to_string()))?;
        self.digests.insert(key.to_owned(), Digest::of(&bytes).to_string());
        Ok(bytes)
    }

    /// One for all of them.
    fn digest(&self) -> String {
        Digest::of(format!("{:?}", self.digests).as_bytes()).to_string()
    }
}

fn refused(place: &Place, key: &str, path: &Path, message: &str) -> Refused {
    vec![(place.clone(), format!("tls.{key}: {}: {message}", path.display()))]
}

/// A pair as its files hold it, not looked into yet.
struct PairText {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl PairText {
    fn read(files: &mut Files, of: &config::CertificateFiles, under: &str) -> Result<Self, Refused> {
        let cert = files.read(&format!("{under}.cert"), &of.cert, &of.place);
        let key = files.read(&format!("{under}.key"), &of.key, &of.place);
        let (cert, key) = both(cert, key)?;
        Ok(Self { cert, key })
    }

    fn parse(&self) -> Result<Pair, PairFault> {
        Pair::from_pem(&self.cert, &self.key)
    }
}

fn pair_fault(of: &config::CertificateFiles, under: &str, fault: PairFault) -> Refused {
    match fault {
        PairFault::Cert(message) => refused(&of.place, &format!("{under}.cert"), &of.cert, &message),
        PairFault::Key(message) => refused(&of.place, &format!("{under}.key"), &of.key, &message),
    }
}

fn min_version(version: config::TlsVersion) -> MinVersion {
    match version {
        config::TlsVersion::Tls12 => MinVersion::Tls12,
        config::TlsVersion::Tls13 => MinVersion::Tls13,
    }
}

impl Build<'_> {
    /// The TLS of every listener, in their order.
    pub(super) fn make_servers(&mut self) {
        let config = self.config;
        for listener in &config.listeners {
            let server = listener.tls.as_ref().and_then(|tls| {
                let made = self.server(listener, tls);
                made.map_err(|faults| self.refuse(faults, "listener", &listener.name))
                    .ok()
            });
            self.servers.push(server);
        }
    }

    fn refuse(&mut self, faults: Refused, what: &str, name: &str) {
        for (place, message) in faults {
            self.fault(&place, what, name, message);
        }
    }

    fn server(&mut self, listener: &config::Listener, tls: &config::ListenerTls) -> Result<Arc<tls::Server>, Refused> {
        let mut files = Files::default();
        let pairs = tls.certificates.iter().enumerate();
        let pairs = pairs.map(|(index, of)| PairText::read(&mut files, of, &under(index)));
        let pairs = all(pairs);
        let clients = tls
            .client_auth
            .as_ref()
            .map(|auth| clients(&mut files, auth, &tls.place));
        let (pairs, clients) = both(pairs, clients.transpose())?;
        let digest = files.digest();
        let terms = terms(tls.client_auth.as_ref(), &files);
        let ticketer = self
            .ticketer(listener, &terms)
            .map_err(|message| vec![(tls.place.clone(), message)])?;
        let kept = self.assembler.parts.servers.get(&listener.name);
        let digest = format!("{digest} {:?}", listener.protocols);
        let kept = kept.filter(|(was, with, _)| was == tls && *with == digest);
        let server = match kept {
            Some((_, _, server)) => Arc::clone(server),
            None => {
                let parsed = pairs.iter().enumerate().map(|(index, pair)| {
                    pair.parse()
                        .map_err(|fault| pair_fault(&tls.certificates[index], &under(index), fault))
                });
                let settings = server::Settings {
                    pairs: all(parsed)?,
                    clients,
                    min_version: min_version(tls.min_version),
                    protocols: offered(&listener.protocols),
                    ticketer,
                    terms,
                    files: files.digests,
                };
                Arc::new(tls::Server::new(settings).map_err(|fault| server_fault(tls, fault))?)
            }
        };
        self.warn_of_server(listener, tls, &server);
        let made = (tls.clone(), digest, Arc::clone(&server));
        self.parts.servers.insert(listener.name.clone(), made);
        Ok(server)
    }

    /// The keys of tickets that the listener had on the same terms, or new ones.
    fn ticketer(&mut self, listener: &config::Listener, terms: &str) -> Result<server::Ticketer, String> {
        let key = (
            socket_key(&listener.name, &address(&listener.address)),
            terms.to_owned(),
        );
        let kept = self.assembler.parts.tickets.get(&key).cloned();
        let ticketer = kept.map_or_else(server::ticketer, Ok)?;
        self.parts.tickets.insert(key, Arc::clone(&ticketer));
        Ok(ticketer)
    }

    fn warn_of_server(&mut self, listener: &config::Listener, tls: &config::ListenerTls, server: &tls::Server) {
        for (index, (of, certificate)) in tls.certificates.iter().zip(server.certificates()).enumerate() {
            let open = std::fs::metadata(&of.key).is_ok_and(|key| key.permissions().mode() & WORLD_READABLE != 0);
            let open = open.then(|| {
                let path = of.key.display();
                (
                    format!("{}.key: {path}", under(index)),
                    "everybody on this machine can read it; chmod 600".to_owned(),
                )
            });
            let aged = certificate.warning(SystemTime::now());
            let aged = aged.map(|warning| (format!("{}.cert: {}", under(index), of.cert.display()), warning));
            for (what, warning) in open.into_iter().chain(aged) {
                let (place, name) = (&of.place, &listener.name);
                self.warnings
                    .push(format!("{place}: listener `{name}`: tls.{what}: {warning}"));
            }
        }
    }

    /// The TLS towards a cluster, and what tells it from another.
    pub(super) fn client(&mut self, cluster: &config::Cluster) -> Option<(client::Settings, String)> {
        let tls = cluster.tls.as_ref()?;
        let mut files = Files::default();
        let settings = client_settings(tls, &mut files);
        let settings = settings.map_err(|faults| self.refuse(faults, "cluster", &cluster.name));
        Some((settings.ok()?, files.digest()))
    }

    pub(super) fn build_client(
        &mut self,
        cluster: &config::Cluster,
        settings: client::Settings,
    ) -> Option<Arc<tls::Client>> {
        let tls = cluster.tls.as_ref()?;
        let built = tls::Client::new(settings).map_err(|fault| client_fault(tls, fault));
        built
            .map_err(|faults| self.refuse(faults, "cluster", &cluster.name))
            .ok()
            .map(Arc::new)
    }
}

fn under(index: usize) -> String {
    format!("certificates[{index}]")
}

fn clients(files: &mut Files, auth: &config::ClientAuth, place: &Place) -> Result<server::Clients, Refused> {
    let authorities = files.read("client_ca", &auth.ca, place).and_then(|pem| {
        let authorities = tls::certificates(&pem);
        authorities.map_err(|message| refused(place, "client_ca", &auth.ca, &message))
    });
    let revoked = auth.crl.as_ref().map(|path| {
        let lists = tls::revocation_lists(&files.read("client_crl", path, place)?);
        lists.map_err(|message| refused(place, "client_crl", path, &message))
    });
    let (authorities, revoked) = both(authorities, revoked.transpose())?;
    Ok(server::Clients {
        authorities,
        revoked: revoked.unwrap_or_default(),
        need: match auth.mode {
            config::ClientAuthMode::Required => server::Need::Required,
            config::ClientAuthMode::Optional => server::Need::Optional,
        },
    })
}

/// What is asked of clients; whatever is not the same text is not the same promise.
fn terms(auth: Option<&config::ClientAuth>, files: &Files) -> String {
    let Some(auth) = auth else { return "anybody".to_owned() };
    let digest = |key: &str| files.digests.get(key).map_or("none", String::as_str);
    format!("{:?} {} {}", auth.mode, digest("client_ca"), digest("client_crl"))
}

fn server_fault(tls: &config::ListenerTls, fault: server::BuildFault) -> Refused {
    match fault {
        server::BuildFault::Pair(index, fault) => pair_fault(&tls.certificates[index], &under(index), fault),
        server::BuildFault::Clients(message) => vec![(tls.place.clone(), format!("tls.client_ca: {message}"))],
        server::BuildFault::Other(message) => vec![(tls.place.clone(), format!("tls: {message}"))],
    }
}

fn client_settings(tls: &config::ClusterTls, files: &mut Files) -> Result<client::Settings, Refused> {
    let trust = match &tls.verify {
        config::Verify::System => Ok(client::Trust::System),
        config::Verify::Nobody => Ok(client::Trust::Everyone),
        config::Verify::Ca(path) => files.read("ca", path, &tls.place).and_then(|pem| {
            let authorities = tls::certificates(&pem).map(client::Trust::Authorities);
            authorities.map_err(|message| refused(&tls.place, "ca", path, &message))
        }),
    };
    let pair = tls.client_certificate.as_ref().map(|of| {
        let pair = PairText::read(files, of, "client_certificate")?;
        pair.parse()
            .map_err(|fault| pair_fault(of, "client_certificate", fault))
    });
    let (trust, pair) = both(trust, pair.transpose())?;
    Ok(client::Settings {
        trust,
        server_name: tls.server_name.clone(),
        pair,
        protocols: tls.alpn.iter().map(|protocol| protocol_name(*protocol)).collect(),
        min_version: min_version(tls.min_version),
        files: files.digests.clone(),
    })
}

/// What a listener's clients may agree on, the better one first.
fn offered(protocols: &[config::Protocol]) -> Vec<Vec<u8>> {
    let known: [(config::Protocol, &[u8]); 2] =
        [(config::Protocol::Http2, b"h2"), (config::Protocol::Http1, b"http/1.1")];
    let offered = known.iter().filter(|(protocol, _)| protocols.contains(protocol));
    offered.map(|(_, name)| name.to_vec()).collect()
}

fn protocol_name(protocol: config::Alpn) -> Vec<u8> {
    match protocol {
        config::Alpn::H2 => b"h2".to_vec(),
        config::Alpn::Http11 => b"http/1.1".to_vec(),
    }
}

fn client_fault(tls: &config::ClusterTls, fault: client::BuildFault) -> Refused {
    match (fault, &tls.client_certificate) {
        (client::BuildFault::Pair(fault), Some(of)) => pair_fault(of, "client_certificate", fault),
        (client::BuildFault::Pair(PairFault::Cert(message) | PairFault::Key(message)), None)
        | (client::BuildFault::Other(message), _) => vec![(tls.place.clone(), format!("tls: {message}"))],
        (client::BuildFault::Authorities(message), _) => vec![(tls.place.clone(), format!("tls.ca: {message}"))],
    }
}
