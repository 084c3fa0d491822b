//! `cargo xtask`: everything around the four tools that is not one of them. It fills the project-local
//! environment, checks it, runs what CI runs, drives the quick start, measures and packs. The end-to-end
//! tests use its helpers for running the tools.

mod accuracy;
mod bench;
mod build;
mod check;
pub mod client;
mod detector;
mod doctor;
mod files;
mod gpu;
pub mod paths;
mod quickstart;
pub mod server;
mod setup;
pub mod sh;
mod test;
pub mod wheel;

use clap::{Parser, Subcommand};

/// Set-up, quick start, tests, benchmarks and the wheel of Occlude.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fill `.deps/` with libtorch, ONNX Runtime and the Python packages of the tests (about 5 GB)
    Setup(setup::Args),
    /// Print versions, devices and execution providers, and what to do for each thing that is missing
    Doctor,
    /// From a folder of images to a served embedding, with a result page
    Quickstart(quickstart::Args),
    /// Every test of every crate; what follows `--` goes to `cargo test`
    Test(test::Args),
    /// What CI runs: format, lints, documentation, licences, fuzz targets, tests
    Ci(check::CiArgs),
    /// Ours against the peer, in one run
    Bench(bench::Args),
    /// Every method with one budget, several seeds: kNN and linear probes in one table
    Accuracy(accuracy::Args),
    /// A detector trained on boxes of saliency maps beside one on boxes in the middle, by Detectron2
    Detector(detector::Args),
    /// The four programs as a Python wheel, for people without Rust
    Wheel(wheel::Args),
    /// Everything that a GPU machine with Python and torch needs to check, measure and train, in parts that travel
    GpuKit(gpu::Args),
    /// The figures that the kit brought back as tables of docs/benchmarks.md
    GpuReport(gpu::report::Args),
    /// Clients that ask a running server: images/s and waiting times as JSON
    #[command(hide = true)]
    Load(bench::load::Args),
}

/// Parses the command line and runs the task; errors go to stderr.
pub fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Doctor => doctor::run(),
        Command::Quickstart(args) => quickstart::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Ci(args) => check::ci(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Accuracy(args) => accuracy::run(&args),
        Command::Detector(args) => detector::run(&args),
        Command::Wheel(args) => wheel::run(&args),
        Command::GpuKit(args) => gpu::run(&args),
        Command::GpuReport(args) => gpu::report::run(&args),
        Command::Load(args) => bench::load::run(&args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
