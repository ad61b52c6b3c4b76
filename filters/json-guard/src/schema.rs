//! `schema`: a subset of JSON Schema 2020-12, compiled once for an instance.
//!
//! Schemas refer to one another in circles, so they stand in a list and know each other by number. Every keyword is
//! either known here or an error of configuration: one that is ignored would be a check that somebody relies on.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Value as Config};

use crate::format::Format;
use crate::json::{DuplicateKeys, Limits, MAX_DEPTH, Value, read};
use crate::number::{Divisor, Number};

/// Schemas in a schema. Each instance of the filter has them all.
const MAX_NODES: usize = 10_000;
/// Bytes of a compiled `pattern`. Its search takes at most as many steps for each character of the text.
const MAX_PATTERN_BYTES: usize = 64 << 10;
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The number of a schema.
pub type Id = usize;

#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
}

/// One schema: what must all hold of a value, in the order in which it is asked.
#[derive(Debug, Default)]
pub struct Node {
    pub checks: Vec<Check>,
}

#[derive(Debug)]
pub enum Check {
    /// The schema `false`.
    Never,
    /// `$ref`.
    Schema(Id),
    Type(Vec<Type>),
    Const(Value),
    Enum(Vec<Value>),
    Bound(Bound),
    MultipleOf(Divisor),
    Count(Count),
    Pattern(Regex),
    Format(Format),
    Items {
        prefix: Vec<Id>,
        rest: Option<Id>,
    },
    UniqueItems,
    Required(Vec<String>),
    DependentRequired(BTreeMap<String, Vec<String>>),
    PropertyNames(Id),
    Members(Members),
    AllOf(Vec<Id>),
    AnyOf(Vec<Id>),
    OneOf(Vec<Id>),
    Not(Id),
    If {
        condition: Id,
        then: Option<Id>,
        otherwise: Option<Id>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

/// Whether a value that compares so with the limit is within it.
pub type Holds = fn(Ordering) -> bool;

/// `minimum` and its like.
#[derive(Debug)]
pub struct Bound {
    pub keyword: &'static str,
    pub limit: Number,
    pub holds: Holds,
}

/// `minLength` and its like.
#[derive(Debug)]
pub struct Count {
    pub keyword: &'static str,
    pub of: Counted,
    pub limit: usize,
    pub holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    Characters,
    Items,
    Members,
}

/// `properties`, `patternProperties` and `additionalProperties`, which speak of one another.
#[derive(Debug, Default)]
pub struct Members {
    pub named: BTreeMap<String, Id>,
    pub patterns: Vec<(Regex, Id)>,
    pub additional: Option<Id>,
}

impl Schema {
    /// Compiles. An error names the place in the schema, and the keyword.
    pub fn new(config: &Config) -> Result<Self, String> {
        let mut compiler = Compiler::default();
        compiler.schema(config, "")?;
        compiler.resolve()?;
        let schema = Schema { nodes: compiler.nodes };
        schema.check_circles(&compiler.places)?;
        Ok(schema)
    }

    pub fn root(&self) -> Id {
        0
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// A schema that leads to itself without going down in the value would never come to an end.
    fn check_circles(&self, places: &BTreeMap<String, Id>) -> Result<(), String> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        for root in 0..self.nodes.len() {
            // Schemas that are being followed, each with those that it applies to the same value.
            let mut path: Vec<(Id, Vec<Id>)> = Vec::new();
            let mut next = (marks[root] == Mark::New).then_some(root);
            loop {
                if let Some(id) = next {
                    marks[id] = Mark::Open;
                    path.push((id, self.nodes[id].in_place()));
                }
                let Some((id, rest)) = path.last_mut() else { break };
                next = rest.pop();
                match next.map(|next| marks[next]) {
                    Some(Mark::New) => {}
                    Some(Mark::Done) => next = None,
                    Some(Mark::Open) => {
                        let place = places.iter().find(|(_, place)| Some(**place) == next);
                        let place = place.map_or("", |(place, _)| place.as_str());
                        return Err(format!(
                            "schema#{place}: refers to itself for the same value, without an end"
                        ));
                    }
                    None => {
                        marks[*id] = Mark::Done;
                        path.pop();
                    }
                }
            }
        }
        Ok(())
    }
}

impl Node {
    /// The schemas that are applied to the same value.
    fn in_place(&self) -> Vec<Id> {
        let mut ids = Vec::new();
        for check in &self.checks {
            match check {
                Check::Schema(id) | Check::Not(id) => ids.push(*id),
                Check::AllOf(all) | Check::AnyOf(all) | Check::OneOf(all) => ids.extend(all),
                Check::If {
                    condition,
                    then,
                    otherwise,
                } => ids.extend([Some(*condition), *then, *otherwise].into_iter().flatten()),
                _ => {}
            }
        }
        ids
    }
}

#[derive(Default)]
struct Compiler {
    nodes: Vec<Node>,
    /// Where in the schema each node stands, as a JSON Pointer.
    places: BTreeMap<String, Id>,
    /// References that are not yet resolved: the node, where it stands, and the pointer that it names.
    references: Vec<(Id, String, String)>,
}

/// A schema's keywords and where it stands.
struct Keywords<'a> {
    map: &'a Map<String, Config>,
    place: &'a str,
}

/// What a schema may say without saying anything of values. `$id` would move references, so it is not among them.
const ANNOTATIONS: [&str; 9] = [
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
];

/// All that is compiled, in `checks`.
const KEYWORDS: [&str; 34] = [
    "$ref",
    "$defs",
    "type",
    "const",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "prefixItems",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "required",
    "dependentRequired",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "properties",
    "patternProperties",
    "additionalProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
];

impl Compiler {
    fn schema(&mut self, config: &Config, place: &str) -> Result<Id, String> {
        if self.nodes.len() == MAX_NODES {
            return Err(format!("schema: over {MAX_NODES} schemas"));
        }
        let id = self.nodes.len();
        self.nodes.push(Node::default());
        self.places.insert(place.to_owned(), id);
        let checks = match config {
            Config::Bool(true) => Vec::new(),
            Config::Bool(false) => vec![Check::Never],
            Config::Object(map) => self.checks(id, &Keywords { map, place })?,
            _ => return Err(format!("schema#{place}: a schema is a map, `true` or `false`")),
        };
        self.nodes[id].checks = checks;
        Ok(id)
    }

