//! What can go wrong, one variant per failure.

use std::io;
use std::path::PathBuf;

use occlude_encoder::Arch;

/// Why a checkpoint could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint cannot be read, or the pickle not be written.
    #[error(transparent)]
    Checkpoint(#[from] occlude_checkpoint::Error),
    /// Detectron2 tells formats apart by the extension.
    #[error("`{path}` does not end in `.pkl`; hint: Detectron2 reads pickles only under that extension", path = .0.display())]
    Extension(PathBuf),
    /// Something is there already.
    #[error("`{path}` exists; hint: `--force` replaces it", path = .0.display())]
    Exists(PathBuf),
    /// Input and output are one file.
    #[error("`{path}` is the checkpoint itself", path = .0.display())]
    SameFile(PathBuf),
    /// There is nothing that `--keep-head` could keep.
    #[error(
        "no projection head beside the encoder `{prefix}*`: expected `{prefix}fc.*` or `{head}*`; hint: leave out `--keep-head`"
    )]
    NoHead {
        /// Of the encoder.
        prefix: String,
        /// Where Occlude's own checkpoints hold it.
        head: String,
    },
    /// Detectron2's C4 head has bottleneck blocks whatever the encoder has.
    #[error(
        "recipe `{recipe}` does not fit {arch}: Detectron2 builds the C4 head from bottleneck blocks; hint: `--recipe coco-fpn-1x`"
    )]
    RecipeArch {
        /// As asked.
        recipe: &'static str,
        /// Of the checkpoint.
        arch: Arch,
    },
    /// The checkpoint's preprocessing contract cannot be understood.
    #[error("the preprocessing contract of `{path}` cannot be read: {reason}", path = path.display())]
    Contract {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The YAML could not be written.
    #[error("cannot write `{path}`: {reason}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}
