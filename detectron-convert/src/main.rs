//! `occlude-detectron`: see `occlude_detectron`.

use std::process::ExitCode;

use clap::Parser;
use occlude_detectron::cli::{Cli, run};

fn main() -> ExitCode {
    // Who reads our output may stop (`| head`): then end as other programs do, without a panic.
    sigpipe::reset();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
