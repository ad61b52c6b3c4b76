//! The walk from the tree to the vocabulary: collects every fault instead of stopping at the first.
//!
//! Control plane. A value that cannot be read becomes `None` once its fault is noted, and the walk goes on; so `None`
//! always means "already reported" or "not given", and nobody reports it again. Knows the shapes of YAML, no key of
//! the configuration.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::choice::Choice;
use crate::environment::Environment;
use crate::error::Error;
use crate::expand::expand;
use crate::node::{Node, Value};
use crate::place::{Place, Position};
use crate::suggest::{nearest, suggestion};

/// More faults than anyone mends in one go; the bound keeps a wholly wrong file from filling a log.
const MAX_ERRORS: usize = 100;

/// All text with variables and files filled in: a small document may name a large variable many times.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Quoted in messages; longer text is cut, because a message is one line on a terminal.
const MAX_QUOTED_CHARS: usize = 80;

/// What can be read from one node.
pub(crate) trait FromNode: Sized {
    /// `None` when the fault has been noted in the reader.
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self>;
}

/// One walk over one document.
pub(crate) struct Reader<'a> {
    environment: &'a dyn Environment,
    file: Place,
    /// Against which relative paths are resolved.
    folder: PathBuf,
    /// See [`crate::Config::files`].
    files: BTreeSet<PathBuf>,
    /// All text so far, with variables and files filled in.
    text_bytes: u64,
    errors: Vec<Error>,
    /// What is being read now: the item (``route `api` ``), then the keys down from it.
    item: String,
    keys: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &Path, environment: &'a dyn Environment) -> Self {
        Self {
            environment,
            file: Place::file(file),
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            files: BTreeSet::new(),
            text_bytes: 0,
            errors: Vec::new(),
            item: String::new(),
            keys: Vec::new(),
        }
    }

    /// Reads under a key or an index (`[2]`), which messages will name.
    pub(crate) fn within<T>(&mut self, key: impl Into<String>, read: impl FnOnce(&mut Self) -> T) -> T {
        self.keys.push(key.into());
        let result = read(self);
        self.keys.pop();
        result
    }

    /// Reads a named item, from which messages will count the keys.
    pub(crate) fn within_item<T>(&mut self, item: String, read: impl FnOnce(&mut Self) -> T) -> T {
        let outer_item = std::mem::replace(&mut self.item, item);
        let outer_keys = std::mem::take(&mut self.keys);
        let result = read(self);
        self.item = outer_item;
        self.keys = outer_keys;
        result
    }

    /// Notes a fault of what is being read now.
    pub(crate) fn error(&mut self, place: &Place, message: impl AsRef<str>) {
        if self.is_full() {
            return;
        }
        let message = match self.errors.len() {
            MAX_ERRORS => format!("more than {MAX_ERRORS} errors; the rest is not shown"),
            // One error is one line, whatever the document has put into a name.
            _ => format!("{}{}", self.label(), message.as_ref()).replace(|c: char| c.is_control(), " "),
        };
        self.errors.push(Error {
            place: place.clone(),
            message,
        });
    }

    /// Notes a fault of one key of what is being read now.
    pub(crate) fn error_at(&mut self, place: &Place, key: &str, message: impl AsRef<str>) {
        self.within(key, |reader| reader.error(place, message));
    }

    /// Notes that a node is of the wrong type.
    pub(crate) fn mismatch(&mut self, node: &Node, expected: &str) {
        let message = format!("expected {expected}, found {}", node.kind());
        self.error(&self.place(node), message);
    }

    /// Reads text and what stands in it; an error of `parse` is noted at the node.
    pub(crate) fn parsed<T>(
        &mut self,
        node: &Node,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = match &node.value {
            Value::Text(text) => self.expanded(node, text)?,
            _ => {
                self.mismatch(node, expected);
                return None;
            }
        };
        parse(&text)
            .map_err(|message| self.error(&self.place(node), message))
            .ok()
    }

    /// Replaces the `${NAME}` in a node's text.
    pub(crate) fn expanded(&mut self, node: &Node, text: &str) -> Option<String> {
        let expanded = expand(text, self.environment).map(Cow::into_owned);
        let result = expanded.and_then(|expanded| self.charge(expanded.len()).map(|()| expanded));
        result.map_err(|message| self.error(&self.place(node), message)).ok()
    }

    /// Reads a file that the configuration names, and remembers that the result depends on it.
    pub(crate) fn file(&mut self, path: &str, max_bytes: u64) -> Result<Vec<u8>, String> {
        let path = self.resolve(path);
        self.depend_on(path.clone());
        let content = self.environment.read(&path, max_bytes);
        let content = content.map_err(|error| format!("file {}: {error}", path.display()))?;
        self.charge(content.len())?;
        Ok(content)
    }

    pub(crate) fn depend_on(&mut self, path: PathBuf) {
        self.files.insert(path);
    }

    /// The path as seen from the folder of the configuration file.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    pub(crate) fn place(&self, node: &Node) -> Place {
        self.place_at(node.position)
    }

    pub(crate) fn place_at(&self, position: Position) -> Place {
        self.file.at(position)
    }

    /// No further fault will be kept, so its message need not be worked out.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.len() > MAX_ERRORS
    }

    /// Every fault found, and every file that the result depends on.
    pub(crate) fn finish(self) -> (Vec<Error>, Vec<PathBuf>) {
        (self.errors, self.files.into_iter().collect())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.text_bytes = self.text_bytes.saturating_add(bytes as u64);
        if self.text_bytes <= MAX_TEXT_BYTES {
            return Ok(());
        }
        Err(format!(
            "more than {MAX_TEXT_BYTES} bytes of text with variables and files filled in; make them smaller"
        ))
    }

    /// ``route `api`: match.path: ``
    fn label(&self) -> String {
        let mut label = self.item.clone();
        for (index, key) in self.keys.iter().enumerate() {
            let separator = match (index, key.starts_with('[')) {
                (0, _) if label.is_empty() => "",
                (0, _) => ": ",
                (_, true) => "",
                (_, false) => ".",
            };
            // Writing to a `String` does not fail.
            let _ = write!(label, "{separator}{key}");
        }
        if label.is_empty() { label } else { label + ": " }
    }
}

