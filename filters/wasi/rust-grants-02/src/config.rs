//! `wasi:config`.

use crate::Answer;
use crate::wasi::config::store;

/// One value, or, without a key, all: a line for each, in the order of their keys.
pub fn answer(key: &str) -> Answer {
    if key.is_empty() {
        return match store::get_all() {
            Ok(mut all) => {
                all.sort();
                let lines = all.iter().map(|(key, value)| format!("{key}={value}\n"));
                Answer::Found(lines.collect::<String>().into_bytes())
            }
            Err(error) => Answer::Refused(format!("{error:?}")),
        };
    }
    match store::get(key) {
        Ok(Some(value)) => Answer::Found(value.into_bytes()),
        Ok(None) => Answer::Nothing,
        Err(error) => Answer::Refused(format!("{error:?}")),
    }
}
