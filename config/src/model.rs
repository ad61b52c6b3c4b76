//! The validated configuration: what one YAML file says once it is known to be sound.
//!
//! Control plane. Plain data, no I/O handles, no serde: `parse` is the only maker. Every cross reference in here has
//! been checked, every number is within its bounds, every default is filled in. It knows nothing of sockets, threads,
//! wasm or HTTP engines.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::place::Place;
use crate::settings::Settings;

/// One generation's configuration, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Worker threads, each with its own runtime; `None` is one for each core that the process may use.
    pub workers: Option<usize>,
    /// How long a drain (SIGTERM, `POST /drain`, an upgrade) waits for exchanges in flight.
    pub drain_timeout: Duration,
    /// `None`: the listeners close at once.
    pub drain_delay: Option<Duration>,
    pub reload: Reload,
    /// Shared by all wasm filters of the process.
    pub wasm: Wasm,
    /// `None` when the configuration says `off`.
    pub admin: Option<Address>,
    pub access_log: AccessLog,
    pub dns: Dns,
    pub overload: Overload,
    pub listeners: Vec<Listener>,
    pub filters: Vec<Filter>,
    pub clusters: Vec<Cluster>,
    /// In the order in which they are tried.
    pub routes: Vec<Route>,
    /// Every file besides the YAML itself that the result depends on (`file:` secrets, components), for the watcher.
    /// Sorted, each once.
    pub files: Vec<PathBuf>,
}

/// What the process takes on in all, and what it does when its memory runs short. Each default has its reason beside it
/// in `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct Overload {
    /// Connections of clients at once, over all listeners. Default none but the listeners' own.
    pub max_connections: Option<usize>,
    /// Exchanges under way at once, likewise.
    pub max_exchanges: Option<usize>,
    /// `None`: nobody looks.
    pub memory: Option<MemoryPressure>,
}

/// Steps of shedding load, as parts of the limit in hundredths of a percent; each is at most the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPressure {
    /// Bytes that the process may have resident; `None`, the default, is what its control group or machine grants.
    pub limit: Option<u64>,
    /// Default 8,500.
    pub disable_keep_alive: u32,
    /// Default 9,000.
    pub stop_accepting_requests: u32,
    /// Default 9,500.
    pub stop_accepting_connections: u32,
    /// How far below its beginning a step ends. Default 500; at most `disable_keep_alive`.
    pub recovery: u32,
}

/// A socket address, or a Unix socket's path (`unix:/run/app.sock`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What becomes of exchanges whose generation was replaced while they went on. Each default has its reason beside it in
/// `parse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// How long after it was replaced a generation is ended with all that is still on it; `None` is never. Default 1 h.
    pub max_age: Option<Duration>,
    /// Generations alive at once, the newest included; the oldest are ended for more. At least 2. Default 32.
    pub max_generations: usize,
}

