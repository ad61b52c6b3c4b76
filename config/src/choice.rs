//! Which keys of a block exclude or need each other.
//!
//! Control plane. One declaration for both the reader and the JSON Schema.

use schemars::Schema;
use schemars::transform::Transform;
use serde_json::json;

use crate::reader::{Block, Reader};

/// A rule over the keys of one block; a key without a value is not given.
#[derive(Clone, Copy)]
pub(crate) enum Choice {
    Free,
    ExactlyOneOf(&'static [&'static str]),
    AtLeastOneOf(&'static [&'static str]),
}

impl Choice {
    /// Notes a fault unless the rule holds, or would hold without the `misspelt` key.
    pub(crate) fn check(self, block: &Block<'_>, misspelt: &[&str], reader: &mut Reader) {
        let (Self::ExactlyOneOf(keys) | Self::AtLeastOneOf(keys)) = self else {
            return;
        };
        let given: Vec<_> = keys.iter().filter(|key| block.given(key).is_some()).collect();
        let listed = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        match (self, given.as_slice()) {
            (_, []) if keys.iter().any(|key| misspelt.contains(key)) => {}
            (Self::ExactlyOneOf(_), []) => {
                reader.error(&block.place, format!("exactly one of {listed} is needed; add one"));
            }
            (Self::ExactlyOneOf(_), [first, .., last]) => {
                let message = format!("`{first}` and `{last}` exclude each other; keep exactly one of {listed}");
                reader.error(&block.place, message);
            }
            (Self::AtLeastOneOf(_), []) => {
                reader.error(&block.place, format!("at least one of {listed} is needed; add one"));
            }
            _ => {}
        }
    }
}

impl Transform for Choice {
    fn transform(&mut self, schema: &mut Schema) {
        let (keyword, keys) = match self {
            Self::Free => return,
            Self::ExactlyOneOf(keys) => ("oneOf", keys),
            Self::AtLeastOneOf(keys) => ("anyOf", keys),
        };
        let choices: Vec<_> = keys.iter().map(|key| json!({ "required": [key] })).collect();
        schema.insert(keyword.to_owned(), choices.into());
    }
}
