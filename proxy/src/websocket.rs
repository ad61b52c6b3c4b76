//! The keys of a WebSocket handshake (RFC 6455 4.1, 4.2.2), which HTTP/1.1 has and HTTP/2 has not (RFC 8441 5): where the
//! two meet, the proxy is the side that has to show or to check them. Data plane; pure.

use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderMap, HeaderValue, header};
use sha1::{Digest, Sha1};

/// RFC 6455 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether this protocol of Upgrade or of `:protocol` is WebSocket; names of protocols have no case.
pub fn is_it(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// What a client sends as `Sec-WebSocket-Key`, of 16 bytes that it never used before.
pub fn key(nonce: [u8; 16]) -> HeaderValue {
    // Letters, digits, `+`, `/` and `=`.
    HeaderValue::try_from(BASE64_STANDARD.encode(nonce)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What the server has to say as `Sec-WebSocket-Accept`; `None` for another protocol, and to a request without a key.
pub fn accept(protocol: &HeaderValue, request: &HeaderMap) -> Option<HeaderValue> {
    let key = request.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_it(protocol))?;
    let digest = Sha1::new()
        .chain_update(key.as_bytes().trim_ascii())
        .chain_update(GUID)
        .finalize();
    HeaderValue::try_from(BASE64_STANDARD.encode(digest)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 1.3.
    #[test]
    fn a_key_and_what_accepts_it() {
        let key = key(*b"the sample nonce");
        assert_eq!(key, "dGhlIHNhbXBsZSBub25jZQ==");
        let mut request = HeaderMap::new();
        let websocket = HeaderValue::from_static("websocket");
        assert_eq!(accept(&websocket, &request), None);
        request.insert(header::SEC_WEBSOCKET_KEY, key);
        assert_eq!(
            accept(&websocket, &request).as_ref().map(HeaderValue::as_bytes),
            Some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..])
        );
        let [same, another] = ["WebSocket", "websocket/2"].map(HeaderValue::from_static);
        assert!(is_it(&same) && !is_it(&another));
        assert_eq!(accept(&another, &request), None);
    }
}
