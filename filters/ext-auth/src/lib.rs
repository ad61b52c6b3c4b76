//! `ext-auth`: asks a service about each request, which goes on when the service says so.
//!
//! ```yaml
//! filters:
//!   ext-auth:
//!     component: filters/target/components/ext-auth.wasm
//!     grants: [key_value, { outbound: [auth] }]     # key_value also without `cache`: the component imports it
//!     config:
//!       cluster: auth
//!       path: /verify
//!       upstream_headers: [x-user, x-roles]
//!       remove_headers: [authorization]
//!       response_headers: [set-cookie]
//!       cache: { headers: [authorization, cookie], ttl: 30s }
//! ```
//!
//! A service as `auth_request` of nginx or the HTTP service of Envoy's `ext_authz` knows it: 2xx lets the request go on;
//! 401 and 403 go to the client, with the answer's body; anything else, and no answer in time, is no decision.
//!
//! # What can be configured
//!
//! | field | default | |
//! |---|---|---|
//! | `cluster` | required | must be granted |
//! | `path`, `path_prefix` | required, one of them | what is asked for: always this, or this in front of the request's own path and query |
//! | `method` | `GET`; with `body`, `POST` | `original` for the request's own |
//! | `authority` | the cluster's name | the call's `host` |
//! | `timeout` | `1s` | for an answer, and for waiting for that of another request; below the filter's `limits.wall` |
//! | `request_headers` | `authorization`, `cookie`, `origin`, `user-agent`, `x-forwarded-*`, `x-request-id`, `traceparent`, `tracestate` | the fields that the service is sent; `*` at the end takes all that begin so |
//! | `body` | none | `{ max, over }`: the request's body is sent along, up to `max` bytes (at most `limits.body_bytes`). A longer one is answered with 413, or with `over: cut` sent in part |
//! | `upstream_headers` | none | fields of the answer that the upstream gets; those of the client are removed first, always |
//! | `remove_headers` | none | fields that the upstream does not get |
//! | `response_headers` | none | fields of the answer that the client gets with the upstream's response. They take the place of the upstream's; `set-cookie` is added |
//! | `deny_statuses` | `[401, 403]` | answers that go to the client; 400 to 599 |
//! | `deny_headers` | `content-type`, `www-authenticate`, `location`, `set-cookie`, `retry-after`, `cache-control` | the fields that go along |
//! | `redirects` | `refuse` | `pass`: 301, 302, 303, 307 and 308 go to the client like a denial |
//! | `on_error` | `deny` | when there is no decision; `allow` lets requests pass unjudged, with `upstream_headers` and `remove_headers` removed |
//! | `error_status` | `503` | for `deny`; 400 to 599 |
//! | `cache` | none | `{ headers, uri, ttl, denied_ttl }`, below |
//!
//! The service is told of the request in the fields `x-original-method`, `-scheme`, `-host`, `-uri` (path and query),
//! `-address` (of the client, with its port) and, with `body`, `-body` (`whole` or `cut`). No client can send them.
//!
//! # Kept decisions
//!
//! With `cache`, a decision serves all requests with the same method, scheme, host, path, query, and `cache.headers`,
//! which must be all that the service decides by; fields with credentials that are sent must be among them. With
//! `uri: ignored`, path and query are not part of it (by default it is `matters`). What is allowed is kept for `ttl`
//! (`30s`), what is denied for `denied_ttl` (`1s`; `0s` for not at all), in the table of `key_value`, under a SHA-256:
//! give the filter a table of its own, as whoever can write it can let requests pass. While one request asks, others
//! with the same question wait for its answer. An answer with `set-cookie`, or with `cache-control: no-store` or
//! `no-cache`, is never kept. `cache` and `body` exclude each other.
//!
//! # For the log
//!
//! The attribute `ext-auth` is `allowed`, `denied`, or `undecided`; the reason of the last is in the proxy's log. Leave
//! the filter's `on_failure` at `closed`: with `open`, a request that makes it fail would pass.

mod cache;
mod decision;
mod fields;
mod question;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use tamis_filter::{
    EditError, Exchange, Failure, Filter, Header, HeldBody, HeldVerdict, OverMax, Period, Reply, Request,
    RequestVerdict, Response, Verdict, filter, log,
};

