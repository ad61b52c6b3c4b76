//! The YAML vocabulary: every key, its type, its default, its bounds.
//!
//! Control plane. One declaration gives the reader and the JSON Schema; the doc comments become the schema's
//! descriptions. Says nothing of how the parts refer to each other: that is `parse`.

use std::borrow::Cow;

use crate::address::EndpointAddress;
use crate::choice::Choice;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::model::{
    Address, Alpn, ClientAuthMode, ComponentKind, GrpcTimeout, LoadBalancing, OnFailure, Protocol, ProxyVersion,
    TlsVersion, UpstreamProtocol, WhenGood,
};
use crate::node::{Node, Value};
use crate::reader::{Block, FromNode, Reader, quote};
use crate::settings::{SecretText, Settings};
use crate::shape::{At, Field, Named, Noun, OffOr, Pairs, Required, ShortOr, True};
use crate::units::{Count, Percent, Period, Size};
use crate::word::{GrantWord, HashWord, HttpsWord, InstancesWord, KeyWord, RetryCondition, ServiceGrantWord};

/// Declares blocks: for each a struct that is readable from a node and has a schema.
///
/// `ExactlyOneOf(a, b)` or another [`Choice`] after the name is a rule over these keys. `= "{ a: value }" | ...` after
/// that are the usual forms, shown to whoever wrote something else than a map.
macro_rules! vocabulary {
    (@choice) => { Choice::Free };
    (@choice $rule:ident($($choice:ident),+)) => { Choice::$rule(&[$(stringify!($choice)),+]) };
    ($(
        $(#[$meta:meta])*
        struct $name:ident $($rule:ident($($choice:ident),+))? $(= $($form:literal)|+)? {
            $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(JsonSchema)]
        #[schemars(deny_unknown_fields)]
        #[schemars(transform = $name::choice())]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $type,)*
        }

        impl $name {
            const FORMS: &'static [&'static str] = &[$($($form),+)?];

            const fn choice() -> Choice {
 vocabulary!(@choice $($rule($($choice),+))?)
 }
        }

        impl FromNode for $name {
            fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
                let mut block = Block::open(node, Self::FORMS, reader)?;
                let value = Self {
                    $($field: <$type>::from_block(&mut block, key(stringify!($field)), reader),)*
                };
                block.close(Self::choice(), reader);
                Some(value)
            }
        }
    )*

        /// The forms of all blocks, each with what its block says to it.
        #[cfg(test)]
        fn forms() -> Vec<(&'static str, Vec<String>)> {
            let mut forms = Vec::new();
            $(forms.extend($name::FORMS.iter().map(|form| (*form, tests::faults::<$name>(form))));)*
            forms
        }
    };
}