/// Bounds of the one wasm engine. A change of the first four needs a restart, because pools are reserved at start-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Wasm {
    /// Instances alive at once in the whole process; default 1,000.
    pub max_instances: u32,
    /// The largest `limits.memory` that a filter may ask for; default 64 MiB.
    pub max_memory: u64,
    /// The largest `limits.table_elements` that a filter may ask for; default 32,768.
    pub max_table_elements: usize,
    /// Instances of components that serve, alive at once in the whole process; default 1,000.
    pub max_service_instances: u32,
    /// The largest `limits.memory` that a component that serves may ask for; default 256 MiB.
    pub max_service_memory: u64,
    /// Bytes of a guest's stack, 64 KiB to 8 MiB; default 512 KiB.
    pub max_stack: usize,
    /// The folder for compiled code, resolved against the folder of the configuration file; `None`, the default, keeps
    /// it in memory alone. It need not exist.
    pub cache: Option<PathBuf>,
    /// Bytes of the largest component that is read; default 64 MiB.
    pub max_component: u64,
    /// Threads that compile, 1 to 64; default 1.
    pub compile_threads: usize,
    /// For one component; default 60 s.
    pub compile_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    pub target: LogTarget,
    pub format: LogFormat,
    /// Records waiting for the writer; more are dropped and counted. Default 8,192.
    pub queue: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LogTarget {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    Json,
    /// Literal text and `{field}` parts, split once here.
    Text(Vec<LogPart>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum LogPart {
    Literal(String),
    Field(LogField),
    /// `{attribute:NAME}`: one of the exchange's attributes. Never empty.
    Attribute(String),
}

/// What an access-log record can say; the names in YAML are these in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogField {
    Time,
    RequestId,
    Listener,
    Route,
    Cluster,
    Endpoint,
    Client,
    Method,
    Authority,
    Path,
    Protocol,
    Status,
    Reason,
    RequestBytes,
    ResponseBytes,
    DurationMs,
    UpstreamMs,
    /// How often the request was sent, or tried to be, each time to an endpoint that was chosen for it.
    Attempts,
    UserAgent,
    Referer,
    /// All that filters have left on the exchange, as a JSON object.
    Attributes,
    TlsVersion,
    /// The name that the client asked for in its TLS handshake.
    Sni,
    /// Of the client's verified certificate, like the two that follow.
    ClientSubject,
    ClientSans,
    /// SHA-256 of the certificate, in hexadecimal digits.
    ClientFingerprint,
    /// The status of a call of gRPC.
    GrpcStatus,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    pub place: Place,
    pub address: Address,
    /// `None` for plain text.
    pub tls: Option<ListenerTls>,
    /// Never with `tls`.
    pub redirect: Option<HttpsRedirect>,
    /// Never empty, each at most once. Default: all.
    pub protocols: Vec<Protocol>,
    /// Run before any route's own filters, on every exchange, also when no route matches.
    pub filters: Vec<FilterUse>,
    pub limits: ListenerLimits,
    /// Who begins connections with a header of the PROXY protocol; by default nobody.
    pub proxy_protocol: Peers,
    /// Whose word about the client is believed; by default nobody's.
    pub trusted_proxies: Peers,
}

/// Whoever connects from there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// A single address is a network of one. None of IPv4 addresses in the form of IPv6.
    pub networks: Vec<IpNet>,
    /// To a Unix socket.
    pub unix: bool,
}

/// TLS towards clients. The files are named here and read by the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    pub place: Place,
    /// Never empty; the first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// `None` when clients are not asked for a certificate.
    pub client_auth: Option<ClientAuth>,
    /// Default 1.2.
    pub min_version: TlsVersion,
}

/// PEM files, resolved against the folder of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub place: Place,
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    pub ca: PathBuf,
    pub crl: Option<PathBuf>,
    pub mode: ClientAuthMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuthMode {
    /// The default.
    Required,
    Optional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// A protocol that is agreed on in a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    H2,
    Http11,
}

/// Where a listener of plain text sends all its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// Default 308.
    pub status: u16,
    /// Default 443.
    pub port: u16,
}

/// What a client may speak on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// What a listener grants one client connection and one request. Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerLimits {
    /// From acceptance to the end of the TLS handshake, in total. Default 10 s.
    pub tls_handshake_timeout: Duration,
    /// TLS handshakes at once on this listener. Default 1,000.
    pub max_handshakes: usize,
    /// From the first byte that may belong to a head to its end, in total. Default 10 s.
    pub head_timeout: Duration,
    /// Between two exchanges of a keep-alive connection. Default 60 s.
    pub idle_timeout: Duration,
    /// Between two pieces of a request body. Default 30 s.
    pub body_timeout: Duration,
    /// Between two pieces of a response that the client takes. Default 30 s.
    pub write_timeout: Duration,
    /// How long nothing may move in a tunnel. Default 10 min.
    pub tunnel_idle_timeout: Duration,
    /// Request line and fields together. Default 64 KiB.
    pub max_head_bytes: usize,
    /// One field's name and value. Default 16 KiB.
    pub max_field_bytes: usize,
    /// Default 100.
    pub max_fields: usize,
    /// Default 8 KiB.
    pub max_target_bytes: usize,
    /// Connections at once on this listener. Default 10,000.
    pub max_connections: usize,
    /// Connections at once of one address, or of one `/64` of IPv6, that is no trusted proxy's. Default none.
    pub max_connections_per_address: Option<u32>,
    /// Exchanges under way at once on this listener. Default 10,000, or `max_connections` if that is more.
    pub max_exchanges: usize,
    /// Requests of one connection. Default 1,000.
    pub max_requests: u64,
    pub http2: Http2Limits,
}

