//! A configuration as JSON, for `GET /config`: what is in force, with every default filled in.
//!
//! Control plane. Shows a filter's settings in their redacted form alone. Uses the words of the YAML vocabulary.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::model::{
    AccessLog, Action, Breaker, Candidate, CandidateKey, CertificateFiles, CertificatePattern, Cluster, ClusterLimits,
    ClusterTls, ComponentKind, Config, Dns, Endpoint, Endpoints, Filter, FilterKind, FilterLimits, FilterUse, Grant,
    HashKey, HeaderEdits, HealthCheck, HostPattern, Http2Limits, Instances, Listener, ListenerLimits, ListenerTls,
    LoadBalancing, LogFormat, LogPart, LogTarget, Mirror, OutlierEjection, Overload, PathPart, PathPattern,
    PathRewrite, Peers, Probe, Redirect, Reload, Respond, Retry, RetryBudget, RetryOn, Rewrite, Route, RouteMatch,
    Service, ServiceGrant, ServiceLimits, Sticky, Target, UpstreamHttp2, UpstreamProtocol, ValuePattern, Verify, Wasm,
    WeightedCluster,
};
use crate::settings::REDACTED;
use crate::units::{show_duration, show_percent, show_size};
use crate::word::Word as _;

impl Config {
    /// The configuration in force, in the words of the YAML and with every default filled in. In filters' `config`
    /// each string that came from `${NAME}` or `file:PATH` is shown as `[redacted]`.
    pub fn describe(&self) -> Json {
        let mut described = self.describe_process();
        described["dns"] = dns(&self.dns);
        described["overload"] = overload(&self.overload);
        described["listeners"] = named(self.listeners.iter().map(|item| (&item.name, listener(self, item))));
        described["filters"] = named(self.filters.iter().map(|item| (&item.name, filter(self, item))));
        described["clusters"] = named(self.clusters.iter().map(|item| (&item.name, cluster(item))));
        described["routes"] = self.routes.iter().map(|item| route(self, item)).collect();
        described
    }

    /// The part of it that is about the process as a whole.
    pub fn describe_process(&self) -> Json {
        json!({
            "workers": self.workers,
            "drain_timeout": show_duration(self.drain_timeout),
            "drain_delay": timeout(self.drain_delay),
            "reload": reload(&self.reload),
            "wasm": wasm(&self.wasm),
            "admin": self.admin.as_ref().map_or(json!("off"), |address| json!({ "address": address.to_string() })),
            "access_log": access_log(&self.access_log),
        })
    }
}

/// The same wherever the configuration was read from: a path that it resolves is relative when its own is.
fn whole(path: &Path) -> String {
    std::path::absolute(path).map_or_else(|_| path.display().to_string(), |path| path.display().to_string())
}

fn named<'a>(items: impl Iterator<Item = (&'a String, Json)>) -> Json {
    Json::Object(items.map(|(name, item)| (name.clone(), item)).collect())
}

fn reload(reload: &Reload) -> Json {
    json!({ "max_age": timeout(reload.max_age), "max_generations": reload.max_generations })
}

fn wasm(wasm: &Wasm) -> Json {
    json!({
        "max_instances": wasm.max_instances,
        "max_memory": show_size(wasm.max_memory),
        "max_table_elements": wasm.max_table_elements,
        "max_service_instances": wasm.max_service_instances,
        "max_service_memory": show_size(wasm.max_service_memory),
        "max_stack": show_size(wasm.max_stack as u64),
        "cache": wasm.cache.as_ref().map_or("off".to_owned(), |path| whole(path)),
        "max_component": show_size(wasm.max_component),
        "compile_threads": wasm.compile_threads,
        "compile_timeout": show_duration(wasm.compile_timeout),
    })
}

fn access_log(log: &AccessLog) -> Json {
    let format = match &log.format {
        LogFormat::Json => "json".to_owned(),
        LogFormat::Text(parts) => parts.iter().map(log_part).collect(),
    };
    match &log.target {
        LogTarget::Off => json!("off"),
        LogTarget::Stdout => json!({ "stdout": true, "format": format, "queue": log.queue }),
        LogTarget::File(path) => json!({ "file": whole(path), "format": format, "queue": log.queue }),
    }
}

