//! `occlude-train`: see `--help`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    occlude_train::device::tune_allocator();
    match occlude_train::cli::run(occlude_train::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            occlude_train::terminal::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