use cache::{Cache, CacheConfig};
use decision::{Decision, Reading, Redirects, Undecided};
use question::{Asking, BodyConfig, Method, Over, Target};

/// The attribute that says what came of it.
const ATTRIBUTE: &str = "ext-auth";
/// Longer than a client waits for a page.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    cluster: String,
    path: Option<String>,
    path_prefix: Option<String>,
    method: Option<String>,
    authority: Option<String>,
    /// A fifth of the default `limits.wall` of a filter with the grant `outbound`.
    #[serde(default = "a_second")]
    timeout: Period,
    #[serde(default = "request_headers")]
    request_headers: Vec<String>,
    body: Option<BodyConfig>,
    #[serde(default)]
    upstream_headers: Vec<String>,
    #[serde(default)]
    remove_headers: Vec<String>,
    #[serde(default)]
    response_headers: Vec<String>,
    #[serde(default = "deny_statuses")]
    deny_statuses: Vec<u16>,
    #[serde(default = "deny_headers")]
    deny_headers: Vec<String>,
    #[serde(default)]
    redirects: Redirects,
    #[serde(default)]
    on_error: OnError,
    #[serde(default = "service_unavailable")]
    error_status: u16,
    cache: Option<CacheConfig>,
}

fn a_second() -> Period {
    Period::from_secs(1)
}

fn request_headers() -> Vec<String> {
    let names = [
        "authorization",
        "cookie",
        "origin",
        "user-agent",
        "x-forwarded-*",
        "x-request-id",
        "traceparent",
        "tracestate",
    ];
    names.map(str::to_owned).to_vec()
}

fn deny_statuses() -> Vec<u16> {
    vec![401, 403]
}

fn deny_headers() -> Vec<String> {
    let names = [
        "content-type",
        "www-authenticate",
        "location",
        "set-cookie",
        "retry-after",
        "cache-control",
    ];
    names.map(str::to_owned).to_vec()
}

fn service_unavailable() -> u16 {
    503
}

/// What becomes of a request for which there is no decision.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnError {
    #[default]
    Deny,
    Allow,
}

#[derive(Clone)]
struct ExtAuth {
    settings: Rc<Settings>,
    /// Of this exchange's answer, for the client.
    response_headers: Vec<Header>,
}

#[derive(Debug)]
struct Settings {
    asking: Asking,
    body: Option<BodyConfig>,
    reading: Reading,
    remove_headers: Vec<String>,
    on_error: OnError,
    error_status: u16,
    cache: Option<Cache>,
}

#[filter]
impl Filter for ExtAuth {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        Ok(ExtAuth {
            settings: Rc::new(Settings::new(config)?),
            response_headers: Vec::new(),
        })
    }

    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        let settings = Rc::clone(&self.settings);
        settings.remove_sent(request)?;
        if let Some(BodyConfig { max, over }) = settings.body {
            let over = match over {
                Over::Refuse => OverMax::Refuse,
                Over::Cut => OverMax::Continue,
            };
            return Ok(RequestVerdict::ReadBody { max, over });
        }
        Ok(match self.judge(request, exchange, None)? {
            Some(reply) => reply.into(),
            None => RequestVerdict::Proceed,
        })
    }

    fn on_held_body(
        &mut self,
        body: HeldBody,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<HeldVerdict, Failure> {
        Ok(match self.judge(request, exchange, Some(body))? {
            Some(reply) => reply.into(),
            None => HeldVerdict::Proceed,
        })
    }

    fn on_response_head(&mut self, _: &Request, response: &mut Response, _: &mut Exchange) -> Result<Verdict, Failure> {
        let is_cookie = |header: &Header| header.name.eq_ignore_ascii_case("set-cookie");
        for header in self.response_headers.iter().filter(|header| !is_cookie(header)) {
            response.remove_header(&header.name)?;
        }
        for header in &self.response_headers {
            response.append_header(&header.name, &header.value)?;
        }
        Ok(Verdict::Proceed)
    }
}

