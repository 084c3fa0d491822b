//! What is served, and how it runs.

use std::path::PathBuf;
use std::time::Duration;

use super::headings::MODEL;
use super::units::Seconds;
use super::{ConfigError, Data, ModelFile, Sessions, Sources, check, units};

/// The models, and the folders that belong to them.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Served {
    /// ONNX file written by `occlude-export onnx`, as FILE or NAME=FILE; its preprocessing contract is applied.
    /// Several models are served side by side; requests that name none go to the first
    #[arg(id = "model", long = "model", value_name = "[NAME=]FILE", help_heading = MODEL)]
    pub models: Vec<ModelFile>,
    /// What runs them.
    #[command(flatten)]
    pub sessions: Sessions,
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
    /// Folder for collections, or a database: PostgreSQL with pgvector as `postgres://USER@HOST/DATABASE`, Milvus as
    /// `milvus://USER@HOST/DATABASE`; without it there are none
    #[arg(long, value_name = "DIR|URL", value_parser = Data::parser(), help_heading = MODEL)]
    pub data: Option<Data>,
}

impl Served {
    /// Time between looks at the model files, if they are looked at.
    pub fn watch(&self) -> Option<Duration> {
        (self.watch.given() != 0.0).then(|| self.watch.time())
    }

    /// Checks the numbers.
    pub(super) fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        self.sessions.check(sources)?;
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
