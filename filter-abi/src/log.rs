//! Lines in the proxy's log, under the filter's name; over the filter's rate they are dropped and counted.
//!
//! ```
//! # let tenant = "acme";
//! tamis_filter::log::info!("tenant {tenant} is new");
//! ```

use std::fmt;

use crate::host;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For whoever works on the filter.
    Debug,
    /// For whoever runs the proxy, once things have gone right.
    Info,
    /// For whoever runs the proxy: something is odd.
    Warn,
    /// For whoever runs the proxy: something is broken.
    Error,
}

/// Writes a line; the macros of this module are the short way.
pub fn write(level: Level, line: fmt::Arguments<'_>) {
    match line.as_str() {
        Some(line) => host::write_log(level, line),
        None => host::write_log(level, &line.to_string()),
    }
}

/// Writes a line for whoever works on the filter; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Debug, format_args!($($line)+)) }; }
/// Writes a line; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __info { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Info, format_args!($($line)+)) }; }
/// Writes a line about something odd; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Warn, format_args!($($line)+)) }; }
/// Writes a line about something broken; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __error { ($($line:tt)+) => { $crate::log::write($crate::log::Level::Error, format_args!($($line)+)) }; }

#[doc(inline)]
pub use {__debug as debug, __error as error, __info as info, __warn as warn};