/// What a listener grants one HTTP/2 connection besides. Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Limits {
    /// Default 100.
    pub max_streams: u32,
    /// Of one client address in one worker. Default 1,000.
    pub max_streams_per_address: usize,
    /// Bytes. Default 64 KiB.
    pub stream_window: u32,
    /// Bytes. Default 1 MiB.
    pub connection_window: u32,
    /// Bytes of one response. Default 64 KiB.
    pub send_buffer: usize,
    /// Bytes, with 32 for each field. Default 64 KiB.
    pub max_header_list: u32,
    /// Default 100.
    pub max_resets: u32,
    /// Default 1,000.
    pub max_control_frames: u32,
    /// Bytes in `write_timeout`. Default 1 KiB.
    pub min_progress: usize,
    /// `None` is never. Default 10 s.
    pub ping_interval: Option<Duration>,
    /// Default 5 s.
    pub ping_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pub name: String,
    pub place: Place,
    pub kind: FilterKind,
    /// The `config:` block as JSON; `null` when there is none. Secrets are already resolved.
    pub config: Settings,
    /// Each capability at most once.
    pub grants: Vec<Grant>,
    pub limits: FilterLimits,
    /// `None` when it is `off`, and for built-in filters.
    pub breaker: Option<Breaker>,
    /// How often the tick hook is called; at least 100 ms. `None` is never, and so it is for built-in filters.
    pub tick: Option<Duration>,
    /// Exchanges that one instance serves before it is replaced; at least 1. Default 1,000.
    pub instance_reuse: u32,
    pub on_failure: OnFailure,
    /// Another version on trial; never for built-in filters.
    pub candidate: Option<Candidate>,
    /// What the component has to be; `None` is whatever it is.
    pub wanted: Option<ComponentKind>,
    /// What holds for it where it is a middleware.
    pub middleware: Middleware,
}

/// What a component in `filters` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComponentKind {
    /// Of `tamis:filter`, with hooks.
    Filter,
    /// Of `wasi:http`: it gets whole requests, and passes them on.
    Middleware,
}

/// Of a filter that turns out to be a middleware, what is not the same for both. Each default has its reason beside it in
/// `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct Middleware {
    /// Each capability at most once.
    pub grants: Vec<ServiceGrant>,
    /// `None`: exclusive.
    pub instances: Option<Instances>,
    pub limits: ServiceLimits,
    /// Keys that were given and say nothing to a middleware, as `limits.exchange_cpu`.
    pub foreign: Vec<String>,
    /// Keys that were given and say nothing to any other filter.
    pub own: Vec<String>,
}

/// Another version of a component, which takes a share of the exchanges until it has proved itself, or failed. Each
/// default has its reason beside it in `parse`. What is not here (grants, limits, `on_failure`, ...) is the filter's.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub place: Place,
    /// Resolved like the filter's own; `None` is the filter's. Either this or `config` is given.
    pub component: Option<PathBuf>,
    /// `None` is the filter's, or what a chain gives it. A chain gives none when there is one here.
    pub config: Option<Settings>,
    /// Of 10,000 exchanges; 1 to 9,900. Default 500.
    pub share: u32,
    pub key: CandidateKey,
    /// Default 10 min.
    pub window: Duration,
    /// Exchanges of either version without which there is no judgement. Default 100.
    pub min_calls: u32,
    pub tolerate: Tolerance,
    pub when_good: WhenGood,
}

