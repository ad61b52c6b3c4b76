//! The hostile pack: the guests in `integration/hostile`, one file for each thing that a guest may do, and what must be
//! seen of it.
//!
//! A file is a component as text, named by the number of its fault; `hostile/README.md` says how to write one. What it
//! expects stands in its first comment, so that act and expectation are read together.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// One file.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// The file's name without its extension; also the name of the filter, and of its route.
    pub name: String,
    /// The number of the fault.
    pub row: u32,
    pub expected: Expected,
    /// Entries of the filter besides its component and its grants.
    pub settings: String,
    /// Whether it is granted WASI besides all else.
    pub wasi: bool,
    /// How often it stands in its route's chain.
    pub chain: usize,
    /// Requests in one round.
    pub times: usize,
    /// Of these, how many at once, each on a connection of its own.
    pub at_once: usize,
    /// Bytes of each request's body; none is a GET.
    pub body: Option<usize>,
    /// A line that the guest logs; the client leaves when it is there.
    pub leaves_at: Option<String>,
    /// The body that the upstream gets, when it is not the client's.
    pub seen: Option<String>,
    /// The body that the client gets with a whole answer that is not the proxy's own, when it is not the upstream's.
    pub got: Option<String>,
    /// What the guest asks of this proxy itself, once in each hook.
    pub also: Option<Also>,
    /// A metric that rises besides those that always do.
    pub metric: Option<String>,
    text: String,
}

#[derive(Clone, Debug)]
pub enum Expected {
    /// It is not loaded, and the refusal says each of these.
    Refused(Vec<String>),
    /// Each request ends in one of these ways, and each of these ways happens.
    Answered(Vec<Answer>),
}

/// How an exchange ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// None when it begins with 200, and its connection is cut.
    pub status: Option<u16>,
    /// What the access log gives as the cause.
    pub reason: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Also {
    pub path: String,
    pub answer: Answer,
}

impl Hostile {
    /// All of them, in the order of their names. Panics when one is not understood.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir(folder()).expect("the pack is there");
        let mut paths: Vec<_> = entries
            .map(|entry| entry.expect("an entry can be read").path())
            .collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "wat"));
        paths.sort();
        let read = |path: PathBuf| {
            let name = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .expect("a name in ASCII");
            Self::parse(name, fs::read_to_string(&path).expect("a file can be read"))
        };
        paths.into_iter().map(read).collect()
    }

    /// The component's bytes.
    pub fn build(&self) -> Vec<u8> {
        let text = spliced(&self.text);
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    pub fn method(&self) -> &'static str {
        if self.body.is_some() { "POST" } else { "GET" }
    }

    pub fn answers(&self) -> &[Answer] {
        match &self.expected {
            Expected::Answered(answers) => answers,
            Expected::Refused(_) => &[],
        }
    }

    fn parse(name: &str, text: String) -> Self {
        let row = name.split('-').next().and_then(|digits| digits.parse().ok());
        let row: u32 = row.unwrap_or_else(|| panic!("{name}: the name begins with no number"));
        assert!(
            text.starts_with(&format!(";; Row {row}, ")),
            "{name}: the first line does not say `;; Row {row}, ...`"
        );
        let mut entries = entries(name, &text);
        let mut one = |key: &str| {
            let values = entries.remove(key).unwrap_or_default();
            assert!(values.len() < 2, "{name}: `{key}` is there twice");
            values.into_iter().next()
        };
        let number = |value: Option<String>| {
            value.map(|value| {
                value
                    .parse()
                    .unwrap_or_else(|_| panic!("{name}: {value}: not a number"))
            })
        };
        let answers = one("answer").map(|line| line.split(" | ").map(Answer::parse).collect());
        let hostile = Self {
            name: name.to_owned(),
            row,
            settings: one("settings").unwrap_or_default(),
            wasi: one("grants").is_some_and(|grants| grants == "wasi"),
            chain: number(one("chain")).unwrap_or(1),
            times: number(one("times")).unwrap_or(5),
            at_once: number(one("at-once")).unwrap_or(1),
            body: number(one("body")),
            leaves_at: one("leaves-at"),
            seen: one("seen"),
            got: one("got"),
            also: one("also").map(|line| {
                let (path, answer) = line.split_once(' ').expect("a path and an answer");
                let (path, answer) = (path.to_owned(), Answer::parse(answer));
                Also { path, answer }
            }),
            metric: one("metric"),
            expected: match (answers, entries.remove("refused")) {
                (Some(answers), None) => Expected::Answered(answers),
                (None, Some(said)) => Expected::Refused(said),
                _ => panic!("{name}: neither `answer` nor `refused`, or both"),
            },
            text,
        };
        assert!(entries.is_empty(), "{name}: unknown entries {entries:?}");
        hostile
    }
}

impl Answer {
    /// `STATUS [REASON]` or `cut REASON`.
    fn parse(text: &str) -> Self {
        let (status, reason) = text
            .split_once(' ')
            .map_or((text, None), |(status, reason)| (status, Some(reason)));
        Self {
            status: (status != "cut").then(|| status.parse().unwrap_or_else(|_| panic!("{text}: no status"))),
            reason: reason.map(str::to_owned),
        }
    }
}

/// The lines `;; key: value` of the first comment. Those before them are prose.
fn entries(name: &str, text: &str) -> BTreeMap<String, Vec<String>> {
    let mut entries: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let comment = text.lines().map_while(|line| line.strip_prefix(";; "));
    let entry = |line: &str| {
        let (key, value) = line.split_once(": ")?;
        let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        is_key.then(|| (key.to_owned(), value.to_owned()))
    };
    for line in comment {
        match entry(line) {
            Some((key, value)) => entries.entry(key).or_default().push(value),
            None => assert!(entries.is_empty(), "{name}: prose behind the entries: {line}"),
        }
    }
    entries
}

/// The text with `(@include "NAME")` replaced by `world/NAME.wat`, and those within it.
fn spliced(text: &str) -> String {
    const OPEN: &str = "(@include \"";
    const CLOSE: &str = "\")";
    let Some((before, rest)) = text.split_once(OPEN) else {
        return text.to_owned();
    };
    let (name, after) = rest.split_once(CLOSE).expect("an include ends");
    let path = folder().join("world").join(format!("{name}.wat"));
    let included = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    format!("{before}{}{}", spliced(&included), spliced(after))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("hostile")
}
