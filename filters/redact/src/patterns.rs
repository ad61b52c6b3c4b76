//! `patterns`: what is looked for, checked and compiled. One an instance.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::automaton::{self, Automaton, Expression};
use crate::detector::Detector;
use crate::replacement::{Mask, Replacement};
use crate::scanner::Scanner;

/// The default of `max_match`: long enough for the longest address of mail.
pub const MAX_MATCH: usize = 256;
/// The most that `max_match` can be: each exchange holds back nearly that much, and each place at which something may
/// begin can cost as many steps.
pub const MAX_MAX_MATCH: usize = 4096;
/// A metric has at most 32 sets of label values, and each pattern is one.
const MAX_PATTERNS: usize = 32;
/// Bytes of a pattern's name, which is a label of metrics.
const MAX_NAME_BYTES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatternConfig {
    name: String,
    detect: Option<Detector>,
    #[serde(default)]
    literals: Vec<String>,
    regex: Option<String>,
    replace: Option<String>,
    mask: Option<Mask>,
}

#[derive(Debug)]
pub struct Patterns {
    list: Vec<Pattern>,
    scanner: Scanner,
}

#[derive(Debug)]
pub struct Pattern {
    pub name: String,
    pub replacement: Replacement,
}

/// What a pattern looks for.
enum Target {
    Detector(Detector),
    Expressions(Vec<String>),
}

impl Patterns {
    /// Checks and compiles. An error names its pattern.
    pub fn new(configs: Vec<PatternConfig>, max_match: usize) -> Result<Self, String> {
        if configs.is_empty() || configs.len() > MAX_PATTERNS {
            return Err(format!(
                "patterns: there must be 1 to {MAX_PATTERNS}, not {}",
                configs.len()
            ));
        }
        let (mut list, mut expressions, mut detectors) = (Vec::new(), Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for (index, config) in configs.into_iter().enumerate() {
            let about = |error: String| format!("patterns[{index}]: {error}");
            let (pattern, target) = config.checked(max_match).map_err(about)?;
            if !names.insert(pattern.name.clone()) {
                return Err(about(format!("the name `{}` is there already", pattern.name)));
            }
            match target {
                Target::Detector(detector) if detectors.iter().any(|(earlier, _)| *earlier == detector) => {
                    return Err(about(format!(
                        "`{}` is detected by an earlier pattern",
                        detector.name()
                    )));
                }
                Target::Detector(detector) => detectors.push((detector, index)),
                Target::Expressions(regexes) => {
                    expressions.extend(regexes.into_iter().map(|regex| Expression { pattern: index, regex }));
                }
            }
            list.push(pattern);
        }
        let automaton = match expressions.is_empty() {
            true => None,
            false => Some(Automaton::new(expressions)?),
        };
        Ok(Patterns {
            list,
            scanner: Scanner::new(automaton, detectors),
        })
    }

    pub fn list(&self) -> &[Pattern] {
        &self.list
    }

    pub fn scanner(&self) -> &Scanner {
        &self.scanner
    }
}

impl PatternConfig {
    fn checked(self, max_match: usize) -> Result<(Pattern, Target), String> {
        let name = self.name;
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(valid) {
            return Err(format!(
                "name `{name}` is not 1 to {MAX_NAME_BYTES} bytes of a-z, 0-9, - and _"
            ));
        }
        let target = target(self.detect, self.literals, self.regex, max_match);
        let target = target.map_err(|error| format!("`{name}`: {error}"))?;
        let replacement = match (self.replace, self.mask) {
            (None, None) => Replacement::default(),
            (Some(text), None) => Replacement::Text(text),
            (None, Some(mask)) => Replacement::Mask(mask),
            (Some(_), Some(_)) => return Err(format!("`{name}`: has `replace` and `mask`; only one can be done")),
        };
        Ok((Pattern { name, replacement }, target))
    }
}

fn target(
    detect: Option<Detector>,
    literals: Vec<String>,
    regex: Option<String>,
    max_match: usize,
) -> Result<Target, String> {
    let within = |what: &str, reach: usize| match reach > max_match {
        true => Err(format!(
            "{what} may need {reach} bytes, over `max_match` of {max_match}"
        )),
        false => Ok(()),
    };
    match (detect, literals.as_slice(), regex) {
        (Some(detector), [], None) => {
            within(detector.name(), detector.reach())?;
            Ok(Target::Detector(detector))
        }
        (None, [_, ..], None) => {
            for literal in &literals {
                if literal.is_empty() {
                    return Err("literals: one is empty".to_owned());
                }
                within("a literal", literal.len())?;
            }
            let expression = |literal: &String| Expression::literal(literal);
            Ok(Target::Expressions(literals.iter().map(expression).collect()))
        }
        (None, [], Some(regex)) => {
            let reach = automaton::reach(&regex).map_err(|error| format!("regex: {error}"))?;
            within("the regex", reach)?;
            Ok(Target::Expressions(vec![regex]))
        }
        _ => Err("needs `detect`, `literals` or `regex`, one of them".to_owned()),
    }
}
