//! A YAML document as a tree in which every node knows its place.
//!
//! Control plane. Between the YAML library and the vocabulary, because a typed deserialiser stops at the first fault
//! and a tree can be read to its end. What the library refuses is refused here, one fault at a time: syntax, duplicate
//! keys, tags, and whatever exceeds a budget. Knows no key of the configuration.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Options, Spanned, UserMessageFormatter};

use crate::error::Error;
use crate::place::{Place, Position};
use crate::reader::quote;

/// Room for 10,000 routes of 1.6 KB each, and little enough to hold several times over.
pub(crate) const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// The vocabulary needs 8; the rest is for filters' own `config` blocks.
const MAX_DEPTH: usize = 64;

/// Room for 10,000 routes of 50 nodes each. A node takes about 100 bytes, and about 10 us to read.
const MAX_NODES: usize = 500_000;

/// The part of the above that may come out of aliases, over the whole document.
const MAX_ALIASED_EVENTS: usize = 100_000;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) position: Position,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    /// In file order; keys are distinct.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) position: Position,
    pub(crate) text: String,
}

impl Node {
    /// Parses one document. An empty one is null.
    pub(crate) fn parse(text: &str, file: &Place) -> Result<Self, Error> {
        if text.len() > MAX_FILE_BYTES {
            let message = format!("larger than {MAX_FILE_BYTES} bytes; split the configuration between processes");
            return Err(Error {
                place: file.clone(),
                message,
            });
        }
        refuse_nul(text, file)?;
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(&error, text, file))
    }

    /// The value of a key, when this is a map that has it.
    pub(crate) fn child(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries
            .iter()
            .find(|(candidate, _)| candidate.text == key)
            .map(|(_, value)| value)
    }

    /// For messages: what the person has written, with its article.
    pub(crate) fn kind(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Number(number) => format!("the number {number}"),
            Value::Text(_) => "text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            // Each node takes one event, a list or map one more for its end.
            max_events: 2 * MAX_NODES,
            max_total_scalar_bytes: MAX_FILE_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED_EVENTS },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        reject_unsupported_tags: true,
        // `no` is a country and `0755` is text, as YAML 1.2 has it.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    }
}

/// YAML 1.2 section 5.1 does not allow it, and C libraries down the line would cut a name short there.
fn refuse_nul(text: &str, file: &Place) -> Result<(), Error> {
    let Some(offset) = text.find('\0') else { return Ok(()) };
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before[line_start..].chars().count() as u64 + 1;
    let message = "not valid YAML: a NUL character; remove it".to_owned();
    Err(Error {
        place: file.at(Position { line, column }),
        message,
    })
}

fn explain(error: &serde_saphyr::Error, text: &str, file: &Place) -> Error {
    let error = error.without_snippet();
    let place = match error.location() {
        Some(location) if location.line() > 0 => file.at(Position {
            line: location.line(),
            column: location.column(),
        }),
        _ => file.clone(),
    };
    let mut message = UserMessageFormatter.format_message(error).into_owned();
    if let Some(location) = error.location() {
        message += &unquoted_star(error, word_at(text, location.line(), location.column()));
    }
    // One error is one line, whatever the document has put into the library's message.
    Error {
        place,
        message: format!("not valid YAML: {}", message.replace(|c: char| c.is_control(), " ")),
    }
}

/// What to write for text that begins with `*`, which other programs take without quotes and YAML takes for an alias.
fn unquoted_star(error: &serde_saphyr::Error, word: &str) -> String {
    let name = match (word.strip_prefix('*'), error) {
        (Some(""), _) => return "; text that begins with `*` needs quotes: `'*'`".to_owned(),
        (Some(name), serde_saphyr::Error::UnknownAnchor { .. }) => quote(name),
        _ => return String::new(),
    };
    match name.strip_prefix(':').map(str::parse::<u16>) {
        Some(Ok(port)) => format!("; for every address of the machine write `0.0.0.0:{port}`"),
        _ => format!("; no anchor `&{name}` stands before it, and text that begins with `*` needs quotes: `'*{name}'`"),
    }
}

/// From a place, which counts from 1, to the end of what YAML takes for the name of an alias.
fn word_at(text: &str, line: u64, column: u64) -> &str {
    let nth = |count: u64| usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = text.lines().nth(nth(line)).unwrap_or_default();
    let start = line
        .char_indices()
        .nth(nth(column))
        .map_or(line.len(), |(start, _)| start);
    let word = &line[start..];
    let end = word.find(|c: char| c.is_whitespace() || ",[]{}".contains(c));
    &word[..end.unwrap_or(word.len())]
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            position: position(&spanned),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self {
            position: position(&spanned),
            text: spanned.value,
        })
    }
}

/// Where the text stands, also when an alias brought it elsewhere: that is the line to edit.
fn position<T>(spanned: &Spanned<T>) -> Position {
    Position {
        line: spanned.defined.line(),
        column: spanned.defined.column(),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
