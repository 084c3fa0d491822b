//! What is served, and how it runs.

use std::path::PathBuf;
use std::time::Duration;

use super::headings::MODEL;
use super::limits::cores;
use super::units::Seconds;
use super::{ConfigError, Data, ModelFile, Sources, check, units};

/// Execution provider asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// CUDA if it works, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA or an error.
    Cuda,
}

/// The models, and the folders that belong to them.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Served {
    /// ONNX file written by `occlude-export onnx`, as FILE or NAME=FILE; its preprocessing contract is applied.
    /// Several models are served side by side; requests that name none go to the first
    #[arg(id = "model", long = "model", value_name = "[NAME=]FILE", help_heading = MODEL)]
    pub models: Vec<ModelFile>,
    /// Where the models run: `cuda` fails at start if it cannot run; `auto` uses CUDA if it works, else the CPU, and
    /// reports which
    #[arg(long, value_enum, default_value_t = Provider::Auto, help_heading = MODEL)]
    pub provider: Provider,
    /// Sessions of each model that encode side by side, each with its own copy of the weights
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = MODEL)]
    pub workers: usize,
    /// Threads within one session, on the CPU [default: cores divided by workers]
    #[arg(long, value_name = "N", help_heading = MODEL)]
    pub intra_threads: Option<usize>,
    /// Maximum bytes of GPU memory that one session uses for weights and activations, like `4GiB` [default: as needed]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, help_heading = MODEL)]
    pub gpu_mem_limit: Option<usize>,
    /// Seconds between checks of the model files; a replaced file is loaded while the old model keeps answering. 0:
    /// only on SIGHUP
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = units::seconds, help_heading = MODEL)]
    pub watch: Seconds,
    /// Folder that clients may load models from by name, with `/v2/repository`: NAME.onnx or NAME/1/model.onnx; may be
    /// given several times. Without it nothing is loaded on demand
    #[arg(long, value_name = "DIR", help_heading = MODEL)]
    pub model_folder: Vec<PathBuf>,
    /// Folder of pictures (flat, or one sub-folder per class) that is indexed at start for `/v1/search`
    #[arg(long, value_name = "DIR", help_heading = MODEL)]
    pub gallery: Option<PathBuf>,
    /// Folder for collections, or a PostgreSQL database with pgvector as `postgres://USER@HOST/DATABASE`; without it there
    /// are none
    #[arg(long, value_name = "DIR|URL", value_parser = Data::parser(), help_heading = MODEL)]
    pub data: Option<Data>,
}

impl Served {
    /// Threads of each session.
    pub fn intra_threads(&self) -> usize {
        self.intra_threads.unwrap_or_else(|| (cores() / self.workers.max(1)).max(1))
    }

    /// Time between looks at the model files, if they are looked at.
    pub fn watch(&self) -> Option<Duration> {
        (self.watch.given() != 0.0).then(|| self.watch.time())
    }

    /// Checks the numbers.
    pub(super) fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        let counts = [
            ("workers", self.workers as u64),
            ("intra-threads", self.intra_threads.unwrap_or(1) as u64),
            ("gpu-mem-limit", self.gpu_mem_limit.unwrap_or(1) as u64),
        ];
        check::counts(sources, &counts)?;
        if let Some(Err(source)) = self.data.as_ref().map(Data::location) {
            return Err(ConfigError::Data { setting: sources.name("data"), source });
        }
        if self.watch.given() == 0.0 { Ok(()) } else { check::times(sources, &[("watch", self.watch)]) }
    }

    /// Checks that there are models, each with a name of its own.
    pub(super) fn check_models(&self) -> Result<(), ConfigError> {
        for (i, ModelFile { name, .. }) in self.models.iter().enumerate() {
            if self.models.iter().take(i).any(|m| m.name == *name) {
                return Err(ConfigError::SameName { name: name.clone() });
            }
        }
        if self.models.is_empty() { Err(ConfigError::NoModel) } else { Ok(()) }
    }
}
