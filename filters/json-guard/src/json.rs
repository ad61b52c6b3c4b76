//! JSON, read strictly (RFC 8259) and within limits, and written in one form.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::fault::{Fault, Kind};
use crate::number::Number;

/// The most that `limits.depth` can be: the reader and the schema go as deep as the value does, on a guest's stack.
pub const MAX_DEPTH: usize = 128;

/// A value. Members are sorted by their names' bytes; numbers are equal when their values are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Null,
    Boolean(bool),
    Number(Number),
    String(String),
    Array(Vec<Value>),
    Object(BTreeMap<String, Value>),
}

/// How large a value may be. The defaults let pass what people write by hand and what machines write in earnest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Arrays and objects in one another.
    pub depth: usize,
    /// Members of an object.
    pub members: usize,
    /// Items of an array.
    pub items: usize,
    /// Bytes of a string or a member's name, without its escapes.
    pub string_bytes: usize,
    /// Digits before the exponent.
    pub number_digits: usize,
    /// The exponent, without its sign: 308 is as far as a binary number of 64 bits goes.
    pub number_exponent: u32,
    /// How often a schema, or a part of it, is applied to a value.
    pub evaluations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            depth: 32,
            members: 1_000,
            items: 10_000,
            string_bytes: 64 << 10,
            number_digits: 40,
            number_exponent: 308,
            evaluations: 100_000,
        }
    }
}

/// What becomes of an object that has a name twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateKeys {
    #[default]
    Refuse,
    /// The last one stands.
    Last,
}

/// Reads a body.
pub fn read(body: &[u8], limits: &Limits, duplicate_keys: DuplicateKeys) -> Result<Value, Fault> {
    // RFC 8259 section 8.1: UTF-8, and no byte order mark.
    let text = std::str::from_utf8(body).map_err(|_| malformed("utf-8"))?;
    if text.starts_with('\u{feff}') {
        return Err(malformed("byte-order-mark"));
    }
    let mut reader = Reader {
        text,
        at: 0,
        limits,
        duplicate_keys,
    };
    reader.skip_space();
    let value = reader.value(0)?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(malformed("trailing-data")),
    }
}

fn malformed(rule: &'static str) -> Fault {
    Fault::new(Kind::Malformed, rule)
}

fn too_large(rule: &'static str) -> Fault {
    Fault::new(Kind::TooLarge, rule)
}

struct Reader<'a> {
    text: &'a str,
    /// Always at the boundary of a character.
    at: usize,
    limits: &'a Limits,
    duplicate_keys: DuplicateKeys,
}