/// `match` is a word of both languages.
fn key(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

vocabulary! {
    /// The configuration of one Tamis process.
    ///
    /// Strings may hold `${NAME}` or `${NAME:-default}` for environment variables, and `$$` for a plain `$`.
    /// Relative paths count from the folder of this file.
    struct Document {
        /// Worker threads. Default: one for each core that the process may use.
        workers: Option<Count<1, 1024>>,
        /// How long a drain waits for exchanges in flight. Default `30s`.
        drain_timeout: Option<Period>,
        /// How long a drain first goes on accepting while `/ready` says no already, for load balancers that poll it;
        /// or `off`. It comes before `drain_timeout`. Default `off`.
        drain_delay: Option<OffOr<Period>>,
        /// What becomes of exchanges whose generation was replaced while they went on.
        reload: Option<Reload>,
        /// Bounds of the WebAssembly engines, shared by all components. A change of `max_instances`, `max_memory`,
        /// `max_table_elements`, `max_stack`, `max_service_instances` or `max_service_memory` needs a restart.
        wasm: Option<Wasm>,
        /// The endpoint for operators, or `off`. Default `{ address: 127.0.0.1:9901 }`.
        admin: Option<OffOr<Admin>>,
        /// One record for each exchange, or `off`. Default `off`.
        access_log: Option<OffOr<AccessLog>>,
        /// How names of endpoints are looked up.
        dns: Option<Dns>,
        /// What the process takes on in all, and what it does when its memory runs short.
        overload: Option<Overload>,
        /// Where clients connect, by name.
        listeners: Required<At<Named<Listener>>>,
        /// Filters that chains can use, by name.
        filters: Option<Named<Filter>>,
        /// Groups of equal upstream servers, by name.
        clusters: Option<Named<Cluster>>,
        /// Which requests go where. The first route that matches wins.
        routes: Required<At<Routes>>,
    }

    /// What becomes of exchanges whose generation was replaced while they went on.
    #[derive(Default)]
    struct Reload = "{ max_age: 1h }" {
        /// How long after it was replaced a generation is ended with all that is still on it, or `off`. Default `1h`.
        max_age: Option<OffOr<Period>>,
        /// Generations alive at once; the oldest are ended for more. Default 32.
        max_generations: Option<Count<2, 10_000>>,
    }

    /// Bounds of the WebAssembly engine, shared by all filters.
    #[derive(Default)]
    struct Wasm {
        /// Instances alive at once in the whole process. Default 1000.
        max_instances: Option<Count<1, 100_000>>,
        /// The most memory that a filter may be given. Default `64MiB`.
        max_memory: Option<Size<{ 64 << 10 }, { 4 << 30 }>>,
        /// The most entries that one table of a filter may be given. Default 32768.
        max_table_elements: Option<Count<1, 1_000_000>>,
        /// Instances of components that serve, alive at once in the whole process. Room is set aside for them only when a
        /// cluster names such a component. Default 1000.
        max_service_instances: Option<Count<1, 100_000>>,
        /// The most memory that a component that serves may be given. Default `256MiB`.
        max_service_memory: Option<Size<{ 64 << 10 }, { 4 << 30 }>>,
        /// A guest's stack. Default `512KiB`.
        max_stack: Option<Size<{ 64 << 10 }, { 8 << 20 }>>,
        /// A folder for compiled code, which makes the next start faster, or `off`. Default `off`.
        cache: Option<OffOr<At<String>>>,
        /// The largest component that is read. Default `64MiB`.
        max_component: Option<Size<{ 1 << 10 }, { 1 << 30 }>>,
        /// Threads that compile components. Default 1.
        compile_threads: Option<Count<1, 64>>,
        /// How long the compilation of one component may take. Default `60s`.
        compile_timeout: Option<Period>,
    }

    /// The endpoint for operators.
    struct Admin = "{ address: 127.0.0.1:9901 }" {
        /// A loopback address or `unix:` and a path: whoever reaches it can stop the proxy.
        address: Option<At<Address>>,
    }

    /// One record for each exchange.
    struct AccessLog ExactlyOneOf(file, stdout) = "{ file: access.log }" | "{ stdout: true }" {
        /// A file to append to.
        file: Option<At<String>>,
        /// Write to standard output.
        stdout: Option<True>,
        /// `json`, or text with `{field}` or `{attribute:NAME}` in it; `{{` and `}}` stand for plain braces. Default
        /// `json`.
        format: Option<At<String>>,
        /// Records that may wait for the writer; more are dropped and counted. Default 8192.
        queue: Option<Count<1, 1_000_000>>,
    }

    /// What the process takes on in all, shared by the workers in equal parts, and what it does when its memory runs
    /// short.
    struct Overload {
        /// Connections of clients at once, over all listeners; more are closed. Or `off`, the default: each listener
        /// has its own bound.
        max_connections: Option<OffOr<Count<1, 10_000_000>>>,
        /// Requests under way at once, over all listeners; more are answered with 503. Or `off`, the default: each
        /// listener has its own bound.
        max_exchanges: Option<OffOr<Count<1, 10_000_000>>>,
        /// Steps of shedding load while memory is short, or `off`.
        memory: Option<OffOr<MemoryPressure>>,
    }

    /// Steps of shedding load while memory is short, as parts of the limit; none may exceed the next.
    struct MemoryPressure = "{ limit: 1GiB }" {
        /// What the process may have resident. Default: what its control group may use, or else four fifths of the
        /// machine's memory.
        limit: Option<Size<{ 1 << 20 }, { 1 << 50 }>>,
        /// From here on connections end with their current exchange. Default `85%`.
        disable_keep_alive: Option<At<Percent<100, 10_000>>>,
        /// From here on requests are answered with 503 and `Retry-After`. Default `90%`.
        stop_accepting_requests: Option<At<Percent<100, 10_000>>>,
        /// From here on connections wait in the kernel until they are accepted. Default `95%`.
        stop_accepting_connections: Option<At<Percent<100, 10_000>>>,
        /// How far below its beginning a step ends. Default `5%`.
        recovery: Option<At<Percent<0, 5_000>>>,
    }

    /// Where clients connect.
    struct Listener = "{ address: 0.0.0.0:8080 }" {
        /// The address to listen on.
        address: Required<At<Address>>,
        /// Speak TLS. Default: plain text.
        tls: Option<At<ListenerTls>>,
        /// Answer every request with a redirect to the same host and path over HTTPS: `https`, or a block. Routes are not
        /// asked.
        redirect: Option<At<HttpsRedirect>>,
        /// What clients may speak: HTTP/1 and HTTP/2 (in clear text by prior knowledge). Default `[http1, http2]`.
        protocols: Option<At<Vec<Protocol>>>,
        /// Filters that run before any route's own, on every exchange, also when no route matches.
        filters: Option<Vec<FilterUse>>,
        /// What one connection and one request may take.
        limits: Option<ListenerLimits>,
        /// Who says with the PROXY protocol (version 1 or 2) for which client a connection is. Default: nobody.
        proxy_protocol: Option<ProxyProtocol>,
        /// Whose `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` are believed: addresses, networks as in
        /// `10.0.0.0/8`, and `unix` for whoever connects to a Unix socket. Default: nobody's.
        trusted_proxies: Option<Vec<At<String>>>,
    }

    /// The PROXY protocol.
    struct ProxyProtocol = "{ from: [10.0.0.0/8] }" {
        /// Those who begin each connection with its header: addresses, networks as in `10.0.0.0/8`, and `unix` for
        /// whoever connects to a Unix socket. All others begin with a request, and are the clients themselves.
        from: Required<At<Vec<At<String>>>>,
    }

    /// TLS towards clients.
    struct ListenerTls = "{ certificates: [{ cert: site.crt, key: site.key }] }" {
        /// Certificates with their keys. A client gets the one whose names the name that it asks for is among, or else
        /// the first.
        certificates: Required<At<Vec<At<CertificateFiles>>>>,
        /// The authorities whose certificates clients show: a file of PEM certificates. Default: clients are not asked.
        client_ca: Option<At<String>>,
        /// Certificates of clients that are revoked: a file of PEM revocation lists of those authorities. Default: none.
        client_crl: Option<At<String>>,
        /// `required` or `optional`; needs `client_ca`. Default `required`.
        client_auth: Option<At<ClientAuthMode>>,
        /// The oldest version that is spoken. Default `tls1.2`.
        min_version: Option<TlsVersion>,
    }

    /// A certificate and its key.
    struct CertificateFiles = "{ cert: site.crt, key: site.key }" {
        /// A PEM file: the certificate, then those that lead to its authority.
        cert: Required<At<String>>,
        /// A PEM file with the certificate's private key.
        key: Required<At<String>>,
    }

    /// A redirect to HTTPS.
    struct HttpsRedirectBlock {
        /// The port of the HTTPS listener as clients see it. Default 443.
        port: Option<Count<1, 65_535>>,
        /// 301, 302, 303, 307 or 308. Default 308, which keeps the method.
        status: Option<At<Count<301, 308>>>,
    }

    /// What one client connection and one request may take.
    struct ListenerLimits {
        /// From the acceptance of a connection to the end of its TLS handshake, in total. Default `10s`.
        tls_handshake_timeout: Option<Period>,
        /// TLS handshakes at once; for one more, the one that has taken longest makes room. Default 1000.
        max_handshakes: Option<Count<1, 1_000_000>>,
        /// From the first byte of a request's head to its end, in total. Default `10s`.
        head_timeout: Option<Period>,
        /// Between two exchanges of one connection. Default `60s`.
        idle_timeout: Option<Period>,
        /// Between two pieces of a request body. Default `30s`.
        body_timeout: Option<Period>,
        /// Between two pieces of a response that the client takes. Default `30s`.
        write_timeout: Option<Period>,
        /// How long nothing may move in a tunnel, as a WebSocket is one. Default `10m`.
        tunnel_idle_timeout: Option<Period>,
        /// Request line and header fields together. Default `64KiB`.
        max_head_bytes: Option<Size<{ 8 << 10 }, { 1 << 20 }>>,
        /// Name and value of one header field. Default `16KiB`, or `max_head_bytes` if that is less.
        max_field_bytes: Option<At<Size<256, { 1 << 20 }>>>,
        /// Header fields of one request. Default 100.
        max_fields: Option<Count<1, 10_000>>,
        /// The request target: path and query. Default `8KiB`.
        max_target_bytes: Option<At<Size<256, 65_534>>>,
        /// Connections at once. Default 10000.
        max_connections: Option<Count<1, 1_000_000>>,
        /// Connections at once of one address, or of one network of IPv6 (`/64`), trusted proxies apart; or `off`. Default
        /// `off`.
        max_connections_per_address: Option<OffOr<Count<1, 1_000_000>>>,
        /// Requests under way at once; more are answered with 503. Default 10000, or `max_connections` if that is more.
        max_exchanges: Option<Count<1, 10_000_000>>,
        /// Requests of one connection; it ends with the last of them. Default 1000.
        max_requests: Option<Count<1, 1_000_000_000>>,
        /// What HTTP/2 connections may take beyond that.
        http2: Option<Http2Limits>,
    }

    /// What one HTTP/2 connection may take.
    #[derive(Default)]
    struct Http2Limits {
        /// Streams at once on one connection; more are refused. Default 100.
        max_streams: Option<Count<1, 10_000>>,
        /// Streams at once of one client address, over all its connections to one worker; more are refused. Default
        /// 1000.
        max_streams_per_address: Option<Count<1, 1_000_000>>,
        /// What a client may send of one request's body before it is taken. Default `64KiB`.
        stream_window: Option<Size<{ 1 << 10 }, { 16 << 20 }>>,
        /// The same of all bodies of a connection together. Default `1MiB`.
        connection_window: Option<Size<65_535, { 256 << 20 }>>,
        /// What may wait to be sent of one response. Default `64KiB`.
        send_buffer: Option<Size<{ 16 << 10 }, { 16 << 20 }>>,
        /// Header fields of one request as HTTP/2 counts them, 32 bytes more for each. Default `64KiB`.
        max_header_list: Option<Size<{ 4 << 10 }, { 1 << 20 }>>,
        /// Requests that a client, or its faults, may reset beyond those that were served. Default 100.
        max_resets: Option<Count<1, 1_000_000>>,
        /// Frames that carry nothing (PING, SETTINGS, WINDOW_UPDATE, empty DATA, ...) beyond what the traffic explains.
        /// Default 1000.
        max_control_frames: Option<Count<10, 1_000_000>>,
        /// A client that takes less than so many bytes of a response within `write_timeout` is given no more of it.
        /// Default `1KiB`.
        min_progress: Option<Size<1, { 64 << 10 }>>,
        /// While requests are under way, a client that is silent for so long is asked whether it is there, or `off`.
        /// Default `10s`.
        ping_interval: Option<OffOr<Period>>,
        /// How long the answer may take. Default `5s`.
        ping_timeout: Option<Period>,
    }

    /// A filter: a WebAssembly component, or one that is built in.
    struct Filter ExactlyOneOf(component, native) = "{ component: filter.wasm }" | "{ native: headers }" {
        /// Path of a component.
        component: Option<At<String>>,
        /// Name of a built-in filter.
        native: Option<At<String>>,
        /// What the component has to be; another is refused. Default: what it is by its imports and exports.
        kind: Option<ComponentKind>,
        /// Given to the filter as JSON. A string `file:PATH` is replaced by the content of that file.
        config: Option<Settings>,
        /// Capabilities that the component needs. Default: none.
        grants: Option<At<Vec<Grant>>>,
        /// What the component may take.
        limits: Option<At<FilterLimits>>,
        /// When a component that fails again and again is left alone for a while, or `off`.
        breaker: Option<At<OffOr<Breaker>>>,
        /// How often the component's tick hook is called; at least `100ms`. Default: never.
        tick: Option<At<Period>>,
        /// How exchanges share instances of a middleware. Default `exclusive`.
        instances: Option<At<Instances>>,
        /// Exchanges that one instance serves before it is replaced; 1 isolates each exchange. Default 1000.
        instance_reuse: Option<At<Count<1, 1_000_000_000>>>,
        /// Default `closed`.
        on_failure: Option<OnFailure>,
        /// Another version of the component, on trial: it takes a share of the exchanges until it has proved itself, or
        /// failed.
        candidate: Option<At<Candidate>>,
    }

    /// Another version of a component, on trial.
    struct Candidate AtLeastOneOf(component, config) = "{ component: filter.wasm }" {
        /// Path of its component. Default: the filter's.
        component: Option<At<String>>,
        /// Given to it as JSON. Default: the filter's, or what a chain gives the filter.
        config: Option<Settings>,
        /// The part of the exchanges that it takes, `0.01%` to `99%`. Default `5%`.
        share: Option<Percent<1, 9_900>>,
        /// Requests with the same key meet the same version. Default `request_id`: each is drawn for itself.
        key: Option<CandidateKey>,
        /// How long it has to be good. Default `10m`.
        window: Option<Period>,
        /// Exchanges of either version without which it is not judged. Default 100.
        min_calls: Option<Count<1, 1_000_000>>,
        /// What it may do worse than the filter over the same time.
        tolerate: Option<Tolerance>,
        /// What comes of it when it was good for the whole window. Default `promote`.
        when_good: Option<WhenGood>,
    }

    /// The key of a candidate with its name.
    struct CandidateKeyBlock ExactlyOneOf(header, cookie) {
        /// Name of a request header; its first value is the key.
        header: Option<At<String>>,
        /// Name of a cookie.
        cookie: Option<At<String>>,
    }

    /// What a candidate may do worse than the filter over the same time.
    #[derive(Default)]
    struct Tolerance {
        /// How many more of its exchanges may fail, of all of them; or `off`. Default `1%`.
        failures: Option<OffOr<Percent<0, 10_000>>>,
        /// How many more or fewer it may answer itself, of all of them; or `off`. Default `5%`.
        replies: Option<OffOr<Percent<0, 10_000>>>,
        /// How much longer its hooks may take at the 99th percentile; or `off`. Default `100%`, twice as long.
        p99: Option<OffOr<Percent<0, 1_000_000>>>,
        /// Up to here no hook counts as slow. Default `5ms`.
        p99_floor: Option<Period>,
    }

    /// A capability with its object.
    struct GrantBlock ExactlyOneOf(key_value, outbound, env, config, dir, http) {
        /// Name of a table that all filters share that are granted it.
        key_value: Option<At<String>>,
        /// The clusters to which the component may send requests.
        outbound: Option<At<Vec<At<String>>>>,
        /// Of a middleware: environment variables by name. A value `file:PATH` is replaced by the content of that file.
        env: Option<Pairs<SecretText>>,
        /// Of a middleware: what `wasi:config/store` gives, by key. A value `file:PATH` is replaced by the content of that
        /// file.
        config: Option<Pairs<SecretText>>,
        /// Of a middleware: folders that it may read, by the path under which it finds them.
        dir: Option<Pairs<At<String>>>,
        /// Of a middleware: the clusters to which it may send requests; each is the host of its URLs.
        http: Option<At<Vec<At<String>>>>,
    }

    /// What a component may take.
    #[derive(Default)]
    struct FilterLimits {
        /// Linear memory of one instance. Default `16MiB`, or `wasm.max_memory` if that is less; of a middleware `128MiB`, or
        /// `wasm.max_service_memory`.
        memory: Option<At<Size<{ 64 << 10 }, { 4 << 30 }>>>,
        /// Entries of one table of an instance. Default 16384, or `wasm.max_table_elements` if that is less.
        table_elements: Option<At<Count<1, 1_000_000>>>,
        /// Processor time of one hook. Default `10ms`, or `wall` or `exchange_cpu` if that is less. Of a middleware: for one
        /// exchange. Default `1s`.
        cpu: Option<At<Period>>,
        /// Processor time of all hooks of one exchange together. Default `100ms`, or `cpu` if that is more.
        exchange_cpu: Option<Period>,
        /// Wall time of one hook. Default `100ms`, and `5s` with the grant `outbound`, because it waits for others. Of a
        /// middleware: until it says what becomes of a request or a response, while nothing of a body moves, and how long
        /// it may go on when nobody waits for it any more. Default `10s`, and with the grant `http` the
        /// `call_timeout` if that is more.
        wall: Option<Period>,
        /// How long an exchange waits for an instance when all are busy. Default `100ms`.
        wait: Option<Period>,
        /// Instances alive at once. Default 256, or `wasm.max_instances` if that is less; of a middleware
        /// `wasm.max_service_instances`.
        instances: Option<At<Count<1, 100_000>>>,
        /// Names and values that one hook may write into a head, together. Default `64KiB`; one set of fields of a
        /// middleware, `128KiB`.
        header_bytes: Option<Size<0, { 1 << 20 }>>,
        /// What one `read-body` may hold, and the longest whole answer of an outbound call. Default `1MiB`, or
        /// `lifted_bytes` if that is less.
        body_bytes: Option<At<Size<0, { 1 << 30 }>>>,
        /// What one call may copy out of the component. Default `16MiB`, or `body_bytes` if that is more.
        lifted_bytes: Option<Size<{ 64 << 10 }, { 1 << 30 }>>,
        /// Outbound calls of one exchange. Default 8.
        outbound_calls: Option<Count<0, 1000>>,
        /// Outbound calls at once, over all exchanges. Default 1024.
        outbound_concurrent: Option<Count<1, 100_000>>,
        /// Keys and values of the table together; a shared table has the same in all its filters. Default `16MiB`.
        key_value_bytes: Option<Size<{ 64 << 10 }, { 2 << 30 }>>,
        /// Keys of the table; a shared table has the same in all its filters. Default 100000.
        key_value_keys: Option<Count<1, 10_000_000>>,
        /// Log lines a second; more are dropped and counted. Default 100.
        log_lines: Option<Count<0, 100_000>>,
        /// Resources that a middleware holds for one exchange: requests, responses, bodies, streams. Default 256.
        handles: Option<Count<16, 100_000>>,
        /// Requests of its own that a middleware has under way at once for one exchange. Default 16.
        calls: Option<Count<1, 10_000>>,
        /// How long a middleware waits for the head of an answer to one of them, and for each piece of its body.
        /// Default `30s`.
        call_timeout: Option<Period>,
    }

    /// When a component that fails again and again is left alone for a while.
    #[derive(Default)]
    struct Breaker = "{}" | "{ failures: 5 }" {
        /// It opens when, within `within`, failures outnumber successes by so many. Default 5.
        failures: Option<Count<1, 1_000>>,
        /// Default `10s`.
        within: Option<Period>,
        /// How long it stays open; each further opening doubles that. Default `1s`, or `max_backoff` if that is less.
        backoff: Option<At<Period>>,
        /// Where the doubling ends. Default `60s`, or `backoff` if that is more.
        max_backoff: Option<Period>,
    }

    /// A filter in a chain, with a configuration of its own there.
    struct FilterUseBlock {
        /// Name of the filter.
        filter: Required<At<String>>,
        /// Replaces the filter's own `config` in this chain.
        config: Option<Settings>,
    }

    /// How names of endpoints are looked up.
    #[derive(Default)]
    struct Dns = "{ servers: [127.0.0.1:53] }" {
        /// Addresses of DNS servers, with port. Default: those of `/etc/resolv.conf`.
        servers: Option<At<Vec<At<Address>>>>,
        /// For one name and one kind of record, in total. Default `5s`.
        timeout: Option<Period>,
        /// Names are not looked up again sooner, whatever their time to live says. Default `1s`, or `max_ttl` if that is
        /// less.
        min_ttl: Option<At<Period>>,
        /// Names are looked up again at least so often. Default `5m`, or `min_ttl` if that is more.
        max_ttl: Option<Period>,
    }

    /// A group of equal upstream servers.
    struct Cluster ExactlyOneOf(endpoints, endpoints_file, component) = "{ endpoints: [127.0.0.1:9000] }" {
        /// The servers.
        endpoints: Option<At<Vec<At<Endpoint>>>>,
        /// A file with a list of servers, in the form of `endpoints`; read again when it changes, without a reload.
        endpoints_file: Option<At<String>>,
        /// Path of a component that serves `wasi:http` 0.2 or 0.3, in place of servers.
        component: Option<At<String>>,
        /// Capabilities that the component needs. Default: none.
        grants: Option<At<Vec<ServiceGrant>>>,
        /// How exchanges share the component's instances. Default `fresh` for WASI 0.2, `exclusive` for 0.3.
        instances: Option<At<Instances>>,
        /// Exchanges that one instance serves before it is replaced. Default 1000; given alone it means `exclusive`.
        instance_reuse: Option<At<Count<1, 1_000_000_000>>>,
        /// Default `round_robin`.
        load_balancing: Option<At<LoadBalancing>>,
        /// With `ring_hash` and `maglev`, requests with the same key go to the same server. Default `client_address`.
        hash_key: Option<At<HashKey>>,
        /// A server that comes, or comes back, gets its whole share only after so long; or `off`. Default `off`.
        slow_start: Option<At<OffOr<Period>>>,
        /// When a smaller part of the servers is healthy, all are used; `0%` never does. Default `50%`.
        panic_threshold: Option<Percent<0, 10_000>>,
        /// A cookie by which a client comes back to the same server, or `off`. Default `off`.
        sticky: Option<OffOr<Sticky>>,
        /// How the proxy finds out by itself whether a server can answer, or `off`. Default `off`.
        health_check: Option<OffOr<HealthCheck>>,
        /// When a server that fails requests is left alone for a while, or `off`. Default `off`.
        outlier_ejection: Option<OffOr<OutlierEjection>>,
        /// What may be under way at once; what is over is answered with 503.
        limits: Option<ClusterLimits>,
        /// How many requests may be sent once more, of those on routes that retry.
        retry_budget: Option<RetryBudget>,
        /// Default `5s`.
        connect_timeout: Option<Period>,
        /// A pooled connection unused for so long is closed. Default `60s`.
        idle_timeout: Option<Period>,
        /// Idle connections kept by each worker for each endpoint. Default 1024.
        max_idle: Option<Count<0, 100_000>>,
        /// Between two pieces of a response body. Default `60s`.
        read_timeout: Option<Period>,
        /// What is spoken to the servers. Default `http1`.
        protocol: Option<UpstreamProtocol>,
        /// What an HTTP/2 connection to a server may take.
        http2: Option<At<UpstreamHttp2>>,
        /// Begin each connection with a header of the PROXY protocol that names the client. Each request then has a
        /// connection of its own, so the `protocol` is `http1`. Default: no header.
        proxy_protocol: Option<At<ProxyVersion>>,
        /// Speak TLS to the endpoints, `{}` with all defaults. Default: plain text.
        tls: Option<At<ClusterTls>>,
    }

    /// What an HTTP/2 connection to an upstream server may take.
    struct UpstreamHttp2 {
        /// Requests at once on one connection, or fewer if the server allows fewer; for more there is another connection.
        /// Default 100.
        max_streams: Option<Count<1, 10_000>>,
        /// What a server may send of one response before the client takes it. Default `64KiB`.
        stream_window: Option<Size<{ 1 << 10 }, { 16 << 20 }>>,
        /// What may wait to be sent of one request. Default `64KiB`.
        send_buffer: Option<Size<{ 16 << 10 }, { 16 << 20 }>>,
        /// Header fields of one response as HTTP/2 counts them, 32 bytes more for each. Default `64KiB`.
        max_header_list: Option<Size<{ 4 << 10 }, { 1 << 20 }>>,
        /// Responses of one connection that are no responses; with more it ends. Default 100.
        max_resets: Option<Count<1, 1_000_000>>,
        /// Frames that carry nothing (PING, SETTINGS, WINDOW_UPDATE, empty DATA, ...) beyond what the traffic explains.
        /// Default 1000.
        max_control_frames: Option<Count<10, 1_000_000>>,
        /// While requests are under way, a server that is silent for so long is asked whether it is there, or `off`.
        /// Default `10s`.
        ping_interval: Option<OffOr<Period>>,
        /// How long the answer may take. Default `5s`.
        ping_timeout: Option<Period>,
    }

    /// TLS towards upstream servers.
    struct ClusterTls = "{}" | "{ ca: ca.crt }" {
        /// The authorities that are trusted: a file of PEM certificates. Default: the operating system's.
        ca: Option<At<String>>,
        /// The name that is asked for (SNI) and must stand in the certificate. Default: the name that led to the endpoint,
        /// or its address.
        server_name: Option<At<String>>,
        /// What we show to servers that ask for a certificate.
        client_certificate: Option<CertificateFiles>,
        /// The protocols that are offered, or `off` to offer none. Only with the `protocol` `http1`; the others say
        /// themselves what they offer. Default `[http/1.1]`.
        alpn: Option<At<OffOr<Vec<Alpn>>>>,
        /// The oldest version that is spoken. Default `tls1.2`.
        min_version: Option<TlsVersion>,
        /// Believe whoever answers. Whoever is in between then reads and changes everything.
        unsafe_skip_verify: Option<At<True>>,
    }

    /// An upstream server with a weight or a priority.
    struct EndpointBlock ExactlyOneOf(address, srv) {
        /// The server's address, or its name and port: then each address of the name is a server.
        address: Option<EndpointAddress>,
        /// Name of SRV records: each names a server, its port, its weight and its priority.
        srv: Option<At<String>>,
        /// Its share among the endpoints of its priority; 0 takes only clients that a sticky cookie sends there. Default
        /// 1.
        weight: Option<At<Count<0, 1000>>>,
        /// Servers of a higher number take over when too few of the lower ones are healthy. Default 0.
        priority: Option<At<Count<0, 100>>>,
    }

    /// A hash key with its name.
    struct HashKeyBlock ExactlyOneOf(header, cookie) {
        /// Name of a request header; its first value is the key.
        header: Option<At<String>>,
        /// Name of a cookie.
        cookie: Option<At<String>>,
    }

    /// A cookie by which a client comes back to the same server. It is `HttpOnly` and `SameSite=Lax`, and `Secure` over
    /// TLS.
    struct Sticky = "{}" | "{ cookie: NAME }" {
        /// Its name. Default `tamis-endpoint`.
        cookie: Option<At<String>>,
        /// Its path. Default `/`.
        path: Option<At<String>>,
        /// How long the client keeps it. Default: until its session ends.
        max_age: Option<Period>,
        /// Text, `${NAME}` or `file:PATH`: nobody who does not know it can tell a server's cookie. At least 16 bytes.
        /// Default: none.
        secret: Option<At<Settings>>,
    }

    /// How the proxy finds out by itself whether a server can answer.
    struct HealthCheck ExactlyOneOf(http, grpc, tcp) = "{ http: { path: /healthz } }" | "{ tcp: true }" {
        /// By an answer to GET.
        http: Option<HttpProbe>,
        /// By an answer of gRPC's health service (`grpc.health.v1.Health`), `{}` for the server as a whole. Not with the
        /// `protocol` `http1`.
        grpc: Option<At<GrpcProbe>>,
        /// By a connection.
        tcp: Option<At<True>>,
        /// Default `5s`.
        interval: Option<Period>,
        /// How far each wait may be off the interval, so that not all servers are asked at once. Default `10%`.
        jitter: Option<Percent<0, 5_000>>,
        /// Default `2s`, or `interval` if that is less.
        timeout: Option<At<Period>>,
        /// Good checks in a row that make an unhealthy server healthy. Default 2.
        healthy_threshold: Option<Count<1, 100>>,
        /// Bad checks in a row that make a healthy server unhealthy. Default 3.
        unhealthy_threshold: Option<Count<1, 100>>,
    }

    /// A health check by an answer to GET.
    struct HttpProbe = "{ path: /healthz }" {
        /// Path and query. Default `/`.
        path: Option<At<String>>,
        /// The host that is asked for. Default: the server's address.
        host: Option<At<String>>,
        /// The statuses of a healthy server. Default: any from 200 to 299.
        statuses: Option<Vec<Count<200, 599>>>,
    }

    /// A health check by an answer of gRPC's health service.
    struct GrpcProbe = "{}" | "{ service: NAME }" {
        /// The service that is asked after. Default: the server as a whole.
        service: Option<String>,
    }

    /// When a server that fails requests is left alone for a while.
    struct OutlierEjection = "{}" | "{ consecutive_failures: 5 }" {
        /// So many requests in a row that broke off, timed out, or were answered with 502, 503 or 504; or `off`. Default
        /// 5.
        consecutive_failures: Option<OffOr<Count<1, 1000>>>,
        /// A share of answers below 500 that is far under that of the others, or `off`. Default `off`.
        success_rate: Option<OffOr<SuccessRate>>,
        /// How often success rates are compared. Default `10s`.
        interval: Option<Period>,
        /// How long the first time; each further time is longer by as much. Default `30s`, or `max_ejection_time` if that
        /// is less.
        ejection_time: Option<At<Period>>,
        /// Default `5m`, or `ejection_time` if that is more.
        max_ejection_time: Option<Period>,
        /// The part of the servers that may be left alone at once. Default `50%`.
        max_ejected: Option<Percent<0, 10_000>>,
    }

    /// When a server's share of answers below 500 is far under that of the others.
    struct SuccessRate = "{}" | "{ min_requests: 100 }" {
        /// Under the mean by this part of a standard deviation, and by 5% of the requests at least. Default `190%`.
        deviations: Option<Percent<1, 100_000>>,
        /// Requests to a server within the interval without which it is not compared. Default 100.
        min_requests: Option<Count<1, 1_000_000>>,
        /// Servers with so many requests without which none is compared. Default 5.
        min_endpoints: Option<Count<2, 10_000>>,
    }

    /// What may be under way to a cluster at once, shared by the workers in equal parts; and what a
    /// component that serves may take.
    #[derive(Default)]
    struct ClusterLimits {
        /// Connections. Default 10000.
        max_connections: Option<Count<1, 1_000_000>>,
        /// Requests that wait for a connection. Default 10000.
        max_pending: Option<Count<1, 1_000_000>>,
        /// Requests. Default 10000.
        max_requests: Option<Count<1, 1_000_000>>,
        /// Requests that are sent once more, until they are answered. Default 2000.
        max_retries: Option<Count<1, 1_000_000>>,
        /// Linear memory of one instance of the component. Default `128MiB`, or `wasm.max_service_memory` if that is less.
        memory: Option<At<Size<{ 64 << 10 }, { 4 << 30 }>>>,
        /// Processor time of the component for one exchange. Default `1s`.
        cpu: Option<At<Period>>,
        /// How long the component may go on when nobody waits for it any more. Default `10s`.
        wall: Option<At<Period>>,
        /// Instances of the component alive at once. Default 256, or `wasm.max_service_instances` if that is less.
        instances: Option<At<Count<1, 100_000>>>,
        /// One set of fields that the component builds, with some bytes for each field. Default `128KiB`.
        header_bytes: Option<At<Size<{ 1 << 10 }, { 1 << 20 }>>>,
        /// Resources that the component holds for one exchange: requests, responses, bodies, streams. Default 256.
        handles: Option<At<Count<16, 100_000>>>,
        /// Requests of its own that the component has under way at once for one exchange. Default 16.
        calls: Option<At<Count<1, 10_000>>>,
        /// How long the component waits for the head of an answer to one of them, and for each piece of its body.
        /// Default `30s`.
        call_timeout: Option<At<Period>>,
        /// Keys and values that the component keeps, together. Default `16MiB`.
        key_value_bytes: Option<At<Size<{ 64 << 10 }, { 2 << 30 }>>>,
        /// Keys that the component keeps. Default 100000.
        key_value_keys: Option<At<Count<1, 10_000_000>>>,
        /// Lines a second that the component writes to the log; more are dropped. Default 100.
        log_lines: Option<At<Count<0, 100_000>>>,
    }

    /// A capability of a component that serves, with its object.
    struct ServiceGrantBlock ExactlyOneOf(env, config, dir, http) {
        /// Environment variables by name. A value `file:PATH` is replaced by the content of that file.
        env: Option<Pairs<SecretText>>,
        /// What `wasi:config/store` gives, by key. A value `file:PATH` is replaced by the content of that file.
        config: Option<Pairs<SecretText>>,
        /// Folders that the component may read, by the path under which it finds them.
        dir: Option<Pairs<At<String>>>,
        /// The clusters to which the component may send requests; each is the host of its URLs.
        http: Option<At<Vec<At<String>>>>,
    }

    /// A way to share instances, with its number.
    struct InstancesBlock ExactlyOneOf(concurrent) {
        /// Exchanges at once in one instance. WASI 0.3 only.
        concurrent: Option<Count<2, 10_000>>,
    }

    /// How many requests may be sent once more, shared by the workers in equal parts.
    struct RetryBudget = "{ share: 20% }" {
        /// The part of the requests of the last 10 seconds. Default `20%`.
        share: Option<Percent<0, 10_000>>,
        /// So many in each second are allowed anyhow, so that a few requests may be retried too. Default 3.
        min_per_second: Option<Count<0, 100_000>>,
    }

    /// Which requests go where.
    struct Route ExactlyOneOf(cluster, clusters, redirect, respond) = "{ cluster: NAME }" {
        /// Unique. Default `route-N`, by position from 1.
        name: Option<At<String>>,
        /// Which requests; all parts must hold. Default: every request.
        r#match: Option<Match>,
        /// Filters that run after the listener's, in this order; for responses in reverse.
        filters: Option<Vec<FilterUse>>,
        /// The cluster that answers.
        cluster: Option<At<String>>,
        /// Several clusters that share the requests by weight.
        clusters: Option<At<Vec<WeightedCluster>>>,
        /// Answer with a redirect.
        redirect: Option<Redirect>,
        /// Answer with a fixed response.
        respond: Option<Respond>,
        /// From the end of the request's head to the end of the response, or `off`. Default `15s`.
        timeout: Option<OffOr<Period>>,
        /// When a request is sent once more, `{}` with all defaults. Default: what was never sent goes to another
        /// endpoint, once.
        retry: Option<At<Retry>>,
        /// Path and host that the upstream gets; filters, routes and the log go by those that the client sent.
        rewrite: Option<At<Rewrite>>,
        /// Another cluster that gets copies of requests; its answers are read and dropped.
        mirror: Option<At<Mirror>>,
        /// Header fields that the upstream gets; filters see those that the client sent.
        request_headers: Option<At<HeaderEdits>>,
        /// Header fields that the client gets, after all filters and whoever answers.
        response_headers: Option<HeaderEdits>,
        /// Whether the deadline that a client of gRPC sets (`grpc-timeout`) ends the call, if it is sooner. Default
        /// `honor`.
        grpc_timeout: Option<GrpcTimeout>,
        /// Protocols that a request may change its connection to (`Upgrade`). Default `[websocket]`.
        upgrades: Option<Vec<At<String>>>,
    }

    /// Another cluster that gets copies of requests, as the upstream gets them and with `x-tamis-mirror: true`. Nothing
    /// waits for it.
    struct Mirror = "{ cluster: NAME }" {
        /// Name of the cluster.
        cluster: Required<At<String>>,
        /// The part of the requests that are copied. Default `100%`.
        percent: Option<Percent<1, 10_000>>,
        /// What of a body may wait for the mirror; one that falls further behind is cut off. Default `256KiB`.
        buffer: Option<Size<1_024, { 16 << 20 }>>,
    }

    /// What the upstream gets in place of what the client sent.
    struct Rewrite AtLeastOneOf(path, host) = "{ path: { prefix: /new } }" | "{ host: app.example }" {
        /// The path. The query stays.
        path: Option<PathRewrite>,
        /// The host, and a port if it needs one. `x-forwarded-host` says what the client asked for.
        host: Option<At<String>>,
    }

    /// What becomes of the path. The result is made normal like a client's, and refused with 400 where that fails.
    struct PathRewrite ExactlyOneOf(prefix, to) = "{ prefix: /new }" | "{ to: /new }" {
        /// Takes the place of the prefix that the route matches.
        prefix: Option<At<String>>,
        /// Which paths are rewritten: a regular expression for the whole path. Default: all.
        regex: Option<At<String>>,
        /// The new path. `{path}` stands for the old one, `{1}` or `{NAME}` for a group of `regex`; `{{` and `}}` for
        /// plain braces.
        to: Option<At<String>>,
    }

    /// Changes of header fields, in the order of the keys. Names of framing and of the connection cannot be among them.
    struct HeaderEdits AtLeastOneOf(remove, set, append) = "{ set: { x-name: value } }" {
        /// Names.
        remove: Option<Vec<At<String>>>,
        /// Fields by name, which replace all of that name.
        set: Option<Pairs<At<String>>>,
        /// Fields by name, which are added.
        append: Option<Pairs<At<String>>>,
    }

    /// When a request is sent once more, each time to another endpoint if there is one. `timeout` spans all tries.
    struct Retry = "{}" | "{ attempts: 3 }" {
        /// What is tried again. Default `[connect_failure, reset, timeout, gateway_error]`.
        on: Option<At<Vec<At<RetryCondition>>>>,
        /// Tries in all, the first one included. Default 3.
        attempts: Option<Count<2, 10>>,
        /// How long one try may wait for its response, anew with each piece of the request's body. Default:
        /// `read_timeout` of the cluster.
        per_try_timeout: Option<At<Period>>,
        /// The methods that may be sent twice; after a failed connect any may. Default: those of which a repetition
        /// does no harm (GET, HEAD, OPTIONS, TRACE, PUT, DELETE).
        methods: Option<At<Vec<At<String>>>>,
        /// How long to wait before.
        backoff: Option<Backoff>,
        /// What is kept of a request's body for another try; a longer one is not sent twice. Default `64KiB`.
        max_body: Option<Size<0, { 16 << 20 }>>,
    }

    /// How long to wait before another try: any time up to `base`, up to twice that before the next one, and so on.
    struct Backoff = "{ base: 25ms }" {
        /// Default `25ms`.
        base: Option<At<Period>>,
        /// Where the doubling ends. A response with a longer `Retry-After` is not tried again. Default ten times
        /// `base`.
        max: Option<At<Period>>,
    }

    /// Which requests; all parts must hold.
    struct Match = "{ path: { prefix: /api/ } }" {
        /// Host names, `*.` in front for any subdomain. The port of the request plays no part.
        hosts: Option<At<Vec<At<String>>>>,
        /// The path, without the query.
        path: Option<Path>,
        /// Any of these methods.
        methods: Option<At<Vec<At<String>>>>,
        /// Header fields by name: the value, or how to compare it.
        headers: Option<Pairs<Comparison>>,
        /// Query parameters by name: the value, or how to compare it.
        query: Option<Pairs<Comparison>>,
        /// The client's certificate, which has to lead to an authority of the listener.
        client_certificate: Option<At<ClientCertificate>>,
    }

    /// The client's certificate; all parts must hold.
    struct ClientCertificate AtLeastOneOf(present, subject, san, fingerprint) = "{ present: true }" {
        /// Any certificate will do.
        present: Option<True>,
        /// Its subject as RFC 4514 writes it, as in `CN=web,O=Acme`: the value, or how to compare it.
        subject: Option<Comparison>,
        /// Any of its subject alternative names, as in `DNS:web.example`, `URI:spiffe://acme/web`, `IP:10.0.0.1` or
        /// `email:web@acme.example`: the value, or how to compare it.
        san: Option<Comparison>,
        /// Any of these SHA-256 fingerprints: 64 hexadecimal digits, with colons or without.
        fingerprint: Option<At<Vec<At<String>>>>,
    }

    /// How to compare the path.
    struct Path ExactlyOneOf(exact, prefix, regex) = "{ prefix: /api/ }" | "{ exact: /api/ }" {
        /// The whole path.
        exact: Option<At<String>>,
        /// Whole segments from the front: `/v1` matches `/v1` and `/v1/x`, never `/v10`.
        prefix: Option<At<String>>,
        /// A regular expression for the whole path.
        regex: Option<At<String>>,
    }

    /// How to compare a value.
    struct ComparisonBlock ExactlyOneOf(exact, regex, present) {
        /// The whole value.
        exact: Option<At<String>>,
        /// A regular expression for the whole value.
        regex: Option<At<String>>,
        /// Any value will do.
        present: Option<At<True>>,
    }

    /// A cluster and its share.
    struct WeightedCluster = "{ name: NAME, weight: 1 }" {
        /// Name of the cluster.
        name: Required<At<String>>,
        /// Its share among the clusters of the route; 0 if filters alone choose it.
        weight: Required<Count<0, 1000>>,
    }

    /// A redirect. Parts not given are taken from the request; at least one must be given, or it would never end.
    struct Redirect AtLeastOneOf(scheme, host, port, path) = "{ scheme: https, host: a.example }" | "{ path: /new }" {
        /// 301, 302, 303, 307 or 308. Default 302.
        status: Option<At<Count<301, 308>>>,
        /// `http` or `https`.
        scheme: Option<At<String>>,
        /// Host name, without a port.
        host: Option<At<String>>,
        /// Port.
        port: Option<Count<1, 65_535>>,
        /// Replaces path and query.
        path: Option<At<String>>,
    }

    /// A fixed response.
    struct Respond = "{ status: 200 }" {
        /// 200 to 599.
        status: Required<At<Count<200, 599>>>,
        /// Header fields by name.
        headers: Option<Pairs<At<String>>>,
        /// The body. Default: empty.
        body: Option<At<String>>,
    }
}

/// A filter's name, or a block.
pub(crate) type FilterUse = At<ShortOr<At<String>, FilterUseBlock>>;

/// A capability's name, or a block.
pub(crate) type Grant = At<ShortOr<GrantWord, GrantBlock>>;

/// A capability's name, or a block.
pub(crate) type ServiceGrant = At<ShortOr<ServiceGrantWord, ServiceGrantBlock>>;

/// A way that needs no number, or a block.
pub(crate) type Instances = ShortOr<InstancesWord, InstancesBlock>;

/// What needs no name, or a block.
pub(crate) type CandidateKey = ShortOr<KeyWord, CandidateKeyBlock>;

/// `https`, or a block.
pub(crate) type HttpsRedirect = ShortOr<HttpsWord, HttpsRedirectBlock>;

/// An address, or a block.
pub(crate) type Endpoint = ShortOr<EndpointAddress, EndpointBlock>;

/// What needs no name, or a block.
pub(crate) type HashKey = ShortOr<HashWord, HashKeyBlock>;

/// The exact value, or a block.
pub(crate) type Comparison = ShortOr<At<String>, ComparisonBlock>;

impl Noun for Listener {
    const NOUN: &'static str = "listener";
}

impl Noun for Filter {
    const NOUN: &'static str = "filter";
}

impl Noun for Cluster {
    const NOUN: &'static str = "cluster";
}

/// The routes in order, each with the name by which messages call it.
pub(crate) struct Routes(pub(crate) Vec<(String, At<Route>)>);

impl FromNode for Routes {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            reader.mismatch(node, "a list of routes");
            return None;
        };
        let read = |(index, item): (usize, &Node)| {
            let name = route_name(index, item);
            let route = reader.within_item(route_label(&name), |reader| At::from_node(item, reader))?;
            Some((name, route))
        };
        let readable: Vec<_> = items.iter().enumerate().filter_map(read).collect();
        if readable.is_empty() && !items.is_empty() {
            None
        } else {
            Some(Self(readable))
        }
    }
}

