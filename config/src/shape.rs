//! The shapes that keys and values come in: required, optional, placed, lists, maps, and short forms.
//!
//! Control plane. Each is readable from a node and describes itself in JSON Schema, so that the two cannot disagree.
//! Knows no key of the configuration.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::node::{Key, Node, Value};
use crate::place::Place;
use crate::reader::{Block, FromNode, Reader, quote};

/// What may stand as a field of a block: `Option` or [`Required`].
pub(crate) trait Field: Sized {
    fn from_block(block: &mut Block<'_>, key: &'static str, reader: &mut Reader) -> Self;
}

impl<T: FromNode> Field for Option<T> {
    fn from_block(block: &mut Block<'_>, key: &'static str, reader: &mut Reader) -> Self {
        let node = block.take(key)?;
        reader.within(key, |reader| T::from_node(node, reader))
    }
}

/// A field that must be there. `None` only with a fault, which is noted before the block is closed.
pub(crate) struct Required<T>(pub(crate) Option<T>);

impl<T: FromNode> Field for Required<T> {
    fn from_block(block: &mut Block<'_>, key: &'static str, reader: &mut Reader) -> Self {
        let node = block.require(key);
        Self(node.and_then(|node| reader.within(key, |reader| T::from_node(node, reader))))
    }
}

/// A value and where it stands, for the checks that come after reading.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) place: Place,
    pub(crate) value: T,
}

impl<T> At<T> {
    pub(crate) fn map<U>(self, convert: impl FnOnce(T) -> U) -> At<U> {
        At {
            place: self.place,
            value: convert(self.value),
        }
    }
}

impl<T: FromNode> FromNode for At<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let value = T::from_node(node, reader)?;
        Some(Self {
            place: reader.place(node),
            value,
        })
    }
}

impl FromNode for String {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let expected = match node.value {
            Value::Number(_) | Value::Bool(_) => "text (in quotes, because it looks like something else)",
            _ => "text",
        };
        reader.parsed(node, expected, |text| Ok(text.to_owned()))
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            let message = format!("expected a list, found {}{}", node.kind(), as_a_list(&node.value));
            reader.error(&reader.place(node), message);
            return None;
        };
        let read = |(index, item)| reader.within(format!("[{index}]"), |reader| T::from_node(item, reader));
        // Items that cannot be read are reported and left out, so that the rest is still checked.
        let readable: Self = items.iter().enumerate().filter_map(read).collect();
        if readable.is_empty() && !items.is_empty() {
            None
        } else {
            Some(readable)
        }
    }
}

/// What makes a list of what stands there.
fn as_a_list(value: &Value) -> &'static str {
    match value {
        Value::Null | Value::List(_) => "",
        Value::Map(_) => "; begin each item with `- `",
        Value::Bool(_) | Value::Number(_) | Value::Text(_) => "; write it in brackets, as in `[one, two]`",
    }
}

/// An item that has a name of its own.
pub(crate) trait Noun {
    const NOUN: &'static str;
}

/// A map from names to items, in file order.
pub(crate) struct Named<T>(pub(crate) Vec<Item<T>>);

pub(crate) struct Item<T> {
    pub(crate) name: String,
    pub(crate) place: Place,
    /// `None` when it could not be read; the name may still be referred to.
    pub(crate) value: Option<T>,
}

const NAME_PATTERN: &str = "^[A-Za-z0-9_.-]{1,64}$";

/// Names stand in metrics, logs and URLs, hence one spelling that is safe in all of them.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let sound = (1..=64).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if sound {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a name; use 1 to 64 letters, digits, `_`, `.` and `-`",
        quote(name)
    ))
}

impl<T: FromNode + Noun> FromNode for Named<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.mismatch(node, &format!("a map from names to {}s", T::NOUN));
            return None;
        };
        Some(Self(
            entries.iter().map(|(key, value)| item(key, value, reader)).collect(),
        ))
    }
}

fn item<T: FromNode + Noun>(key: &Key, node: &Node, reader: &mut Reader) -> Item<T> {
    let label = format!("{} `{}`", T::NOUN, quote(&key.text));
    let value = reader.within_item(label, |reader| {
        if let Err(message) = check_name(&key.text) {
            reader.error(&reader.place_at(key.position), message);
        }
        T::from_node(node, reader)
    });
    Item {
        name: key.text.clone(),
        place: reader.place_at(key.position),
        value,
    }
}

/// A map whose keys are the user's own, such as header names, in file order.
pub(crate) struct Pairs<T>(pub(crate) Vec<(At<String>, T)>);

impl<T: FromNode> FromNode for Pairs<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.mismatch(node, "a map");
            return None;
        };
        let read = |(key, value): &(Key, Node)| {
            let name = At {
                place: reader.place_at(key.position),
                value: key.text.clone(),
            };
            let value = reader.within(quote(&key.text), |reader| T::from_node(value, reader))?;
            Some((name, value))
        };
        Some(Self(entries.iter().filter_map(read).collect()))
    }
}

/// The word `off`, or a value.
pub(crate) enum OffOr<T> {
    Off,
    On(T),
}

impl<T: FromNode> FromNode for OffOr<T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "off" => Some(Self::Off),
            Value::Bool(false) => {
                reader.error(
                    &reader.place(node),
                    format!("found {}; to switch it off write `off`", node.kind()),
                );
                None
            }
            _ => T::from_node(node, reader).map(Self::On),
        }
    }
}

/// A block, or its one usual part in short.
pub(crate) enum ShortOr<S, T> {
    Short(S),
    Block(T),
}

impl<S: FromNode, T: FromNode> FromNode for ShortOr<S, T> {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Map(_) => T::from_node(node, reader).map(Self::Block),
            _ => S::from_node(node, reader).map(Self::Short),
        }
    }
}

/// The word `true`, where `false` would say nothing.
pub(crate) struct True;

impl FromNode for True {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if matches!(node.value, Value::Bool(true)) {
            return Some(Self);
        }
        reader.mismatch(node, "`true`; leave the field out otherwise");
        None
    }
}

/// Schemas that are another type's own.
macro_rules! same_schema {
    ($($wrapper:ident),*) => {$(
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }

            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }

            fn schema_id() -> Cow<'static, str> {
                T::schema_id()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    )*};
}

same_schema!(Required, At);

/// Schemas that stand where they are used and have no name of their own.
macro_rules! inline_schema {
    ($(<$($parameter:ident),*> $type:ty => |$generator:ident| $schema:expr;)*) => {$(
        impl<$($parameter: JsonSchema),*> JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn schema_id() -> Cow<'static, str> {
                std::any::type_name::<Self>().into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

inline_schema! {
    <T> Named<T> => |generator| json_schema!({
        "type": "object",
        "propertyNames": { "pattern": NAME_PATTERN },
        "additionalProperties": generator.subschema_for::<T>(),
    });
    <T> Pairs<T> => |generator| json_schema!({
        "type": "object",
        "additionalProperties": generator.subschema_for::<T>(),
    });
    <T> OffOr<T> => |generator| json_schema!({
        "anyOf": [{ "const": "off" }, generator.subschema_for::<T>()],
    });
    <S, T> ShortOr<S, T> => |generator| json_schema!({
        "anyOf": [generator.subschema_for::<S>(), generator.subschema_for::<T>()],
    });
    <> True => |_generator| json_schema!({ "const": true });
}
