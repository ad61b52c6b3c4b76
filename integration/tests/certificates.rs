//! Certificates made for a test, and the programs that speak TLS with the proxy: `openssl`, `curl`, and a client of our
//! own for what these cannot do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tamis_integration::socket::Address;
use tamis_integration::{DEADLINE, Folder};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// What a certificate is to say.
pub struct Wish {
    pub names: Vec<String>,
    pub subject: String,
    pub uris: Vec<String>,
    pub from: SystemTime,
    pub until: SystemTime,
    pub kind: Kind,
    pub serial: u64,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

impl Wish {
    /// Good for ten days past the warning.
    pub fn of(names: &[&str]) -> Self {
        let now = SystemTime::now();
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            subject: names.first().copied().unwrap_or("nameless").to_owned(),
            uris: Vec::new(),
            from: now - DAY,
            until: now + 24 * DAY,
            kind: Kind::Ecdsa,
            serial: 7,
        }
    }

    /// Days from now; before it, if that is less than none.
    pub fn ends_in(self, days: i32) -> Self {
        let now = SystemTime::now();
        let until = match u32::try_from(days) {
            Ok(days) => now + days * DAY,
            Err(_) => now - days.unsigned_abs() * DAY,
        };
        let from = until.min(now) - DAY;
        Self { until, from, ..self }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap());
        Self {
            issuer: issuer.unwrap(),
        }
    }

    /// One that this one vouches for.
    pub fn subordinate(&self, name: &str) -> Self {
        self.vouch_for(authority(name))
    }

    /// The same for names of this domain alone.
    pub fn subordinate_for(&self, name: &str, domain: &str) -> Self {
        let mut params = authority(name);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        self.vouch_for(params)
    }

    fn vouch_for(&self, params: CertificateParams) -> Self {
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer);
        Self {
            issuer: issuer.unwrap(),
        }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For the server or the client with these names.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.grant(&Wish::of(names))
    }

    pub fn grant(&self, wish: &Wish) -> Pair {
        let mut params = CertificateParams::new(wish.names.clone()).unwrap();
        let uris = wish
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, &wish.subject);
        (params.not_before, params.not_after) = (wish.from.into(), wish.until.into());
        params.serial_number = Some(SerialNumber::from(wish.serial));
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = match wish.kind {
            Kind::Ecdsa => KeyPair::generate(),
            Kind::Rsa => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        };
        let key = key.unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A list on which the certificates with these numbers stand.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let now = SystemTime::now();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (now - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + 24 * DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// One that nobody has signed but itself.
pub fn self_signed(names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Pair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    }
}

impl Pair {
    /// As `NAME.pem` and `NAME.key`, each replaced whole.
    pub fn put(&self, folder: &Folder, name: &str) {
        folder.replace(&format!("{name}.key"), &self.key);
        folder.replace(&format!("{name}.pem"), &self.cert);
    }
}

/// A folder with the certificates that most tests begin with, and who has signed them.
pub fn site(names: &[&str]) -> (Folder, Authority) {
    let folder = Folder::new();
    let authority = Authority::new("Test Authority");
    authority.issue(names).put(&folder, "site");
    folder.write("ca.pem", authority.pem());
    (folder, authority)
}

/// Runs `openssl ARGUMENTS` in the folder, with this as its input, to its end.
pub fn openssl(folder: &Folder, arguments: &[&str], input: &str) -> Output {
    run("openssl", folder, arguments, input)
}

/// What `openssl s_client` says of a connection that asks for `GET /`, both streams.
pub fn s_client(folder: &Folder, address: &Address, arguments: &[&str]) -> String {
    let address = address.to_string();
    let mut all = vec!["s_client", "-connect", &address, "-CAfile", "ca.pem", "-ign_eof"];
    all.extend(arguments);
    let output = openssl(
        folder,
        &all,
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
    );
    let printed = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&printed).into_owned()
}

/// `curl` with these arguments, to its end: its exit code and what it wrote to its output.
pub fn curl(folder: &Folder, arguments: &[&str]) -> (i32, String) {
    let mut all = vec!["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"];
    all.extend(arguments);
    let output = run("curl", folder, &all, "");
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

fn run(program: &str, folder: &Folder, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    // One that ends before it has read all is judged by what it says.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Port of a TCP address.
pub fn port(address: &Address) -> u16 {
    match address {
        Address::Tcp(address) => address.port(),
        Address::Unix(path) => panic!("{}", path.display()),
    }
}

/// What our own clients are and whom they believe. One of these resumes its sessions.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    pub fn in_authority(authority: &Authority) -> Self {
        Self::new(authority, None)
    }

    /// Shows this certificate to whoever asks for one.
    pub fn showing(authority: &Authority, pair: &Pair) -> Self {
        Self::new(authority, Some(pair))
    }

    /// Offers so many protocols besides `http/1.1`, which are the most of a ClientHello, in records of so many bytes.
    pub fn wordy(authority: &Authority, protocols: usize, record_bytes: usize) -> Self {
        let Self(config) = Self::in_authority(authority);
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = (0..protocols).map(|n| format!("{n:0>250}").into_bytes()).collect();
        config.alpn_protocols.push(b"http/1.1".to_vec());
        config.max_fragment_size = Some(record_bytes);
        Self(Arc::new(config))
    }

    fn new(authority: &Authority, pair: Option<&Pair>) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Self(Arc::new(config))
    }
}

/// A connection through TLS, for HTTP/1.1 with lengths.
pub struct TlsClient {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsClient {
    /// The handshake is made by the first exchange.
    pub fn connect(address: &Address, name: &str, trust: &Trust) -> Self {
        let Address::Tcp(address) = address else {
            panic!("{address}")
        };
        let socket = TcpStream::connect_timeout(address, DEADLINE).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::clone(&trust.0), name).unwrap();
        Self {
            stream: BufReader::new(StreamOwned::new(connection, socket)),
        }
    }

    /// The same behind bytes that come before the handshake.
    pub fn connect_after(before: &[u8], address: &Address, name: &str, trust: &Trust) -> Self {
        let mut client = Self::connect(address, name, trust);
        client.stream.get_mut().sock.write_all(before).unwrap();
        client
    }

    /// Status, head and body of the answer.
    pub fn get(&mut self, target: &str) -> std::io::Result<(u16, String, Vec<u8>)> {
        self.exchange(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes())
    }

    pub fn exchange(&mut self, request: &[u8]) -> std::io::Result<(u16, String, Vec<u8>)> {
        self.stream.get_mut().write_all(request)?;
        self.response()
    }

    pub fn response(&mut self) -> std::io::Result<(u16, String, Vec<u8>)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
        self.stream.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.unwrap_or(0), head, body))
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn read(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// All that still comes; an error when the peer went without saying that this was all.
    pub fn read_to_end(&mut self, rest: &mut Vec<u8>) -> std::io::Result<usize> {
        self.stream.read_to_end(rest)
    }

    /// Tells the peer to take new keys, and to answer with its own.
    pub fn refresh_keys(&mut self) {
        self.stream.get_mut().conn.refresh_traffic_keys().unwrap();
    }

    pub fn key_exchange(&self) -> String {
        let group = self.connection().negotiated_key_exchange_group();
        group.map_or(String::new(), |group| format!("{:?}", group.name()))
    }

    pub fn is_resumed(&self) -> bool {
        self.connection().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The certificate that the server has shown.
    pub fn shown(&self) -> Vec<u8> {
        self.connection().peer_certificates().unwrap()[0].to_vec()
    }

    fn connection(&self) -> &ClientConnection {
        &self.stream.get_ref().conn
    }
}
