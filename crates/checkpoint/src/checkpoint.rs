//! Opening by content.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, FormatError};
use crate::format::Format;
use crate::index::{Index, Skipped};
use crate::tensor::{Entry, Tensor};
use crate::{pickled, safetensors, sniff, torch};

/// An open checkpoint: the file mapped into memory and an index of its tensors.
///
/// The file must not be changed in place while it is open; Occlude's own tools never do, they
/// replace files by renaming.
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    file: Backing,
    entries: Vec<Entry>,
    /// Positions in `entries`, sorted by name.
    by_name: Vec<usize>,
    metadata: BTreeMap<String, String>,
    skipped: Vec<Skipped>,
}

/// Where the bytes are.
enum Backing {
    Map(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Backing {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
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
        Self::new(path, Backing::Map(map))
    }

    /// Reads a checkpoint that is already in memory; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::new(path.into(), Backing::Owned(bytes))
    }

    fn new(path: PathBuf, file: Backing) -> Result<Self, Error> {
        let (format, index) = parse(&path, &file)?;
        let Index { entries, metadata, skipped } = index;
        let mut by_name: Vec<usize> = (0..entries.len()).collect();
        by_name.sort_by_key(|&i| entries.get(i).map(|e| e.name.as_str()));
        Ok(Self { path, format, file, entries, by_name, metadata, skipped })
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was opened, and not handed over in memory.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.file, Backing::Map(_))
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> usize {
        self.file.len()
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
        self.entries.iter().map(|e| Tensor::new(e, &self.file))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let name_of = |&i: &usize| self.entries.get(i).map(|e| e.name.as_str());
        let found = self.by_name.binary_search_by_key(&Some(name), name_of).ok()?;
        let entry = self.entries.get(*self.by_name.get(found)?)?;
        Some(Tensor::new(entry, &self.file))
    }

    /// safetensors: the file's `__metadata__`. torch: numbers and strings of the outer dictionary
    /// (`epoch`, `arch`) and of an `args` namespace (`args.lr`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Parts of the file whose checksums do not fit, by their names in it. Only the zip format has
    /// checksums; for the others the answer is always empty. Reads the whole file.
    ///
    /// A file saved with PyTorch's checksums switched off is reported whole.
    pub fn damaged_records(&self) -> Vec<String> {
        match self.format {
            Format::TorchZip => torch::damaged_records(&self.file),
            Format::Safetensors | Format::TorchLegacy | Format::NumpyPickle => vec![],
        }
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
    // Before it is opened: opening a pipe waits for somebody to write into it.
    let metadata = fs::metadata(path).map_err(fail("open"))?;
    if !metadata.is_file() {
        let looks = match metadata.is_dir() {
            true => "it is a folder; hint: name the checkpoint file in it",
            false => "it is not a regular file, which is needed to map it into memory",
        };
        return Err(Error::Unrecognised { path: path.to_owned(), looks });
    }
    let file = File::open(path).map_err(fail("open"))?;
    // SAFETY: the mapping is private to this process and read-only. Somebody who truncates the file
    // meanwhile ends the process (SIGBUS) rather than corrupting it; the type's documentation says so.
    unsafe { Mmap::map(&file) }.map_err(fail("map"))
}

/// Tries the formats by their first bytes.
fn parse(path: &Path, file: &[u8]) -> Result<(Format, Index), Error> {
    let fail = |format| move |reason| Error::Damaged { path: path.to_owned(), format, reason };
    let unrecognised = || Error::Unrecognised { path: path.to_owned(), looks: sniff::looks(file) };
    let format = sniff::format(file).ok_or_else(unrecognised)?;
    let index = match format {
        Format::Safetensors => safetensors::read(file).map_err(FormatError::from),
        Format::TorchZip => torch::read_zip(file),
        Format::TorchLegacy => torch::read_legacy(file),
        Format::NumpyPickle => pickled::read(file),
    };
    Ok((format, index.map_err(fail(format))?))
}
