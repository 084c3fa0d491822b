//! The `occlude-export` executable; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Who reads our output may stop (`| head`): then end as other programs do, without a panic.
    sigpipe::reset();
    occlude_export::cli::main(std::env::args_os())
}
