//! The one way in which a test says that it could not run here.
//!
//! A test that returns early passes, and what it prints is kept from the reader; so it calls [`test()`] first. `cargo xtask
//! test` lists these calls at its end, and fails on them with `--no-skips`. `#[ignore]` counts as a skip as well.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;
use std::path::Path;

/// The variable that names the file of skipped tests: a line each, of a need, the test and a hint, parted by tabs.
pub const VARIABLE: &str = "OCCLUDE_SKIPPED";

/// Says that the calling test is skipped: `need` is what the machine lacks, in a word or two that are the same wherever it
/// is lacking (`Chromium`); `hint` is what to do about it. The caller returns afterwards.
///
/// # Panics
/// Where the file that [`VARIABLE`] names cannot be written: the skip would go unseen.
#[track_caller]
pub fn test(need: &str, hint: &str) {
    let name = name(Location::caller());
    // Not `eprintln!`, which the test harness keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: no {need}; {hint}");
    if let Some(path) = std::env::var_os(VARIABLE) {
        let line = [need, &name, hint].map(|part| part.replace(['\t', '\n'], " ")).join("\t");
        append(Path::new(&path), &line).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
    }
}

/// The test by its crate and name; by its place in the source where the harness runs one test after another, without names.
fn name(place: &Location<'_>) -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    match std::thread::current().name() {
        Some(name) if name != "main" => format!("{package} {name}"),
        _ => format!("{package} {}:{}", place.file(), place.line()),
    }
}

/// One write: many tests of many processes append at once.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).open(path)?.write_all(format!("{line}\n").as_bytes())
}
