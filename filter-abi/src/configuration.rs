//! From the JSON text that the proxy hands over to a configured filter. Runs once for each instance.

use std::any::Any;

use serde::de::DeserializeOwned;

use crate::Filter;

/// Configures a filter with a JSON text.
///
/// # Errors
///
/// The text does not fit the filter's `Config`, or the filter refuses it.
pub(crate) fn configure<F: Filter>(json: &str) -> Result<F, String> {
    F::configure(parse(json)?)
}

fn parse<C: DeserializeOwned + 'static>(json: &str) -> Result<C, String> {
    if let Some(nothing) = nothing() {
        return if json == "null" {
            Ok(nothing)
        } else {
            Err("this filter takes no `config`".to_owned())
        };
    }
    match read(json) {
        Err(_) if json == "null" => read("{}"),
        read => read,
    }
}

fn read<C: DeserializeOwned>(json: &str) -> Result<C, String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let message = message(error.inner());
        match error.path().iter().len() {
            0 => message,
            _ => format!("{}: {message}", error.path()),
        }
    })
}

/// `Some(())` when that is what the filter is configured with. The compiler knows the answer, so a filter that takes
/// no configuration brings no JSON reader along.
fn nothing<C: 'static>() -> Option<C> {
    let mut nothing = Some(());
    (&mut nothing as &mut dyn Any)
        .downcast_mut::<Option<C>>()
        .and_then(Option::take)
}

/// The reader's message without the line and column, which are of a JSON text that nobody wrote.
fn message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct AllDefaults {
        limit: u32,
    }

    impl Default for AllDefaults {
        fn default() -> Self {
            AllDefaults { limit: 7 }
        }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Nested {
        rules: Vec<AllDefaults>,
    }

    #[test]
    fn no_configuration_is_nothing_or_none_or_the_defaults() {
        assert_eq!(parse::<()>("null"), Ok(()));
        assert_eq!(parse::<Option<AllDefaults>>("null"), Ok(None));
        assert_eq!(parse("null"), Ok(AllDefaults { limit: 7 }));
        assert_eq!(parse::<Nested>("null").unwrap_err(), "missing field `rules`");
    }

    #[test]
    fn errors_name_the_place_and_not_the_json() {
        assert_eq!(parse::<()>("{}").unwrap_err(), "this filter takes no `config`");
        let cases = [
            (
                r#"{"rules":[{},{"limit":"x"}]}"#,
                "rules[1].limit: invalid type: string \"x\", expected u32",
            ),
            (
                r#"{"rules":[{"limits":1}]}"#,
                "rules[0].limits: unknown field `limits`, expected `limit`",
            ),
            (r#"{"rules":{}}"#, "rules: invalid type: map, expected a sequence"),
        ];
        for (json, message) in cases {
            assert_eq!(parse::<Nested>(json).unwrap_err(), message);
        }
    }
}
