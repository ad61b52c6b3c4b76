//! `rewrite`: rewrites the path, and edits the header fields of requests and responses.
//!
//! ```yaml
//! config:
//!   path:                                      # the first that matches
//!     - { exact: /health, replace: /internal/health }
//!     - { prefix: /v1, replace: /api/v1 }      # /v1 and /v1/x, never /v10
//!   request_headers: { set: { x-edge: "1" }, append: { x-features: beta }, remove: [x-debug] }
//!   response_headers: { remove: [server] }
//! ```
//!
//! Header fields are removed, then set, then appended. The query stays as it is, and so does the route.

mod headers;
mod path;

use std::rc::Rc;

use serde::Deserialize;
use tamis_filter::{Exchange, Failure, Filter, Request, RequestVerdict, Response, Verdict, filter};

use headers::{Edit, HeadersConfig};
use path::{Rule, RuleConfig};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    path: Vec<RuleConfig>,
    #[serde(default)]
    request_headers: HeadersConfig,
    #[serde(default)]
    response_headers: HeadersConfig,
}

#[derive(Clone)]
struct Rewrite {
    path: Rc<[Rule]>,
    request_headers: Rc<[Edit]>,
    response_headers: Rc<[Edit]>,
}

#[filter]
impl Filter for Rewrite {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        Ok(Rewrite {
            path: path::rules(config.path)?.into(),
            request_headers: config.request_headers.edits("request_headers")?.into(),
            response_headers: config.response_headers.edits("response_headers")?.into(),
        })
    }

    fn on_request_head(&mut self, request: &mut Request, _: &mut Exchange) -> Result<RequestVerdict, Failure> {
        if !self.path.is_empty() {
            let path = request.path();
            if let Some(path) = self.path.iter().find_map(|rule| rule.apply(&path)) {
                request.set_path(&path)?;
            }
        }
        for edit in self.request_headers.iter() {
            match edit {
                Edit::Remove(name) => request.remove_header(name)?,
                Edit::Set(name, value) => request.set_header(name, value)?,
                Edit::Append(name, value) => request.append_header(name, value)?,
            }
        }
        Ok(RequestVerdict::Proceed)
    }

    fn on_response_head(&mut self, _: &Request, response: &mut Response, _: &mut Exchange) -> Result<Verdict, Failure> {
        for edit in self.response_headers.iter() {
            match edit {
                Edit::Remove(name) => response.remove_header(name)?,
                Edit::Set(name, value) => response.set_header(name, value)?,
                Edit::Append(name, value) => response.append_header(name, value)?,
            }
        }
        Ok(Verdict::Proceed)
    }
}

#[cfg(test)]
mod tests {
    use tamis_filter::testing::{self, json};

    use super::*;

    fn rewrite(config: serde_json::Value) -> Rewrite {
        testing::configure(config).unwrap()
    }

    #[test]
    fn the_first_matching_rule_rewrites_the_path() {
        let filter = rewrite(json!({ "path": [
            { "exact": "/health", "replace": "/internal/health" },
            { "prefix": "/v1/admin", "replace": "/admin" },
            { "prefix": "/v1", "replace": "/api/" },
            { "prefix": "/bare/", "replace": "/" },
        ]}));
        let cases = [
            ("/health?deep=1", "/internal/health"),
            ("/health/", "/health/"),
            ("/v1", "/api"),
            ("/v1/", "/api/"),
            ("/v1/items", "/api/items"),
            ("/v10", "/v10"),
            ("/v1/admin/users", "/admin/users"),
            ("/bare", "/"),
            ("/bare/", "/"),
            ("/bare/x/", "/x/"),
            ("/other", "/other"),
        ];
        for (target, rewritten) in cases {
            let mut exchange = testing::Exchange::get(target);
            let query = exchange.request.query.clone();
            assert_eq!(exchange.request_head(&filter), RequestVerdict::Proceed);
            assert_eq!(exchange.request.path, rewritten, "{target}");
            assert_eq!(exchange.request.query, query);
        }
    }

    #[test]
    fn header_fields_are_removed_then_set_then_appended() {
        let edits =
            json!({ "set": { "x-set": "1" }, "append": { "x-set": "2", "via": "tamis" }, "remove": ["x-gone"] });
        let filter = rewrite(json!({ "request_headers": edits, "response_headers": edits }));
        let before = [
            ("x-set", "0"),
            ("via", "client"),
            ("x-gone", "a"),
            ("x-gone", "b"),
            ("x-kept", "c"),
        ];
        let after = ["via: client", "x-kept: c", "x-set: 1", "via: tamis", "x-set: 2"];

        let mut exchange = testing::Exchange::get("/");
        for (name, value) in before {
            exchange = exchange.with_header(name, value).with_response_header(name, value);
        }
        let lines = |headers: &[tamis_filter::Header]| -> Vec<String> {
            headers
                .iter()
                .map(|header| format!("{}: {}", header.name, header.value.to_str().unwrap()))
                .collect()
        };
        assert_eq!(exchange.request_head(&filter), RequestVerdict::Proceed);
        assert_eq!(lines(&exchange.request.headers), after);
        assert_eq!(exchange.response_head(&filter), Verdict::Proceed);
        assert_eq!(lines(&exchange.response.headers), after);
    }

    #[test]
    fn without_a_configuration_nothing_changes() {
        let filter = rewrite(json!(null));
        let mut exchange = testing::Exchange::get("/a").with_header("x", "1");
        assert_eq!(exchange.request_head(&filter), RequestVerdict::Proceed);
        assert_eq!(
            (exchange.request.path.as_str(), exchange.request.headers.len()),
            ("/a", 1)
        );
    }

    #[test]
    fn configurations_are_refused_with_the_rule_and_the_reason() {
        let path = |rule| json!({ "path": [{ "exact": "/", "replace": "/" }, rule] });
        let headers = |edits| json!({ "response_headers": edits });
        let cases = [
            (path(json!({ "replace": "/" })), "path[1]: needs `prefix` or `exact`"),
            (
                path(json!({ "prefix": "/", "exact": "/", "replace": "/" })),
                "path[1]: needs `prefix` or `exact`",
            ),
            (path(json!({ "prefix": "/a" })), "path[1]: missing field `replace`"),
            (
                path(json!({ "prefix": "a", "replace": "/" })),
                "path[1]: prefix `a` must start with `/`",
            ),
            (
                path(json!({ "exact": "/a?b", "replace": "/" })),
                "path[1]: exact `/a?b` must start with `/`",
            ),
            (
                path(json!({ "prefix": "/a", "replace": "b" })),
                "path[1]: replace `b` must start with `/`",
            ),
            (
                path(json!({ "regex": "/a", "replace": "b" })),
                "path[1].regex: unknown field `regex`",
            ),
            (
                headers(json!({ "set": { "connection": "close" } })),
                "response_headers.set `connection`: edit refused",
            ),
            (
                headers(json!({ "append": { "x": "a\nb" } })),
                "response_headers.append `x`: edit refused",
            ),
            (
                headers(json!({ "remove": ["x y"] })),
                "response_headers.remove `x y`: edit refused",
            ),
            (
                headers(json!({ "set": { "x": 1 } })),
                "response_headers.set.x: invalid type: integer",
            ),
            (
                headers(json!({ "add": {} })),
                "response_headers.add: unknown field `add`",
            ),
        ];
        for (config, reason) in cases {
            let refusal = testing::configure::<Rewrite>(config.clone()).err().unwrap_or_default();
            assert!(
                refusal.starts_with(reason),
                "{config}: {refusal:?} does not start with {reason:?}"
            );
        }
    }
}
