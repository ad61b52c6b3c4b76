//! What an upstream gets in place of what its client sent: path, host and header fields.
//!
//! Data plane, made by the control plane; pure. It comes after the last filter, on a copy: filters, routes and the log
//! go by what the client sent, or filters made of it. Invariant: a target that leaves here is as normal as one that
//! [`guard`] let in, whatever a template makes of a client's path.

use std::fmt::Write;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, header};
use regex::Regex;

use crate::edits::Edits;
use crate::guard::{self, Refusal};
use crate::head::{self, RequestHead};

/// A route's; lives as long as its generation.
#[derive(Debug)]
pub struct Rewrite {
    pub path: Option<PathRewrite>,
    pub host: Option<HeaderValue>,
    pub edits: Edits,
}

#[derive(Debug)]
pub enum PathRewrite {
    /// Whole segments at the front.
    Prefix { from: String, to: String },
    /// A path that does not match stays as it is.
    Template { regex: Option<Regex>, to: Vec<Part> },
}

#[derive(Debug)]
pub enum Part {
    Literal(String),
    Path,
    Group(usize),
}

/// A request's head as an upstream gets it. Lives until the request is answered.
#[derive(Debug)]
pub struct Outgoing {
    pub target: PathAndQuery,
    pub headers: HeaderMap,
}

impl Rewrite {
    pub fn apply(&self, request: &RequestHead) -> Result<Outgoing, Refusal> {
        let target = match &self.path {
            Some(path) => path.target(&request.target)?,
            None => None,
        };
        let mut headers = request.headers.clone();
        if let Some(host) = &self.host {
            headers.insert(header::HOST, host.clone());
        }
        self.edits.apply(&mut headers);
        Ok(Outgoing {
            target: target.unwrap_or_else(|| request.target.clone()),
            headers,
        })
    }
}

impl PathRewrite {
    /// `None` when it is none of those that are rewritten.
    fn target(&self, target: &PathAndQuery) -> Result<Option<PathAndQuery>, Refusal> {
        let old = target.path();
        // That of `OPTIONS *` is no path.
        if !old.starts_with('/') {
            return Ok(None);
        }
        let Some(mut text) = self.path(old) else {
            return Ok(None);
        };
        // A client's path has none, so one that is here was made of pieces of it, and would lead out of where it was
        // put.
        if text.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(Refusal::AboveRoot);
        }
        text = guard::normalise_path(&text)?.into_owned();
        if let Some(query) = target.query() {
            text.push('?');
            text.push_str(query);
        }
        if text.len() > guard::MAX_WRITTEN_TARGET_BYTES {
            return Err(Refusal::TargetTooLong);
        }
        if !head::is_target(&text) {
            return Err(Refusal::TargetByte);
        }
        let target = PathAndQuery::from_maybe_shared(Bytes::from(text));
        target.map(Some).map_err(|_| Refusal::TargetByte)
    }

    fn path(&self, old: &str) -> Option<String> {
        match self {
            Self::Prefix { from, to } => {
                let rest = old.strip_prefix(from.trim_end_matches('/'))?;
                let is_whole = rest.is_empty() || rest.starts_with('/');
                let new = format!("{}{rest}", to.trim_end_matches('/'));
                is_whole.then(|| if new.is_empty() { "/".to_owned() } else { new })
            }
            Self::Template { regex: None, to } => Some(filled(to, old, |_| "")),
            Self::Template { regex: Some(regex), to } => {
                let groups = regex.captures(old)?;
                Some(filled(to, old, |number| {
                    groups.get(number).map_or("", |group| group.as_str())
                }))
            }
        }
    }
}