/// What exchanges have in common that are to meet the same version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CandidateKey {
    /// Nothing: each request is drawn for itself. The default.
    RequestId,
    /// The IP address.
    ClientAddress,
    /// The first value of a request's header; in lower case.
    Header(String),
    Cookie(String),
}

/// What a candidate may do worse than the version in use, over the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// How much larger a part of its exchanges may fail, in hundredths of a percent of all. Default 100.
    pub failures: Option<u32>,
    /// How much larger or smaller a part it may answer itself, likewise. Default 500.
    pub replies: Option<u32>,
    /// How much longer its hooks may take at the 99th percentile, in hundredths of a percent. Default 10,000.
    pub p99: Option<u32>,
    /// Up to here no hook counts as slow. Default 5 ms.
    pub p99_floor: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenGood {
    /// It takes all exchanges. The default.
    Promote,
    /// It keeps its share, and is judged on.
    Hold,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FilterKind {
    /// A component's path, resolved against the folder of the configuration file.
    Component(PathBuf),
    /// The name of a built-in filter; whether it exists is the proxy's to say.
    Native(String),
}

/// A capability beyond configuration, log, and the exchange itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    Metrics,
    Clock,
    Random,
    /// The filter's own table, or the one of that name, which all filters share that are granted it. Both are
    /// different sets: a shared table may have the name of a filter. All filters that share a table have the same
    /// `key_value_bytes` and `key_value_keys`.
    KeyValue(Option<String>),
    /// Indices into [`Config::clusters`], each once; empty for a component that imports the calls and makes none.
    Outbound(Vec<usize>),
    /// The interfaces of WASI that language runtimes import.
    Wasi,
}

/// What a component may take. Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterLimits {
    /// Linear memory of one instance. Default 16 MiB; at most [`Wasm::max_memory`].
    pub memory: u64,
    /// Entries of one table of an instance. Default 16,384; at most [`Wasm::max_table_elements`].
    pub table_elements: usize,
    /// Processor time of one hook call; rounded up to whole milliseconds, and up to 3 ms more. Default 10 ms; at most
    /// `wall` and `exchange_cpu`.
    pub cpu: Duration,
    /// Processor time of all hook calls of one exchange together. Default 100 ms; at least `cpu`.
    pub exchange_cpu: Duration,
    /// Wall time of one hook call. Default 100 ms, and 5 s with [`Grant::Outbound`].
    pub wall: Duration,
    /// How long an exchange waits for an instance when all are busy. Default 100 ms.
    pub wait: Duration,
    /// Instances alive at once, over all workers. Default 256; at most [`Wasm::max_instances`].
    pub instances: u32,
    /// Names and values that one hook call may write into a head, together. Default 64 KiB.
    pub header_bytes: usize,
    /// What one `read-body` may hold, and the longest whole answer of an outbound call. Default 1 MiB; at most
    /// `lifted_bytes`.
    pub body_bytes: usize,
    /// What one call across the border may copy out of the guest. Default 16 MiB; at least `body_bytes`.
    pub lifted_bytes: usize,
    /// Outbound calls of one exchange. Default 8.
    pub outbound_calls: u32,
    /// Outbound calls of the filter at once, over all workers. Default 1,024.
    pub outbound_concurrent: u32,
    /// Keys and values of the filter's table together. Default 16 MiB.
    pub key_value_bytes: usize,
    /// Keys of the filter's table. Default 100,000.
    pub key_value_keys: usize,
    /// Log lines a second; more are dropped and counted. Default 100.
    pub log_lines: u32,
}

/// When a filter that fails again and again is left alone for a while. Each default has its reason beside it in
/// `parse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// It opens when, within `within`, failures outnumber successes by so many; 1 to 1,000. Default 5. A success makes up
    /// for a failure, so that a client who knows how to make a filter fail does not switch it off for all others.
    pub failures: u32,
    /// Default 10 s.
    pub within: Duration,
    /// How long it stays open the first time; each further opening doubles it. Default 1 s; at most `max_backoff`.
    pub backoff: Duration,
    /// Where the doubling ends. Default 60 s.
    pub max_backoff: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// The exchange fails with 500 (trap) or 503 (no instance). The default.
    Closed,
    /// The filter is skipped for this exchange.
    Open,
}

