use std::io;
use std::path::{Path, PathBuf};

/// Why a run could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} `{path}`: {reason}", path = path.display())]
    Io {
        /// `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        reason: io::Error,
    },
    /// The folder is not one that the trainer wrote.
    #[error(
        "`{path}` holds no run: neither `config.json` nor `metrics.jsonl` is there; hint: name the folder that was `--out` of `occlude-train pretrain`",
        path = path.display()
    )]
    NoRun { path: PathBuf },
    /// A comparison of nothing.
    #[error("no run to compare; hint: name the folders of one or more runs")]
    Nothing,
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |reason| Self::Io { action, path: path.to_owned(), reason }
    }
}
