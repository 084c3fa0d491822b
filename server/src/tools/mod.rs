//! What the program does besides serving: bulk work on folders, with the same model code as the server.

mod copy;
mod duplicates;
mod embed;
mod embed_args;
mod evaluate;
mod health;
mod index;
mod journal;
mod shards;
mod table;
mod tune;
mod write;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{ConfigError, Limits, ModelFile, Sessions, Sources, cores, units};
use crate::inference::encode::{Encode, EncodeError};
use crate::inference::encoder::{LoadError, Loaded, Options, load};
use crate::inference::model::Model;
use crate::observe::metrics::Metrics;
use occlude_preprocess::AllBroken;
use occlude_preprocess::files::ListError;

pub use copy::{Copied, CopyArgs, copy};
pub use duplicates::{Duplicates, DuplicatesArgs, Group, Pair, duplicates};
pub use embed::embed;
pub use embed_args::EmbedArgs;
pub use evaluate::{EvaluateArgs, Evaluation, TruthError, evaluate};
pub use health::health;
pub use index::{IndexArgs, Indexed, index};
pub use shards::{Share, ShareError};
pub use tune::{Aim, Candidate, Measured, TuneArgs, Tuned, tune};
pub use write::Format;

/// The model of a bulk job, and how much of the machine it takes.
#[derive(Debug, Clone, Args)]
pub struct EncoderArgs {
    /// ONNX file written by `occlude-export onnx`, as FILE or NAME=FILE
    #[arg(long, value_name = "[NAME=]FILE")]
    pub model: ModelFile,
    /// What runs it.
    #[command(flatten)]
    pub sessions: Sessions,
    /// Pictures that are decoded at the same time [default: cores]
    #[arg(long, value_name = "N")]
    pub decode_threads: Option<usize>,
    /// Maximum number of pictures in one run of the model
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub max_batch: usize,
    /// Maximum pixels (width times height) of one picture
    #[arg(long, default_value = "100000000", value_name = "N", value_parser = units::count)]
    pub max_pixels: u64,
}

impl EncoderArgs {
    fn limits(&self) -> Limits {
        Limits {
            max_batch: self.max_batch.max(1),
            // Nobody else queues: room for what the readers have in hand.
            max_queue: 8 * self.max_batch.max(1),
            max_pixels: self.max_pixels,
            decode_threads: self.decode_threads.unwrap_or_else(cores).max(1),
            ..Limits::default()
        }
    }

    fn open(&self) -> Result<Model, ToolError> {
        self.sessions.check(&Sources::default())?;
        Ok(self.start(&self.sessions, &self.limits())?)
    }

    /// The model in these sessions and within these limits.
    fn start(&self, sessions: &Sessions, limits: &Limits) -> Result<Model, LoadError> {
        let options = Options {
            sessions: sessions.clone(),
            max_batch: limits.max_batch,
            name: self.model.name.clone(),
        };
        let Loaded { info, encoders, warning, .. } = load(&self.model.path, &options)?;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let encoders = encoders.into_iter().map(|e| Box::new(e) as Box<dyn Encode>).collect();
        Ok(Model::start(info, encoders, limits, &std::sync::Arc::new(Metrics::default())))
    }
}

/// Why a bulk job ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ToolError {
    /// The folder cannot be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// Settings contradict each other.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The model failed on a picture that could be read.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The collections cannot be read or written.
    #[error(transparent)]
    Store(#[from] occlude_retrieval::Error),
    /// Nothing says which pictures belong together.
    #[error(transparent)]
    Truth(#[from] TruthError),
    /// A copy that is not as what was copied.
    #[error(
        "collection `{name}`: {differ} points differ, and the target has {found} of {expected}; hint: let nobody write to \
         either meanwhile, and run it again"
    )]
    Copy {
        name: String,
        /// Points that the target lacks, or has otherwise.
        differ: usize,
        /// Points of the source.
        expected: usize,
        /// Points of the target.
        found: usize,
    },
    /// The result's name tells no format.
    #[error("`{}`: the extension is not that of a known format; hint: end it in .npy, .parquet or .jsonl, or add `--format`; for shards, end it in `/`", .path.display())]
    Format { path: PathBuf },
    /// A result that must not be written.
    #[error(transparent)]
    Output(#[from] occlude_output::Refused),
    /// What an interrupted run left belongs to another model.
    #[error("`{}` was left by a run with the model {found}, this one is {expected}; hint: delete it to start over", .path.display())]
    OtherRun {
        /// The file of the interrupted run.
        path: PathBuf,
        /// Identity of its model.
        found: String,
        /// Of this one.
        expected: String,
    },
    /// A file cannot be read or written.
    #[error("`{}`: {reason}", .path.display())]
    File { path: PathBuf, reason: std::io::Error },
    /// A Parquet file cannot be written.
    #[error("`{}`: {reason}", .path.display())]
    Parquet { path: PathBuf, reason: parquet::errors::ParquetError },
    /// A server that does not answer, or cannot yet.
    #[error("`{url}` is not ready: {why}")]
    Health {
        /// The server.
        url: String,
        /// What it says, or why it says nothing.
        why: String,
    },
    /// It is not known which part of the shards to embed.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Flags that do not fit shards.
    #[error("{what}")]
    Shards {
        /// Which, and what to do.
        what: &'static str,
    },
    /// A folder or bucket that cannot be used.
    #[error(transparent)]
    Objects(#[from] occlude_objects::Error),
    /// The place of the result holds another model's embeddings.
    #[error(
        "`{file}` has embeddings of the model {found}, this one is {expected}; hint: name another folder as `--out`"
    )]
    OtherModel {
        /// One of its files.
        file: String,
        /// Identity in its name.
        found: String,
        /// Of this model.
        expected: String,
    },
    /// The place of the result holds embeddings of another cut of the pictures.
    #[error(
        "`{file}` is of a list of pictures that was cut into {found} shards, now there would be {expected}; hint: pictures were \
         added or removed, or `--per-shard` differs; name another folder as `--out`"
    )]
    OtherCut {
        /// One of its files.
        file: String,
        /// How many shards there were.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// Some shards cannot be embedded; the others are.
    #[error(
        "{count} of {of} shards failed; the first: {first}; the others are done; hint: run the same command again"
    )]
    FailedShards {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// Name and reason of the first.
        first: String,
    },
    /// Not one picture could be read.
    #[error(transparent)]
    AllBroken(#[from] AllBroken),
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> ToolError {
    move |reason| ToolError::File { path: path.to_owned(), reason }
}

/// A picture's length and time of change: what tells whether it has to be encoded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: i64,
}

impl Version {
    /// That of a file that is not there is nobody's.
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(path).ok()?;
        let modified = data.mtime().saturating_mul(1_000_000_000).saturating_add(data.mtime_nsec());
        Some(Self { bytes: data.len(), modified })
    }
}