/// A filter's place in a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterUse {
    /// Index into [`Config::filters`].
    pub filter: usize,
    /// Replaces the filter's own `config` in this chain when given.
    pub config: Option<Settings>,
    pub place: Place,
}

/// How names of endpoints are looked up. Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// `None`: those of `/etc/resolv.conf`. Never empty.
    pub servers: Option<Vec<SocketAddr>>,
    /// For one name and one kind of record, in total. Default 5 s.
    pub timeout: Duration,
    /// Names are not looked up again sooner, whatever their time to live says; at most `max_ttl`. Default 1 s.
    pub min_ttl: Duration,
    /// Default 5 min.
    pub max_ttl: Duration,
}

/// Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub place: Place,
    pub endpoints: Endpoints,
    pub load_balancing: LoadBalancing,
    /// What requests have in common that go to the same endpoint; for `ring_hash` and `maglev`. Default the client's
    /// address.
    pub hash_key: HashKey,
    /// `None`, the default, gives an endpoint that comes its whole share at once.
    pub slow_start: Option<Duration>,
    /// In hundredths of a percent; 0 is off. Default 5,000.
    pub panic_threshold: u32,
    pub sticky: Option<Sticky>,
    pub health_check: Option<HealthCheck>,
    pub outlier_ejection: Option<OutlierEjection>,
    pub limits: ClusterLimits,
    pub retry_budget: RetryBudget,
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// A pooled connection unused for so long is closed. Default 60 s.
    pub idle_timeout: Duration,
    /// Idle connections kept by each worker for each endpoint. Default 128.
    pub max_idle: usize,
    /// Between two pieces of a response body. Default 60 s.
    pub read_timeout: Duration,
    /// Default HTTP/1.1.
    pub protocol: UpstreamProtocol,
    pub http2: UpstreamHttp2,
    /// Connections begin with a header that names the client, and none is used for another request. Only with HTTP/1.1.
    pub proxy_protocol: Option<ProxyVersion>,
    /// `None` for plain text.
    pub tls: Option<ClusterTls>,
}

/// What is spoken to upstream servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    Http1,
    /// On clear text by prior knowledge.
    Http2,
    /// HTTP/2 or HTTP/1.1, as is agreed on in the TLS handshake; HTTP/1.1 on clear text.
    Auto,
}

/// What one HTTP/2 connection to an upstream server may take. Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamHttp2 {
    /// At most as many as the server allows. Default 100.
    pub max_streams: u32,
    /// Bytes; the connection's is that of all its streams together. Default 64 KiB.
    pub stream_window: u32,
    /// Bytes of one request. Default 64 KiB.
    pub send_buffer: usize,
    /// Bytes, with 32 for each field. Default 64 KiB.
    pub max_header_list: u32,
    /// Default 100.
    pub max_resets: u32,
    /// Default 1,000.
    pub max_control_frames: u32,
    /// `None` is never. Default 10 s.
    pub ping_interval: Option<Duration>,
    /// Default 5 s.
    pub ping_timeout: Duration,
}

/// TLS towards upstream servers. The files are named here and read by the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTls {
    pub place: Place,
    pub verify: Verify,
    /// A host name in lower case, or an IP address; `None` is the endpoint's own, and given when an endpoint is a Unix
    /// socket.
    pub server_name: Option<String>,
    pub client_certificate: Option<CertificateFiles>,
    /// Best first; empty when none is offered. Default what the cluster's protocol says.
    pub alpn: Vec<Alpn>,
    /// Default 1.2.
    pub min_version: TlsVersion,
}

/// Whom an upstream's certificate has to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// An authority that the operating system trusts. The default.
    System,
    /// One of the authorities in this PEM file.
    Ca(PathBuf),
    /// `unsafe_skip_verify`: anybody.
    Nobody,
}

