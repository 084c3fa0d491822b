//! Flags of `occlude-serve embed`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::EncoderArgs;
use super::shards::Share;
use super::write::Format;

/// Flags of `occlude-serve embed`.
#[derive(Debug, Clone, Args)]
pub struct EmbedArgs {
    /// Folder of pictures, flat or with one sub-folder for each class; with a folder as OUT, also a folder of tar shards, one
    /// of them, or an address: `s3://BUCKET/..`, `gs://BUCKET/..`, `az://CONTAINER/..`
    pub dir: PathBuf,
    /// File to write; its extension sets the format: .npy (names of the rows go to OUT.paths.txt), .parquet or .jsonl. Or a
    /// folder that ends in `/` or exists, or an address: one Parquet file for each shard
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// Format, if the extension does not set it
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Replace OUT, and OUT.paths.txt, where they exist; never the model or a picture
    #[arg(long)]
    pub force: bool,
    /// Part I of N of the shards, from 0 [default: this task of a Slurm array or of an indexed job of Kubernetes, else all of
    /// them]
    #[arg(long, value_name = "I/N", help_heading = SHARDS)]
    pub shard: Option<Share>,
    /// How many parts there are; Kubernetes says only which one this is
    #[arg(long, value_name = "N", conflicts_with = "shard", help_heading = SHARDS)]
    pub shards: Option<NonZeroUsize>,
    /// Pictures of a folder that make one shard, in the order of their paths; a tar is always one [default: 10000]
    #[arg(long, value_name = "N", help_heading = SHARDS)]
    pub per_shard: Option<NonZeroUsize>,
    /// Print the names of the shards that are not done, and stop; of all of them, unless `--shard` is given
    #[arg(long, help_heading = SHARDS)]
    pub list_missing: bool,
    /// Encode pictures of a shard with equal bytes once; each keeps a row of its own with the same embedding
    #[arg(long, help_heading = SHARDS)]
    pub dedup: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub encoder: EncoderArgs,
}

const SHARDS: &str = "Shards";
