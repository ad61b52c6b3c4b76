//! Sticky cookies: by them a client comes back to the endpoint that it had before.
//!
//! Data plane; pure. A cookie says which endpoint without saying its address: it is a digest of it. So nothing has to be
//! remembered, every worker and every process with the same settings understands it, and it survives reloads and
//! restarts. With a secret only who knows it can make one; without, one who knows an address can, and reaches by it no more
//! than an endpoint that clients are sent to anyway.

use std::collections::HashMap;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;

use crate::cluster::cookie;

/// Bytes of the digest that are shown; two endpoints of one cluster never have the same.
const TOKEN_BYTES: usize = 16;

#[derive(Clone)]
pub struct Sticky {
    pub cookie: String,
    pub path: String,
    /// `None`: until the client's session ends.
    pub max_age: Option<Duration>,
    pub secret: Option<String>,
}

/// Without the secret.
impl std::fmt::Debug for Sticky {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Sticky")
            .field("cookie", &self.cookie)
            .finish_non_exhaustive()
    }
}

/// What cookies say of the members of a cluster.
#[derive(Debug, Default)]
pub struct Tokens {
    /// By member.
    of: Vec<String>,
    members: HashMap<String, usize>,
}

impl Sticky {
    /// Of the endpoints with these labels, in the cluster of this name.
    pub fn tokens<'a>(&self, cluster: &str, labels: impl Iterator<Item = &'a str>) -> Tokens {
        let of: Vec<String> = labels.map(|label| self.token(cluster, label)).collect();
        let members = of.iter().enumerate().map(|(member, token)| (token.clone(), member));
        Tokens {
            members: members.collect(),
            of,
        }
    }

    fn token(&self, cluster: &str, label: &str) -> String {
        let key = self.secret.as_deref().unwrap_or("tamis").as_bytes();
        let Ok(mut digest) = Hmac::<Sha256>::new_from_slice(key) else {
            // HMAC takes keys of any length.
            return String::new();
        };
        digest.update(cluster.as_bytes());
        digest.update(&[0]);
        digest.update(label.as_bytes());
        let digest = digest.finalize().into_bytes();
        digest[..TOKEN_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The member that the client's cookie names.
    pub fn member(&self, tokens: &Tokens, headers: &HeaderMap) -> Option<usize> {
        let token = std::str::from_utf8(cookie(headers, self.cookie.as_bytes())?).ok()?;
        tokens.members.get(token).copied()
    }

    /// `Set-Cookie` for a client that goes to this member (RFC 6265 4.1.1).
    pub fn field(&self, tokens: &Tokens, member: usize, is_secure: bool) -> Option<HeaderValue> {
        let mut field = format!("{}={}; Path={}", self.cookie, tokens.of.get(member)?, self.path);
        if let Some(max_age) = self.max_age {
            // A second at least: nothing would delete it.
            field += &format!("; Max-Age={}", max_age.as_secs().max(1));
        }
        field += "; HttpOnly; SameSite=Lax";
        if is_secure {
            field += "; Secure";
        }
        HeaderValue::try_from(field).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    fn sticky(secret: Option<&str>) -> Sticky {
        Sticky {
            cookie: "s".into(),
            path: "/".into(),
            max_age: None,
            secret: secret.map(str::to_owned),
        }
    }

    fn asking(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        headers
    }

    #[test]
    fn a_cookie_leads_back_and_a_foreign_one_nowhere() {
        let sticky = sticky(None);
        let tokens = sticky.tokens("app", ["127.0.0.1:1", "127.0.0.1:2"].into_iter());
        for member in [0, 1] {
            let field = sticky.field(&tokens, member, false).unwrap();
            let pair = field.to_str().unwrap().split(';').next().unwrap();
            assert_eq!(
                sticky.member(&tokens, &asking(&format!("a=b; {pair}; c=d"))),
                Some(member)
            );
        }
        for foreign in ["s=", "s=127.0.0.1:1", "t=0", "s=00000000000000000000000000000000"] {
            assert_eq!(sticky.member(&tokens, &asking(foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn other_clusters_and_other_secrets_have_other_cookies() {
        let token = |secret, cluster| sticky(secret).token(cluster, "127.0.0.1:1");
        let tokens = [
            token(None, "a"),
            token(None, "b"),
            token(Some("secret secret 1"), "a"),
            token(Some("secret secret 2"), "a"),
        ];
        let distinct: std::collections::HashSet<_> = tokens.iter().collect();
        assert_eq!(distinct.len(), 4, "{tokens:?}");
    }

    #[test]
    fn attributes_are_as_they_should_be() {
        let mut sticky = sticky(None);
        let tokens = sticky.tokens("app", ["unix:/a"].into_iter());
        let token = tokens.of[0].clone();
        let plain = sticky.field(&tokens, 0, false).unwrap();
        assert_eq!(plain, format!("s={token}; Path=/; HttpOnly; SameSite=Lax"));
        (sticky.path, sticky.max_age) = ("/shop".into(), Some(Duration::from_secs(60)));
        let secure = sticky.field(&tokens, 0, true).unwrap();
        assert_eq!(
            secure,
            format!("s={token}; Path=/shop; Max-Age=60; HttpOnly; SameSite=Lax; Secure")
        );
    }
}
