//! A value held to a schema: the first check that fails, with the place of the value that failed it.

use crate::fault::{Fault, Kind};
use crate::json::Value;
use crate::schema::{Check, Counted, Id, Members, Node, Schema, Type};

/// Schemas being applied in one another, in all: schemas that combine schemas go deeper than the value, and a guest's
/// stack ends. Each takes some hundreds of bytes of the half megabyte that the proxy gives it.
const MAX_NESTED: u32 = 500;

/// Holds a value to a schema. Within an object, members come in the order of their names.
pub fn validate(schema: &Schema, value: &Value, max_evaluations: u32) -> Result<(), Fault> {
    let mut validator = Validator {
        schema,
        evaluations: max_evaluations,
        nested: 0,
    };
    match validator.apply(schema.root(), value, "false") {
        Ok(()) => Ok(()),
        Err(Stop::Fails(fault)) => Err(fault),
        Err(Stop::Exhausted) => Err(Fault::new(Kind::TooLarge, "limits.evaluations")),
    }
}

struct Validator<'a> {
    schema: &'a Schema,
    /// How many are left.
    evaluations: u32,
    nested: u32,
}

enum Stop {
    Fails(Fault),
    /// No more evaluations: neither does the value hold, nor does it fail.
    Exhausted,
}

type Checked = Result<(), Stop>;

fn fails(rule: &'static str) -> Stop {
    Stop::Fails(Fault::new(Kind::Schema, rule))
}

fn must(holds: bool, rule: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(fails(rule)) }
}

impl Stop {
    fn in_member(self, name: &str) -> Self {
        match self {
            Stop::Fails(fault) => Stop::Fails(fault.in_member(name)),
            Stop::Exhausted => Stop::Exhausted,
        }
    }

    fn in_item(self, index: usize) -> Self {
        match self {
            Stop::Fails(fault) => Stop::Fails(fault.in_item(index)),
            Stop::Exhausted => Stop::Exhausted,
        }
    }
}

