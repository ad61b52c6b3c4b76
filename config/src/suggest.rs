//! "Did you mean": the known word nearest to a mistyped one.
//!
//! Control plane. Pure.

/// `; did you mean `x`?`, or the known words when none is near and they are few, or nothing.
pub(crate) fn suggestion<'a>(written: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(word) = nearest(written, known.clone()) {
        return format!("; did you mean `{word}`?");
    }
    let words: Vec<String> = known.take(MAX_LISTED + 1).map(|word| format!("`{word}`")).collect();
    match words.len() {
        0 => String::new(),
        1..=MAX_LISTED => format!("; known here: {}", words.join(", ")),
        _ => String::new(),
    }
}

/// More than this is not read as part of one line.
const MAX_LISTED: usize = 20;

/// Longer words are not typed by hand, and the distance is quadratic.
const MAX_COMPARED_BYTES: usize = 64;

/// The known word that was meant, when one is near.
pub(crate) fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > MAX_COMPARED_BYTES {
        return None;
    }
    // A third of the word may be wrong; beyond that a suggestion is a guess.
    let furthest = written.chars().count().div_ceil(3).min(3);
    known
        .map(|word| (strsim::osa_distance(written, word), word))
        .filter(|(distance, _)| *distance <= furthest)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
