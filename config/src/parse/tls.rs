//! TLS of listeners and clusters, and the redirect to it.
//!
//! Control plane. Names files and never reads them: what is in them changes more often than the configuration, and
//! whether it is sound is for the proxy to say.

use std::path::PathBuf;

use super::pattern::check_host;
use super::route::redirect_status;
use crate::model::{
    Alpn, CertificateFiles, ClientAuth, ClientAuthMode, ClusterTls, HttpsRedirect, ListenerTls, TlsVersion,
    UpstreamProtocol, Verify,
};
use crate::reader::{Reader, quote};
use crate::shape::{At, OffOr, ShortOr};
use crate::vocabulary;
use crate::word::Word as _;

/// The same method again, and for good.
const REDIRECT_STATUS: u16 = 308;
const HTTPS_PORT: u16 = 443;
/// More than one listener serves; each is read at every reload.
const MAX_CERTIFICATES: usize = 1_000;

/// The inner `None` is plain text.
pub(super) fn listener(tls: Option<At<vocabulary::ListenerTls>>, reader: &mut Reader) -> Option<Option<ListenerTls>> {
    let Some(At { place, value: tls }) = tls else {
        return Some(None);
    };
    let certificates = reader.within("certificates", |reader| certificates(tls.certificates.0?, reader));
    let ca = path("client_ca", tls.client_ca, reader);
    let crl = path("client_crl", tls.client_crl.clone(), reader);
    let client_auth = match ca? {
        Some(ca) => Some(ClientAuth {
            ca,
            crl: crl?,
            mode: tls.client_auth.map_or(ClientAuthMode::Required, |mode| mode.value),
        }),
        None => {
            let message = "needs `client_ca`, the authorities whose certificates clients show; add it";
            if let Some(mode) = tls.client_auth {
                reader.error_at(&mode.place, "client_auth", message);
                return None;
            }
            if let Some(crl) = tls.client_crl {
                reader.error_at(&crl.place, "client_crl", message);
                return None;
            }
            None
        }
    };
    Some(Some(ListenerTls {
        place,
        certificates: certificates?,
        client_auth,
        min_version: tls.min_version.unwrap_or(TlsVersion::Tls12),
    }))
}

fn certificates(
    listed: At<Vec<At<vocabulary::CertificateFiles>>>,
    reader: &mut Reader,
) -> Option<Vec<CertificateFiles>> {
    if listed.value.is_empty() {
        reader.error(&listed.place, "empty, so no client could be served; add a certificate");
        return None;
    }
    if let Some(surplus) = listed.value.get(MAX_CERTIFICATES) {
        let message = format!("more than {MAX_CERTIFICATES} certificates; share them between listeners");
        reader.error(&surplus.place, message);
        return None;
    }
    let read = |(index, files): (usize, At<vocabulary::CertificateFiles>)| {
        reader.within(format!("[{index}]"), |reader| certificate_files(files.value, reader))
    };
    // Every pair is looked at, also after one that is wrong.
    let read: Vec<_> = listed.value.into_iter().enumerate().map(read).collect();
    read.into_iter().collect()
}

fn certificate_files(files: vocabulary::CertificateFiles, reader: &mut Reader) -> Option<CertificateFiles> {
    let cert = files.cert.0;
    let key = path("key", files.key.0, reader);
    let place = cert.as_ref()?.place.clone();
    let cert = path("cert", cert, reader);
    Some(CertificateFiles {
        place,
        cert: cert??,
        key: key??,
    })
}

/// The file's path; the result depends on it.
fn path(key: &str, path: Option<At<String>>, reader: &mut Reader) -> Option<Option<PathBuf>> {
    let Some(path) = path else { return Some(None) };
    if path.value.is_empty() {
        reader.error_at(&path.place, key, "an empty path; write the path of a PEM file");
        return None;
    }
    let resolved = reader.resolve(&path.value);
    reader.depend_on(resolved.clone());
    Some(Some(resolved))
}