impl Validator<'_> {
    /// `keyword` is what applies the schema: the rule that is broken if the schema is `false`.
    fn apply(&mut self, id: Id, value: &Value, keyword: &'static str) -> Checked {
        if self.evaluations == 0 || self.nested == MAX_NESTED {
            return Err(Stop::Exhausted);
        }
        self.evaluations -= 1;
        self.nested += 1;
        let checked = self.check_all(self.schema.node(id), value, keyword);
        self.nested -= 1;
        checked
    }

    fn check_all(&mut self, node: &Node, value: &Value, keyword: &'static str) -> Checked {
        for check in &node.checks {
            match check {
                Check::Never => return Err(fails(keyword)),
                check => self.check(check, value)?,
            }
        }
        Ok(())
    }

    fn check(&mut self, check: &Check, value: &Value) -> Checked {
        match (check, value) {
            (Check::Never, _) => Err(fails("false")),
            (Check::Schema(id), _) => self.apply(*id, value, "$ref"),
            (Check::Type(types), _) => must(types.iter().any(|known| known.is_of(value)), "type"),
            (Check::Const(expected), _) => must(value == expected, "const"),
            (Check::Enum(values), _) => must(values.contains(value), "enum"),
            (Check::Bound(bound), Value::Number(number)) => {
                must((bound.holds)(number.cmp(&bound.limit)), bound.keyword)
            }
            (Check::MultipleOf(divisor), Value::Number(number)) => must(divisor.divides(number), "multipleOf"),
            (Check::Count(count), _) => match counted(count.of, value) {
                Some(size) => must((count.holds)(size.cmp(&count.limit)), count.keyword),
                None => Ok(()),
            },
            (Check::Pattern(regex), Value::String(string)) => must(regex.is_match(string), "pattern"),
            (Check::Format(format), Value::String(string)) => must(format.holds(string), "format"),
            (Check::Items { prefix, rest }, Value::Array(items)) => self.items(prefix, *rest, items),
            (Check::UniqueItems, Value::Array(items)) => match first_repeated(items) {
                Some(index) => Err(fails("uniqueItems").in_item(index)),
                None => Ok(()),
            },
            (Check::Required(names), Value::Object(members)) => {
                must(names.iter().all(|name| members.contains_key(name)), "required")
            }
            (Check::DependentRequired(dependent), Value::Object(members)) => {
                let present = dependent.iter().filter(|(name, _)| members.contains_key(*name));
                let mut needed = present.flat_map(|(_, names)| names);
                must(needed.all(|name| members.contains_key(name)), "dependentRequired")
            }
            (Check::PropertyNames(id), Value::Object(members)) => {
                for name in members.keys() {
                    let checked = self.apply(*id, &Value::String(name.clone()), "propertyNames");
                    checked.map_err(|stop| stop.in_member(name))?;
                }
                Ok(())
            }
            (Check::Members(known), Value::Object(members)) => {
                for (name, value) in members {
                    self.member(known, name, value).map_err(|stop| stop.in_member(name))?;
                }
                Ok(())
            }
            (Check::AllOf(ids), _) => ids.iter().try_for_each(|id| self.apply(*id, value, "allOf")),
            (Check::AnyOf(ids), _) => must(self.holding(ids, value, 1)? > 0, "anyOf"),
            (Check::OneOf(ids), _) => must(self.holding(ids, value, 2)? == 1, "oneOf"),
            (Check::Not(id), _) => must(!self.holds(*id, value)?, "not"),
            (
                Check::If {
                    condition,
                    then,
                    otherwise,
                },
                _,
            ) => match self.holds(*condition, value)? {
                true => then.map_or(Ok(()), |id| self.apply(id, value, "then")),
                false => otherwise.map_or(Ok(()), |id| self.apply(id, value, "else")),
            },
            // A keyword says nothing of values of other types.
            _ => Ok(()),
        }
    }

    fn items(&mut self, prefix: &[Id], rest: Option<Id>, items: &[Value]) -> Checked {
        for (index, item) in items.iter().enumerate() {
            let checked = match (prefix.get(index), rest) {
                (Some(id), _) => self.apply(*id, item, "prefixItems"),
                (None, Some(id)) => self.apply(id, item, "items"),
                (None, None) => break,
            };
            checked.map_err(|stop| stop.in_item(index))?;
        }
        Ok(())
    }

    fn member(&mut self, known: &Members, name: &str, value: &Value) -> Checked {
        let named = known.named.get(name);
        if let Some(id) = named {
            self.apply(*id, value, "properties")?;
        }
        let mut additional = named.is_none();
        for (pattern, id) in &known.patterns {
            if pattern.is_match(name) {
                self.apply(*id, value, "patternProperties")?;
                additional = false;
            }
        }
        match known.additional {
            Some(id) if additional => self.apply(id, value, "additionalProperties"),
            _ => Ok(()),
        }
    }

    /// How many of the schemas hold; counted up to `enough`.
    fn holding(&mut self, ids: &[Id], value: &Value, enough: usize) -> Result<usize, Stop> {
        let mut count = 0;
        for id in ids {
            count += usize::from(self.holds(*id, value)?);
            if count == enough {
                break;
            }
        }
        Ok(count)
    }

    fn holds(&mut self, id: Id, value: &Value) -> Result<bool, Stop> {
        match self.apply(id, value, "false") {
            Ok(()) => Ok(true),
            Err(Stop::Fails(_)) => Ok(false),
            Err(Stop::Exhausted) => Err(Stop::Exhausted),
        }
    }
}

impl Type {
    fn is_of(self, value: &Value) -> bool {
        match (self, value) {
            (Type::Null, Value::Null)
            | (Type::Boolean, Value::Boolean(_))
            | (Type::Number, Value::Number(_))
            | (Type::String, Value::String(_))
            | (Type::Array, Value::Array(_))
            | (Type::Object, Value::Object(_)) => true,
            (Type::Integer, Value::Number(number)) => number.is_integer(),
            _ => false,
        }
    }
}

fn counted(of: Counted, value: &Value) -> Option<usize> {
    match (of, value) {
        (Counted::Characters, Value::String(string)) => Some(string.chars().count()),
        (Counted::Items, Value::Array(items)) => Some(items.len()),
        (Counted::Members, Value::Object(members)) => Some(members.len()),
        _ => None,
    }
}

/// The first item that an earlier one equals. Sorted, since comparing each with each takes the square of what a client
/// sends.
fn first_repeated(items: &[Value]) -> Option<usize> {
    let mut sorted: Vec<(&Value, usize)> = items.iter().zip(0..).collect();
    sorted.sort_unstable();
    let repeated = sorted
        .windows(2)
        .filter(|pair| pair[0].0 == pair[1].0)
        .map(|pair| pair[1].1);
    repeated.min()
}