impl Reader<'_> {
    /// `depth` is the number of arrays and objects around the value.
    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        match self.peek() {
            Some(b'{') => self.object(self.deeper(depth)?),
            Some(b'[') => self.array(self.deeper(depth)?),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Boolean(true)),
            Some(b'f') => self.word("false", Value::Boolean(false)),
            Some(b'n') => self.word("null", Value::Null),
            // Also `NaN` and `Infinity`, which are no JSON.
            _ => Err(malformed("syntax")),
        }
    }

    fn deeper(&self, depth: usize) -> Result<usize, Fault> {
        match depth < self.limits.depth {
            true => Ok(depth + 1),
            false => Err(too_large("limits.depth")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut members = BTreeMap::new();
        self.at += 1;
        self.skip_space();
        if self.skip(b'}') {
            return Ok(Value::Object(members));
        }
        // All of them count, also those that a later one of the same name replaces.
        for count in 0.. {
            if count == self.limits.members {
                return Err(too_large("limits.members"));
            }
            let name = self.name()?;
            let value = self.value(depth).map_err(|fault| fault.in_member(&name))?;
            match self.duplicate_keys {
                DuplicateKeys::Refuse if members.contains_key(&name) => {
                    return Err(malformed("duplicate-key").in_member(&name));
                }
                DuplicateKeys::Refuse | DuplicateKeys::Last => members.insert(name, value),
            };
            self.skip_space();
            if self.skip(b'}') {
                break;
            }
            self.expect(b',')?;
            self.skip_space();
        }
        Ok(Value::Object(members))
    }

    /// A member's name and the colon, up to its value.
    fn name(&mut self) -> Result<String, Fault> {
        if self.peek() != Some(b'"') {
            return Err(malformed("syntax"));
        }
        let name = self.string()?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Ok(name)
    }

    fn array(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.skip(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            if items.len() == self.limits.items {
                return Err(too_large("limits.items"));
            }
            items.push(self.value(depth).map_err(|fault| fault.in_item(items.len()))?);
            self.skip_space();
            if self.skip(b']') {
                return Ok(Value::Array(items));
            }
            self.expect(b',')?;
            self.skip_space();
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .bytes()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
                .unwrap_or(rest.len());
            if string.len() + plain > self.limits.string_bytes {
                return Err(too_large("limits.string_bytes"));
            }
            string.push_str(&rest[..plain]);
            self.at += plain;
            match self.next() {
                Some(b'"') => return Ok(string),
                Some(b'\\') => string.push(self.escape()?),
                // RFC 8259 section 7: control characters must be escaped.
                _ => return Err(malformed("syntax")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        match self.next() {
            Some(literal @ (b'"' | b'\\' | b'/')) => Ok(literal.into()),
            Some(b'b') => Ok('\u{8}'),
            Some(b'f') => Ok('\u{c}'),
            Some(b'n') => Ok('\n'),
            Some(b'r') => Ok('\r'),
            Some(b't') => Ok('\t'),
            Some(b'u') => self.unicode_escape(),
            _ => Err(malformed("syntax")),
        }
    }

    /// Half a pair of surrogates is no character: RFC 8259 section 8.2 leaves open what a reader makes of it, so two
    /// readers may differ.
    fn unicode_escape(&mut self) -> Result<char, Fault> {
        let first = self.code_unit()?;
        let code = match first {
            0xd800..=0xdbff => {
                if !(self.skip(b'\\') && self.skip(b'u')) {
                    return Err(malformed("surrogate"));
                }
                match self.code_unit()? {
                    second @ 0xdc00..=0xdfff => 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => return Err(malformed("surrogate")),
                }
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| malformed("surrogate"))
    }

    fn code_unit(&mut self) -> Result<u32, Fault> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.next().and_then(|byte| char::from(byte).to_digit(16));
            unit = unit << 4 | digit.ok_or_else(|| malformed("syntax"))?;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let begin = self.at;
        self.skip(b'-');
        let mut digits = match self.skip(b'0') {
            // RFC 8259 section 6: no leading zeros.
            true => 1,
            false => self.digits()?.len(),
        };
        if self.skip(b'.') {
            digits += self.digits()?.len();
        }
        if digits > self.limits.number_digits {
            return Err(too_large("limits.number_digits"));
        }
        if self.skip(b'e') || self.skip(b'E') {
            let _ = self.skip(b'-') || self.skip(b'+');
            let exponent = self.digits()?.parse().unwrap_or(u32::MAX);
            if exponent > self.limits.number_exponent {
                return Err(too_large("limits.number_exponent"));
            }
        }
        Ok(Value::Number(Number::new(&self.text[begin..self.at])))
    }

    /// At least one.
    fn digits(&mut self) -> Result<&str, Fault> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        match self.at > begin {
            true => Ok(&self.text[begin..self.at]),
            false => Err(malformed("syntax")),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Fault> {
        match self.text[self.at..].starts_with(word) {
            true => {
                self.at += word.len();
                Ok(value)
            }
            false => Err(malformed("syntax")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte, if it is one of ASCII: nothing that is read so may be another.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek().filter(u8::is_ascii)?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        match self.skip(byte) {
            true => Ok(()),
            false => Err(malformed("syntax")),
        }
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }
}

impl Value {
    /// The value in its one form: no space, members by the bytes of their names, no escape that need not be, numbers as
    /// they came.
    pub fn write(&self, output: &mut String) {
        match self {
            Value::Null => output.push_str("null"),
            Value::Boolean(true) => output.push_str("true"),
            Value::Boolean(false) => output.push_str("false"),
            Value::Number(number) => output.push_str(number.as_str()),
            Value::String(string) => write_string(string, output),
            Value::Array(items) => {
                output.push('[');
                for (index, item) in items.iter().enumerate() {
                    separate(index, output);
                    item.write(output);
                }
                output.push(']');
            }
            Value::Object(members) => {
                output.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    separate(index, output);
                    write_string(name, output);
                    output.push(':');
                    value.write(output);
                }
                output.push('}');
            }
        }
    }
}

fn separate(index: usize, output: &mut String) {
    if index > 0 {
        output.push(',');
    }
}

/// As RFC 8785 section 3.2.2.2 has it.
fn write_string(string: &str, output: &mut String) {
    output.push('"');
    for character in string.chars() {
        match character {
            '"' => output.push_str("\\\""),
            '\\' => output.push_str("\\\\"),
            '\u{8}' => output.push_str("\\b"),
            '\u{c}' => output.push_str("\\f"),
            '\n' => output.push_str("\\n"),
            '\r' => output.push_str("\\r"),
            '\t' => output.push_str("\\t"),
            '\0'..='\u{1f}' => {
                output.push_str("\\u00");
                for digit in [u32::from(character) >> 4, u32::from(character) & 15] {
                    output.extend(char::from_digit(digit, 16));
                }
            }
            _ => output.push(character),
        }
    }
    output.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> Limits {
        Limits {
            depth: 3,
            members: 2,
            items: 3,
            string_bytes: 4,
            number_digits: 5,
            number_exponent: 10,
            ..Limits::default()
        }
    }

    fn refusal(body: &[u8], limits: &Limits) -> (u16, &'static str, String) {
        let fault = read(body, limits, DuplicateKeys::Refuse).expect_err("it is refused");
        (fault.kind.status(), fault.rule, fault.pointer())
    }

    #[test]
    fn what_is_json_has_one_form() {
        let cases = [
            ("null", "null"),
            (" \t\r\n[ ] ", "[]"),
            (
                "{ \"b\" : 1 , \"a\" : [ true , false , null ] }",
                "{\"a\":[true,false,null],\"b\":1}",
            ),
            (
                "[-0, 0.10, 1E+2, 1e-7, 12345678901234567890]",
                "[-0,0.10,1E+2,1e-7,12345678901234567890]",
            ),
            (
                r#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00""#,
                "\"\\\"\\\\/\\b\\f\\n\\r\\tA\u{e9}\u{1f600}\"",
            ),
            (r#""\u0000\u001F\u007f""#, "\"\\u0000\\u001f\u{7f}\""),
            ("{\"\":{}}", "{\"\":{}}"),
            ("\"\u{e9}\u{1f600}\"", "\"\u{e9}\u{1f600}\""),
        ];
        for (body, form) in cases {
            let mut output = String::new();
            read(body.as_bytes(), &Limits::default(), DuplicateKeys::Refuse)
                .unwrap()
                .write(&mut output);
            assert_eq!(output, form, "{body}");
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let syntax = [
            "",
            " ",
            "nul",
            "True",
            "NaN",
            "Infinity",
            "-",
            "+1",
            "1.",
            ".5",
            "1e",
            "1e+",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\" 1}",
            "{a:1}",
            "{'a':1}",
            "{1:1}",
            "\"",
            "\"a",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\u+123\"",
            "\"\n\"",
            "\"\t\"",
            "'a'",
            "// x",
            "\"\\\u{e9}\"",
            "\u{a0}1",
        ];
        for body in syntax {
            let (status, rule, _) = refusal(body.as_bytes(), &Limits::default());
            assert_eq!((status, rule), (400, "syntax"), "{body}");
        }
        let others: [(&[u8], &str, &str); 15] = [
            (b"\xff", "utf-8", ""),
            (b"\"\xc3\"", "utf-8", ""),
            (b"\"\xed\xa0\x80\"", "utf-8", ""),
            (b"\xef\xbb\xbf{}", "byte-order-mark", ""),
            (b"{} {}", "trailing-data", ""),
            (b"1 x", "trailing-data", ""),
            (b"01", "trailing-data", ""),
            (b"-0x1", "trailing-data", ""),
            (b"[]\0", "trailing-data", ""),
            (b"{\"a\":1,\"a\":1}", "duplicate-key", "/a"),
            (b"[{},{\"b\":{\"a\":1,\"\\u0061\":2}}]", "duplicate-key", "/1/b/a"),
            (b"[\"\\ud800\"]", "surrogate", "/0"),
            (b"[\"\\udc00\"]", "surrogate", "/0"),
            (b"[\"\\ud800\\u0041\"]", "surrogate", "/0"),
            (b"{\"a\":[1,x]}", "syntax", "/a/1"),
        ];
        for (body, rule, pointer) in others {
            let expected = (400, rule, pointer.to_owned());
            assert_eq!(refusal(body, &Limits::default()), expected, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn what_is_too_large_names_its_limit() {
        let within = [
            "[[[]]]",
            "{\"a\":1,\"b\":2}",
            "[1,2,3]",
            "\"abcd\"",
            "\"\\u00e9\\u00e9\"",
            "-123.45",
            "1e-10",
            "0.0000",
        ];
        for body in within {
            assert!(read(body.as_bytes(), &small(), DuplicateKeys::Refuse).is_ok(), "{body}");
        }
        let over = [
            ("[[[[]]]]", "limits.depth", "/0/0/0"),
            ("[[[{}]]]", "limits.depth", "/0/0/0"),
            ("[{\"a\":1,\"b\":2,\"c\":3}]", "limits.members", "/0"),
            ("{\"a\":[1,2,3,4]}", "limits.items", "/a"),
            ("[\"abcde\"]", "limits.string_bytes", "/0"),
            ("[\"\\u00e9\\u00e9\\u00e9\"]", "limits.string_bytes", "/0"),
            ("{\"abcde\":1}", "limits.string_bytes", ""),
            ("[123456]", "limits.number_digits", "/0"),
            ("[1.23456]", "limits.number_digits", "/0"),
            ("[1e11]", "limits.number_exponent", "/0"),
            ("[1e-99999999999999999999]", "limits.number_exponent", "/0"),
        ];
        for (body, rule, pointer) in over {
            assert_eq!(
                refusal(body.as_bytes(), &small()),
                (413, rule, pointer.to_owned()),
                "{body}"
            );
        }
    }

    #[test]
    fn of_duplicates_the_last_can_stand_and_all_count() {
        let mut output = String::new();
        let body = b"{\"a\":1,\"a\":2}";
        read(body, &small(), DuplicateKeys::Last).unwrap().write(&mut output);
        assert_eq!(output, "{\"a\":2}");
        let three = b"{\"a\":1,\"a\":2,\"a\":3}";
        assert_eq!(
            read(three, &small(), DuplicateKeys::Last).unwrap_err().rule,
            "limits.members"
        );
    }

    #[test]
    fn the_deepest_value_is_within_the_stack() {
        let limits = Limits {
            depth: MAX_DEPTH,
            ..Limits::default()
        };
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(nested(MAX_DEPTH).as_bytes(), &limits, DuplicateKeys::Refuse).is_ok());
        assert_eq!(refusal("[".repeat(1 << 20).as_bytes(), &limits).1, "limits.depth");
    }

    /// Texts that are JSON, or nearly.
    fn texts() -> impl Strategy<Value = String> {
        let parts = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"b\"",
            "\"\\u0041\"",
            "\"\\ud83d\\ude00\"",
            "1",
            "-0",
            "0.5",
            "1e9",
            "true",
            "null",
            " ",
            "\"",
            "\\",
            "x",
            "\u{e9}",
        ]);
        let parts = prop::collection::vec(parts, 0..14).prop_map(|parts| parts.concat());
        let damaged = (values(), any::<prop::sample::Index>()).prop_map(|(value, index)| {
            let mut characters: Vec<char> = value.to_string().chars().collect();
            characters.remove(index.index(characters.len()));
            characters.into_iter().collect()
        });
        let written = values().prop_map(|value| value.to_string());
        let spaced = values().prop_map(|value| serde_json::to_string_pretty(&value).unwrap());
        prop_oneof![parts, damaged, written, spaced]
    }

    fn values() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let items = prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from);
            let members = prop::collection::btree_map(".{0,3}", inner, 0..4);
            prop_oneof![items, members.prop_map(Value::from_iter)]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Neither more nor less than what a reader of the field takes for JSON.
        #[test]
        fn it_reads_what_serde_json_reads(text in texts()) {
            let ours = read(text.as_bytes(), &Limits::default(), DuplicateKeys::Last);
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                let mut form = String::new();
                ours.write(&mut form);
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&form).unwrap(), theirs);
                let again = read(form.as_bytes(), &Limits::default(), DuplicateKeys::Refuse).unwrap();
                prop_assert_eq!(again, ours);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let ours = read(&body, &Limits::default(), DuplicateKeys::Last).is_ok();
            prop_assert_eq!(ours, serde_json::from_slice::<serde_json::Value>(&body).is_ok());
        }
    }
}
