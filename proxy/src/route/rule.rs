//! One route's compiled pattern: whether it matches a request, and whether it takes all that a later one could match.
//!
//! Data plane; per generation. Invariant: `matches` is the meaning of a pattern, and everything else in this folder is
//! a faster way to the same answer. It must not know of other routes, their order, or the index.

use http::header::HeaderName;
use http::{HeaderValue, Method};
use regex::bytes::Regex;

use super::query::Parameters;
use super::search::Probe;
use super::{CertificatePattern, Fault, HeaderPattern, HostPattern, PathPattern, Pattern, QueryPattern, ValuePattern};
use crate::peer::ClientCertificate;

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) hosts: Vec<HostPattern>,
    pub(super) path: PathRule,
    pub(super) methods: Vec<Method>,
    pub(super) headers: Vec<(HeaderName, ValueRule)>,
    pub(super) query: Vec<(String, ValueRule)>,
    /// Boxed, as few have one.
    certificate: Option<Box<CertificateRule>>,
}

#[derive(Debug)]
struct CertificateRule {
    subject: Option<ValueRule>,
    name: Option<ValueRule>,
    fingerprints: Vec<String>,
}

#[derive(Debug)]
pub(super) enum PathRule {
    Any,
    Exact(String),
    /// Without its trailing slash; empty for `/`.
    Prefix(String),
    Regex {
        regex: Regex,
        /// Every match lies below it: `/v1/users` for `/v1/users/[0-9]+`; empty when that is not plain to see.
        folder: String,
    },
}

#[derive(Debug)]
pub(super) enum ValueRule {
    Present,
    Exact(String),
    Regex(Regex),
}

impl Rule {
    pub(super) fn compile(pattern: Pattern) -> Result<Rule, Fault> {
        Ok(Rule {
            hosts: pattern.hosts,
            path: PathRule::compile(pattern.path)?,
            methods: pattern.methods.into_iter().map(method).collect::<Result<_, _>>()?,
            headers: pattern.headers.into_iter().map(header).collect::<Result<_, _>>()?,
            query: pattern.query.into_iter().map(parameter).collect::<Result<_, _>>()?,
            certificate: pattern
                .certificate
                .map(CertificateRule::compile)
                .transpose()?
                .map(Box::new),
        })
    }

    pub(super) fn matches(&self, probe: &Probe<'_>) -> bool {
        self.matches_host(probe.target().host) && self.matches_below_host(probe)
    }

    /// All but the host, which the index has decided exactly; a route may list thousands of them.
    pub(super) fn matches_below_host(&self, probe: &Probe<'_>) -> bool {
        self.matches_method(probe.target().method)
            && self.path.matches(probe.target().path)
            && self.headers.iter().all(|(name, rule)| rule.matches_header(name, probe))
            && self
                .query
                .iter()
                .all(|(name, rule)| rule.matches_parameter(name, probe.parameters()))
            && self
                .certificate
                .as_ref()
                .is_none_or(|rule| rule.matches(probe.target().certificate))
    }

    /// Whether every request that `later` matches is matched here too. `false` when in doubt.
    pub(super) fn covers(&self, later: &Rule) -> bool {
        self.covers_hosts(&later.hosts)
            && self.path.covers(&later.path)
            && self.covers_methods(&later.methods)
            && implied(&self.headers, &later.headers)
            && implied(&self.query, &later.query)
            && self.covers_certificate(later)
    }

    fn covers_certificate(&self, later: &Rule) -> bool {
        match (&self.certificate, &later.certificate) {
            (None, _) => true,
            (Some(rule), Some(later)) => rule.covers(later),
            (Some(_), None) => false,
        }
    }

    fn matches_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.matches(host))
    }

    fn matches_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    fn covers_hosts(&self, later: &[HostPattern]) -> bool {
        let covered = |host| self.hosts.iter().any(|pattern| pattern.covers(host));
        self.hosts.is_empty() || (!later.is_empty() && later.iter().all(covered))
    }

    fn covers_methods(&self, later: &[Method]) -> bool {
        self.methods.is_empty() || (!later.is_empty() && later.iter().all(|method| self.methods.contains(method)))
    }
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => name == host,
            HostPattern::Suffix(name) => is_below(host, name),
        }
    }

    fn covers(&self, later: &HostPattern) -> bool {
        match (self, later) {
            (HostPattern::Exact(name), HostPattern::Exact(host)) => name == host,
            (HostPattern::Exact(_), HostPattern::Suffix(_)) => false,
            (HostPattern::Suffix(name), HostPattern::Exact(host)) => is_below(host, name),
            (HostPattern::Suffix(name), HostPattern::Suffix(host)) => name == host || is_below(host, name),
        }
    }
}

impl PathRule {
    fn compile(pattern: Option<PathPattern>) -> Result<PathRule, Fault> {
        Ok(match pattern {
            None => PathRule::Any,
            Some(PathPattern::Exact(path)) => PathRule::Exact(path),
            Some(PathPattern::Prefix(path)) => PathRule::Prefix(path.strip_suffix('/').unwrap_or(&path).to_owned()),
            Some(PathPattern::Regex(source)) => PathRule::Regex {
                regex: anchored(&source)?,
                folder: folder(&source).to_owned(),
            },
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            PathRule::Any => true,
            PathRule::Exact(exact) => exact == path,
            PathRule::Prefix(prefix) => starts_with_segments(path, prefix),
            PathRule::Regex { regex, .. } => regex.is_match(path.as_bytes()),
        }
    }

    fn covers(&self, later: &PathRule) -> bool {
        match (self, later) {
            (PathRule::Any, _) => true,
            // Every path starts with a slash, so the prefix `/` is as wide as no pattern.
            (PathRule::Prefix(prefix), PathRule::Any) => prefix.is_empty(),
            (PathRule::Prefix(prefix), PathRule::Prefix(path)) => starts_with_segments(path, prefix),
            (PathRule::Prefix(prefix), PathRule::Regex { folder, .. }) => starts_with_segments(folder, prefix),
            (PathRule::Regex { regex, .. }, PathRule::Regex { regex: later, .. }) => regex.as_str() == later.as_str(),
            (earlier, PathRule::Exact(path)) => earlier.matches(path),
            (PathRule::Exact(_) | PathRule::Regex { .. }, _) => false,
        }
    }
}

impl CertificateRule {
    fn compile(pattern: CertificatePattern) -> Result<CertificateRule, Fault> {
        Ok(CertificateRule {
            subject: pattern.subject.map(ValueRule::compile).transpose()?,
            name: pattern.name.map(ValueRule::compile).transpose()?,
            fingerprints: pattern.fingerprints,
        })
    }