fn log_part(part: &LogPart) -> String {
    match part {
        LogPart::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
        LogPart::Field(field) => format!("{{{}}}", field.word()),
        LogPart::Attribute(name) => format!("{{attribute:{name}}}"),
    }
}

fn listener(config: &Config, listener: &Listener) -> Json {
    let mut described = json!({
        "address": listener.address.to_string(),
        "protocols": listener.protocols.iter().map(|protocol| protocol.word()).collect::<Vec<_>>(),
        "filters": chain(config, &listener.filters),
        "limits": listener_limits(&listener.limits),
        "trusted_proxies": peers(&listener.trusted_proxies),
    });
    if listener.proxy_protocol != Peers::default() {
        described["proxy_protocol"] = json!({ "from": peers(&listener.proxy_protocol) });
    }
    if let Some(tls) = &listener.tls {
        described["tls"] = listener_tls(tls);
    }
    if let Some(redirect) = &listener.redirect {
        described["redirect"] = json!({ "status": redirect.status, "port": redirect.port });
    }
    described
}

fn listener_tls(tls: &ListenerTls) -> Json {
    let mut described = json!({
        "certificates": tls.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "min_version": tls.min_version.word(),
    });
    if let Some(auth) = &tls.client_auth {
        described["client_ca"] = json!(whole(&auth.ca));
        described["client_auth"] = json!(auth.mode.word());
        if let Some(crl) = &auth.crl {
            described["client_crl"] = json!(whole(crl));
        }
    }
    described
}

fn certificate(files: &CertificateFiles) -> Json {
    json!({ "cert": whole(&files.cert), "key": whole(&files.key) })
}

fn peers(peers: &Peers) -> Vec<String> {
    let networks = peers.networks.iter().map(ToString::to_string);
    networks.chain(peers.unix.then(|| "unix".to_owned())).collect()
}

fn listener_limits(limits: &ListenerLimits) -> Json {
    json!({
        "tls_handshake_timeout": show_duration(limits.tls_handshake_timeout),
        "max_handshakes": limits.max_handshakes,
        "head_timeout": show_duration(limits.head_timeout),
        "idle_timeout": show_duration(limits.idle_timeout),
        "body_timeout": show_duration(limits.body_timeout),
        "write_timeout": show_duration(limits.write_timeout),
        "tunnel_idle_timeout": show_duration(limits.tunnel_idle_timeout),
        "max_head_bytes": show_size(limits.max_head_bytes as u64),
        "max_field_bytes": show_size(limits.max_field_bytes as u64),
        "max_fields": limits.max_fields,
        "max_target_bytes": show_size(limits.max_target_bytes as u64),
        "max_connections": limits.max_connections,
        "max_connections_per_address": limits.max_connections_per_address.map_or(json!("off"), |count| json!(count)),
        "max_exchanges": limits.max_exchanges,
        "max_requests": limits.max_requests,
        "http2": http2_limits(&limits.http2),
    })
}

fn http2_limits(limits: &Http2Limits) -> Json {
    json!({
        "max_streams": limits.max_streams,
        "max_streams_per_address": limits.max_streams_per_address,
        "stream_window": show_size(limits.stream_window.into()),
        "connection_window": show_size(limits.connection_window.into()),
        "send_buffer": show_size(limits.send_buffer as u64),
        "max_header_list": show_size(limits.max_header_list.into()),
        "max_resets": limits.max_resets,
        "max_control_frames": limits.max_control_frames,
        "min_progress": show_size(limits.min_progress as u64),
        "ping_interval": limits.ping_interval.map_or_else(|| "off".to_owned(), show_duration),
        "ping_timeout": show_duration(limits.ping_timeout),
    })
}

fn chain(config: &Config, uses: &[FilterUse]) -> Vec<Json> {
    uses.iter().map(|filter_use| one_use(config, filter_use)).collect()
}

