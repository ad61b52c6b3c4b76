//! Changes of header fields that are known before any request: a route's, and those of the filter `headers`.
//!
//! Data plane, made by the control plane. Fields are checked when they are made, so an exchange only clones them. What
//! frames a message or binds it to a connection cannot be among them ([`head::writable`]).

use http::{HeaderMap, HeaderName};

use crate::head::{self, EditError, Field};

/// Applied in this order: removed, set, appended.
#[derive(Debug, Default)]
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<Field>,
    append: Vec<Field>,
}

/// A field that cannot be written, and why not.
#[derive(Debug)]
pub struct Refused {
    pub name: String,
    pub error: EditError,
}

impl Edits {
    pub fn new<'a>(
        remove: impl IntoIterator<Item = &'a String>,
        set: impl IntoIterator<Item = (&'a String, &'a String)>,
        append: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, Refused> {
        let refused = |name: &str| {
            let name = name.to_owned();
            move |error| Refused { name, error }
        };
        let field = |(name, value): (&'a String, &'a String)| {
            head::writable(name.as_bytes(), value.as_bytes()).map_err(refused(name))
        };
        let name = |name: &'a String| head::writable_name(name.as_bytes()).map_err(refused(name));
        Ok(Self {
            remove: remove.into_iter().map(name).collect::<Result<_, _>>()?,
            set: set.into_iter().map(field).collect::<Result<_, _>>()?,
            append: append.into_iter().map(field).collect::<Result<_, _>>()?,
        })
    }

    /// A head that is full keeps what it has; the same bound holds for guests.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for field in &self.set {
            let _ = head::insert(headers, field.clone());
        }
        for field in &self.append {
            let _ = head::append(headers, field.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn removes_then_sets_then_appends() {
        let [a, b, c, two, three, four] = texts(&["a", "b", "c", "2", "3", "4"]).try_into().unwrap();
        let edits = Edits::new([&a], [(&b, &two)], [(&b, &three), (&c, &four)]).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("a", "1".parse().unwrap());
        headers.insert("b", "1".parse().unwrap());
        edits.apply(&mut headers);
        let fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(fields, [("b", "2"), ("b", "3"), ("c", "4")]);
    }

    #[test]
    fn refuses_what_belongs_to_the_host() {
        for name in texts(&[
            "content-length",
            "Connection",
            "host",
            "transfer_encoding",
            "bad name",
            "",
        ]) {
            let value = "x".to_owned();
            assert!(Edits::new([&name], [], []).is_err_and(|refused| refused.name == name));
            assert!(Edits::new([], [(&name, &value)], []).is_err_and(|refused| refused.name == name));
            assert!(Edits::new([], [], [(&name, &value)]).is_err_and(|refused| refused.name == name));
        }
    }
}
