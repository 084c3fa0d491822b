//! The formats of files.

use std::fmt;

/// The format of a file, as its content says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// `torch.save` since PyTorch 1.6: a zip archive.
    TorchZip,
    /// `torch.save` before PyTorch 1.6: a sequence of pickles, then the storages.
    TorchLegacy,
    /// A pickle of numpy arrays: Detectron2's and Caffe2's model zoo.
    NumpyPickle,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch zip",
            Self::TorchLegacy => "torch legacy",
            Self::NumpyPickle => "numpy pickle",
        })
    }
}
