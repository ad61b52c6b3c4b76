//! Standard output, for whoever runs a command by hand.
//!
//! Control plane. A reader that has seen enough (`| head`) ends the command, and is no error.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};

/// As `print!`.
pub fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        // There is nowhere to say it.
        _ => {}
    }
}

/// As `print!`, to a reader that may leave.
#[macro_export]
macro_rules! tell {
    ($($text:tt)*) => { $crate::terminal::print(format_args!($($text)*)) };
}

/// The same with a new line behind it.
#[macro_export]
macro_rules! tell_line {
    ($($text:tt)*) => { $crate::terminal::print(format_args!("{}\n", format_args!($($text)*))) };
}
