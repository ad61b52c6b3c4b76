//! What an exchange came to beside what was expected of it, a line for each difference.
//!
//! Control plane. Compares only what a case names.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::Value;

use super::cases::{Expect, texts};
use super::walk::Seen;

/// Empty when all is as expected.
pub fn differences(expect: &Expect, seen: &Seen, log: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |place: &str, expected: Option<&str>, actual: Option<&str>| {
        if let Some(expected) = expected
            && actual != Some(expected)
        {
            found.push(line(place, Some(expected), actual));
        }
    };
    compare(
        "verdict",
        expect.verdict.map(|name| name.as_str()),
        Some(seen.ending.as_str()),
    );
    let failure = seen.fault.as_ref().map(|fault| fault.failure.as_str());
    compare("failure", expect.failure.as_deref(), failure);
    let Some(message) = &seen.message else { return found };
    let (request, sent) = (&expect.request, &message.request);
    compare("request.method", request.method.as_deref(), Some(sent.method.as_str()));
    let authority = String::from_utf8_lossy(sent.authority());
    compare("request.authority", request.authority.as_deref(), Some(&authority));
    compare("request.path", request.path.as_deref(), Some(sent.target.path()));
    compare("request.target", request.target.as_deref(), Some(sent.target.as_str()));
    let body = String::from_utf8_lossy(&seen.request_body);
    compare("request.body", request.body.as_deref(), Some(&body));
    let response = message.response.as_ref();
    let status = response.map(|response| response.status.as_u16().to_string());
    let expected_status = expect.response.status.map(|status| status.to_string());
    compare("response.status", expected_status.as_deref(), status.as_deref());
    let body = String::from_utf8_lossy(&seen.response_body);
    compare("response.body", expect.response.body.as_deref(), Some(&body));
    compare("cluster", expect.cluster.as_deref(), message.clusters.chosen_name());
    found.extend(headers("request.headers", &request.headers, Some(&sent.headers)));
    let answered = response.map(|response| &response.headers);
    found.extend(headers("response.headers", &expect.response.headers, answered));
    found.extend(named("attributes", &expect.attributes, |name| {
        message.attributes.get(name).map(str::to_owned).into_iter().collect()
    }));
    if let Some(expected) = &expect.log {
        found.extend(lines(expected, log));
    }
    found
}

fn headers(place: &str, expected: &BTreeMap<String, Value>, actual: Option<&HeaderMap>) -> Vec<String> {
    named(place, expected, |name| {
        let values = actual.into_iter().flat_map(|headers| headers.get_all(name));
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    })
}

/// Each name with all of its values, of which there may be none.
fn named(place: &str, expected: &BTreeMap<String, Value>, actual: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let differs = |(name, value): (&String, &Value)| {
        let place = format!("{place}.{name}");
        let Some(expected) = texts(value) else {
            return Some(format!("{place}: text, a list of texts or `null` can be expected"));
        };
        let actual = actual(name);
        (expected != actual).then(|| line(&place, joined(&expected).as_deref(), joined(&actual).as_deref()))
    };
    expected.iter().filter_map(differs).collect()
}

fn joined(values: &[String]) -> Option<String> {
    (!values.is_empty()).then(|| values.join("`, `"))
}

/// Each expected text is part of a line of its own, in order.
fn lines(expected: &[String], log: &[String]) -> Option<String> {
    let mut rest = log.iter();
    let missing = expected
        .iter()
        .find(|text| !rest.any(|line| line.contains(text.as_str())));
    let actual = joined(log);
    match missing {
        Some(text) => Some(line("log", Some(text), actual.as_deref())),
        None if expected.is_empty() => actual.map(|actual| line("log", None, Some(&actual))),
        None => None,
    }
}

fn line(place: &str, expected: Option<&str>, actual: Option<&str>) -> String {
    let shown = |value: Option<&str>| value.map_or_else(|| "nothing".to_owned(), |value| format!("`{value}`"));
    format!("{place}: expected {}, got {}", shown(expected), shown(actual)).replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_compared_by_name() {
        let actual = HeaderMap::from_iter([
            (http::header::ACCEPT, http::HeaderValue::from_static("a")),
            (http::header::AGE, http::HeaderValue::from_static("3")),
        ]);
        let found = |expected: Value| {
            let expected = serde_json::from_value(expected).expect("it is a map");
            headers("h", &expected, Some(&actual))
        };
        assert!(found(json!({ "accept": "a", "Age": 3, "te": null })).is_empty());
        assert_eq!(
            found(json!({ "accept": ["a", "b"] })),
            ["h.accept: expected `a`, `b`, got `a`"]
        );
        assert_eq!(found(json!({ "age": null })), ["h.age: expected nothing, got `3`"]);
        assert_eq!(found(json!({ "te": "x" })), ["h.te: expected `x`, got nothing"]);
    }

    #[test]
    fn log_lines_are_found_in_order() {
        let log = ["info: one", "warn: two"].map(str::to_owned);
        let found = |expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
            lines(&expected, &log)
        };
        assert_eq!(found(&["one", "two"]), None);
        assert!(found(&["two", "one"]).is_some());
        assert!(found(&[]).is_some());
        assert_eq!(lines(&[], &[]), None);
    }
}
