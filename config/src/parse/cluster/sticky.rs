//! The cookie by which a client comes back to the same endpoint.
//!
//! Control plane.

use serde_json::Value as Json;

use super::token;
use crate::model::Sticky;
use crate::reader::Reader;
use crate::shape::{At, OffOr};
use crate::vocabulary;

/// Says whose it is, and what it is for.
const COOKIE: &str = "tamis-endpoint";
/// The whole site is balanced in the same way.
const PATH: &str = "/";
/// Fewer can be guessed.
const MIN_SECRET_BYTES: usize = 16;

/// The inner `None` is "off".
pub(super) fn sticky(sticky: Option<OffOr<vocabulary::Sticky>>, reader: &mut Reader) -> Option<Option<Sticky>> {
    let Some(OffOr::On(sticky)) = sticky else {
        return Some(None);
    };
    reader.within("sticky", |reader| {
        let cookie = match sticky.cookie {
            // RFC 6265 4.1.1: a token; its case counts.
            Some(name) => token(&name, "cookie", reader).map(|_| name.value),
            None => Some(COOKIE.to_owned()),
        };
        let path = match sticky.path {
            Some(path) => checked_path(path, reader),
            None => Some(PATH.to_owned()),
        };
        let secret = match sticky.secret {
            Some(secret) => secret_of(secret, reader).map(Some),
            None => Some(None),
        };
        Some(Some(Sticky {
            cookie: cookie?,
            path: path?,
            max_age: sticky.max_age.map(|period| period.0),
            secret: secret?,
        }))
    })
}

/// RFC 6265 4.1.1: what may stand in an attribute.
fn checked_path(path: At<String>, reader: &mut Reader) -> Option<String> {
    let is_sound = path.value.starts_with('/')
        && path
            .value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~' if byte != b';'));
    if is_sound {
        return Some(path.value);
    }
    let message = "is not a path; write it as in `/shop`, without `;`";
    reader.error_at(&path.place, "path", message);
    None
}

fn secret_of(secret: At<crate::settings::Settings>, reader: &mut Reader) -> Option<String> {
    match secret.value.value {
        Json::String(text) if text.len() >= MIN_SECRET_BYTES => return Some(text),
        Json::String(_) => {
            let message = format!("shorter than {MIN_SECRET_BYTES} bytes; use a longer one");
            reader.error_at(&secret.place, "secret", message);
        }
        _ => reader.error_at(&secret.place, "secret", "expected text, `${NAME}` or `file:PATH`"),
    }
    None
}
