//! Keys that are fetched from their issuer, and shared by all instances in the table of `key_value`.
//!
//! Three entries of the table say all there is to know, by being there or not:
//!
//! * `fresh`: the digest of the set that is to be used, for `refresh`. Whoever finds it gone claims it and fetches, for
//!   all instances. Empty, it means that there is no set, because a fetch has just failed.
//! * `set`: the set itself, for `refresh` and `stale`. It outlives `fresh`, and is used when a fetch fails.
//! * `asked`: there for `min_refresh` after each fetch. While it is, an unknown `kid` fetches nothing, so forged tokens
//!   cannot make a storm.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tamis_filter::key_value::{self, Computed};
use tamis_filter::{Period, log, outbound};

use crate::algorithm::Algorithm;
use crate::keys::{KeySet, Origin};
use crate::refusal::Refusal;
use crate::token::Token;

/// After a failed fetch that leaves no keys at all, nobody tries again for so long: an issuer that comes back is not
/// met by a storm, and requests are refused no longer than they must be.
const PAUSE: Duration = Duration::from_secs(1);
/// Sets of the field have under 20 KiB. Read once for each instance and fetch.
const MAX_SET_BYTES: usize = 256 << 10;
/// Paths of the field have under 100 bytes; a key of the table holds it.
const MAX_PATH_BYTES: usize = 1024;
/// The bounds of what can be configured: as in the rest of the proxy's configuration, up to a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchedConfig {
    cluster: String,
    path: String,
    authority: Option<String>,
    /// Issuers turn their keys within days or weeks, and publish a key some time before they use it.
    #[serde(default = "ten_minutes")]
    refresh: Period,
    /// A new key is found within this, and an issuer is asked no more often.
    #[serde(default = "half_a_minute")]
    min_refresh: Period,
    /// Longer than most outages, and still a bound for keys that were revoked.
    #[serde(default = "an_hour")]
    stale: Period,
    /// Below the default `limits.wall` of a filter with the grant `outbound`, which is 5 s.
    #[serde(default = "two_seconds")]
    timeout: Period,
}

fn ten_minutes() -> Period {
    Period::from_secs(600)
}

fn half_a_minute() -> Period {
    Period::from_secs(30)
}

fn an_hour() -> Period {
    Period::from_secs(3600)
}

fn two_seconds() -> Period {
    Period::from_secs(2)
}

/// Keys of an issuer. One an instance; its clones share what was read last.
#[derive(Debug)]
pub struct Fetched {
    cluster: String,
    path: String,
    authority: Option<String>,
    refresh: Duration,
    min_refresh: Duration,
    stale: Duration,
    timeout: Duration,
    algorithms: Vec<Algorithm>,
    /// The names of the three entries.
    fresh: String,
    set: String,
    asked: String,
    /// The set that this instance has read last, with its digest.
    read: RefCell<Option<Digested>>,
}

/// A set with its SHA-256.
type Digested = ([u8; 32], Rc<KeySet>);

impl Fetched {
    pub fn new(config: FetchedConfig, algorithms: &[Algorithm]) -> Result<Self, String> {
        let FetchedConfig {
            cluster,
            path,
            authority,
            ..
        } = config;
        let sound = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !sound || path.len() > MAX_PATH_BYTES {
            return Err(format!(
                "path `{path}` must start with `/` and be a path, at most {MAX_PATH_BYTES} bytes"
            ));
        }
        let refresh = config.refresh.within("refresh", SECOND, DAY)?;
        let entry = |name: &str| {
            format!(
                "jwks {name} {cluster} {} {path}",
                authority.as_deref().unwrap_or_default()
            )
        };
        Ok(Fetched {
            refresh,
            min_refresh: config.min_refresh.within("min_refresh", SECOND, refresh)?,
            stale: config.stale.within("stale", Duration::ZERO, DAY)?,
            timeout: config.timeout.within("timeout", MILLISECOND, Duration::from_secs(60))?,
            algorithms: algorithms.to_vec(),
            fresh: entry("fresh"),
            set: entry("set"),
            asked: entry("asked"),
            read: RefCell::new(None),
            cluster,
            path,
            authority,
        })
    }

    /// Whether the token is signed with one of the keys. An unknown `kid` may be one that the issuer has just begun to
    /// use.
    pub fn verify(&self, token: &Token) -> Result<(), Refusal> {
        let keys = self.keys().ok_or(Refusal::NoKeys)?;
        if keys.knows(token) {
            return keys.verify(token);
        }
        self.ask(self.timeout);
        self.keys().ok_or(Refusal::NoKeys)?.verify(token)
    }

