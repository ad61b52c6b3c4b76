//! Decisions that are kept for the requests that ask the same.

use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tamis_filter::key_value::{self, Claimed};
use tamis_filter::{Period, Request, check_header};

use crate::decision::{self, Decision, Reading, Undecided};
use crate::fields::Pattern;
use crate::question;

/// What credentials come in: a service that is sent one decides by it.
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];
/// As in the rest of the proxy's configuration.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Stands where a decision could not be kept, and is none itself: whoever finds it asks at once. Those who ask the same
/// would else wait in line for answers that serve one of them each.
const EACH_FOR_ITSELF: &[u8] = b"";
const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    headers: Vec<String>,
    #[serde(default)]
    uri: Uri,
    /// A right that is withdrawn holds no longer than that.
    #[serde(default = "half_a_minute")]
    ttl: Period,
    /// Long enough for a burst, short enough for who has just logged in.
    #[serde(default = "a_second")]
    denied_ttl: Period,
}

fn half_a_minute() -> Period {
    Period::from_secs(30)
}

fn a_second() -> Period {
    Period::from_secs(1)
}

/// Whether path and query are part of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Uri {
    #[default]
    Matters,
    Ignored,
}

#[derive(Debug)]
pub struct Cache {
    headers: Vec<String>,
    uri: Uri,
    ttl: Duration,
    denied_ttl: Duration,
    /// How long to wait for another that asks the same.
    wait: Duration,
    /// A digest of the whole configuration: filters that share a table must not share decisions.
    scope: [u8; 32],
}

impl Cache {
    /// `settings` is a text of all other settings.
    pub fn new(config: CacheConfig, sent: &[Pattern], wait: Duration, settings: &str) -> Result<Self, String> {
        let mut headers: Vec<String> = config.headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        headers.sort_unstable();
        headers.dedup();
        for name in &headers {
            check_header(name, "").map_err(|error| format!("cache.headers `{name}`: {error}"))?;
        }
        let is_sent = |name: &str| sent.iter().any(|pattern| pattern.matches(name));
        let is_key = |name: &str| headers.iter().any(|header| header == name);
        if let Some(name) = CREDENTIALS.into_iter().find(|name| is_sent(name) && !is_key(name)) {
            return Err(format!(
                "cache.headers: `{name}` is sent, so decisions depend on it; add it"
            ));
        }
        let scope = Sha256::digest(format!("{settings} {headers:?} {:?}", config.uri)).into();
        Ok(Cache {
            headers,
            uri: config.uri,
            ttl: config.ttl.within("cache.ttl", MILLISECOND, DAY)?,
            denied_ttl: config.denied_ttl.within("cache.denied_ttl", Duration::ZERO, DAY)?,
            wait,
            scope,
        })
    }

    /// The kept decision, or what the service decides now. Of those that ask the same at once, one asks.
    pub fn decide(
        &self,
        request: &Request,
        reading: &Reading,
        ask: impl FnOnce() -> Result<tamis_filter::outbound::Answer, Undecided>,
    ) -> Result<Decision, Undecided> {
        let key = self.key(request);
        let claim = match key_value::claim(&key, self.wait) {
            Claimed::Yours(claim) => claim,
            Claimed::TimedOut => return Err(Undecided::Waited),
            Claimed::Value(kept) => match Decision::decode(&kept) {
                Some(decision) => return Ok(decision),
                None => return reading.read(ask()?),
            },
        };
        let answer = ask()?;
        let may_be_kept = decision::may_be_kept(&answer);
        let decision = reading.read(answer)?;
        let ttl = match decision {
            Decision::Allow { .. } => self.ttl,
            Decision::Deny(_) => self.denied_ttl,
        };
        let (kept, ttl) = match may_be_kept && !ttl.is_zero() {
            true => (decision.encode(), ttl),
            false => (EACH_FOR_ITSELF.to_vec(), self.ttl),
        };
        let _too_large = claim.set(kept, Some(ttl));
        Ok(decision)
    }

    /// A digest, because credentials must not lie about as they are. Each part stands after its length, so that no two
    /// requests look the same in one row of bytes.
    fn key(&self, request: &Request) -> String {
        let mut digest = Sha256::new_with_prefix(self.scope);
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(request.method().as_bytes());
        part(request.scheme().as_bytes());
        part(request.authority().as_bytes());
        if self.uri == Uri::Matters {
            part(question::uri(request).as_bytes());
        }
        for name in &self.headers {
            let values = request.header_values(name);
            part(&(values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| part(value));
        }
        let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("ext-auth {hex}")
    }
}