/// How messages call a route.
pub(crate) fn route_label(name: &str) -> String {
    format!("route `{name}`")
}

/// The name as written, or by position, before anything is known to be right.
fn route_name(index: usize, node: &Node) -> String {
    match node.child("name").map(|name| &name.value) {
        Some(Value::Text(name)) => quote(name),
        _ => format!("route-{}", index + 1),
    }
}

impl JsonSchema for Routes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Routes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <Vec<Route>>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path as File;

    use super::*;
    use crate::environment::System;
    use crate::place::Place;

    /// What a block says to a text in its place.
    pub(super) fn faults<T: FromNode>(text: &str) -> Vec<String> {
        let file = File::new("tamis.yaml");
        let node = Node::parse(text, &Place::file(file)).expect("it is YAML");
        let mut reader = Reader::new(file, &System);
        T::from_node(&node, &mut reader);
        let (errors, _) = reader.finish();
        errors.into_iter().map(|error| error.message).collect()
    }

    /// Who is shown a form and copies it is not refused for it.
    #[test]
    fn every_form_is_a_form_of_its_block() {
        let forms = forms();
        assert!(forms.len() > 30, "{}", forms.len());
        for (form, faults) in forms {
            assert!(faults.is_empty(), "{form}: {faults:?}");
        }
    }
}