    /// In the background: fetches, so that no request has to wait for it. Where there is nothing yet, as at the start,
    /// requests may be about to fetch as well: whoever comes first does.
    pub fn refresh(&self) {
        let was_asked = key_value::get(&self.asked).is_some();
        match key_value::get(&self.fresh) {
            None if !was_asked => drop(self.renew(Duration::ZERO)),
            _ => self.ask(Duration::ZERO),
        }
    }

    /// The keys to use now; none when there are none to be had.
    fn keys(&self) -> Option<Rc<KeySet>> {
        match key_value::get(&self.fresh) {
            None => self.renew(self.timeout),
            Some(digest) if digest.is_empty() => None,
            // The table may have dropped the set and kept its digest.
            Some(digest) => self
                .read_before(&digest)
                .or_else(|| Some(self.stored()?.1))
                .or_else(|| {
                    key_value::delete(&self.fresh);
                    self.renew(self.timeout)
                }),
        }
    }

    /// Fetches, unless that was done within `min_refresh`. While another does, waits for it. A fetch that fails leaves
    /// what there was.
    fn ask(&self, wait: Duration) {
        let _who_waited_in_vain_goes_on = key_value::get_or_compute(&self.asked, wait, || {
            if let Some((digest, _)) = self.fetch_and_store() {
                let _a_digest_is_not_too_large = key_value::set(&self.fresh, digest, Some(self.refresh));
            }
            Ok(Some(Computed::new("").kept_for(self.min_refresh)))
        });
    }

    /// Fetches, if nobody else does; else waits for that. With old keys at hand nobody waits.
    fn renew(&self, wait: Duration) -> Option<Rc<KeySet>> {
        let old = self.stored();
        let wait = if old.is_some() { Duration::ZERO } else { wait };
        let digest = key_value::get_or_compute(&self.fresh, wait, || {
            let fetched = self.fetch_and_store();
            // A failure counts, too: an unknown `kid` would else repeat it at once.
            let _a_mark_is_not_too_large = key_value::set(&self.asked, b"", Some(self.min_refresh));
            Ok(Some(match (fetched, &old) {
                (Some((digest, _)), _) => Computed::new(digest).kept_for(self.refresh),
                (None, Some((digest, _))) => Computed::new(*digest).kept_for(self.min_refresh),
                (None, None) => Computed::new("").kept_for(PAUSE),
            }))
        });
        match digest {
            Ok(Some(digest)) if digest.is_empty() => None,
            Ok(Some(digest)) => self.read_before(&digest).or_else(|| Some(self.stored()?.1)),
            // Nobody has come to an end in time.
            Ok(None) | Err(_) => old.map(|(_, keys)| keys),
        }
    }

    /// A set, and its digest. What is no set of keys is not stored, and so does not drive out one that is.
    fn fetch_and_store(&self) -> Option<Digested> {
        let stored = self.fetch().and_then(|set| {
            let read = self.read(&set)?;
            let stored = key_value::set(&self.set, &set, Some(self.refresh + self.stale));
            stored.map_err(|error| error.to_string())?;
            Ok(read)
        });
        stored
            .inspect_err(|fault| log::warn!("keys of `{}`: {fault}", self.cluster))
            .ok()
    }

    fn fetch(&self) -> Result<Vec<u8>, String> {
        let mut call = outbound::get(&self.cluster, &self.path)
            .header("accept", "application/json")
            .timeout(self.timeout);
        call.authority = self.authority.clone();
        let answer = call.send().map_err(|error| error.to_string())?;
        match answer.status {
            200 if answer.body.len() <= MAX_SET_BYTES => Ok(answer.body),
            200 => Err(format!("over {MAX_SET_BYTES} bytes")),
            status => Err(format!("answered with {status}")),
        }
    }

    fn stored(&self) -> Option<Digested> {
        self.read(&key_value::get(&self.set)?).ok()
    }

    fn read(&self, set: &[u8]) -> Result<Digested, String> {
        let digest: [u8; 32] = Sha256::digest(set).into();
        if let Some(keys) = self.read_before(&digest) {
            return Ok((digest, keys));
        }
        let keys = Rc::new(KeySet::from_jwks(set, &self.algorithms, Origin::Fetched)?);
        self.read.replace(Some((digest, Rc::clone(&keys))));
        Ok((digest, keys))
    }

    fn read_before(&self, digest: &[u8]) -> Option<Rc<KeySet>> {
        let read = self.read.borrow();
        let (last, keys) = read.as_ref()?;
        (last == digest).then(|| Rc::clone(keys))
    }
}