fn one_use(config: &Config, filter_use: &FilterUse) -> Json {
    let name = config.filters.get(filter_use.filter).map(|filter| filter.name.as_str());
    match &filter_use.config {
        None => json!(name),
        Some(settings) => json!({ "filter": name, "config": settings.redacted }),
    }
}

fn filter(config: &Config, filter: &Filter) -> Json {
    let mut described = Map::new();
    match &filter.kind {
        FilterKind::Component(path) => {
            described.insert("component".to_owned(), json!(whole(path)));
            let of_filter = filter.grants.iter().map(|granted| grant(config, granted));
            let of_middleware = filter.middleware.grants.iter().map(service_grant);
            // `random` is of both.
            let mut grants: Vec<Json> = of_filter.collect();
            for granted in of_middleware {
                if !grants.contains(&granted) {
                    grants.push(granted);
                }
            }
            described.insert("grants".to_owned(), json!(grants));
            let is_middleware = filter.wanted == Some(ComponentKind::Middleware) || !filter.middleware.own.is_empty();
            let limits = match is_middleware {
                true => middleware_limits(&filter.middleware.limits, filter.limits.wait),
                false => filter_limits(&filter.limits),
            };
            described.insert("limits".to_owned(), limits);
            if let Some(kind) = filter.wanted {
                described.insert("kind".to_owned(), json!(kind.word()));
            }
            if let Some(ways) = filter.middleware.instances {
                described.insert("instances".to_owned(), instances(ways));
            }
            described.insert("breaker".to_owned(), breaker(filter.breaker.as_ref()));
            described.insert("tick".to_owned(), json!(filter.tick.map(show_duration)));
            described.insert("instance_reuse".to_owned(), json!(filter.instance_reuse));
            if let Some(tried) = &filter.candidate {
                described.insert("candidate".to_owned(), candidate(tried));
            }
        }
        FilterKind::Native(name) => {
            described.insert("native".to_owned(), json!(name));
        }
    }
    described.insert("config".to_owned(), filter.config.redacted.clone());
    described.insert("on_failure".to_owned(), json!(filter.on_failure.word()));
    Json::Object(described)
}

fn grant(config: &Config, grant: &Grant) -> Json {
    match grant {
        Grant::KeyValue(Some(table)) => json!({ "key_value": table }),
        Grant::Outbound(clusters) => {
            let name = |index: &usize| config.clusters.get(*index).map(|cluster| cluster.name.as_str());
            json!({ "outbound": clusters.iter().map(name).collect::<Vec<_>>() })
        }
        _ => json!(grant.word()),
    }
}

fn breaker(breaker: Option<&Breaker>) -> Json {
    let Some(breaker) = breaker else { return json!("off") };
    json!({
        "failures": breaker.failures,
        "within": show_duration(breaker.within),
        "backoff": show_duration(breaker.backoff),
        "max_backoff": show_duration(breaker.max_backoff),
    })
}

/// What it has of the filter is left out.
fn candidate(candidate: &Candidate) -> Json {
    let percent = |part: Option<u32>| part.map_or("off".to_owned(), show_percent);
    let key = match &candidate.key {
        CandidateKey::RequestId => json!("request_id"),
        CandidateKey::ClientAddress => json!("client_address"),
        CandidateKey::Header(name) => json!({ "header": name }),
        CandidateKey::Cookie(name) => json!({ "cookie": name }),
    };
    let mut described = Map::new();
    if let Some(path) = &candidate.component {
        described.insert("component".to_owned(), json!(whole(path)));
    }
    if let Some(settings) = &candidate.config {
        described.insert("config".to_owned(), settings.redacted.clone());
    }
    described.insert("share".to_owned(), json!(show_percent(candidate.share)));
    described.insert("key".to_owned(), key);
    described.insert("window".to_owned(), json!(show_duration(candidate.window)));
    described.insert("min_calls".to_owned(), json!(candidate.min_calls));
    let tolerate = json!({
        "failures": percent(candidate.tolerate.failures),
        "replies": percent(candidate.tolerate.replies),
        "p99": percent(candidate.tolerate.p99),
        "p99_floor": show_duration(candidate.tolerate.p99_floor),
    });
    described.insert("tolerate".to_owned(), tolerate);
    described.insert("when_good".to_owned(), json!(candidate.when_good.word()));
    Json::Object(described)
}

