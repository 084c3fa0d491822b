//! The `occlude-export` executable; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    occlude_export::cli::main(std::env::args_os())
}