/// Where the endpoints of a cluster stand.
#[derive(Clone, Debug, PartialEq)]
pub enum Endpoints {
    /// In the configuration. Never empty.
    Listed(Vec<Endpoint>),
    /// In a file of their own, which is read again when it changes; see [`endpoints`](crate::endpoints).
    File(PathBuf),
    /// None: a component answers, in this process.
    Component(Box<Service>),
}

/// A component that serves `wasi:http`. Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Resolved against the folder of the configuration file.
    pub component: PathBuf,
    /// Each capability at most once.
    pub grants: Vec<ServiceGrant>,
    /// `None`: fresh for WASI 0.2, exclusive for 0.3.
    pub instances: Option<Instances>,
    /// Exchanges that one instance serves before it is replaced; 1 with [`Instances::Fresh`]. Default 1,000.
    pub instance_reuse: u32,
    pub limits: ServiceLimits,
}

/// A capability of WASI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceGrant {
    Clocks,
    Random,
    /// Output goes to the log.
    Stdio,
    /// Names and values.
    Env(Vec<(String, String)>),
    /// Keys and values, for `wasi:config`.
    Config(Vec<(String, String)>),
    /// A table of the component's own.
    KeyValue,
    /// Folders to read: what the component calls them, and where they are, resolved against the folder of the
    /// configuration file.
    Dir(Vec<(String, PathBuf)>),
    /// TCP, UDP and name look-up, to and from wherever the process may.
    UnsafeSockets,
    /// Names of clusters, each once; empty for a component that imports the calls and makes none.
    Http(Vec<String>),
}

/// How exchanges share a component's instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// Each has one of its own.
    Fresh,
    /// One at a time.
    Exclusive,
    /// Up to so many at once; 2 to 10,000.
    Concurrent(u32),
}

/// What a component that serves may take.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceLimits {
    /// Linear memory of one instance. Default 128 MiB; at most [`Wasm::max_service_memory`].
    pub memory: u64,
    /// Processor time of one exchange. Default 1 s.
    pub cpu: Duration,
    /// How long it may go on when nobody waits for it any more. Default 10 s.
    pub wall: Duration,
    /// Alive at once, over all workers. Default 256; at most [`Wasm::max_service_instances`].
    pub instances: u32,
    /// One set of fields. Default 128 KiB.
    pub header_bytes: usize,
    /// Resources of one exchange. Default 256.
    pub handles: usize,
    /// Of its own, at once for one exchange. Default 16.
    pub calls: usize,
    /// Default 30 s.
    pub call_timeout: Duration,
    /// Keys and values of its table together. Default 16 MiB.
    pub key_value_bytes: usize,
    /// Keys of its table. Default 100,000.
    pub key_value_keys: usize,
    /// Log lines a second. Default 100.
    pub log_lines: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub target: Target,
    /// 0 to 1,000. Default 1.
    pub weight: u32,
    /// 0 to 100; the lowest is preferred. Default 0.
    pub priority: u32,
}

/// What an endpoint is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Address(Address),
    /// Every address of the name is an endpoint.
    Host {
        name: String,
        port: u16,
    },
    /// Every server of the SRV records is an endpoint, with the weight and the priority of its record.
    Service(String),
}

/// Of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadBalancing {
    RoundRobin,
    LeastRequest,
    Random,
    RingHash,
    Maglev,
}

/// What requests have in common that go to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The IP address.
    ClientAddress,
    /// Without the query.
    Path,
    /// The first value of a request's header; in lower case.
    Header(String),
    Cookie(String),
}

/// A cookie by which a client comes back to the same endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Sticky {
    /// Default `tamis-endpoint`.
    pub cookie: String,
    /// Default `/`.
    pub path: String,
    /// How long the client keeps it; `None`, the default, is until its session ends.
    pub max_age: Option<Duration>,
    /// Nobody who does not know it can tell an endpoint's cookie. Never shown.
    pub secret: Option<String>,
}

