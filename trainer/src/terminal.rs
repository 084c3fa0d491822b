//! Words for people and data for programs. Neither ends a run: a week of training goes on when the terminal that it was
//! started from is gone, and a reader that has read enough (`| head`) is no reason to panic.

use std::fmt::Arguments;
use std::fmt::Display;
use std::io::{Write, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a program whose reader has gone, as shells count it: 128 and SIGPIPE.
const READER_GONE: i32 = 141;

/// Whether another process speaks for this one.
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on this process says nothing but why it ends: another one, which does the same, speaks.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether it is so.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Ends one of several processes that train together, after saying why: what others wait for cannot come any more.
pub fn leave(error: &dyn Display) -> ! {
    say(format_args!("error: {error:#}"));
    occlude_distributed::leave(1)
}

/// A line on stderr, if there still is one, unless this process is quiet.
pub fn tell(line: Arguments<'_>) {
    if !is_quiet() {
        say(line);
    }
}

/// A line on stderr, if there still is one.
pub fn say(line: Arguments<'_>) {
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
