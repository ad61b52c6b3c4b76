//! `tenant`: only requests of known tenants pass.
//!
//! ```yaml
//! config:
//!   header: x-tenant
//!   allow: [acme, globex]
//! ```
//!
//! A request without the header, with an unknown tenant, or with the header twice (so that the upstream could read
//! another tenant than this filter did) gets 403. The tenant's name becomes the exchange's attribute `tenant`.

use std::rc::Rc;

use serde::Deserialize;
use tamis_filter::{Exchange, Failure, Filter, Reply, Request, RequestVerdict, check_header, filter};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    header: String,
    allow: Vec<String>,
}

#[derive(Clone)]
struct Tenant {
    header: Rc<str>,
    /// Sorted.
    allow: Rc<[String]>,
}

#[filter]
impl Filter for Tenant {
    type Config = Config;

    fn configure(Config { header, mut allow }: Config) -> Result<Self, String> {
        check_header(&header, "").map_err(|error| format!("header `{header}`: {error}"))?;
        allow.sort_unstable();
        match allow.first().map(String::as_str) {
            None => Err("allow: names no tenant, so every request would be refused".to_owned()),
            Some("") => Err("allow: a tenant's name is empty".to_owned()),
            Some(_) => Ok(Tenant {
                header: header.into(),
                allow: allow.into(),
            }),
        }
    }

    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        match request.header_values(&self.header).as_slice() {
            [] => Ok(refusal("tenant missing")),
            [name] => match self.find(name) {
                Some(tenant) => {
                    exchange.set_attribute("tenant", tenant)?;
                    Ok(RequestVerdict::Proceed)
                }
                None => Ok(refusal("tenant unknown")),
            },
            _ => Ok(refusal("more than one tenant")),
        }
    }
}

impl Tenant {
    fn find(&self, name: &[u8]) -> Option<&str> {
        let found = self.allow.binary_search_by(|tenant| tenant.as_bytes().cmp(name));
        found.ok().map(|index| self.allow[index].as_str())
    }
}

fn refusal(error: &str) -> RequestVerdict {
    let body = format!("{{\"error\":\"{error}\"}}\n");
    Reply::new(403)
        .header("content-type", "application/json")
        .body(body)
        .into()
}

#[cfg(test)]
mod tests {
    use tamis_filter::testing::{self, json};

    use super::*;

    fn tenant() -> Tenant {
        testing::configure(json!({ "header": "X-Tenant", "allow": ["globex", "acme"] })).unwrap()
    }

    fn refused(exchange: &mut testing::Exchange) -> String {
        let RequestVerdict::Reply(reply) = exchange.request_head(&tenant()) else {
            panic!("it went on")
        };
        assert_eq!(reply.status, 403);
        assert_eq!(
            (reply.headers[0].name.as_str(), &*reply.headers[0].value),
            ("content-type", &b"application/json"[..])
        );
        assert_eq!(exchange.attribute("tenant"), None);
        String::from_utf8(reply.body).unwrap()
    }

    #[test]
    fn known_tenants_pass_and_leave_their_name() {
        for name in ["acme", "globex"] {
            let mut exchange = testing::Exchange::get("/").with_header("x-tenant", name);
            assert_eq!(exchange.request_head(&tenant()), RequestVerdict::Proceed);
            assert_eq!(exchange.attribute("tenant"), Some(name));
            assert_eq!(exchange.request.header("x-tenant"), Some(name));
        }
    }

    #[test]
    fn all_others_are_refused() {
        let get = || testing::Exchange::get("/");
        assert_eq!(refused(&mut get()), "{\"error\":\"tenant missing\"}\n");
        for unknown in ["", "acm", "acmee", "ACME", "acme, globex", "\u{e9}"] {
            assert_eq!(
                refused(&mut get().with_header("x-tenant", unknown)),
                "{\"error\":\"tenant unknown\"}\n"
            );
        }
        let mut twice = get().with_header("x-tenant", "acme").with_header("x-tenant", "acme");
        assert_eq!(refused(&mut twice), "{\"error\":\"more than one tenant\"}\n");
    }

    #[test]
    fn configurations_are_refused_with_the_reason() {
        let cases = [
            (json!(null), "missing field `header`"),
            (json!({ "header": "x-tenant" }), "missing field `allow`"),
            (json!({ "header": "x-tenant", "allow": [] }), "allow: names no tenant"),
            (
                json!({ "header": "x-tenant", "allow": ["acme", ""] }),
                "allow: a tenant's name is empty",
            ),
            (
                json!({ "header": "x-tenant", "allow": ["acme", 3] }),
                "allow[1]: invalid type: integer `3`",
            ),
            (
                json!({ "header": "x tenant", "allow": ["acme"] }),
                "header `x tenant`: ",
            ),
            (
                json!({ "header": "connection", "allow": ["acme"] }),
                "header `connection`: ",
            ),
            (
                json!({ "header": "x-tenant", "allow": ["acme"], "deny": [] }),
                "unknown field `deny`",
            ),
        ];
        for (config, reason) in cases {
            let refusal = testing::configure::<Tenant>(config.clone()).err().unwrap_or_default();
            assert!(
                refusal.contains(reason),
                "{config}: {refusal:?} does not say {reason:?}"
            );
        }
    }
}