    fn checks(&mut self, id: Id, keywords: &Keywords) -> Result<Vec<Check>, String> {
        keywords.check_known()?;
        let mut checks = Vec::new();
        self.reference(id, keywords, &mut checks)?;
        values(keywords, &mut checks)?;
        numbers(keywords, &mut checks)?;
        strings(keywords, &mut checks)?;
        self.arrays(keywords, &mut checks)?;
        self.objects(keywords, &mut checks)?;
        self.combinations(keywords, &mut checks)?;
        Ok(checks)
    }

    fn reference(&mut self, id: Id, keywords: &Keywords, checks: &mut Vec<Check>) -> Result<(), String> {
        self.map(keywords, "$defs")?;
        let Some(target) = keywords.string("$ref")? else {
            return Ok(());
        };
        let Some(pointer) = target
            .strip_prefix('#')
            .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
        else {
            return Err(keywords.error("$ref", "is not of this schema: `#/$defs/NAME`, or `#`"));
        };
        self.references
            .push((id, keywords.place.to_owned(), pointer.to_owned()));
        // Its number is known when all are compiled.
        checks.push(Check::Schema(id));
        Ok(())
    }

    fn resolve(&mut self) -> Result<(), String> {
        for (id, place, pointer) in &self.references {
            let Some(target) = self.places.get(pointer) else {
                return Err(format!("schema#{place}/$ref: there is no schema at `#{pointer}`"));
            };
            if let Some(Check::Schema(reference)) = self.nodes[*id].checks.first_mut() {
                *reference = *target;
            }
        }
        Ok(())
    }

    fn arrays(&mut self, keywords: &Keywords, checks: &mut Vec<Check>) -> Result<(), String> {
        counts(keywords, Counted::Items, "minItems", "maxItems", checks)?;
        let prefix = self.list(keywords, "prefixItems")?;
        let rest = self.one(keywords, "items")?;
        if prefix.is_some() || rest.is_some() {
            checks.push(Check::Items {
                prefix: prefix.unwrap_or_default(),
                rest,
            });
        }
        match keywords.map.get("uniqueItems") {
            None | Some(Config::Bool(false)) => {}
            Some(Config::Bool(true)) => checks.push(Check::UniqueItems),
            Some(_) => return Err(keywords.error("uniqueItems", "is not true or false")),
        }
        Ok(())
    }

    fn objects(&mut self, keywords: &Keywords, checks: &mut Vec<Check>) -> Result<(), String> {
        if let Some(required) = keywords.strings("required")? {
            checks.push(Check::Required(required));
        }
        if let Some(dependent) = keywords.object("dependentRequired")? {
            let place = format!("{}/dependentRequired", keywords.place);
            let nested = Keywords {
                map: dependent,
                place: &place,
            };
            let names = dependent
                .keys()
                .map(|name| Ok((name.clone(), nested.strings(name)?.unwrap_or_default())));
            checks.push(Check::DependentRequired(names.collect::<Result<_, String>>()?));
        }
        counts(keywords, Counted::Members, "minProperties", "maxProperties", checks)?;
        if let Some(names) = self.one(keywords, "propertyNames")? {
            checks.push(Check::PropertyNames(names));
        }
        let members = Members {
            named: self.map(keywords, "properties")?.into_iter().collect(),
            patterns: self
                .map(keywords, "patternProperties")?
                .into_iter()
                .map(|(pattern, id)| Ok((regex(&pattern, keywords, "patternProperties")?, id)))
                .collect::<Result<_, String>>()?,
            additional: self.one(keywords, "additionalProperties")?,
        };
        if !members.named.is_empty() || !members.patterns.is_empty() || members.additional.is_some() {
            checks.push(Check::Members(members));
        }
        Ok(())
    }

