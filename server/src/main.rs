//! `occlude-serve`: HTTP server of embeddings and saliency masks.

use std::process::ExitCode;

use clap::Parser;
use occlude_serve::{Args, run};

/// Exit codes: 0 after a clean shutdown, 1 when the server could not start or serve, 2 for wrong usage.
fn main() -> ExitCode {
    let config = match Args::parse().resolve() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: occlude_serve::Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run(config));
    // A picture that is being decoded cannot be interrupted; nobody waits for it any more.
    runtime.shutdown_background();
    Ok(result?)
}
