//! `cargo xtask ci`: the same commands by hand and on the server.

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{paths, setup, sh, test};

/// Options of `cargo xtask ci`.
#[derive(clap::Args)]
pub(crate) struct CiArgs {
    /// Leave the tests out: format, lints, documentation, licences and fuzz targets only
    #[arg(long)]
    lints_only: bool,
}

/// Runs what CI runs and prints how long each step took. Everything uses the release profile, so that
/// libtorch's bindings and the other heavy dependencies are built once.
pub(crate) fn ci(args: &CiArgs) -> Result<()> {
    setup::run(&setup::Args { all: true, quiet: true })?;
    let mut times = Vec::new();
    for (name, mut command) in steps() {
        heading(name);
        times.push((name, sh::show(&mut command)?));
    }
    if !args.lints_only {
        heading("test");
        times.push(("test", timed(|| test::run(&test::Args::strict()))?));
    }
    summary(&times);
    Ok(())
}

fn steps() -> Vec<(&'static str, Command)> {
    let mut doc = cargo(&["doc", "--release", "--workspace", "--no-deps", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let mut steps = vec![
        ("fmt", cargo(&["fmt", "--all", "--check"])),
        ("clippy", cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        ("doc", doc),
    ];
    if sh::capture(&mut cargo(&["deny", "--version"])).is_ok() {
        steps.push(("deny", cargo(&["deny", "check", "licenses", "bans", "sources"])));
    } else {
        // Building cargo-deny takes longer than everything else here together.
        println!(
            "cargo-deny is not installed: skipped (the test `licences` holds `deny.toml`'s list all the same)"
        );
    }
    for manifest in fuzz_manifests() {
        let mut fuzz = cargo(&["check", "--release", "--bins", "--manifest-path"]);
        fuzz.arg(&manifest).env("CARGO_TARGET_DIR", paths::root().join("target/fuzz"));
        steps.push(("fuzz", fuzz));
    }
    steps
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = sh::cargo();
    cargo.args(arguments);
    cargo
}

/// Fuzz crates stand outside the workspace: `fuzz/`, or `fuzz/` below a crate.
fn fuzz_manifests() -> Vec<PathBuf> {
    let below = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let root = paths::root();
    let places = std::iter::once(root.to_path_buf()).chain(below(root)).chain(below(&root.join("crates")));
    let mut found: Vec<_> = places.map(|p| p.join("fuzz/Cargo.toml")).filter(|p| p.is_file()).collect();
    found.sort();
    found
}

fn heading(name: &str) {
    println!("\n== {name}");
}

fn timed(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = std::time::Instant::now();
    run().map(|()| start.elapsed())
}

fn summary(times: &[(&str, Duration)]) {
    let row = |(name, time): &(&str, Duration)| format!("{name} {}", sh::seconds(*time));
    println!("\nall passed: {}", times.iter().map(row).collect::<Vec<_>>().join(", "));
}
