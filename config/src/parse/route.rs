//! Routes: what they match and what they do.
//!
//! Control plane.

mod edits;
mod retry;
mod rewrite;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Names, listener::chain, pattern};
use crate::model::{
    Action, CertificatePattern, GrpcTimeout, HeaderPattern, Listener, Mirror, PathPattern, QueryPattern, Redirect,
    Respond, Route, RouteMatch, ValuePattern, WeightedCluster,
};
use crate::place::Place;
use crate::reader::{Reader, quote};
use crate::shape::{At, OffOr, Pairs, ShortOr, check_name};
use crate::vocabulary::{self, Routes, route_label};

/// The usual patience of clients and load balancers in front is 30 to 60 s; half of it leaves them a proper answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What users of a reverse proxy expect to pass without being asked for, and as safe as any other exchange: a tunnel is
/// made only when the upstream agrees.
const UPGRADES: [&str; 1] = ["websocket"];

/// All of them.
const MIRROR_PERCENT: u32 = 10_000;

/// Some reads of a fast client, while the mirror's connection is opened.
const MIRROR_BUFFER: usize = 256 << 10;

/// Protocols of one route. Nobody knows of more than a few.
const MAX_UPGRADES: usize = 16;

/// Regular expressions in one configuration. Each may take milliseconds to compile.
pub(super) const MAX_REGEXES: usize = 1_000;

/// Fixed responses are notices; files belong on a server.
const MAX_BODY_BYTES: usize = 64 << 10;

/// RFC 9110 section 7.6.1 and RFC 9112 section 6: framing and the connection are the proxy's own.
const OWN_FIELDS: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn routes(routes: Option<At<Routes>>, names: &Names, reader: &mut Reader) -> Option<Vec<Route>> {
    let At {
        place,
        value: Routes(listed),
    } = routes?;
    if listed.is_empty() {
        reader.error_at(&place, "routes", "empty, so every request would fail; add a route");
        return None;
    }
    refuse_duplicate_names(&listed, reader);
    let mut regexes = Regexes::default();
    let convert = |(name, value): (String, At<vocabulary::Route>)| {
        reader.within_item(route_label(&name), |reader| {
            route(&name, value, names, &mut regexes, reader)
        })
    };
    let converted: Vec<_> = listed.into_iter().map(convert).collect();
    converted.into_iter().collect()
}

fn refuse_duplicate_names(routes: &[(String, At<vocabulary::Route>)], reader: &mut Reader) {
    let mut places = HashMap::new();
    for (shown, route) in routes {
        let (name, place) = match &route.value.name {
            Some(name) => (name.value.as_str(), &name.place),
            None => (shown.as_str(), &route.place),
        };
        if let Some(earlier) = places.insert(name, place) {
            let message = format!("the route at {earlier} has this name already; choose another");
            reader.within_item(route_label(shown), |reader| reader.error_at(place, "name", message));
        }
    }
}

/// How many regular expressions have been compiled so far.
#[derive(Default)]
struct Regexes(usize);

impl Regexes {
    fn check(&mut self, regex: &str) -> Result<(), String> {
        self.0 += 1;
        match self.0 {
            ..=MAX_REGEXES => pattern::check_regex(regex),
            _ => Err(format!(
                "more than {MAX_REGEXES} regular expressions; use `prefix` or `exact` where they do"
            )),
        }
    }
}