/// A map with known keys, while it is being read.
pub(crate) struct Block<'n> {
    entries: &'n [(crate::node::Key, Node)],
    pub(crate) place: Place,
    known: Vec<&'static str>,
    /// Required, and not there.
    missing: Vec<&'static str>,
}

impl<'n> Block<'n> {
    /// `forms` are how such a map is usually written, for whoever wrote something else.
    pub(crate) fn open(node: &'n Node, forms: &[&str], reader: &mut Reader) -> Option<Self> {
        let place = reader.place(node);
        match &node.value {
            Value::Map(entries) => Some(Self {
                entries,
                place,
                known: Vec::new(),
                missing: Vec::new(),
            }),
            _ => {
                let message = format!("expected a map, found {}{}", node.kind(), as_in(forms));
                reader.error(&place, message);
                None
            }
        }
    }

    /// The value of a key that must be there.
    pub(crate) fn require(&mut self, key: &'static str) -> Option<&'n Node> {
        let node = self.take(key);
        if node.is_none() {
            self.missing.push(key);
        }
        node
    }

    /// The value of a key; a key without a value is like no key.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.given(key)
    }

    /// A key's value, without taking it.
    pub(crate) fn given(&self, key: &str) -> Option<&'n Node> {
        let (_, node) = self.entries.iter().find(|(candidate, _)| candidate.text == key)?;
        if matches!(node.value, Value::Null) {
            None
        } else {
            Some(node)
        }
    }

    /// Notes the keys that nobody took, and those that are missing: what was misspelt is one fault, not two.
    pub(crate) fn close(self, choice: Choice, reader: &mut Reader) {
        let mut misspelt = Vec::new();
        for (key, _) in self.entries {
            if reader.is_full() {
                return;
            }
            if !self.known.contains(&key.text.as_str()) {
                let known = self.known.iter().copied();
                misspelt.extend(nearest(&key.text, known.clone()));
                let suggestion = suggestion(&key.text, known);
                reader.error(
                    &reader.place_at(key.position),
                    format!("unknown field `{}`{suggestion}", quote(&key.text)),
                );
            }
        }
        for key in self.missing.iter().filter(|key| !misspelt.contains(key)) {
            reader.error(&self.place, format!("missing field `{key}`; add it"));
        }
        choice.check(&self, &misspelt, reader);
    }
}

/// ``; write it as in `{ key: value }` ``, or nothing without forms.
fn as_in(forms: &[&str]) -> String {
    let show = |form: &&str| match *form {
        "{}" => "`{}` with all defaults".to_owned(),
        form => format!("`{form}`"),
    };
    match forms {
        [] => String::new(),
        _ => format!(
            "; write it as in {}",
            forms.iter().map(show).collect::<Vec<_>>().join(" or ")
        ),
    }
}

/// Text from the document, cut to a length that a message can carry.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// Checks a setting against its bounds, both allowed.
pub(crate) fn within_bounds(value: u64, min: u64, max: u64) -> Result<u64, String> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(format!("{value} is out of bounds; choose {min} to {max}"))
}
