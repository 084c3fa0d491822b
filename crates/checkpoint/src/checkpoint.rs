//! Opening by content, and the index of tensors.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::Error;
use crate::safetensors;
use crate::tensor::{Entry, Tensor};

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

/// A tensor that the file holds and that is not read here, such as a complex or a quantised one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What a parser finds in a file.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: Vec<Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) skipped: Vec<Skipped>,
}

/// An open checkpoint: the file mapped into memory and an index of its tensors.
///
/// The file must not be changed in place while it is open; Occlude's own tools never do, they
/// replace files by renaming.
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    map: Mmap,
    entries: Vec<Entry>,
    /// Positions in `entries`, sorted by name.
    by_name: Vec<usize>,
    metadata: BTreeMap<String, String>,
    skipped: Vec<Skipped>,
}

impl Checkpoint {
    /// Opens a checkpoint of any [`Format`]; the content decides, not the extension.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Unrecognised`] when it is something else,
    /// the format's own error when it is damaged or hostile.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let map = map(&path)?;
        let (format, index) = parse(&path, &map)?;
        let Index { entries, metadata, skipped } = index;
        let mut by_name: Vec<usize> = (0..entries.len()).collect();
        by_name.sort_by_key(|&i| entries.get(i).map(|e| e.name.as_str()));
        Ok(Self { path, format, map, entries, by_name, metadata, skipped })
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> usize {
        self.map.len()
    }

    /// The names of all tensors, in the order of the file.
    ///
    /// Nested dictionaries of torch files are joined with dots; the one that holds the model
    /// (`state_dict`, `model`) leaves no trace in the names, everything else does.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.entries.iter().map(|e| Tensor::new(e, &self.map))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let name_of = |&i: &usize| self.entries.get(i).map(|e| e.name.as_str());
        let found = self.by_name.binary_search_by_key(&Some(name), name_of).ok()?;
        let entry = self.entries.get(*self.by_name.get(found)?)?;
        Some(Tensor::new(entry, &self.map))
    }

    /// safetensors: the file's `__metadata__`. torch: numbers and strings of the outer dictionary
    /// (`epoch`, `arch`) and of an `args` namespace (`args.lr`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Tensors that the file has and that are not read here.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("tensors", &self.entries.len())
            .finish_non_exhaustive()
    }
}

fn map(path: &Path) -> Result<Mmap, Error> {
    let fail = |action| move |reason| Error::Io { action, path: path.to_owned(), reason };
    let file = File::open(path).map_err(fail("open"))?;
    let metadata = file.metadata().map_err(fail("open"))?;
    if metadata.is_dir() {
        return Err(Error::Unrecognised {
            path: path.to_owned(),
            looks: "it is a folder; hint: name the checkpoint file in it",
        });
    }
    // SAFETY: the mapping is private to this process and read-only. Somebody who truncates the file
    // meanwhile ends the process (SIGBUS) rather than corrupting it; the type's documentation says so.
    unsafe { Mmap::map(&file) }.map_err(fail("map"))
}

/// Tries the formats by their first bytes.
fn parse(path: &Path, file: &[u8]) -> Result<(Format, Index), Error> {
    if safetensors::looks_like(file) {
        let index =
            safetensors::read(file).map_err(|reason| Error::Safetensors { path: path.to_owned(), reason })?;
        return Ok((Format::Safetensors, index));
    }
    Err(Error::Unrecognised { path: path.to_owned(), looks: looks(file) })
}

/// What a foreign file looks like. Each of these is something that people hand over by mistake.
fn looks(file: &[u8]) -> &'static str {
    if file.is_empty() {
        return "it is empty";
    }
    "it has none of the known signatures (safetensors, torch zip, torch legacy, pickle)"
}