fn filter_limits(limits: &FilterLimits) -> Json {
    json!({
        "memory": show_size(limits.memory),
        "table_elements": limits.table_elements,
        "cpu": show_duration(limits.cpu),
        "exchange_cpu": show_duration(limits.exchange_cpu),
        "wall": show_duration(limits.wall),
        "wait": show_duration(limits.wait),
        "instances": limits.instances,
        "header_bytes": show_size(limits.header_bytes as u64),
        "body_bytes": show_size(limits.body_bytes as u64),
        "lifted_bytes": show_size(limits.lifted_bytes as u64),
        "outbound_calls": limits.outbound_calls,
        "outbound_concurrent": limits.outbound_concurrent,
        "key_value_bytes": show_size(limits.key_value_bytes as u64),
        "key_value_keys": limits.key_value_keys,
        "log_lines": limits.log_lines,
    })
}

fn middleware_limits(limits: &ServiceLimits, wait: Duration) -> Json {
    let mut described = json!({ "wait": show_duration(wait) });
    service_limits(limits, &mut described);
    described
}

fn dns(dns: &Dns) -> Json {
    json!({
        "servers": dns.servers.as_ref().map(|servers| servers.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "timeout": show_duration(dns.timeout),
        "min_ttl": show_duration(dns.min_ttl),
        "max_ttl": show_duration(dns.max_ttl),
    })
}

fn overload(overload: &Overload) -> Json {
    let count = |count: Option<usize>| count.map_or(json!("off"), |count| json!(count));
    json!({
        "max_connections": count(overload.max_connections),
        "max_exchanges": count(overload.max_exchanges),
        "memory": overload.memory.as_ref().map_or(json!("off"), |memory| json!({
            "limit": memory.limit.map(show_size),
            "disable_keep_alive": show_percent(memory.disable_keep_alive),
            "stop_accepting_requests": show_percent(memory.stop_accepting_requests),
            "stop_accepting_connections": show_percent(memory.stop_accepting_connections),
            "recovery": show_percent(memory.recovery),
        })),
    })
}

fn cluster(cluster: &Cluster) -> Json {
    let mut described = json!({
        "load_balancing": cluster.load_balancing.word(),
        "slow_start": timeout(cluster.slow_start),
        "panic_threshold": show_percent(cluster.panic_threshold),
        "sticky": cluster.sticky.as_ref().map_or(json!("off"), sticky),
        "health_check": cluster.health_check.as_ref().map_or(json!("off"), health_check),
        "outlier_ejection": cluster.outlier_ejection.as_ref().map_or(json!("off"), outlier_ejection),
        "limits": cluster_limits(&cluster.limits),
        "retry_budget": retry_budget(&cluster.retry_budget),
        "connect_timeout": show_duration(cluster.connect_timeout),
        "idle_timeout": show_duration(cluster.idle_timeout),
        "max_idle": cluster.max_idle,
        "read_timeout": show_duration(cluster.read_timeout),
        "protocol": cluster.protocol.word(),
        "proxy_protocol": cluster.proxy_protocol.map(|version| version.word()),
    });
    if cluster.protocol != UpstreamProtocol::Http1 {
        described["http2"] = upstream_http2(&cluster.http2);
    }
    match &cluster.endpoints {
        Endpoints::Listed(listed) => described["endpoints"] = listed.iter().map(endpoint).collect(),
        Endpoints::File(path) => described["endpoints_file"] = json!(whole(path)),
        Endpoints::Component(component) => service(component, &mut described),
    }
    if matches!(cluster.load_balancing, LoadBalancing::RingHash | LoadBalancing::Maglev) {
        described["hash_key"] = hash_key(&cluster.hash_key);
    }
    if let Some(tls) = &cluster.tls {
        described["tls"] = cluster_tls(tls);
    }
    described
}

/// What is about servers is left out.
fn service(service: &Service, described: &mut Json) {
    if let Some(described) = described.as_object_mut() {
        let of_servers = [
            "load_balancing",
            "slow_start",
            "panic_threshold",
            "sticky",
            "health_check",
            "idle_timeout",
            "max_idle",
            "protocol",
            "proxy_protocol",
        ];
        described.retain(|key, _| !of_servers.contains(&key.as_str()));
    }
    described["component"] = json!(whole(&service.component));
    described["grants"] = service.grants.iter().map(service_grant).collect();
    described["instances"] = service.instances.map_or(Json::Null, instances);
    described["instance_reuse"] = json!(service.instance_reuse);
    service_limits(&service.limits, &mut described["limits"]);
}

fn instances(ways: Instances) -> Json {
    match ways {
        Instances::Fresh => json!("fresh"),
        Instances::Exclusive => json!("exclusive"),
        Instances::Concurrent(count) => json!({ "concurrent": count }),
    }
}

fn service_limits(limits: &ServiceLimits, described: &mut Json) {
    described["memory"] = json!(show_size(limits.memory));
    described["cpu"] = json!(show_duration(limits.cpu));
    described["wall"] = json!(show_duration(limits.wall));
    described["instances"] = json!(limits.instances);
    described["header_bytes"] = json!(show_size(limits.header_bytes as u64));
    described["handles"] = json!(limits.handles);
    described["calls"] = json!(limits.calls);
    described["call_timeout"] = json!(show_duration(limits.call_timeout));
    described["key_value_bytes"] = json!(show_size(limits.key_value_bytes as u64));
    described["key_value_keys"] = json!(limits.key_value_keys);
    described["log_lines"] = json!(limits.log_lines);
}

/// Values may be secrets.
fn service_grant(grant: &ServiceGrant) -> Json {
    match grant {
        ServiceGrant::Env(values) | ServiceGrant::Config(values) => {
            let redacted = values.iter().map(|(name, _)| (name.clone(), json!(REDACTED)));
            json!({ grant.word(): Json::Object(redacted.collect()) })
        }
        ServiceGrant::Dir(folders) => {
            let shown = folders.iter().map(|(guest, host)| (guest.clone(), json!(whole(host))));
            json!({ "dir": Json::Object(shown.collect()) })
        }
        ServiceGrant::Http(clusters) => json!({ "http": clusters }),
        _ => json!(grant.word()),
    }
}

fn upstream_http2(limits: &UpstreamHttp2) -> Json {
    json!({
        "max_streams": limits.max_streams,
        "stream_window": show_size(limits.stream_window.into()),
        "send_buffer": show_size(limits.send_buffer as u64),
        "max_header_list": show_size(limits.max_header_list.into()),
        "max_resets": limits.max_resets,
        "max_control_frames": limits.max_control_frames,
        "ping_interval": timeout(limits.ping_interval),
        "ping_timeout": show_duration(limits.ping_timeout),
    })
}

fn cluster_tls(tls: &ClusterTls) -> Json {
    let mut described = json!({
        "alpn": tls.alpn.iter().map(|protocol| protocol.word()).collect::<Vec<_>>(),
        "min_version": tls.min_version.word(),
    });
    match &tls.verify {
        Verify::System => {}
        Verify::Ca(path) => described["ca"] = json!(whole(path)),
        Verify::Nobody => described["unsafe_skip_verify"] = json!(true),
    }
    if let Some(name) = &tls.server_name {
        described["server_name"] = json!(name);
    }
    if let Some(files) = &tls.client_certificate {
        described["client_certificate"] = certificate(files);
    }
    described
}

fn endpoint(endpoint: &Endpoint) -> Json {
    match &endpoint.target {
        Target::Service(name) => json!({ "srv": name }),
        target => {
            json!({ "address": target.to_string(), "weight": endpoint.weight, "priority": endpoint.priority })
        }
    }
}

fn hash_key(key: &HashKey) -> Json {
    match key {
        HashKey::ClientAddress => json!("client_address"),
        HashKey::Path => json!("path"),
        HashKey::Header(name) => json!({ "header": name }),
        HashKey::Cookie(name) => json!({ "cookie": name }),
    }
}

fn sticky(sticky: &Sticky) -> Json {
    json!({
        "cookie": sticky.cookie,
        "path": sticky.path,
        "max_age": sticky.max_age.map(show_duration),
        "secret": sticky.secret.as_ref().map(|_| REDACTED),
    })
}

fn health_check(check: &HealthCheck) -> Json {
    let mut described = json!({
        "interval": show_duration(check.interval),
        "jitter": show_percent(check.jitter),
        "timeout": show_duration(check.timeout),
        "healthy_threshold": check.healthy_threshold,
        "unhealthy_threshold": check.unhealthy_threshold,
    });
    match &check.probe {
        Probe::Tcp => described["tcp"] = json!(true),
        Probe::Grpc { service } => described["grpc"] = json!({ "service": service }),
        Probe::Http { path, host, statuses } => {
            described["http"] = json!({ "path": path, "host": host, "statuses": statuses });
        }
    }
    described
}

fn outlier_ejection(outlier: &OutlierEjection) -> Json {
    let success_rate = outlier.success_rate.as_ref().map_or(json!("off"), |rate| {
        json!({
            "deviations": show_percent(rate.deviations),
            "min_requests": rate.min_requests,
            "min_endpoints": rate.min_endpoints,
        })
    });
    json!({
        "consecutive_failures": outlier.consecutive_failures.map_or(json!("off"), |count| json!(count)),
        "success_rate": success_rate,
        "interval": show_duration(outlier.interval),
        "ejection_time": show_duration(outlier.ejection_time),
        "max_ejection_time": show_duration(outlier.max_ejection_time),
        "max_ejected": show_percent(outlier.max_ejected),
    })
}

fn cluster_limits(limits: &ClusterLimits) -> Json {
    json!({
        "max_connections": limits.max_connections,
        "max_pending": limits.max_pending,
        "max_requests": limits.max_requests,
        "max_retries": limits.max_retries,
    })
}

fn retry_budget(budget: &RetryBudget) -> Json {
    json!({ "share": show_percent(budget.share), "min_per_second": budget.min_per_second })
}

fn route(config: &Config, route: &Route) -> Json {
    let (key, action) = action(config, &route.action);
    json!({
        "name": route.name,
        "match": route_match(&route.matches),
        "filters": chain(config, &route.filters),
        key: action,
        "timeout": timeout(route.timeout),
        "retry": route.retry.as_ref().map(retry),
        "rewrite": route.rewrite.as_ref().map(rewrite),
        "mirror": route.mirror.as_ref().map(|item| mirror(config, item)),
        "request_headers": header_edits(&route.request_headers),
        "response_headers": header_edits(&route.response_headers),
        "grpc_timeout": route.grpc_timeout.word(),
        "upgrades": route.upgrades,
    })
}

fn mirror(config: &Config, mirror: &Mirror) -> Json {
    json!({
        "cluster": config.clusters.get(mirror.cluster).map(|cluster| cluster.name.as_str()),
        "percent": show_percent(mirror.percent),
        "buffer": show_size(mirror.buffer as u64),
    })
}

fn rewrite(rewrite: &Rewrite) -> Json {
    let part = |part: &PathPart| match part {
        PathPart::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
        PathPart::Path => "{path}".to_owned(),
        PathPart::Group(number) => format!("{{{number}}}"),
    };
    let path = rewrite.path.as_ref().map(|path| match path {
        PathRewrite::Prefix { to, .. } => json!({ "prefix": to }),
        PathRewrite::Template { regex, to } => json!({ "regex": regex, "to": to.iter().map(part).collect::<String>() }),
    });
    json!({ "path": path, "host": rewrite.host })
}

/// `null` when there are none.
fn header_edits(edits: &HeaderEdits) -> Json {
    if edits.is_empty() {
        return Json::Null;
    }
    let fields = |fields: &[(String, String)]| named(fields.iter().map(|(name, value)| (name, json!(value))));
    json!({ "remove": edits.remove, "set": fields(&edits.set), "append": fields(&edits.append) })
}

fn retry(retry: &Retry) -> Json {
    let condition = |on: &RetryOn| match on {
        RetryOn::Status(status) => json!(status),
        word => json!(word.word()),
    };
    json!({
        "on": retry.on.iter().map(condition).collect::<Vec<_>>(),
        "attempts": retry.attempts,
        "per_try_timeout": retry.per_try_timeout.map(show_duration),
        "methods": retry.methods,
        "backoff": { "base": show_duration(retry.backoff), "max": show_duration(retry.max_backoff) },
        "max_body": show_size(retry.max_body as u64),
    })
}

fn timeout(timeout: Option<Duration>) -> String {
    timeout.map_or("off".to_owned(), show_duration)
}

/// Parts that hold for every request are left out.
fn route_match(matches: &RouteMatch) -> Json {
    let mut described = Map::new();
    if !matches.hosts.is_empty() {
        described.insert("hosts".to_owned(), matches.hosts.iter().map(host).collect());
    }
    if let Some(pattern) = &matches.path {
        described.insert("path".to_owned(), path(pattern));
    }
    if !matches.methods.is_empty() {
        described.insert("methods".to_owned(), json!(matches.methods));
    }
    if !matches.headers.is_empty() {
        let headers = matches
            .headers
            .iter()
            .map(|header| (&header.name, value(&header.value)));
        described.insert("headers".to_owned(), named(headers));
    }
    if !matches.query.is_empty() {
        let query = matches
            .query
            .iter()
            .map(|parameter| (&parameter.name, value(&parameter.value)));
        described.insert("query".to_owned(), named(query));
    }
    if let Some(pattern) = &matches.certificate {
        described.insert("client_certificate".to_owned(), client_certificate(pattern));
    }
    Json::Object(described)
}

fn client_certificate(pattern: &CertificatePattern) -> Json {
    let mut described = Map::new();
    let values = [("subject", &pattern.subject), ("san", &pattern.name)];
    for (key, pattern) in values {
        if let Some(pattern) = pattern {
            described.insert(key.to_owned(), value(pattern));
        }
    }
    if !pattern.fingerprints.is_empty() {
        described.insert("fingerprint".to_owned(), json!(pattern.fingerprints));
    }
    if described.is_empty() {
        described.insert("present".to_owned(), json!(true));
    }
    Json::Object(described)
}

fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(parent) => format!("*.{parent}"),
    }
}

