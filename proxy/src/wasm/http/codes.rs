//! The one table from error codes of `wasi:http` to statuses.
//!
//! Data plane. Both versions of the interface have the same codes. What a guest says of its own request is the client's
//! to know (400, 403, 411, ...); what it says of others that it has called is a gateway's failure (502, 504).

use http::StatusCode;
use wasmtime_wasi_http::Error;

pub(super) fn status(code: &Error) -> StatusCode {
    match code {
        Error::HttpRequestDenied => StatusCode::FORBIDDEN,
        Error::HttpRequestLengthRequired => StatusCode::LENGTH_REQUIRED,
        Error::HttpRequestBodySize(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::HttpRequestMethodInvalid => StatusCode::METHOD_NOT_ALLOWED,
        Error::HttpRequestUriInvalid => StatusCode::BAD_REQUEST,
        Error::HttpRequestUriTooLong => StatusCode::URI_TOO_LONG,
        Error::HttpRequestHeaderSectionSize(_)
        | Error::HttpRequestHeaderSize { .. }
        | Error::HttpRequestTrailerSectionSize(_)
        | Error::HttpRequestTrailerSize { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Error::LoopDetected => StatusCode::LOOP_DETECTED,
        Error::InternalError(_) | Error::ConfigurationError => StatusCode::INTERNAL_SERVER_ERROR,
        Error::ConnectionLimitReached => StatusCode::SERVICE_UNAVAILABLE,
        Error::DnsTimeout
        | Error::ConnectionTimeout
        | Error::ConnectionReadTimeout
        | Error::ConnectionWriteTimeout
        | Error::HttpResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        // Whatever else went wrong did so behind the guest.
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_status_of_whose_fault_it_is() {
        for (code, expected) in [
            (Error::HttpRequestDenied, 403),
            (Error::HttpRequestLengthRequired, 411),
            (Error::HttpRequestBodySize(None), 413),
            (Error::HttpRequestUriTooLong, 414),
            (Error::LoopDetected, 508),
            (Error::InternalError(Some("secret".into())), 500),
            (Error::ConnectionLimitReached, 503),
            (Error::HttpResponseTimeout, 504),
            (Error::DestinationNotFound, 502),
            (Error::HttpProtocolError, 502),
        ] {
            assert_eq!(status(&code), expected, "{code}");
        }
    }
}
