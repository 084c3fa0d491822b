//! `occlude-detectron`: see `occlude_detectron`.

use std::process::ExitCode;

use clap::Parser;
use occlude_detectron::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