impl ExtAuth {
    /// None for a request that goes on.
    fn judge(
        &mut self,
        request: &mut Request,
        exchange: &mut Exchange,
        body: Option<HeldBody>,
    ) -> Result<Option<Reply>, Failure> {
        let settings = Rc::clone(&self.settings);
        let (word, reply) = match settings.decide(request, exchange, body) {
            Ok(Decision::Allow {
                request: fields,
                response,
            }) => {
                settings.let_go(request, fields)?;
                self.response_headers = response;
                ("allowed", None)
            }
            Ok(Decision::Deny(reply)) => ("denied", Some(reply)),
            Err(undecided) => {
                log::warn!("no decision of `{}`: {undecided}", settings.asking.cluster);
                let reply = match settings.on_error {
                    OnError::Deny => Some(settings.error_reply()),
                    OnError::Allow => None,
                };
                if reply.is_none() {
                    settings.let_go(request, Vec::new())?;
                }
                ("undecided", reply)
            }
        };
        exchange.set_attribute(ATTRIBUTE, word)?;
        Ok(reply)
    }
}

impl Settings {
    fn new(config: Config) -> Result<Self, String> {
        let timeout = config
            .timeout
            .within("timeout", Duration::from_millis(1), MAX_TIMEOUT)?;
        let is_error = |status: &u16| (400..=599).contains(status);
        if let Some(status) = config.deny_statuses.iter().find(|status| !is_error(status)) {
            return Err(format!("deny_statuses: {status} is not 400 to 599"));
        }
        if !is_error(&config.error_status) {
            return Err(format!("error_status: {} is not 400 to 599", config.error_status));
        }
        if config.body.is_some() && config.cache.is_some() {
            return Err("cache: with `body`, no two requests are known to ask the same".to_owned());
        }
        let mut settings = Settings {
            asking: Asking {
                cluster: config.cluster,
                authority: config.authority,
                target: Target::new(config.path, config.path_prefix)?,
                method: Method::new(config.method, config.body)?,
                timeout,
                sent: fields::patterns("request_headers", config.request_headers)?,
            },
            body: config.body,
            reading: Reading {
                upstream_headers: fields::names("upstream_headers", config.upstream_headers)?,
                response_headers: fields::names("response_headers", config.response_headers)?,
                deny_statuses: config.deny_statuses,
                deny_headers: fields::names("deny_headers", config.deny_headers)?,
                redirects: config.redirects,
            },
            remove_headers: fields::names("remove_headers", config.remove_headers)?,
            on_error: config.on_error,
            error_status: config.error_status,
            cache: None,
        };
        if let Some(cache) = config.cache {
            let text = format!("{settings:?}");
            settings.cache = Some(Cache::new(cache, &settings.asking.sent, timeout, &text)?);
        }
        Ok(settings)
    }

    fn decide(&self, request: &Request, exchange: &Exchange, body: Option<HeldBody>) -> Result<Decision, Undecided> {
        let ask = || {
            self.asking
                .call(request, exchange, body)
                .send()
                .map_err(Undecided::Call)
        };
        match &self.cache {
            Some(cache) => cache.decide(request, &self.reading, ask),
            None => self.reading.read(ask()?),
        }
    }

    /// Only the service may say what these are. `x_user` goes as `x-user` does.
    fn remove_sent(&self, request: &mut Request) -> Result<(), EditError> {
        let names = &self.reading.upstream_headers;
        if names.is_empty() {
            return Ok(());
        }
        for header in request.headers() {
            if names.iter().any(|name| fields::is_same(name, &header.name)) {
                request.remove_header(&header.name)?;
            }
        }
        Ok(())
    }

    fn let_go(&self, request: &mut Request, fields: Vec<Header>) -> Result<(), EditError> {
        for name in &self.remove_headers {
            request.remove_header(name)?;
        }
        fields
            .iter()
            .try_for_each(|field| request.append_header(&field.name, &field.value))
    }

    /// Fixed words; what went wrong is in the log.
    fn error_reply(&self) -> Reply {
        let reply = Reply::new(self.error_status).header("content-type", "application/json");
        reply.body("{\"error\":\"the request cannot be judged at present\"}\n")
    }
}
