//! What routes do with the requests that they send on.
//!
//! Control plane. Opens nothing.

use http::{HeaderValue, Method};
use regex::Regex;
use tamis_config as config;

use crate::edits::{Edits, Refused};
use crate::guard;
use crate::mirror::Mirror;
use crate::retry::{Condition, Policy};
use crate::rewrite::{Part, PathRewrite, Rewrite};

pub(super) fn retry(retry: &config::Retry) -> Policy {
    Policy {
        on: retry.on.iter().map(condition).collect(),
        attempts: retry.attempts,
        per_try_timeout: retry.per_try_timeout,
        methods: methods(&retry.methods),
        backoff: retry.backoff,
        max_backoff: retry.max_backoff,
        max_body: retry.max_body,
    }
}

fn condition(on: &config::RetryOn) -> Condition {
    match on {
        config::RetryOn::ConnectFailure => Condition::ConnectFailure,
        config::RetryOn::Reset => Condition::Reset,
        config::RetryOn::Timeout => Condition::Timeout,
        config::RetryOn::GatewayError => Condition::Statuses(502..=504),
        config::RetryOn::ServerError => Condition::Statuses(500..=599),
        config::RetryOn::Status(status) => Condition::Statuses(*status..=*status),
    }
}

/// The configuration has checked them.
fn methods(names: &[String]) -> Vec<Method> {
    let method = |name: &String| Method::from_bytes(name.as_bytes()).ok();
    names.iter().filter_map(method).collect()
}

pub(super) fn mirror(mirror: &config::Mirror) -> Mirror {
    Mirror {
        cluster: mirror.cluster,
        share: mirror.percent,
        buffer: mirror.buffer,
    }
}

/// `None` when its upstreams get what clients send.
pub(super) fn rewrite(route: &config::Route) -> Result<Option<Rewrite>, String> {
    let edits = edits(&route.request_headers)?;
    let given = route.rewrite.as_ref();
    if given.is_none() && edits.is_none() {
        return Ok(None);
    }
    Ok(Some(Rewrite {
        path: given.and_then(|given| given.path.as_ref()).map(path).transpose()?,
        host: given.and_then(|given| given.host.as_deref()).map(host).transpose()?,
        edits: edits.unwrap_or_default(),
    }))
}

/// `None` when there are none.
pub(super) fn edits(edits: &config::HeaderEdits) -> Result<Option<Edits>, String> {
    if edits.is_empty() {
        return Ok(None);
    }
    let set = edits.set.iter().map(|(name, value)| (name, value));
    let append = edits.append.iter().map(|(name, value)| (name, value));
    Edits::new(&edits.remove, set, append)
        .map(Some)
        .map_err(|Refused { name, error }| format!("header `{name}` cannot be written: {error:?}"))
}

fn path(path: &config::PathRewrite) -> Result<PathRewrite, String> {
    Ok(match path {
        config::PathRewrite::Prefix { from, to } => PathRewrite::Prefix {
            from: from.clone(),
            to: to.clone(),
        },
        config::PathRewrite::Template { regex, to } => PathRewrite::Template {
            regex: regex.as_deref().map(anchored).transpose()?,
            to: to.iter().map(part).collect(),
        },
    })
}

fn anchored(regex: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{regex})$")).map_err(|error| format!("rewrite.path.regex: {error}"))
}

fn part(part: &config::PathPart) -> Part {
    match part {
        config::PathPart::Literal(text) => Part::Literal(text.clone()),
        config::PathPart::Path => Part::Path,
        config::PathPart::Group(number) => Part::Group(*number),
    }
}

fn host(host: &str) -> Result<HeaderValue, String> {
    guard::check_authority(host.as_bytes()).map_err(|refusal| format!("rewrite.host: {}", refusal.reason()))
}
