//! What routes do with the requests that they send on.
//!
//! Control plane. Opens nothing.

use http::Method;
use tamis_config as config;

use crate::retry::{Condition, Policy};

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
