//! A setting that must not exceed another one.
//!
//! Control plane. One rule for all such pairs: what exceeds its ceiling would never come to bear, so it is refused where
//! it is given, and a default is lowered instead.

use crate::reader::Reader;
use crate::shape::At;

pub(super) struct Ceiling<T> {
    /// The setting that holds the ceiling, as messages call it.
    pub(super) setting: &'static str,
    pub(super) value: T,
    pub(super) show: fn(T) -> String,
}

impl<T: Copy + Ord> Ceiling<T> {
    /// What is given for `key`, or the default; neither exceeds the ceiling.
    pub(super) fn hold(&self, key: &str, given: Option<&At<T>>, default: T, reader: &mut Reader) -> Option<T> {
        let Some(given) = given else {
            return Some(default.min(self.value));
        };
        if given.value <= self.value {
            return Some(given.value);
        }
        let shown = (self.show)(self.value);
        let message = format!("more than {}, {shown}; lower it, or raise that", self.setting);
        reader.error_at(&given.place, key, message);
        None
    }
}

/// The default of a ceiling that is not given: raised if need be, because what lies below it is given.
pub(super) fn at_least<T: Copy + Ord>(default: T, below: Option<&At<T>>) -> T {
    below.map_or(default, |below| default.max(below.value))
}
