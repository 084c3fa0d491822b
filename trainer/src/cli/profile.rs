//! `profile`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::overrides::Overrides;
use super::{Machine, refused};
use crate::config::Recipe;
use crate::device::{self, Precision};
use crate::engine::{self, Plan};

/// Flags of `profile`.
#[derive(Args, Debug)]
pub(super) struct ProfileArgs {
    /// Folder, list or shards of pictures, as for `pretrain`
    #[arg(required_unless_present = "synthetic", conflicts_with = "synthetic")]
    data: Option<PathBuf>,
    /// Random pixels that are ready in advance instead of pictures: measures the device alone
    #[arg(long)]
    synthetic: bool,
    /// Named hyper-parameters; the flags below override them
    #[arg(long, value_enum)]
    recipe: Recipe,
    /// Steps to measure
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Steps before them that are not measured
    #[arg(long, default_value_t = 5)]
    warmup: u64,
    /// Write everything as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace an existing file of that name; never an input
    #[arg(long)]
    force: bool,
    /// Operators to show by name, those that compute most often first
    #[arg(long, default_value_t = 0)]
    operators: usize,
    /// Change colours on the CPU with the operators used on CUDA, to count them
    #[arg(long)]
    as_on_cuda: bool,
    /// Decoded pictures to keep in memory, MiB
    #[arg(long, default_value_t = 2048)]
    cache: u64,
    /// Number format of convolutions and matrix products
    #[arg(long, value_enum, default_value = "auto")]
    precision: Precision,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    overrides: Overrides,
}

/// Measures and prints.
///
/// # Errors
/// Where the steps cannot run or the file cannot be written.
pub(super) fn run(args: ProfileArgs) -> Result<ExitCode> {
    let config = match args.overrides.resolve(args.recipe) {
        Ok(config) => config,
        Err(error) => return refused(&error),
    };
    let [outputs, inputs] =
        [&args.json, &args.data].map(|path| path.as_deref().into_iter().collect::<Vec<_>>());
    occlude_output::check(&outputs, &inputs, args.force)?;
    let device = args.machine.device.resolve()?;
    args.machine.apply();
    device::prepare(device);
    let plan = Plan {
        data: args.data,
        device,
        bf16: args.precision.bf16(device),
        workers: args.machine.workers(),
        cache_bytes: args.cache << 20,
        as_on_cuda: args.as_on_cuda,
        warmup: args.warmup,
        steps: args.steps,
    };
    let profile = engine::profile(&config, &plan)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&profile.json())?;
        occlude_output::write(path, |w| writeln!(w, "{text}"))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    answer!("{}", profile.table(args.operators));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn pictures_are_a_data_set_or_made_up() {
        let parse = |flags: &str| {
            let words = format!("occlude-train profile --recipe moco-v2 {flags}");
            Cli::try_parse_from(words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        assert!(parse("data --steps 3 --warmup 0 --json out.json --device cpu --precision bf16").is_ok());
        assert!(parse("--synthetic --arch resnet18 --batch-size 8 --operators 5 --as-on-cuda").is_ok());
        for (flags, part) in
            [("", "<DATA>"), ("data --synthetic", "cannot be used"), ("data --steps 0", "--steps")]
        {
            let message = parse(flags).expect_err("refused").to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