    fn matches(&self, certificate: Option<&ClientCertificate>) -> bool {
        let Some(shown) = certificate else { return false };
        let matches_subject = |rule: &ValueRule| rule.matches(shown.subject.as_bytes());
        let matches_name = |rule: &ValueRule| shown.name_texts.iter().any(|name| rule.matches(name.as_bytes()));
        self.subject.as_ref().is_none_or(matches_subject)
            && self.name.as_ref().is_none_or(matches_name)
            && (self.fingerprints.is_empty() || self.fingerprints.contains(&shown.fingerprint))
    }

    fn covers(&self, later: &CertificateRule) -> bool {
        let implied = |earlier: &Option<ValueRule>, later: &Option<ValueRule>| match (earlier, later) {
            (None, _) => true,
            (Some(earlier), Some(later)) => earlier.covers(later),
            (Some(_), None) => false,
        };
        let known = |fingerprint: &String| self.fingerprints.contains(fingerprint);
        implied(&self.subject, &later.subject)
            && implied(&self.name, &later.name)
            && (self.fingerprints.is_empty()
                || (!later.fingerprints.is_empty() && later.fingerprints.iter().all(known)))
    }
}

impl ValueRule {
    fn compile(pattern: ValuePattern) -> Result<ValueRule, Fault> {
        Ok(match pattern {
            ValuePattern::Present => ValueRule::Present,
            ValuePattern::Exact(value) => ValueRule::Exact(value),
            ValuePattern::Regex(source) => ValueRule::Regex(anchored(&source)?),
        })
    }

    fn matches_header(&self, name: &HeaderName, probe: &Probe<'_>) -> bool {
        let mut lines = probe.target().headers.get_all(name).iter().map(HeaderValue::as_bytes);
        lines.any(|line| self.matches(line))
    }

    fn matches_parameter(&self, name: &str, parameters: &Parameters<'_>) -> bool {
        match self {
            // Not by walking the values: a client may send thousands, and thousands of routes may ask.
            ValueRule::Exact(value) => parameters.contains(name.as_bytes(), value.as_bytes()),
            rule => parameters.values(name.as_bytes()).any(|value| rule.matches(value)),
        }
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            ValueRule::Present => true,
            ValueRule::Exact(exact) => exact.as_bytes() == value,
            ValueRule::Regex(regex) => regex.is_match(value),
        }
    }

    fn covers(&self, later: &ValueRule) -> bool {
        match (self, later) {
            (ValueRule::Regex(regex), ValueRule::Regex(later)) => regex.as_str() == later.as_str(),
            (earlier, ValueRule::Exact(value)) => earlier.matches(value.as_bytes()),
            (earlier, _) => matches!(earlier, ValueRule::Present),
        }
    }
}

fn method(name: String) -> Result<Method, Fault> {
    Method::from_bytes(name.as_bytes()).map_err(|_| Fault::Method(name))
}

fn header(pattern: HeaderPattern) -> Result<(HeaderName, ValueRule), Fault> {
    let name = HeaderName::from_bytes(pattern.name.as_bytes()).map_err(|_| Fault::HeaderName(pattern.name))?;
    Ok((name, ValueRule::compile(pattern.value)?))
}

fn parameter(pattern: QueryPattern) -> Result<(String, ValueRule), Fault> {
    Ok((pattern.name, ValueRule::compile(pattern.value)?))
}

/// Compiled as it stands first: `a)|(?:b` is an error of its own, not a way around the anchors.
fn anchored(source: &str) -> Result<Regex, Fault> {
    Regex::new(source)
        .and_then(|_| Regex::new(&format!(r"\A(?:{source})\z")))
        .map_err(Fault::Regex)
}

/// See [`PathRule::Regex`]. Reads literal characters only, and gives up on any alternative.
fn folder(source: &str) -> &str {
    let is_literal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    let end = source.find(|c| !is_literal(c)).unwrap_or(source.len());
    let repeated = source[end..].starts_with(['?', '*', '+', '{']);
    let literal = &source[..end - usize::from(repeated && end > 0)];
    match literal.rfind('/') {
        Some(slash) if !source.contains('|') => &source[..slash],
        _ => "",
    }
}

/// Whether `host` is `name` with one or more labels in front.
fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name)
        .and_then(|front| front.strip_suffix('.'))
        .is_some_and(|front| !front.is_empty())
}

/// Whether `path` is `prefix` or goes on behind it with a slash.
fn starts_with_segments(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether each of `earlier` follows from one of `later`.
fn implied<N: PartialEq>(earlier: &[(N, ValueRule)], later: &[(N, ValueRule)]) -> bool {
    let follows =
        |(name, rule): &(N, ValueRule)| later.iter().any(|(other, value)| name == other && rule.covers(value));
    earlier.iter().all(follows)
}
