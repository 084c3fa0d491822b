//! `occlude-export adopt`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use occlude_preprocess::{Fit, Preprocess};

use crate::adopt::{AdoptOptions, Asked, Pooling, adopt};

#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// ONNX file of another project: an image encoder that takes one normalised picture, float (N, 3, H, W)
    pub(super) model: PathBuf,
    /// File to write
    #[arg(short, long)]
    pub(super) out: PathBuf,
    /// How its pictures are prepared: a file (Occlude's, transformers' `preprocessor_config.json`, or timm's
    /// `config.json`), or a name: imagenet, dino, ibot, dinov2, mae, deit, augreg; default: `preprocessor_config.json`
    /// beside the model, or above its folder `onnx`
    #[arg(long, value_name = "FILE|NAME")]
    pub(super) contract: Option<String>,
    /// Output that the embedding is made of; default: the only one
    #[arg(long, value_name = "NAME")]
    pub(super) output: Option<String>,
    /// What of it is the embedding, where it is no vector
    #[arg(long, value_enum)]
    pub(super) pool: Option<Pooling>,
    /// Tokens before those of patches, which `--pool mean` leaves out: 1 for a class token alone
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) skip_tokens: usize,
    /// Leave embeddings as they are instead of scaling them to length one
    #[arg(long)]
    pub(super) no_normalize: bool,
    /// Licence of the weights, kept in the file's metadata
    #[arg(long, value_name = "L")]
    pub(super) licence: Option<String>,
    /// Write weights that lie beside the model to OUT.onnx.data; models above 2 GiB always do
    #[arg(long)]
    pub(super) external_data: bool,
    /// Replace OUT, and OUT.onnx.data if it is written, where they exist; never the model or its weights
    #[arg(long)]
    pub(super) force: bool,
}

/// Runs the command.
pub(super) fn run(args: AdoptArgs) -> anyhow::Result<ExitCode> {
    let asked = Asked {
        output: args.output,
        pool: args.pool,
        skip: args.skip_tokens,
        keep_length: args.no_normalize,
    };
    let options = AdoptOptions {
        contract: args.contract,
        asked,
        licence: args.licence,
        external_data: args.external_data,
        force: args.force,
    };
    let adopted = adopt(&args.model, &args.out, &options)?;
    eprintln!("pictures: {}", told(&adopted.contract));
    eprintln!("embedding: {} numbers, `{}`{}", adopted.dim, adopted.choice.output, of(adopted.choice.pool));
    if adopted.freed {
        eprintln!("note: the original takes a fixed number of pictures; this model answers alike for any");
    }
    match &adopted.data {
        Some(data) => eprintln!("wrote `{}` and its weights, `{}`", args.out.display(), data.display()),
        None => eprintln!("wrote `{}`: {}", args.out.display(), adopted.precision),
    }
    eprintln!("fingerprint {}", adopted.fingerprint);
    eprintln!("identity {}", adopted.identity);
    Ok(ExitCode::SUCCESS)
}

/// The geometry of a contract, in words.
fn told(contract: &Preprocess) -> String {
    let sides = match contract.fit {
        Fit::Short => "short side",
        Fit::Squash => "both sides",
    };
    format!("{sides} to {} px, centre {} px", contract.resize, contract.crop)
}

fn of(pool: Option<Pooling>) -> &'static str {
    match pool {
        Some(Pooling::Cls) => ", its first token",
        Some(Pooling::Mean) => ", its mean",
        Some(Pooling::Pooler) | None => "",
    }
}
