//! Literals and regular expressions, compiled to one deterministic automaton: a byte costs one look into a table,
//! however many there are.

use std::collections::HashMap;

use regex_automata::Anchored;
use regex_automata::MatchKind;
use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::{primitives::StateID, start, syntax};
use regex_syntax::ParserBuilder;

use crate::window::{End, More, Window};

/// Bytes of the automaton's table, which each instance of the filter has: an eighth of the memory that an instance is
/// given by default. It is enough for 200 random literals of 20 characters, which take 30 ms to compile, and for over a
/// thousand that are made of digits.
const MAX_TABLE_BYTES: usize = 2 << 20;

/// The state in which nothing can match any more.
const DEAD: u32 = 0;

/// All literals and regular expressions. It is trimmed: a state that is not dead has matched, or may yet.
#[derive(Debug)]
pub struct Automaton {
    /// The column of each byte: bytes that no expression tells apart share one.
    columns: Vec<u8>,
    width: usize,
    /// `width` next states for each state.
    next: Vec<u32>,
    states: Vec<State>,
    start: u32,
    /// The longest match's bytes.
    reach: usize,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// The first of the patterns that match here.
    pattern: Option<usize>,
    /// Whether no byte leads on.
    last: bool,
}

/// A literal or a regular expression, and the pattern that it belongs to. Patterns come in their order.
#[derive(Debug)]
pub struct Expression {
    pub pattern: usize,
    pub regex: String,
}

impl Expression {
    /// The regular expression of a literal.
    pub fn literal(text: &str) -> String {
        regex_syntax::escape(text)
    }
}

impl Automaton {
    pub fn new(expressions: Vec<Expression>) -> Result<Self, String> {
        let mut reach = 0;
        for expression in &expressions {
            reach = reach.max(self::reach(&expression.regex)?);
        }
        let regexes: Vec<&str> = expressions.iter().map(|expression| expression.regex.as_str()).collect();
        let too_large = |_| format!("literals and regexes: together they need over {MAX_TABLE_BYTES} bytes of tables");
        let table = dense::Builder::new()
            .configure(
                dense::Config::new()
                    // The longest match is wanted, so all of them must be seen.
                    .match_kind(MatchKind::All)
                    .start_kind(StartKind::Anchored)
                    .dfa_size_limit(Some(MAX_TABLE_BYTES))
                    .determinize_size_limit(Some(MAX_TABLE_BYTES)),
            )
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .thompson(
                thompson::Config::new()
                    .utf8(false)
                    .nfa_size_limit(Some(MAX_TABLE_BYTES)),
            )
            .build_many(&regexes)
            .map_err(too_large)?;
        let patterns: Vec<usize> = expressions.iter().map(|expression| expression.pattern).collect();
        Automaton::trimmed(&table, &patterns, reach)
    }

    /// The same automaton, with its matches where they end: the library's shows them a byte late, for the sake of what
    /// may stand behind them, and would let us wait for that byte.
    fn trimmed(table: &dense::DFA<Vec<u32>>, patterns: &[usize], reach: usize) -> Result<Self, String> {
        let start = table.start_state(&start::Config::new().anchored(Anchored::Yes));
        let start = start.map_err(|error| error.to_string())?;
        let classes = table.byte_classes();
        let bytes: Vec<u8> = classes.representatives(..).filter_map(|unit| unit.as_u8()).collect();
        // Every state that can be reached, in the order in which it is found; number 0 is the dead one.
        let mut found = vec![start];
        let mut numbers = HashMap::from([(start, 1)]);
        let mut next = vec![DEAD; bytes.len()];
        let mut index = 0;
        while let Some(state) = found.get(index).copied() {
            for byte in &bytes {
                let to = table.next_state(state, *byte);
                let number = match table.is_dead_state(to) {
                    true => DEAD,
                    false => *numbers.entry(to).or_insert_with(|| {
                        found.push(to);
                        u32::try_from(found.len()).unwrap_or(DEAD)
                    }),
                };
                next.push(number);
            }
            index += 1;
        }
        let pattern = |state: &StateID| first_pattern(table, *state, patterns);
        let mut states = vec![None];
        states.extend(found.iter().map(pattern));
        let mut automaton = Automaton {
            columns: (0..=u8::MAX).map(|byte| classes.get(byte)).collect(),
            width: bytes.len(),
            next,
            states: states
                .into_iter()
                .map(|pattern| State { pattern, last: false })
                .collect(),
            start: 1,
            reach,
        };
        automaton.trim();
        Ok(automaton)
    }

    /// Makes states dead that were there only to show a match late, and marks those that no byte leads on from.
    fn trim(&mut self) {
        let leads_on = |next: &[u32]| next.iter().any(|next| *next != DEAD);
        let useless: Vec<bool> = self
            .states
            .iter()
            .zip(self.next.chunks(self.width))
            .map(|(state, next)| state.pattern.is_none() && !leads_on(next))
            .collect();
        for next in &mut self.next {
            if useless[*next as usize] {
                *next = DEAD;
            }
        }
        for (state, next) in self.states.iter_mut().zip(self.next.chunks(self.width)) {
            state.last = !leads_on(next);
        }
    }

