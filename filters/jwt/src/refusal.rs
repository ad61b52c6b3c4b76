//! Why a request does not pass, and the one function from that to what the client sees.

use tamis_filter::Reply;

/// Why a request does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No token.
    Missing,
    /// More than one token.
    Repeated,
    /// A token that is not good.
    Invalid(Invalid),
    /// A good token that does not suffice.
    Insufficient,
    /// There is no key to tell.
    NoKeys,
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    TooLong,
    Malformed,
    Algorithm,
    Kind,
    UnknownKey,
    Signature,
    Expired,
    NotYet,
    Lifetime,
    Issuer,
    Audience,
    /// A claim that is to become a header field, and cannot.
    Claim,
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Refusal::Invalid(invalid)
    }
}

impl Refusal {
    /// For the access log; one word.
    pub fn word(self) -> &'static str {
        match self {
            Refusal::Missing => "missing",
            Refusal::Repeated => "repeated",
            Refusal::Invalid(invalid) => invalid.word(),
            Refusal::Insufficient => "insufficient",
            Refusal::NoKeys => "no-keys",
        }
    }

    /// Fixed words: nothing of the token, the keys or the claims comes back (RFC 6750 section 3.1).
    pub fn reply(self, realm: Option<&str>) -> Reply {
        let (status, error, description) = match self {
            // Without a token there is no error to tell of.
            Refusal::Missing => (401, None, "a token is missing"),
            Refusal::Repeated => (400, Some("invalid_request"), "more than one token"),
            Refusal::Invalid(invalid) => (401, Some("invalid_token"), invalid.description()),
            Refusal::Insufficient => (403, Some("insufficient_scope"), "the token does not suffice"),
            Refusal::NoKeys => (503, None, "tokens cannot be verified at present"),
        };
        let reply = Reply::new(status);
        let reply = match status {
            503 => reply,
            // RFC 9110 section 11.6.1: a 401 carries a challenge. RFC 6750 section 3 wants it for the others, too.
            _ => reply.header("www-authenticate", challenge(realm, error, description)),
        };
        let body = format!("{{\"error\":\"{description}\"}}\n");
        reply.header("content-type", "application/json").body(body)
    }
}

fn challenge(realm: Option<&str>, error: Option<&str>, description: &str) -> String {
    let realm = realm.map(|realm| format!("realm=\"{realm}\""));
    let error = error.map(|error| format!("error=\"{error}\", error_description=\"{description}\""));
    let parameters: Vec<String> = realm.into_iter().chain(error).collect();
    match parameters.as_slice() {
        [] => "Bearer".to_owned(),
        _ => format!("Bearer {}", parameters.join(", ")),
    }
}

impl Invalid {
    fn word(self) -> &'static str {
        match self {
            Invalid::TooLong => "too-long",
            Invalid::Malformed => "malformed",
            Invalid::Algorithm => "algorithm",
            Invalid::Kind => "type",
            Invalid::UnknownKey => "unknown-key",
            Invalid::Signature => "signature",
            Invalid::Expired => "expired",
            Invalid::NotYet => "not-yet",
            Invalid::Lifetime => "lifetime",
            Invalid::Issuer => "issuer",
            Invalid::Audience => "audience",
            Invalid::Claim => "claim",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Invalid::TooLong => "the token is too long",
            Invalid::Malformed => "the token is malformed",
            Invalid::Algorithm => "the token's algorithm is not allowed",
            Invalid::Kind => "the token is of another type",
            Invalid::UnknownKey => "the token's key is not known",
            Invalid::Signature => "the token's signature is wrong",
            Invalid::Expired => "the token has expired",
            Invalid::NotYet => "the token is not valid yet",
            Invalid::Lifetime => "the token's lifetime is not bounded as it must be",
            Invalid::Issuer => "the token is of another issuer",
            Invalid::Audience => "the token is for another audience",
            Invalid::Claim => "a claim cannot be passed on",
        }
    }
}
