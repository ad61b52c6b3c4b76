//! Path and host that a route's upstream gets.
//!
//! Control plane.

use super::Regexes;
use crate::model::{PathPart, PathPattern, PathRewrite, Rewrite};
use crate::parse::{pattern, template};
use crate::reader::{Reader, quote};
use crate::shape::At;
use crate::vocabulary;

/// `matched` is what the route compares the path with. The inner `None` is "as the client sent it".
pub(super) fn rewrite(
    rewrite: Option<At<vocabulary::Rewrite>>,
    matched: Option<&PathPattern>,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<Option<Rewrite>> {
    let Some(At { value: rewrite, .. }) = rewrite else {
        return Some(None);
    };
    let path = match rewrite.path {
        None => Some(None),
        Some(given) => reader
            .within("path", |reader| path(given, matched, regexes, reader))
            .map(Some),
    };
    let host = match rewrite.host {
        None => Some(None),
        Some(At { place, value }) => check_authority(&value)
            .map(|()| Some(value.to_ascii_lowercase()))
            .map_err(|message| reader.error_at(&place, "host", message))
            .ok(),
    };
    Some(Some(Rewrite {
        path: path?,
        host: host?,
    }))
}

fn path(
    path: vocabulary::PathRewrite,
    matched: Option<&PathPattern>,
    regexes: &mut Regexes,
    reader: &mut Reader,
) -> Option<PathRewrite> {
    if let Some(prefix) = path.prefix {
        if let Some(regex) = path.regex {
            reader.error_at(
                &regex.place,
                "regex",
                "`prefix` has no use for it; remove it, or use `to`",
            );
        }
        return prefix_rewrite(&prefix.value, matched)
            .map_err(|message| reader.error_at(&prefix.place, "prefix", message))
            .ok();
    }
    let to = path.to?;
    let regex = match path.regex {
        None => None,
        Some(regex) => {
            let checked = regexes.check(&regex.value);
            checked
                .map_err(|message| reader.error_at(&regex.place, "regex", message))
                .ok()?;
            Some(regex.value)
        }
    };
    let parts = template::split(&to.value, PathPart::Literal, |name| part(name, regex.as_deref()));
    let parts = parts.and_then(|parts| check_parts(&parts).map(|()| parts));
    let to = parts
        .map_err(|message| reader.error_at(&to.place, "to", message))
        .ok()?;
    Some(PathRewrite::Template { regex, to })
}

fn prefix_rewrite(to: &str, matched: Option<&PathPattern>) -> Result<PathRewrite, String> {
    pattern::path_prefix(to)?;
    match matched {
        Some(PathPattern::Prefix(from)) => Ok(PathRewrite::Prefix {
            from: from.clone(),
            to: to.to_owned(),
        }),
        _ => Err("the route matches no prefix that it could replace; give `match.path.prefix`, or use `to`".to_owned()),
    }
}

/// What stands between braces.
fn part(name: &str, regex: Option<&str>) -> Result<PathPart, String> {
    if name == "path" {
        return Ok(PathPart::Path);
    }
    let Some(regex) = regex.and_then(|regex| regex::Regex::new(regex).ok()) else {
        return Err(format!(
            "`{{{}}}` is no group, because there is no `regex`; give one, or use `{{path}}`",
            quote(name)
        ));
    };
    let number = match name.parse::<usize>() {
        Ok(number) => (number < regex.captures_len()).then_some(number),
        Err(_) => regex.capture_names().position(|group| group == Some(name)),
    };
    number.map(PathPart::Group).ok_or_else(|| {
        format!(
            "`regex` has no group `{}`; write `{{path}}`, or one that it has",
            quote(name)
        )
    })
}

/// The text in between is part of a path; what the rest makes of it is seen with each request.
fn check_parts(parts: &[PathPart]) -> Result<(), String> {
    if let Some(PathPart::Literal(first)) = parts.first()
        && !first.starts_with('/')
    {
        return Err(format!("`{}` does not start with `/`; add it", quote(first)));
    }
    if parts.is_empty() {
        return Err("empty; write a path".to_owned());
    }
    for part in parts {
        if let PathPart::Literal(text) = part {
            pattern::check_path_text(text)?;
        }
    }
    Ok(())
}

/// A host, with a port or without one (RFC 9110 section 7.2).
fn check_authority(authority: &str) -> Result<(), String> {
    let lower = authority.to_ascii_lowercase();
    let (host, port) = match lower.rsplit_once(':') {
        // The colon of `[::1]` is not a port's.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (&*lower, None),
    };
    let is_port = |port: &str| {
        port.parse::<u16>()
            .is_ok_and(|number| number > 0 && !port.starts_with(['0', '+']))
    };
    if port.is_some_and(|port| !is_port(port)) {
        return Err(format!(
            "`{}` has no port behind its colon; write 1 to 65535",
            quote(authority)
        ));
    }
    pattern::check_host(authority, host)
}
