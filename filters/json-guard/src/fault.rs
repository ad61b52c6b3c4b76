//! Why a body is refused: a rule, and the place in the body where it was broken. Never what stands there.

/// Bytes of a pointer in a reply. Members' names are the client's own, and may be long: the pointer ends before the
/// one that would not fit.
const MAX_POINTER_BYTES: usize = 256;

/// Whose answer a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 400: not the JSON that is demanded.
    Malformed,
    /// 413: over a limit.
    TooLarge,
    /// 415: not JSON by its fields.
    MediaType,
    /// 422: not of the schema.
    Schema,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub rule: &'static str,
    /// From the place outwards.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
}

impl Kind {
    pub fn status(self) -> u16 {
        match self {
            Kind::Malformed => 400,
            Kind::TooLarge => 413,
            Kind::MediaType => 415,
            Kind::Schema => 422,
        }
    }

    /// RFC 9457 section 4.2.1: the phrase of the status.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Malformed => "Bad Request",
            Kind::TooLarge => "Content Too Large",
            Kind::MediaType => "Unsupported Media Type",
            Kind::Schema => "Unprocessable Content",
        }
    }
}

impl Fault {
    /// At the place that is in hand.
    pub fn new(kind: Kind, rule: &'static str) -> Self {
        Fault {
            kind,
            rule,
            steps: Vec::new(),
        }
    }

    /// The same, seen from the object whose member this is.
    pub fn in_member(mut self, name: &str) -> Self {
        self.steps.push(Step::Member(name.to_owned()));
        self
    }

    /// The same, seen from the array whose item this is.
    pub fn in_item(mut self, index: usize) -> Self {
        self.steps.push(Step::Item(index));
        self
    }

    /// RFC 6901; empty is the whole body.
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in self.steps.iter().rev() {
            let token = match step {
                Step::Member(name) => name.replace('~', "~0").replace('/', "~1"),
                Step::Item(index) => index.to_string(),
            };
            if pointer.len() + 1 + token.len() > MAX_POINTER_BYTES {
                break;
            }
            pointer.push('/');
            pointer.push_str(&token);
        }
        pointer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_escaped_and_bounded() {
        let fault = || Fault::new(Kind::Schema, "type");
        let long = "x".repeat(MAX_POINTER_BYTES);
        let cases = [
            (fault(), ""),
            (fault().in_item(3).in_member("a"), "/a/3"),
            (fault().in_member("m~n").in_member("a/b"), "/a~1b/m~0n"),
            (fault().in_member(""), "/"),
            (fault().in_item(1).in_member(&long).in_member("a"), "/a"),
            (fault().in_member(&long[1..]), &format!("/{}", &long[1..])),
        ];
        for (fault, pointer) in cases {
            assert_eq!(fault.pointer(), pointer);
        }
    }
}