/// How the proxy finds out by itself whether an endpoint can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    /// Default 5 s.
    pub interval: Duration,
    /// How far a wait may be off the interval, in hundredths of a percent; at most 5,000. Default 1,000.
    pub jitter: u32,
    /// Default 2 s; at most `interval`.
    pub timeout: Duration,
    /// Checks in a row that make an unhealthy endpoint healthy. Default 2.
    pub healthy_threshold: u32,
    /// Checks in a row that make a healthy endpoint unhealthy. Default 3.
    pub unhealthy_threshold: u32,
}

/// What is asked of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A connection.
    Tcp,
    /// A call of `grpc.health.v1.Health/Check`; never with HTTP/1.1.
    Grpc {
        /// Empty, the default, is the server as a whole.
        service: String,
    },
    /// An answer to GET.
    Http {
        /// Path and query. Default `/`.
        path: String,
        /// `None` is the endpoint's address.
        host: Option<String>,
        /// Empty is any from 200 to 299.
        statuses: Vec<u16>,
    },
}

/// When an endpoint that fails requests is left alone for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierEjection {
    /// Requests in a row that broke off, timed out, or were answered with 502, 503 or 504. Default 5.
    pub consecutive_failures: Option<u32>,
    /// Default off.
    pub success_rate: Option<SuccessRate>,
    /// How often success rates are compared. Default 10 s.
    pub interval: Duration,
    /// How long the first time; each further one is longer by as much. Default 30 s; at most `max_ejection_time`.
    pub ejection_time: Duration,
    /// Default 5 min.
    pub max_ejection_time: Duration,
    /// The part of the endpoints that may be ejected at once, in hundredths of a percent. Default 5,000.
    pub max_ejected: u32,
}

/// An endpoint is an outlier whose share of answers below 500 is under the mean by so many standard deviations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// In hundredths of a percent of one. Default 19,000.
    pub deviations: u32,
    /// Requests to an endpoint within the interval without which it is not compared. Default 100.
    pub min_requests: u32,
    /// Endpoints with so many requests without which none is compared. Default 5.
    pub min_endpoints: usize,
}

/// What may be under way to a cluster at once, over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterLimits {
    /// Default 10,000.
    pub max_connections: usize,
    /// Requests that wait for a connection. Default 10,000.
    pub max_pending: usize,
    /// Default 10,000.
    pub max_requests: usize,
    /// Requests that are sent once more, until they are answered. Default 2,000.
    pub max_retries: usize,
}

/// How many of the requests to a cluster may be sent once more, of those on routes that retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests of the last 10 s, in hundredths of a percent. Default 2,000.
    pub share: u32,
    /// Over all workers; so many are allowed anyhow. Default 3.
    pub min_per_second: u32,
}

/// The secret is not shown.
impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky")
            .field("cookie", &self.cookie)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Given, or `route-N` by position from 1. Unique.
    pub name: String,
    pub place: Place,
    pub matches: RouteMatch,
    pub filters: Vec<FilterUse>,
    pub action: Action,
    /// From the end of the request head to the end of the response; `None` for no limit. Default 15 s.
    pub timeout: Option<Duration>,
    /// `None`: only what was never sent goes to another endpoint, once. Never without clusters.
    pub retry: Option<Retry>,
    /// What the upstream gets in place of what filters have left. Never without clusters, like the edits of requests.
    pub rewrite: Option<Rewrite>,
    /// Never without clusters.
    pub mirror: Option<Mirror>,
    /// Of what the upstream gets.
    pub request_headers: HeaderEdits,
    /// Of what the client gets, whoever answers.
    pub response_headers: HeaderEdits,
    pub grpc_timeout: GrpcTimeout,
    /// Protocols that a request may change its connection to, in lower case, each once. Default `websocket` alone.
    pub upgrades: Vec<String>,
}

/// Another cluster that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Index into [`Config::clusters`].
    pub cluster: usize,
    /// Of the requests, in hundredths of a percent. Default 10,000.
    pub percent: u32,
    /// Bytes of a body that may wait for it. Default 256 KiB.
    pub buffer: usize,
}

