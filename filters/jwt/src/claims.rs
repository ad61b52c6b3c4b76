//! What the claims of a token must say (RFC 7519 section 4.1).

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tamis_filter::{Period, clock};

use crate::refusal::{Invalid, Refusal};

/// More would make `exp` and `nbf` a suggestion.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(600);
/// Ten years, beyond which a bound is none.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A claim: a name, or names from the outside in, such as `[realm_access, roles]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "NameOrPath")]
pub struct ClaimName(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a claim's name, or a list of names from the outside in")]
enum NameOrPath {
    Name(String),
    Path(Vec<String>),
}

impl From<NameOrPath> for ClaimName {
    fn from(name: NameOrPath) -> Self {
        match name {
            NameOrPath::Name(name) => ClaimName(vec![name]),
            NameOrPath::Path(path) => ClaimName(path),
        }
    }
}

impl ClaimName {
    pub fn of(name: &str) -> Self {
        ClaimName(vec![name.to_owned()])
    }

    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))
    }

    pub fn check(&self, setting: &str) -> Result<(), String> {
        if self.0.is_empty() || self.0.iter().any(String::is_empty) {
            return Err(format!("{setting}: a claim's name is empty"));
        }
        Ok(())
    }
}

/// A claim that a token must have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Required {
    claim: ClaimName,
    /// One of them must be the claim's value, or one in it if that is a list. Empty: any value does.
    #[serde(default)]
    values: Vec<Value>,
}

/// The part of the configuration that speaks of claims.
#[derive(Debug, Default)]
pub struct ClaimsConfig {
    pub iss: Vec<String>,
    pub aud: Vec<String>,
    pub require_exp: bool,
    pub clock_skew: Option<Period>,
    pub max_lifetime: Option<Period>,
    pub require: Vec<Required>,
    pub scopes: Vec<String>,
    pub scope_claim: Option<ClaimName>,
}

/// What the claims must say.
#[derive(Debug)]
pub struct Rules {
    iss: Vec<String>,
    aud: Vec<String>,
    require_exp: bool,
    /// Seconds.
    clock_skew: f64,
    /// Seconds.
    max_lifetime: Option<f64>,
    require: Vec<Required>,
    scopes: Vec<String>,
    scope_claim: ClaimName,
}

impl Rules {
    pub fn new(config: ClaimsConfig) -> Result<Self, String> {
        // Clocks of one data centre differ by less than a second; those of others by some.
        let clock_skew = config.clock_skew.unwrap_or(Period::from_secs(30));
        let scope_claim = config.scope_claim.unwrap_or_else(|| ClaimName::of("scope"));
        scope_claim.check("scope_claim")?;
        for (index, required) in config.require.iter().enumerate() {
            required.claim.check(&format!("require[{index}]"))?;
        }
        for (index, scope) in config.scopes.iter().enumerate() {
            if scope.is_empty() || scope.contains(' ') {
                return Err(format!("scopes[{index}] `{scope}`: a scope is one word"));
            }
        }
        let lifetime = |period: Period| period.within("max_lifetime", Duration::from_secs(1), MAX_LIFETIME);
        Ok(Rules {
            iss: config.iss,
            aud: config.aud,
            require_exp: config.require_exp,
            clock_skew: clock_skew
                .within("clock_skew", Duration::ZERO, MAX_CLOCK_SKEW)?
                .as_secs_f64(),
            max_lifetime: config
                .max_lifetime
                .map(lifetime)
                .transpose()?
                .map(|lifetime| lifetime.as_secs_f64()),
            require: config.require,
            scopes: config.scopes,
            scope_claim,
        })
    }

    pub fn check(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        self.check_times(claims)?;
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        let has = |required: &Required| required.is_met_by(claims);
        if !self.require.iter().all(has) || !self.has_scopes(claims) {
            return Err(Refusal::Insufficient);
        }
        Ok(())
    }

    fn check_times(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let (exp, nbf, iat) = (time(claims, "exp")?, time(claims, "nbf")?, time(claims, "iat")?);
        let now = clock::now_ms() as f64 / 1000.0;
        match exp {
            // RFC 7519 section 4.1.4: at this time it is over already.
            Some(exp) if now >= exp + self.clock_skew => return Err(Invalid::Expired.into()),
            None if self.require_exp => return Err(Invalid::Lifetime.into()),
            _ => {}
        }
        // What was issued in the future has a clock or an issuer that is wrong.
        if [nbf, iat]
            .into_iter()
            .flatten()
            .any(|begin| now < begin - self.clock_skew)
        {
            return Err(Invalid::NotYet.into());
        }
        match (self.max_lifetime, iat, exp) {
            (None, _, _) => Ok(()),
            (Some(most), Some(iat), Some(exp)) if exp - iat <= most => Ok(()),
            // Without both there is no telling.
            _ => Err(Invalid::Lifetime.into()),
        }
    }

    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let issuer = claims.get("iss").and_then(Value::as_str);
        match issuer {
            _ if self.iss.is_empty() => Ok(()),
            Some(issuer) if self.iss.iter().any(|known| known == issuer) => Ok(()),
            _ => Err(Invalid::Issuer.into()),
        }
    }

    /// RFC 7519 section 4.1.3: a token with an audience is only for those who are named there, so it is for nobody
    /// here when `aud` is not configured.
    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let is_here = |name: &Value| {
            name.as_str()
                .is_some_and(|name| self.aud.iter().any(|here| here == name))
        };
        let good = match claims.get("aud") {
            None => self.aud.is_empty(),
            Some(Value::Array(names)) => names.iter().all(Value::is_string) && names.iter().any(is_here),
            Some(name) => is_here(name),
        };
        if good { Ok(()) } else { Err(Invalid::Audience.into()) }
    }

    fn has_scopes(&self, claims: &Map<String, Value>) -> bool {
        if self.scopes.is_empty() {
            return true;
        }
        let granted: Vec<&str> = match self.scope_claim.find(claims) {
            // RFC 8693 section 4.2.
            Some(Value::String(words)) => words.split(' ').collect(),
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
            _ => return false,
        };
        self.scopes.iter().all(|scope| granted.contains(&scope.as_str()))
    }
}

impl Required {
    fn is_met_by(&self, claims: &Map<String, Value>) -> bool {
        let is_one_of = |value: &Value| self.values.contains(value);
        match self.claim.find(claims) {
            None => false,
            Some(_) if self.values.is_empty() => true,
            Some(Value::Array(values)) => values.iter().any(is_one_of),
            Some(value) => is_one_of(value),
        }
    }
}

/// Seconds since 1970, which may have a fraction (RFC 7519 section 2).
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(seconds)) => Ok(seconds.as_f64()),
        Some(_) => Err(Invalid::Malformed.into()),
    }
}
