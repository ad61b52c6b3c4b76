//! A rule of `path`: which paths it matches, and what they become.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    prefix: Option<String>,
    exact: Option<String>,
    replace: String,
}

pub enum Rule {
    /// The whole path.
    Exact { path: String, replace: String },
    /// Whole segments from the front; neither ends with `/`.
    Prefix { prefix: String, replace: String },
}

/// Checks the rules; an error names its rule.
pub fn rules(configs: Vec<RuleConfig>) -> Result<Vec<Rule>, String> {
    let rule = |(index, config)| Rule::new(config).map_err(|error| format!("path[{index}]: {error}"));
    configs.into_iter().enumerate().map(rule).collect()
}

impl Rule {
    fn new(config: RuleConfig) -> Result<Self, String> {
        let replace = checked("replace", config.replace)?;
        match (config.exact, config.prefix) {
            (Some(path), None) => Ok(Rule::Exact {
                path: checked("exact", path)?,
                replace,
            }),
            (None, Some(prefix)) => {
                let prefix = checked("prefix", prefix)?;
                Ok(Rule::Prefix {
                    prefix: without_slash(&prefix),
                    replace: without_slash(&replace),
                })
            }
            _ => Err("needs `prefix` or `exact`, one of them".to_owned()),
        }
    }

    /// What the path becomes, if the rule matches it.
    pub fn apply(&self, path: &str) -> Option<String> {
        match self {
            Rule::Exact { path: exact, replace } => (path == exact).then(|| replace.clone()),
            Rule::Prefix { prefix, replace } => {
                let rest = path.strip_prefix(prefix.as_str())?;
                if !rest.is_empty() && !rest.starts_with('/') {
                    return None;
                }
                let path = format!("{replace}{rest}");
                Some(if path.is_empty() { "/".to_owned() } else { path })
            }
        }
    }
}

fn checked(key: &str, path: String) -> Result<String, String> {
    let valid = path.starts_with('/')
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if valid {
        Ok(path)
    } else {
        Err(format!(
            "{key} `{path}` must start with `/` and be a path without `?` and `#`"
        ))
    }
}

fn without_slash(path: &str) -> String {
    path.strip_suffix('/').unwrap_or(path).to_owned()
}