/// At least one of the two is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The query stays.
    pub path: Option<PathRewrite>,
    /// In lower case, with a port if one is given.
    pub host: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// Whole segments at the front are replaced by others.
    Prefix { from: String, to: String },
    /// For paths that match; anchored at both ends like those of routes.
    Template { regex: Option<String>, to: Vec<PathPart> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPart {
    Literal(String),
    /// All of it.
    Path,
    /// A group of the regular expression, by its number.
    Group(usize),
}

/// Names in lower case, each once in each list. Applied in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub remove: Vec<String>,
    pub set: Vec<(String, String)>,
    pub append: Vec<(String, String)>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When a request is sent once more. Each default has its reason beside it in `parse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Never empty, each once. Default: connect failure, reset, timeout and gateway error.
    pub on: Vec<RetryOn>,
    /// Tries in all, the first one included; 2 to 10. Default 3.
    pub attempts: u32,
    /// Until a try is answered, anew with each piece of the request's body; at most the route's own.
    pub per_try_timeout: Option<Duration>,
    /// Those that may be sent twice. Upper case as written. Default: the idempotent ones (RFC 9110 9.2.2).
    pub methods: Vec<String>,
    /// The longest wait before the second try; doubled for each further one. Default 25 ms.
    pub backoff: Duration,
    /// Where the doubling ends; at least `backoff`. Default ten times that.
    pub max_backoff: Duration,
    /// Bytes of a body that are kept for another try. Default 64 KiB.
    pub max_body: usize,
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// There was no connection, so nothing was sent.
    ConnectFailure,
    /// The connection broke before there was a response, or what came was none.
    Reset,
    /// There was none within `per_try_timeout`, or the cluster's `read_timeout`.
    Timeout,
    /// 502, 503 or 504.
    GatewayError,
    /// 500 to 599.
    ServerError,
    /// 400 to 599.
    Status(u16),
}

/// What becomes of the deadline that a client of gRPC sets for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrpcTimeout {
    /// It is the route's too, if it is the shorter one. The default.
    Honor,
    Ignore,
}

/// All parts must hold; an empty part always holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteMatch {
    pub hosts: Vec<HostPattern>,
    pub path: Option<PathPattern>,
    /// Upper case as written; compared exactly (RFC 9110 9.1).
    pub methods: Vec<String>,
    pub headers: Vec<HeaderPattern>,
    pub query: Vec<QueryPattern>,
    pub certificate: Option<CertificatePattern>,
}

/// What the client's verified certificate has to be. All parts must hold; without any, every certificate will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificatePattern {
    /// As RFC 4514 writes it, as in `CN=web,O=Acme`.
    pub subject: Option<ValuePattern>,
    /// Any of its subject alternative names, as in `DNS:a.example` or `URI:spiffe://b`.
    pub name: Option<ValuePattern>,
    /// Any one of them: 64 hexadecimal digits in lower case.
    pub fingerprints: Vec<String>,
}

/// Lower case, without port or trailing dot. Any port of the request matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.org` as `example.org`: one or more labels in front, never the bare name.
    Suffix(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    Exact(String),
    /// Matches on segment boundaries: `/v1` and `/v1/` both match `/v1`, `/v1/` and `/v1/x`, never `/v10`.
    Prefix(String),
    /// Anchored at both ends; already known to compile within the size limit.
    Regex(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderPattern {
    /// Lower case.
    pub name: String,
    pub value: ValuePattern,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryPattern {
    pub name: String,
    pub value: ValuePattern,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValuePattern {
    Present,
    Exact(String),
    /// Anchored at both ends.
    Regex(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Never empty, never all of weight 0. A single cluster has weight 1.
    Clusters(Vec<WeightedCluster>),
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// Index into [`Config::clusters`].
    pub cluster: usize,
    /// 0 to 1,000; 0 for a cluster that filters alone choose.
    pub weight: u32,
}

/// Parts not given are taken from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default 302.
    pub status: u16,
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    /// Replaces path and query.
    pub path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}