    fn combinations(&mut self, keywords: &Keywords, checks: &mut Vec<Check>) -> Result<(), String> {
        checks.extend(self.list(keywords, "allOf")?.map(Check::AllOf));
        checks.extend(self.list(keywords, "anyOf")?.map(Check::AnyOf));
        checks.extend(self.list(keywords, "oneOf")?.map(Check::OneOf));
        checks.extend(self.one(keywords, "not")?.map(Check::Not));
        let condition = self.one(keywords, "if")?;
        let (then, otherwise) = (self.one(keywords, "then")?, self.one(keywords, "else")?);
        match (condition, then.or(otherwise)) {
            (Some(condition), _) => checks.push(Check::If {
                condition,
                then,
                otherwise,
            }),
            (None, None) => {}
            // The specification ignores them, which is hardly what was meant.
            (None, Some(_)) => return Err(keywords.error("then", "or `else` is without `if`")),
        }
        Ok(())
    }

    /// The schema of a keyword.
    fn one(&mut self, keywords: &Keywords, keyword: &str) -> Result<Option<Id>, String> {
        let place = format!("{}/{keyword}", keywords.place);
        keywords
            .map
            .get(keyword)
            .map(|config| self.schema(config, &place))
            .transpose()
    }

    /// The schemas of a keyword that has a list of them, at least one.
    fn list(&mut self, keywords: &Keywords, keyword: &str) -> Result<Option<Vec<Id>>, String> {
        let place = |index| format!("{}/{keyword}/{index}", keywords.place);
        match keywords.map.get(keyword) {
            None => Ok(None),
            Some(Config::Array(list)) if !list.is_empty() => {
                let ids = list
                    .iter()
                    .enumerate()
                    .map(|(index, config)| self.schema(config, &place(index)));
                ids.collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(keywords.error(keyword, "is not a list with a schema in it")),
        }
    }

    /// The schemas of a keyword that has a map of them.
    fn map(&mut self, keywords: &Keywords, keyword: &str) -> Result<Vec<(String, Id)>, String> {
        let Some(map) = keywords.object(keyword)? else {
            return Ok(Vec::new());
        };
        let mut ids = Vec::with_capacity(map.len());
        for (name, config) in map {
            let token = name.replace('~', "~0").replace('/', "~1");
            let place = format!("{}/{keyword}/{token}", keywords.place);
            ids.push((name.clone(), self.schema(config, &place)?));
        }
        Ok(ids)
    }
}

/// `type`, `const` and `enum`.
fn values(keywords: &Keywords, checks: &mut Vec<Check>) -> Result<(), String> {
    let types: Option<Vec<&str>> = match keywords.map.get("type") {
        None => None,
        Some(Config::String(name)) => Some(vec![name]),
        Some(Config::Array(names)) => Some(names.iter().filter_map(Config::as_str).collect()),
        Some(_) => Some(Vec::new()),
    };
    if let Some(names) = types {
        let types: Option<Vec<Type>> = names.iter().map(|name| Type::named(name)).collect();
        match types.filter(|types| !types.is_empty()) {
            Some(types) => checks.push(Check::Type(types)),
            None => {
                let known = "null, boolean, integer, number, string, array, object";
                return Err(keywords.error("type", &format!("is none of {known}, nor a list of them")));
            }
        }
    }
    if let Some(value) = keywords.map.get("const") {
        checks.push(Check::Const(keywords.value("const", value)?));
    }
    match keywords.map.get("enum") {
        None => {}
        Some(Config::Array(values)) if !values.is_empty() => {
            let values = values.iter().map(|value| keywords.value("enum", value));
            checks.push(Check::Enum(values.collect::<Result<_, _>>()?));
        }
        Some(_) => return Err(keywords.error("enum", "is not a list with a value in it")),
    }
    Ok(())
}

fn numbers(keywords: &Keywords, checks: &mut Vec<Check>) -> Result<(), String> {
    let bounds: [(&'static str, Holds); 4] = [
        ("minimum", Ordering::is_ge),
        ("maximum", Ordering::is_le),
        ("exclusiveMinimum", Ordering::is_gt),
        ("exclusiveMaximum", Ordering::is_lt),
    ];
    for (keyword, holds) in bounds {
        if let Some(limit) = keywords.number(keyword)? {
            checks.push(Check::Bound(Bound { keyword, limit, holds }));
        }
    }
    if let Some(number) = keywords.number("multipleOf")? {
        let divisor = Divisor::new(&number).map_err(|error| keywords.error("multipleOf", &error))?;
        checks.push(Check::MultipleOf(divisor));
    }
    Ok(())
}

fn strings(keywords: &Keywords, checks: &mut Vec<Check>) -> Result<(), String> {
    counts(keywords, Counted::Characters, "minLength", "maxLength", checks)?;
    if let Some(pattern) = keywords.string("pattern")? {
        checks.push(Check::Pattern(regex(pattern, keywords, "pattern")?));
    }
    if let Some(name) = keywords.string("format")? {
        let format = Format::named(name);
        let known =
            format.ok_or_else(|| keywords.error("format", &format!("is none of {}", Format::NAMES.join(", "))))?;
        checks.push(Check::Format(known));
    }
    Ok(())
}

fn counts(
    keywords: &Keywords,
    of: Counted,
    min: &'static str,
    max: &'static str,
    checks: &mut Vec<Check>,
) -> Result<(), String> {
    let bounds: [(&'static str, Holds); 2] = [(min, Ordering::is_ge), (max, Ordering::is_le)];
    for (keyword, holds) in bounds {
        let Some(config) = keywords.map.get(keyword) else {
            continue;
        };
        let limit = config.as_u64().and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.ok_or_else(|| keywords.error(keyword, "is not a whole number of 0 or more"))?;
        checks.push(Check::Count(Count {
            keyword,
            of,
            limit,
            holds,
        }));
    }
    Ok(())
}

fn regex(pattern: &str, keywords: &Keywords, keyword: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build();
    regex.map_err(|error| keywords.error(keyword, &format!("`{pattern}`: {error}")))
}

impl Type {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "string" => Type::String,
            "array" => Type::Array,
            "object" => Type::Object,
            _ => return None,
        })
    }
}

impl Keywords<'_> {
    fn error(&self, keyword: &str, error: &str) -> String {
        format!("schema#{}: `{keyword}` {error}", self.place)
    }