/// `has_paths`: endpoints that are Unix sockets have no name to be held to.
pub(super) fn cluster(
    tls: Option<At<vocabulary::ClusterTls>>,
    protocol: UpstreamProtocol,
    has_paths: bool,
    reader: &mut Reader,
) -> Option<Option<ClusterTls>> {
    let Some(At { place, value: tls }) = tls else {
        return Some(None);
    };
    let name = server_name(tls.server_name, reader);
    let client_certificate = reader.within("client_certificate", |reader| {
        let files = tls.client_certificate.map(|files| certificate_files(files, reader));
        files.map_or(Some(None), |files| files.map(Some))
    });
    let ca = path("ca", tls.ca, reader);
    let verify = match (ca?, tls.unsafe_skip_verify) {
        (Some(_), Some(skip)) => {
            let message = "with `ca` there is somebody to verify by; keep one of them";
            reader.error_at(&skip.place, "unsafe_skip_verify", message);
            return None;
        }
        (None, Some(_)) => Verify::Nobody,
        (Some(ca), None) => Verify::Ca(ca),
        (None, None) => Verify::System,
    };
    let name = name?;
    if has_paths && name.is_none() {
        let message = "missing, and a Unix socket has no name that a certificate could be for; add it";
        reader.error_at(&place, "server_name", message);
        return None;
    }
    Some(Some(ClusterTls {
        place,
        verify,
        server_name: name,
        client_certificate: client_certificate?,
        alpn: alpn(tls.alpn, protocol, reader)?,
        min_version: tls.min_version.unwrap_or(TlsVersion::Tls12),
    }))
}

fn server_name(name: Option<At<String>>, reader: &mut Reader) -> Option<Option<String>> {
    let Some(At { place, value }) = name else {
        return Some(None);
    };
    let lower = value.to_ascii_lowercase();
    // An address stands in a certificate without brackets.
    let checked = match lower.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) if lower.starts_with('[') => Err(format!("`{}`: leave the brackets out", quote(&value))),
        Err(_) => check_host(&value, &lower),
    };
    if let Err(message) = checked {
        reader.error_at(&place, "server_name", message);
        return None;
    }
    Some(Some(lower))
}

fn alpn(alpn: Option<At<OffOr<Vec<Alpn>>>>, protocol: UpstreamProtocol, reader: &mut Reader) -> Option<Vec<Alpn>> {
    match alpn.map(|At { place, value }| (place, value)) {
        None => Some(match protocol {
            UpstreamProtocol::Http1 => vec![Alpn::Http11],
            UpstreamProtocol::Http2 => vec![Alpn::H2],
            UpstreamProtocol::Auto => vec![Alpn::H2, Alpn::Http11],
        }),
        Some((place, _)) if protocol != UpstreamProtocol::Http1 => {
            let message = format!(
                "the cluster's `protocol: {}` says what is offered; remove it",
                protocol.word()
            );
            reader.error_at(&place, "alpn", message);
            None
        }
        Some((place, OffOr::On(protocols))) if protocols.contains(&Alpn::H2) => {
            let message = "`h2` is offered with `protocol: http2` or `auto`, beside `tls`; write that in its place";
            reader.error_at(&place, "alpn", message);
            None
        }
        Some((_, OffOr::Off)) => Some(Vec::new()),
        Some((place, OffOr::On(protocols))) if protocols.is_empty() => {
            reader.error_at(&place, "alpn", "empty; to offer nothing write `off`");
            None
        }
        Some((_, OffOr::On(protocols))) => Some(protocols),
    }
}

/// The inner `None` is no redirect.
pub(super) fn redirect(
    redirect: Option<At<vocabulary::HttpsRedirect>>,
    has_tls: bool,
    reader: &mut Reader,
) -> Option<Option<HttpsRedirect>> {
    let Some(At { place, value }) = redirect else {
        return Some(None);
    };
    if has_tls {
        let message = "the listener has `tls`, so its clients are there already; give it to one of plain text";
        reader.error_at(&place, "redirect", message);
        return None;
    }
    let (port, status) = match value {
        ShortOr::Short(_) => (None, None),
        ShortOr::Block(block) => (block.port, block.status.map(|status| status.map(|status| status.0))),
    };
    let status = reader.within("redirect", |reader| redirect_status(status, REDIRECT_STATUS, reader));
    Some(Some(HttpsRedirect {
        status: status?,
        port: port.map_or(HTTPS_PORT, |port| u16::try_from(port.0).unwrap_or(HTTPS_PORT)),
    }))
}