fn route(
    shown: &str,
    route: At<vocabulary::Route>,
    names: &Names,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<Route> {
    let At { place, value: route } = route;
    let name = name(shown, route.name.as_ref(), reader);
    let matches = reader.within("match", |reader| matches(route.r#match, regexes, reader));
    let filters = chain(route.filters, names, reader);
    let action = action(
        route.cluster,
        route.clusters,
        route.redirect,
        route.respond,
        names,
        reader,
    );
    for (key, place) in [
        ("retry", route.retry.as_ref().map(|it| &it.place)),
        ("rewrite", route.rewrite.as_ref().map(|it| &it.place)),
        ("mirror", route.mirror.as_ref().map(|it| &it.place)),
        ("request_headers", route.request_headers.as_ref().map(|it| &it.place)),
    ] {
        refuse_without_cluster(key, place, action.as_ref(), reader);
    }
    let rewrite = reader.within("rewrite", |reader| {
        let matched = matches.as_ref().and_then(|matches| matches.path.as_ref());
        rewrite::rewrite(route.rewrite, matched, regexes, reader)
    });
    let mirror = reader.within("mirror", |reader| mirror(route.mirror, names, reader));
    let request_headers = reader.within("request_headers", |reader| {
        edits::edits(route.request_headers.map(|edits| edits.value), reader)
    });
    let response_headers = reader.within("response_headers", |reader| {
        edits::edits(route.response_headers, reader)
    });
    let upgrades = reader.within("upgrades", |reader| upgrades(route.upgrades, reader));
    let timeout = match route.timeout {
        Some(OffOr::Off) => None,
        Some(OffOr::On(timeout)) => Some(timeout.0),
        None => Some(TIMEOUT),
    };
    let retry = reader.within("retry", |reader| retry::retry(route.retry, timeout, reader));
    Some(Route {
        name: name?,
        place,
        matches: matches?,
        filters: filters?,
        action: action?,
        timeout,
        retry: retry?,
        rewrite: rewrite?,
        mirror: mirror?,
        request_headers: request_headers?,
        response_headers: response_headers?,
        grpc_timeout: route.grpc_timeout.unwrap_or(GrpcTimeout::Honor),
        upgrades: upgrades?,
    })
}

/// The inner `None` is a route without one.
fn mirror(mirror: Option<At<vocabulary::Mirror>>, names: &Names, reader: &mut Reader) -> Option<Option<Mirror>> {
    let Some(At { value: mirror, .. }) = mirror else {
        return Some(None);
    };
    let name = mirror.cluster.0?;
    let cluster = reader.within("cluster", |reader| names.cluster(&name, reader))?;
    Some(Some(Mirror {
        cluster,
        percent: mirror.percent.map_or(MIRROR_PERCENT, |percent| percent.as_u32()),
        buffer: mirror.buffer.map_or(MIRROR_BUFFER, |size| size.as_usize()),
    }))
}

/// What concerns requests that are sent on says nothing where none is.
fn refuse_without_cluster(key: &str, given: Option<&Place>, action: Option<&Action>, reader: &mut Reader) {
    if let (Some(place), Some(Action::Redirect(_) | Action::Respond(_))) = (given, action) {
        reader.error_at(place, key, "this route sends nothing to a cluster; remove it");
    }
}

fn upgrades(listed: Option<Vec<At<String>>>, reader: &mut Reader) -> Option<Vec<String>> {
    let Some(listed) = listed else {
        return Some(UPGRADES.map(str::to_owned).to_vec());
    };
    let mut upgrades = Vec::new();
    let mut sound = true;
    for At { place, value } in listed {
        let protocol = value.to_ascii_lowercase();
        if let Err(message) = check_upgrade(&protocol, &upgrades) {
            reader.error(&place, message);
            sound = false;
        }
        upgrades.push(protocol);
    }
    sound.then_some(upgrades)
}

/// RFC 9110 section 7.8: a name, and perhaps a version.
fn check_upgrade(protocol: &str, before: &[String]) -> Result<(), String> {
    let is_token = |part: &str| pattern::header_name(part).is_ok();
    let (name, version) = protocol.split_once('/').unwrap_or((protocol, "1"));
    if !is_token(name) || !is_token(version) {
        return Err(format!(
            "`{}` is not a protocol; write its name as in `Upgrade`, such as `websocket`",
            quote(protocol)
        ));
    }
    if name == "h2c" || name == "http" || name == "tls" {
        // What comes behind would be requests that no route, filter or limit has seen (RFC 9113 section 3.1).
        return Err(format!(
            "`{protocol}` would carry requests past the routes and filters; remove it"
        ));
    }
    if before.iter().any(|other| other == protocol) {
        return Err(format!("`{protocol}` stands here twice; remove one"));
    }
    match before.len() {
        ..MAX_UPGRADES => Ok(()),
        _ => Err(format!("more than {MAX_UPGRADES} protocols; remove some")),
    }
}

fn name(shown: &str, name: Option<&At<String>>, reader: &mut Reader) -> Option<String> {
    let Some(name) = name else {
        return Some(shown.to_owned());
    };
    match check_name(&name.value) {
        Ok(()) => Some(name.value.clone()),
        Err(message) => {
            reader.error_at(&name.place, "name", message);
            None
        }
    }
}

fn matches(matches: Option<vocabulary::Match>, regexes: &mut Regexes, reader: &mut Reader) -> Option<RouteMatch> {
    let Some(matches) = matches else {
        return Some(RouteMatch::default());
    };
    let hosts = each("hosts", matches.hosts, pattern::host, reader);
    let path = reader.within("path", |reader| path(matches.path, regexes, reader));
    let methods = each(
        "methods",
        matches.methods,
        |text| pattern::check_method(text).map(|()| text.to_owned()),
        reader,
    );
    let headers = reader.within("headers", |reader| headers(matches.headers, regexes, reader));
    let query = reader.within("query", |reader| query(matches.query, regexes, reader));
    let certificate = reader.within("client_certificate", |reader| {
        certificate(matches.client_certificate, regexes, reader)
    });
    Some(RouteMatch {
        hosts: hosts?,
        path: path?,
        methods: methods?,
        headers: headers?,
        query: query?,
        certificate: certificate?,
    })
}

/// A route that asks for a certificate where no client is asked for one never matches, and what was meant for it is
/// another route's.
pub(super) fn refuse_unshown_certificates(routes: &[Route], listeners: &[Listener], reader: &mut Reader) {
    let asks = |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
    if listeners.iter().any(asks) {
        return;
    }
    for route in routes.iter().filter(|route| route.matches.certificate.is_some()) {
        let message = "no listener asks clients for certificates, so it would never match; add `tls.client_ca` to one";
        reader.within_item(route_label(&route.name), |reader| {
            reader.error_at(&route.place, "match.client_certificate", message);
        });
    }
}

/// The inner `None` is "whatever is shown, or nothing".
fn certificate(
    certificate: Option<At<vocabulary::ClientCertificate>>,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<Option<CertificatePattern>> {
    let Some(At { value: asked, .. }) = certificate else {
        return Some(None);
    };
    if asked.present.is_none() && asked.subject.is_none() && asked.san.is_none() && asked.fingerprint.is_none() {
        // That has been said already.
        return None;
    }
    let subject = reader.within("subject", |reader| optional_value(asked.subject, regexes, reader));
    let name = reader.within("san", |reader| {
        let name = optional_value(asked.san, regexes, reader)?;
        if let Some((place, ValuePattern::Exact(text))) = &name
            && let Err(message) = pattern::check_subject_name(text)
        {
            reader.error(place, message);
        }
        Some(name)
    });
    let fingerprints = each("fingerprint", asked.fingerprint, pattern::fingerprint, reader);
    Some(Some(CertificatePattern {
        subject: subject?.map(|(_, subject)| subject),
        name: name?.map(|(_, name)| name),
        fingerprints: fingerprints?,
    }))
}

/// The inner `None` is "any value, or none".
fn optional_value(
    comparison: Option<vocabulary::Comparison>,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<Option<(Place, ValuePattern)>> {
    match comparison {
        Some(comparison) => comparison_value(comparison, regexes, reader).map(Some),
        None => Some(None),
    }
}

/// Any of several texts. An empty list would match nothing, where its author may have meant everything.
fn each<T: PartialEq>(
    key: &str,
    texts: Option<At<Vec<At<String>>>>,
    convert: impl Fn(&str) -> Result<T, String>,
    reader: &mut Reader,
) -> Option<Vec<T>> {
    let Some(At { place, value: texts }) = texts else {
        return Some(Vec::new());
    };
    if texts.is_empty() {
        reader.error_at(
            &place,
            key,
            "empty, which would match nothing; add an entry, or leave the field out",
        );
        return None;
    }
    let convert = |text: At<String>| {
        convert(&text.value)
            .map_err(|message| reader.error_at(&text.place, key, message))
            .ok()
    };
    let converted: Vec<_> = texts.into_iter().map(convert).collect();
    converted.into_iter().collect()
}

/// The inner `None` is "every path".
fn path(path: Option<vocabulary::Path>, regexes: &mut Regexes, reader: &mut Reader) -> Option<Option<PathPattern>> {
    let Some(path) = path else { return Some(None) };
    let (key, text, result) = match (path.exact, path.prefix, path.regex) {
        (Some(text), _, _) => ("exact", text.place, pattern::exact_path(&text.value)),
        (_, Some(text), _) => ("prefix", text.place, pattern::path_prefix(&text.value)),
        (_, _, Some(text)) => (
            "regex",
            text.place,
            regexes.check(&text.value).map(|()| PathPattern::Regex(text.value)),
        ),
        (None, None, None) => return None,
    };
    result
        .map(Some)
        .map_err(|message| reader.error_at(&text, key, message))
        .ok()
}

fn headers(
    headers: Option<Pairs<vocabulary::Comparison>>,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<Vec<HeaderPattern>> {
    let mut seen = HashSet::new();
    let convert = |(name, comparison): (At<String>, vocabulary::Comparison)| {
        let header = header_name(&name, &mut seen, reader);
        let value = reader.within(name.value, |reader| comparison_value(comparison, regexes, reader))?;
        if let (place, ValuePattern::Exact(text)) = &value
            && let Err(message) = pattern::check_header_value(text)
        {
            reader.error(place, message);
        }
        Some(HeaderPattern {
            name: header?,
            value: value.1,
        })
    };
    pairs(headers, convert)
}

fn query(
    query: Option<Pairs<vocabulary::Comparison>>,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<Vec<QueryPattern>> {
    pairs(query, |(name, comparison)| {
        let value = reader.within(name.value.clone(), |reader| {
            comparison_value(comparison, regexes, reader)
        })?;
        Some(QueryPattern {
            name: name.value,
            value: value.1,
        })
    })
}

/// Converts every pair, also after one has failed.
fn pairs<T, M>(pairs: Option<Pairs<T>>, convert: impl FnMut((At<String>, T)) -> Option<M>) -> Option<Vec<M>> {
    let Some(Pairs(pairs)) = pairs else {
        return Some(Vec::new());
    };
    let converted: Vec<_> = pairs.into_iter().map(convert).collect();
    converted.into_iter().collect()
}

/// In lower case. Names that differ in case are one header (RFC 9110 section 5.1), which YAML cannot know.
fn header_name(name: &At<String>, seen: &mut HashSet<String>, reader: &mut Reader) -> Option<String> {
    let header = pattern::header_name(&name.value)
        .map_err(|message| reader.error(&name.place, message))
        .ok()?;
    if seen.insert(header.clone()) {
        return Some(header);
    }
    reader.error(&name.place, format!("`{header}` stands here twice; remove one"));
    None
}

/// With the place of its text, for checks of the caller's own.
fn comparison_value(
    comparison: vocabulary::Comparison,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<(Place, ValuePattern)> {
    let block = match comparison {
        ShortOr::Short(text) => return Some((text.place, ValuePattern::Exact(text.value))),
        ShortOr::Block(block) => block,
    };
    match (block.exact, block.regex, block.present) {
        (Some(text), _, _) => Some((text.place, ValuePattern::Exact(text.value))),
        (_, Some(text), _) => match regexes.check(&text.value) {
            Ok(()) => Some((text.place, ValuePattern::Regex(text.value))),
            Err(message) => {
                reader.error_at(&text.place, "regex", message);
                None
            }
        },
        (_, _, Some(present)) => Some((present.place, ValuePattern::Present)),
        (None, None, None) => None,
    }
}

fn action(
    cluster: Option<At<String>>,
    clusters: Option<At<Vec<vocabulary::WeightedCluster>>>,
    redirect: Option<vocabulary::Redirect>,
    respond: Option<vocabulary::Respond>,
    names: &Names,
    reader: &mut Reader,
) -> Option<Action> {
    if let Some(name) = cluster {
        let cluster = reader.within("cluster", |reader| names.cluster(&name, reader))?;
        return Some(Action::Clusters(vec![WeightedCluster { cluster, weight: 1 }]));
    }
    if let Some(clusters) = clusters {
        return reader
            .within("clusters", |reader| weighted(clusters, names, reader))
            .map(Action::Clusters);
    }
    if let Some(redirect) = redirect {
        return reader
            .within("redirect", |reader| self::redirect(redirect, reader))
            .map(Action::Redirect);
    }
    let respond = respond?;
    reader
        .within("respond", |reader| self::respond(respond, reader))
        .map(Action::Respond)
}

fn weighted(
    clusters: At<Vec<vocabulary::WeightedCluster>>,
    names: &Names,
    reader: &mut Reader,
) -> Option<Vec<WeightedCluster>> {
    let mut seen = HashSet::new();
    let mut share = |part: vocabulary::WeightedCluster| {
        let name = part.name.0?;
        let cluster = names.cluster(&name, reader)?;
        if !seen.insert(cluster) {
            reader.error(
                &name.place,
                format!("`{}` stands here twice; add up the weights", name.value),
            );
        }
        Some(WeightedCluster {
            cluster,
            weight: part.weight.0?.as_u32(),
        })
    };
    let shares: Vec<_> = clusters.value.into_iter().map(&mut share).collect();
    let shares: Vec<_> = shares.into_iter().collect::<Option<_>>()?;
    if shares.iter().all(|share| share.weight == 0) {
        reader.error(
            &clusters.place,
            "no weight above 0, so no cluster could be chosen; raise one",
        );
        return None;
    }
    Some(shares)
}

fn redirect(redirect: vocabulary::Redirect, reader: &mut Reader) -> Option<Redirect> {
    check("scheme", redirect.scheme.as_ref(), check_scheme, reader);
    check(
        "host",
        redirect.host.as_ref(),
        |host| pattern::check_host(host, &host.to_ascii_lowercase()),
        reader,
    );
    check("path", redirect.path.as_ref(), check_target, reader);
    Some(Redirect {
        status: redirect_status(
            redirect.status.map(|status| At {
                place: status.place,
                value: status.value.0,
            }),
            302,
            reader,
        )?,
        scheme: redirect.scheme.map(|scheme| scheme.value),
        host: redirect.host.map(|host| host.value.to_ascii_lowercase()),
        port: redirect.port.and_then(|port| u16::try_from(port.0).ok()),
        path: redirect.path.map(|path| path.value),
    })
}

/// Noted under the key `status`.
pub(super) fn redirect_status(status: Option<At<u64>>, default: u16, reader: &mut Reader) -> Option<u16> {
    match status {
        None => Some(default),
        Some(At {
            value: value @ (301 | 302 | 303 | 307 | 308),
            ..
        }) => u16::try_from(value).ok(),
        Some(At { place, value }) => {
            reader.error_at(
                &place,
                "status",
                format!("{value} does not redirect; use 301, 302, 303, 307 or 308"),
            );
            None
        }
    }
}

fn check(key: &str, text: Option<&At<String>>, check: impl Fn(&str) -> Result<(), String>, reader: &mut Reader) {
    if let Some(text) = text
        && let Err(message) = check(&text.value)
    {
        reader.error_at(&text.place, key, message);
    }
}

fn check_scheme(scheme: &str) -> Result<(), String> {
    match scheme {
        "http" | "https" => Ok(()),
        _ => Err(format!("`{}` is not known; use `http` or `https`", quote(scheme))),
    }
}

/// RFC 9112 section 3.2.1: path and query, no fragment.
fn check_target(target: &str) -> Result<(), String> {
    // `//host` at the front would lead to another host (RFC 3986 section 4.2).
    let sound = target.starts_with('/')
        && !target.starts_with("//")
        && target.bytes().all(|byte| byte.is_ascii_graphic())
        && !target.contains(['#', '\\', '"', '<', '>']);
    if sound {
        return Ok(());
    }
    Err("not a path; start it with one `/`, and percent-encode what is not ASCII, spaces and `#`".to_owned())
}

fn respond(respond: vocabulary::Respond, reader: &mut Reader) -> Option<Respond> {
    let status = respond.status.0;
    let headers = reader.within("headers", |reader| response_headers(respond.headers, reader));
    if let Some(body) = &respond.body {
        check_body(body, status.as_ref().map(|status| status.value.0), reader);
    }
    Some(Respond {
        status: u16::try_from(status?.value.0).ok()?,
        headers: headers?,
        body: respond.body.map(|body| body.value).unwrap_or_default(),
    })
}

fn response_headers(headers: Option<Pairs<At<String>>>, reader: &mut Reader) -> Option<Vec<(String, String)>> {
    let mut seen = HashSet::new();
    pairs(headers, |(name, value)| {
        let header = header_name(&name, &mut seen, reader)?;
        if OWN_FIELDS.contains(&header.as_str()) {
            reader.error(&name.place, format!("`{header}` is set by the proxy; remove it"));
        }
        if let Err(message) = pattern::check_header_value(&value.value) {
            reader.within(header.clone(), |reader| reader.error(&value.place, message));
        }
        Some((header, value.value))
    })
}

/// RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5: these responses have no content.
fn check_body(body: &At<String>, status: Option<u64>, reader: &mut Reader) {
    if let Some(status @ (204 | 205 | 304)) = status
        && !body.value.is_empty()
    {
        reader.error_at(
            &body.place,
            "body",
            format!("a {status} response has no body; remove it"),
        );
    }
    if body.value.len() > MAX_BODY_BYTES {
        let message = format!("longer than {MAX_BODY_BYTES} bytes; serve it from a cluster");
        reader.error_at(&body.place, "body", message);
    }
}
