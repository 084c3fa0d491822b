//! What tells one data set from another: its pictures and their order, not where they lie.

use std::fs;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Dataset, Error};

/// Pictures whose bytes are looked at, spread evenly: pictures of one size under the same names (noise, drawings) differ
/// in nothing else.
const SAMPLES: usize = 64;
/// Stands for the size of a file that is not there; no file has it.
const GONE: u64 = u64::MAX;

/// What tells whether two data sets are the same pictures in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Number of pictures.
    pub pictures: usize,
    /// Whether they are parts of shards, where they have other names.
    pub sharded: bool,
    /// Hash of their file names, in order; folders play no part, so that a data set may move.
    pub names: String,
    /// Hash of their sizes, in order, and of the bytes of some of them.
    pub contents: String,
}

impl Identity {
    /// Whether both are the same pictures in the same order, be they files or parts of shards.
    pub fn is_same(&self, other: &Self) -> bool {
        let named = self.sharded != other.sharded || self.names == other.names;
        named && self.pictures == other.pictures && self.contents == other.contents
    }

    /// One word for people to compare; two that are the same pictures may differ in its first half, which is of the names.
    pub fn hash(&self) -> String {
        format!("{}-{}", self.names, self.contents)
    }
}

impl Dataset {
    /// What these pictures are. It looks up the size of every file and reads a few; a million take seconds.
    ///
    /// # Errors
    /// [`Error::Store`] where a bucket is out of reach. A file that cannot be read is left out.
    pub fn identity(&self) -> Result<Identity, Error> {
        self.identity_of(&(0..self.len()).collect::<Vec<_>>())
    }

    /// The same of the pictures at `which`.
    ///
    /// # Errors
    /// As [`Self::identity`].
    pub fn identity_of(&self, which: &[usize]) -> Result<Identity, Error> {
        let mut names = Sha256::new();
        for &i in which {
            names.update(self.file_name(i).as_encoded_bytes());
            // ends a name, because none contains it
            names.update([0]);
        }
        let mut contents = Sha256::new();
        for size in which.par_iter().map(|&i| self.size(i)).collect::<Vec<_>>() {
            contents.update(size.to_le_bytes());
        }
        let (samples, mut bytes) = (SAMPLES.min(which.len()), Vec::new());
        for &i in (0..samples).filter_map(|s| which.get(s * which.len() / samples)) {
            // what has no size may be a pipe, which would be waited for
            if self.size(i) == GONE {
                continue;
            }
            match self.read(i, &mut bytes) {
                Ok(()) => contents.update(Sha256::digest(&bytes)),
                Err(error @ Error::Store { .. }) => return Err(error),
                Err(_) => {}
            }
        }
        let hex = |hash: Sha256| hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Ok(Identity {
            pictures: which.len(),
            sharded: self.is_sharded(),
            names: hex(names),
            contents: hex(contents),
        })
    }

    /// Bytes of a picture; [`GONE`] for what is no file.
    fn size(&self, i: usize) -> u64 {
        match self.path(i) {
            Some(path) => {
                fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(GONE, |meta| meta.len())
            }
            None => self.part_size(i).unwrap_or(GONE),
        }
    }
}