    /// Bytes of the longest match.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// Whether a match may begin with `byte`.
    pub fn begins(&self, byte: u8) -> bool {
        self.next(self.start, byte) != DEAD
    }

    /// The length of the longest match that begins here, and its pattern: of several the first.
    pub fn find(&self, window: Window) -> Result<Option<(usize, usize)>, More> {
        let mut number = self.start;
        let mut longest = None;
        for (index, byte) in window.bytes.iter().enumerate() {
            number = self.next(number, *byte);
            let state = self.states[number as usize];
            if let Some(pattern) = state.pattern {
                longest = Some((index + 1, pattern));
            }
            if state.last {
                return Ok(longest);
            }
        }
        match window.end {
            End::Open => Err(More),
            End::Closed => Ok(longest),
        }
    }

    fn next(&self, number: u32, byte: u8) -> u32 {
        self.next[number as usize * self.width + usize::from(self.columns[usize::from(byte)])]
    }
}

/// The first of the patterns that have matched when this state is reached. That nothing looks at what stands behind a
/// match was checked, so the end of the text shows it as well as any byte.
fn first_pattern(table: &dense::DFA<Vec<u32>>, state: StateID, patterns: &[usize]) -> Option<usize> {
    let ended = table.next_eoi_state(state);
    if !table.is_match_state(ended) {
        return None;
    }
    let matches = 0..table.match_len(ended);
    matches
        .map(|index| patterns[table.match_pattern(ended, index).as_usize()])
        .min()
}

/// The longest match's bytes, if the expression is one that this filter can look for.
pub fn reach(regex: &str) -> Result<usize, String> {
    let parsed = ParserBuilder::new().unicode(false).utf8(false).build().parse(regex);
    // The parser's own message draws the place over several lines.
    let parsed = parsed.map_err(|error| match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    })?;
    let properties = parsed.properties();
    if !properties.look_set().is_empty() {
        return Err("`^`, `$` and `\\b` are not supported, as a body has no lines to this filter".to_owned());
    }
    match (properties.minimum_len(), properties.maximum_len()) {
        (Some(0), _) | (None, _) => Err("it matches the empty text, or nothing at all".to_owned()),
        (_, None) => Err("its matches have no longest one: write `{1,64}` in place of `+` and `*`".to_owned()),
        (_, Some(longest)) => Ok(longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn automaton(regexes: &[&str]) -> Automaton {
        let expressions = regexes.iter().enumerate();
        let expressions = expressions.map(|(pattern, regex)| Expression {
            pattern,
            regex: (*regex).to_owned(),
        });
        Automaton::new(expressions.collect()).unwrap()
    }

    #[test]
    fn the_longest_match_wins_and_of_two_the_first() {
        let automaton = automaton(&["ab", "abcd", "a[a-z]{1,2}", "(?i)x{2,3}", "abc", "\u{e9}"]);
        assert_eq!(automaton.reach(), 4);
        type Found = Result<Option<(usize, usize)>, More>;
        let cases: [(&str, End, Found); 14] = [
            ("abcd", End::Open, Ok(Some((4, 1)))),
            ("abcde", End::Open, Ok(Some((4, 1)))),
            ("abce", End::Open, Ok(Some((3, 2)))),
            ("abc", End::Open, Err(More)),
            ("Xxx", End::Open, Ok(Some((3, 3)))),
            ("abc", End::Closed, Ok(Some((3, 2)))),
            ("ab", End::Closed, Ok(Some((2, 0)))),
            ("ab-", End::Open, Ok(Some((2, 0)))),
            ("a", End::Open, Err(More)),
            ("a", End::Closed, Ok(None)),
            ("a-", End::Open, Ok(None)),
            ("Xx", End::Closed, Ok(Some((2, 3)))),
            ("\u{e9}", End::Closed, Ok(Some((2, 5)))),
            ("", End::Closed, Ok(None)),
        ];
        for (text, end, expected) in cases {
            let window = Window {
                bytes: text.as_bytes(),
                end,
            };
            assert_eq!(automaton.find(window), expected, "{text} {end:?}");
        }
        assert!(automaton.begins(b'X') && automaton.begins(0xc3) && !automaton.begins(b'b'));
    }

    #[test]
    fn expressions_without_a_bound_are_refused() {
        let cases = [
            ("a+", "no longest one"),
            ("a*b", "no longest one"),
            ("a{2,}", "no longest one"),
            ("a?", "matches the empty text"),
            ("", "matches the empty text"),
            ("[a&&b]", "nothing at all"),
            ("^a", "are not supported"),
            ("a\\b", "are not supported"),
            ("(a", "unclosed group"),
            ("\\p{L}", "Unicode"),
            ("(?=a)", "look-around"),
        ];
        for (regex, reason) in cases {
            let refusal = reach(regex).unwrap_err();
            assert!(refusal.contains(reason), "{regex}: {refusal:?} does not say {reason:?}");
        }
        for (regex, longest) in [
            ("a{2,5}b?", 6),
            ("(?:ab|c){3}", 6),
            (".", 1),
            ("[^x]{64}", 64),
            ("\u{e9}", 2),
        ] {
            assert_eq!(reach(regex), Ok(longest), "{regex}");
        }
    }
}
