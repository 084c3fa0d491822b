//! What can go wrong, one variant per failure.

use std::io;
use std::path::PathBuf;

use occlude_checkpoint::{Dtype, Format, LoadReport};
use occlude_encoder::Arch;
use occlude_preprocess::ContractError;

/// Why a checkpoint could not be converted, imported or verified, or boxes not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// The checkpoint cannot be read, or the pickle not be written.
    #[error(transparent)]
    Checkpoint(#[from] occlude_checkpoint::Error),
    /// Detectron2 tells formats apart by the extension.
    #[error("`{path}` does not end in `.pkl`; hint: Detectron2 reads pickles only under that extension", path = .0.display())]
    Extension(PathBuf),
    /// A file that must not be written.
    #[error(transparent)]
    Output(#[from] occlude_output::Refused),
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
        recipe: &'static str,
        /// Of the checkpoint.
        arch: Arch,
    },
    /// The checkpoint's preprocessing contract cannot be understood.
    #[error("cannot read the preprocessing contract of `{path}`: {reason}", path = path.display())]
    Contract { path: PathBuf, reason: String },
    /// The YAML, the script or the boxes could not be written.
    #[error("cannot write `{path}`: {reason}", path = path.display())]
    Write { path: PathBuf, reason: io::Error },
    /// Names of Caffe2, whose weights are another network's.
    #[error(
        "`{path}` has Caffe2's names (`{name}`): such weights take BGR pixels that are not divided, stride in the 1x1 convolutions and have no batch statistics, so torchvision's network would compute something else with them; hint: Detectron2 itself can train from them",
        path = path.display()
    )]
    Caffe2 {
        path: PathBuf,
        /// One of them.
        name: String,
    },
    /// A detector that started from Caffe2's weights.
    #[error(
        "`{path}` has a stem without batch statistics (mean 0, variance 1, trained scale): a detector that started from Caffe2's weights, which take BGR pixels and stride in the 1x1 convolutions; torchvision's network would compute something else with them",
        path = path.display()
    )]
    FrozenNorm { path: PathBuf },
    /// A detector that takes pixels in another way than torchvision's network.
    #[error(
        "`{path}` takes pixels of mean {mean:?} and standard deviation {std:?}: BGR, or not divided by the deviation, which the preprocessing contract cannot express",
        path = path.display()
    )]
    Pixels {
        path: PathBuf,
        /// Its `pixel_mean`.
        mean: [f64; 3],
        /// Its `pixel_std`.
        std: [f64; 3],
    },
    /// Pixel statistics that are none.
    #[error(
        "`{path}` has a `pixel_mean` of {mean:?} and a `pixel_std` of {std:?}, on the 0..255 scale, from which no preprocessing contract can be made: {reason}; hint: the file is damaged, or was saved with wrong settings",
        path = path.display()
    )]
    Statistics {
        path: PathBuf,
        /// Its `pixel_mean`.
        mean: [f64; 3],
        /// Its `pixel_std`.
        std: [f64; 3],
        reason: ContractError,
    },
    /// A network that Detectron2 cannot build.
    #[error(
        "Detectron2 has no network like {arch}: its ResNets begin with a 7x7 convolution of stride 2 and a pooling; hint: pretrain a `resnet50` for detection"
    )]
    NotDetectron {
        /// It.
        arch: Arch,
    },
    /// A network that Detectron2's detectors cannot stand on.
    #[error(
        "{arch} is a vision transformer, and the files written here are for Detectron2's ResNet detectors; hint: ViTDet, in its project folder, takes timm's names: `occlude-export torch`; or take boxes from its maps: `occlude-detectron pseudo-boxes`"
    )]
    Transformer {
        /// It.
        arch: Arch,
    },
    /// Nothing in the file has a name of Detectron2's encoder.
    #[error(
        "`{path}` has no encoder under Detectron2's names (`stem.conv1.weight`, `backbone.res2.*`, `backbone.bottom_up.res2.*`); hint: `occlude-export safetensors` takes checkpoints of other projects",
        path = .0.display()
    )]
    NoEncoder(PathBuf),
    /// Parameters are missing, mis-shaped or too many.
    #[error("`{path}` does not hold a complete {arch}: {report}; hint: `--arch` names another one", path = path.display())]
    Incomplete {
        path: PathBuf,
        /// What it was held against.
        arch: Arch,
        /// By torchvision's names.
        report: Box<LoadReport>,
    },
    /// Two tensors would be one parameter.
    #[error("`{path}`: `{first}` and `{second}` are both `{name}`: two encoders in one file", path = path.display())]
    TwoNames {
        path: PathBuf,
        /// torchvision's name.
        name: String,
        /// In the file.
        first: String,
        /// In the file.
        second: String,
    },
    /// A weight that is no float.
    #[error("tensor `{name}`: expected floats, got {got}")]
    Dtype {
        /// In the file.
        name: String,
        /// Its type.
        got: Dtype,
    },
    /// The file to verify cannot be read.
    #[error("cannot read `{path}`: {reason}", path = path.display())]
    Read { path: PathBuf, reason: io::Error },
    /// A checkpoint, and no pickle of arrays.
    #[error("`{path}` is {format}, not a pickle of numpy arrays; hint: `occlude-detectron convert` turns it into one", path = path.display())]
    NoPickle { path: PathBuf, format: Format },
    /// The settings to verify with do not exist.
    #[error("`{path}` does not exist or is not a file; hint: `--config` takes the YAML that `convert` wrote", path = .0.display())]
    NoConfig(PathBuf),
    /// There are no pictures.
    #[error(transparent)]
    List(#[from] occlude_preprocess::files::ListError),
    /// Not one picture can be used.
    #[error(transparent)]
    AllBroken(#[from] occlude_preprocess::AllBroken),
    /// There is no ONNX Runtime.
    #[error(transparent)]
    Library(#[from] occlude_onnxruntime::LibraryError),
    /// The model has no maps to take.
    #[error("`{path}`: {what}; hint: export it with `occlude-export onnx`", path = path.display())]
    Model {
        /// The ONNX file.
        path: PathBuf,
        what: String,
    },
    /// ONNX Runtime does not load or run the model.
    #[error("ONNX Runtime cannot {action} `{path}`: {reason}", path = path.display())]
    Runtime {
        /// The ONNX file.
        path: PathBuf,
        /// `load` or `run`.
        action: &'static str,
        /// In its words.
        reason: String,
    },
    /// A map that is none, such as one with values that are no numbers.
    #[error("the map of `{picture}`: {reason}")]
    Map {
        /// The picture, below its folder.
        picture: String,
        reason: occlude_saliency::Error,
    },
    /// The interpreter did not start, or the script in it failed.
    #[error("`{python}` could not check the pickle: {reason}")]
    Python {
        /// The interpreter.
        python: String,
        /// The end of what it said.
        reason: String,
    },
    /// Detectron2 was asked for and is not there.
    #[error("Detectron2 cannot be imported: {reason}; hint: `--python` names an interpreter that has it")]
    NoDetectron2 {
        /// What Python said.
        reason: String,
    },
}
