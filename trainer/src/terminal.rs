//! Words for people and data for programs. Neither ends a run: a week of training goes on when the terminal that it was
//! started from is gone, and a reader that has read enough (`| head`) is no reason to panic.

use std::fmt::Arguments;
use std::io::{Write, stdout};

/// The exit code of a program whose reader has gone, as shells count it: 128 and SIGPIPE.
const READER_GONE: i32 = 141;

/// A line on stderr, if there still is one.
pub fn tell(line: Arguments<'_>) {
    // tests keep what is told to themselves unless they fail, which only the macro knows of
    #[cfg(test)]
    eprintln!("{line}");
    #[cfg(not(test))]
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A line on stdout; ends the process where nobody reads any more.
pub fn answer(line: Arguments<'_>) {
    if writeln!(stdout(), "{line}").is_err() {
        std::process::exit(READER_GONE);
    }
}

/// As `eprintln!`, without a panic.
macro_rules! tell {
    ($($text:tt)*) => { $crate::terminal::tell(format_args!($($text)*)) };
}

/// As `println!`, without a panic.
macro_rules! answer {
    ($($text:tt)*) => { $crate::terminal::answer(format_args!($($text)*)) };
}