fn filled<'a>(parts: &[Part], path: &str, group: impl Fn(usize) -> &'a str) -> String {
    let mut text = String::with_capacity(path.len());
    for part in parts {
        // Writing to a string does not fail.
        let _ = match part {
            Part::Literal(literal) => text.write_str(literal),
            Part::Path => text.write_str(path),
            Part::Group(number) => text.write_str(group(*number)),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(from: &str, to: &str) -> PathRewrite {
        PathRewrite::Prefix {
            from: from.to_owned(),
            to: to.to_owned(),
        }
    }

    fn template(regex: &str, to: Vec<Part>) -> PathRewrite {
        PathRewrite::Template {
            regex: Some(Regex::new(&format!("^(?:{regex})$")).unwrap()),
            to,
        }
    }

    fn literal(text: &str) -> Part {
        Part::Literal(text.to_owned())
    }

    fn rewritten(rewrite: &PathRewrite, target: &str) -> Result<String, Refusal> {
        let target: PathAndQuery = target.parse().unwrap();
        let new = rewrite.target(&target)?;
        Ok(new.map_or_else(|| "as it was".to_owned(), |new| new.to_string()))
    }

    #[test]
    fn prefixes() {
        let cases = [
            ("/v1", "/api", "/v1", "/api"),
            ("/v1", "/api", "/v1/", "/api/"),
            ("/v1", "/api", "/v1/a?b=/v1", "/api/a?b=/v1"),
            ("/v1", "/api", "/v10", "as it was"),
            ("/v1/", "/api/", "/v1/a", "/api/a"),
            ("/v1/", "/api/", "/v1", "/api"),
            ("/v1", "/", "/v1/a/b", "/a/b"),
            ("/v1", "/", "/v1", "/"),
            ("/v1", "/", "/v1?q", "/?q"),
            ("/", "/api", "/a", "/api/a"),
            ("/", "/api", "/", "/api/"),
        ];
        for (from, to, target, expected) in cases {
            assert_eq!(
                rewritten(&prefix(from, to), target).as_deref(),
                Ok(expected),
                "{from} {to} {target}"
            );
        }
        assert_eq!(rewritten(&prefix("/", "/api"), "*").as_deref(), Ok("as it was"));
    }

    #[test]
    fn templates() {
        let user = template(
            "/users/([0-9]+)(/.*)?",
            vec![literal("/u/"), Part::Group(1), Part::Group(2)],
        );
        for (target, expected) in [
            ("/users/7", "/u/7"),
            ("/users/7/a%2Fb?c", "/u/7/a%2Fb?c"),
            ("/users/x", "as it was"),
        ] {
            assert_eq!(rewritten(&user, target).as_deref(), Ok(expected), "{target}");
        }
        let all = PathRewrite::Template {
            regex: None,
            to: vec![literal("/site"), Part::Path],
        };
        assert_eq!(rewritten(&all, "/a?b").as_deref(), Ok("/site/a?b"));
        assert_eq!(rewritten(&all, "*").as_deref(), Ok("as it was"));
    }

    /// Pieces of a sound path that are put together to something else.
    #[test]
    fn what_would_lead_elsewhere_is_refused() {
        let piece = |to| template("/(.*)-(.*)", to);
        let nested = || vec![literal("/in/"), Part::Group(1), Part::Group(2)];
        assert_eq!(rewritten(&piece(nested()), "/.-."), Err(Refusal::AboveRoot));
        assert_eq!(rewritten(&piece(nested()), "/a/-/b").as_deref(), Ok("/in/a/b"));
        assert_eq!(rewritten(&piece(nested()), "/%2-0"), Ok("/in/%20".to_owned()));
        assert_eq!(rewritten(&piece(nested()), "/%-00"), Err(Refusal::PercentEncoding));
        assert_eq!(
            rewritten(&piece(vec![Part::Group(2)]), "/a-b"),
            Err(Refusal::TargetForm)
        );
        let host = rewritten(&piece(vec![literal("/"), Part::Group(2)]), "/a-/evil.example/b");
        assert_eq!(host.as_deref(), Ok("/evil.example/b"));
        let long = format!("/{}-", "x".repeat(8_000));
        let twice = vec![literal("/"), Part::Group(1), Part::Group(1)];
        assert_eq!(rewritten(&piece(twice), &long), Err(Refusal::TargetTooLong));
    }

    proptest! {
        /// Whatever comes out is in the normal form, and in one line.
        #[test]
        fn what_comes_out_is_normal(path in "/[a-zA-Z0-9./%_-]{0,40}", cut in "[a-z/.-]{0,3}") {
            let Ok(path) = guard::normalise_path(&path) else { return Ok(()) };
            let rewrite = template(&format!("(.*){}(.*)", regex::escape(&cut)), vec![
                literal("/x/"), Part::Group(2), Part::Group(1),
            ]);
            let Ok(target) = path.parse::<PathAndQuery>() else { return Ok(()) };
            if let Ok(Some(new)) = rewrite.target(&target) {
                let normal = guard::normalise_path(new.path());
                prop_assert_eq!(normal.as_deref(), Ok(new.path()));
                prop_assert!(new.path().starts_with("/x/"));
                prop_assert!(head::is_target(new.as_str()));
            }
        }
    }
}