fn path(pattern: &PathPattern) -> Json {
    match pattern {
        PathPattern::Exact(path) => json!({ "exact": path }),
        PathPattern::Prefix(path) => json!({ "prefix": path }),
        PathPattern::Regex(regex) => json!({ "regex": regex }),
    }
}

fn value(pattern: &ValuePattern) -> Json {
    match pattern {
        ValuePattern::Present => json!({ "present": true }),
        ValuePattern::Exact(value) => json!({ "exact": value }),
        ValuePattern::Regex(regex) => json!({ "regex": regex }),
    }
}

fn action(config: &Config, action: &Action) -> (&'static str, Json) {
    match action {
        Action::Clusters(shares) => ("clusters", shares.iter().map(|share| weighted(config, share)).collect()),
        Action::Redirect(target) => ("redirect", redirect(target)),
        Action::Respond(response) => ("respond", respond(response)),
    }
}

fn weighted(config: &Config, share: &WeightedCluster) -> Json {
    let name = config.clusters.get(share.cluster).map(|cluster| cluster.name.as_str());
    json!({ "name": name, "weight": share.weight })
}

fn redirect(redirect: &Redirect) -> Json {
    let mut described = Map::new();
    described.insert("status".to_owned(), json!(redirect.status));
    let parts = [
        ("scheme", json!(redirect.scheme)),
        ("host", json!(redirect.host)),
        ("port", json!(redirect.port)),
        ("path", json!(redirect.path)),
    ];
    described.extend(
        parts
            .into_iter()
            .filter(|(_, part)| !part.is_null())
            .map(|(key, part)| (key.to_owned(), part)),
    );
    Json::Object(described)
}

fn respond(respond: &Respond) -> Json {
    let headers = respond.headers.iter().map(|(name, value)| (name, json!(value)));
    json!({ "status": respond.status, "headers": named(headers), "body": respond.body })
}