    fn check_known(&self) -> Result<(), String> {
        for keyword in self.map.keys() {
            match keyword.as_str() {
                // What earlier drafts had is refused with a better word.
                "definitions" => return Err(self.error(keyword, "is `$defs` in draft 2020-12")),
                "dependencies" => return Err(self.error(keyword, "is `dependentRequired` in draft 2020-12")),
                known if KEYWORDS.contains(&known) || ANNOTATIONS.contains(&known) => {}
                _ => return Err(self.error(keyword, "is not supported")),
            }
        }
        match self.string("$schema")? {
            None => Ok(()),
            Some(dialect) if dialect.trim_end_matches('#') == DIALECT => Ok(()),
            Some(_) => Err(self.error("$schema", &format!("is not `{DIALECT}`"))),
        }
    }

    fn string(&self, keyword: &str) -> Result<Option<&str>, String> {
        match self.map.get(keyword) {
            None => Ok(None),
            Some(Config::String(string)) => Ok(Some(string)),
            Some(_) => Err(self.error(keyword, "is not a string")),
        }
    }

    fn strings(&self, keyword: &str) -> Result<Option<Vec<String>>, String> {
        let wrong = || self.error(keyword, "is not a list of strings");
        match self.map.get(keyword) {
            None => Ok(None),
            Some(Config::Array(list)) => {
                let strings = list.iter().map(|config| config.as_str().map(str::to_owned));
                strings.collect::<Option<_>>().map(Some).ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }

    fn object(&self, keyword: &str) -> Result<Option<&Map<String, Config>>, String> {
        match self.map.get(keyword) {
            None => Ok(None),
            Some(Config::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.error(keyword, "is not a map")),
        }
    }

    fn number(&self, keyword: &str) -> Result<Option<Number>, String> {
        match self.map.get(keyword) {
            None => Ok(None),
            Some(config) => match self.value(keyword, config)? {
                Value::Number(number) => Ok(Some(number)),
                _ => Err(self.error(keyword, "is not a number")),
            },
        }
    }

    /// A value of the schema in the form in which bodies are read. The configuration's own limits are the operator's.
    fn value(&self, keyword: &str, config: &Config) -> Result<Value, String> {
        let limits = Limits {
            depth: MAX_DEPTH,
            members: usize::MAX,
            items: usize::MAX,
            string_bytes: usize::MAX,
            number_digits: usize::MAX,
            ..Limits::default()
        };
        let value = read(config.to_string().as_bytes(), &limits, DuplicateKeys::Refuse);
        value.map_err(|fault| self.error(keyword, &format!("cannot be compared with: {}", fault.rule)))
    }
}
