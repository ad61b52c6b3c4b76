//! What would be right in the configurations of other proxies, and says another thing here.
//!
//! Control plane. All of it is valid, so nothing is refused: it is worth a warning.

use tamis_config::{Config, HeaderEdits, PathPattern, Route};

/// A line for each.
pub(super) fn habits(config: &Config) -> Vec<String> {
    let line = |route: &Route, habit: String| format!("{}: route `{}`: {habit}", route.place, route.name);
    let of_route = |route| {
        let found = prefix(route).into_iter().chain(variables(route));
        found.map(move |habit| line(route, habit))
    };
    config.routes.iter().flat_map(of_route).collect()
}

fn prefix(route: &Route) -> Option<String> {
    let Some(PathPattern::Prefix(prefix)) = &route.matches.path else {
        return None;
    };
    let meant = prefix.strip_suffix('*')?;
    Some(format!(
        "the prefix `{prefix}` matches only paths with a `*` in them; a prefix matches whatever follows it by itself: \
         write `{meant}`"
    ))
}

fn variables(route: &Route) -> impl Iterator<Item = String> {
    let sides = [&route.request_headers, &route.response_headers];
    let fields = sides
        .into_iter()
        .flat_map(|HeaderEdits { set, append, .. }| set.iter().chain(append));
    fields
        .filter(|(_, value)| names_a_variable(value))
        .map(|(name, value)| {
            format!(
                "the field `{name}` has no variables in it: `{value}` is sent as it is written; a filter can set others"
            )
        })
}

/// `$remote_addr` and the like.
fn names_a_variable(value: &str) -> bool {
    let is_name = |rest: &str| rest.starts_with(|first: char| first.is_ascii_lowercase());
    value.split('$').skip(1).any(is_name)
}

#[cfg(test)]
mod tests {
    use super::names_a_variable;

    #[test]
    fn variables_have_names() {
        for (value, is_one) in [
            ("$remote_addr", true),
            ("for=$host;", true),
            ("$5", false),
            ("US$", false),
            ("plain", false),
        ] {
            assert_eq!(names_a_variable(value), is_one, "{value}");
        }
    }
}
