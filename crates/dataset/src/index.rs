//! What is where: every picture of a data set in a few dozen bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use occlude_preprocess::files::LeftOut;

use crate::stamp::Stamp;

/// No class.
pub(crate) const NONE: u32 = u32::MAX;

/// Whether pictures are files, or parts of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Files = 0,
    Shards = 1,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Files, Self::Shards].into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// A folder or shard that pictures lie in, or another file that the index depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Below the root, or absolute.
    pub(crate) path: PathBuf,
    /// When it was looked at; a cached index is good while this stays.
    pub(crate) stamp: Stamp,
}

/// Where a picture lies in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Columns over the samples, in the order of the data set. Names lie end to end in one allocation: a
/// path for each of a million samples would take several times the memory, and seconds to read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) classes: Vec<String>,
    pub(crate) places: Vec<Place>,
    /// File names, or names in the shard.
    pub(crate) names: Vec<u8>,
    /// Where each name ends in `names`.
    pub(crate) ends: Vec<u32>,
    /// Position in `places`.
    pub(crate) place: Vec<u32>,
    /// Position in `classes`, or [`NONE`].
    pub(crate) labels: Vec<u32>,
    /// Empty where every picture is a file of its own.
    pub(crate) spans: Vec<Span>,
    /// What lies there besides.
    pub(crate) left_out: LeftOut,
}

/// More names than 32-bit positions can tell apart.
#[derive(Debug)]
pub(crate) struct Full;

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds a place; its number.
    pub(crate) fn add_place(&mut self, path: PathBuf, stamp: Stamp) -> Result<u32, Full> {
        let number = u32::try_from(self.places.len()).map_err(|_| Full)?;
        self.places.push(Place { path, stamp });
        Ok(number)
    }

    /// Adds a sample.
    pub(crate) fn push(&mut self, place: u32, name: &[u8], label: u32) -> Result<(), Full> {
        let end = u32::try_from(self.names.len() + name.len()).map_err(|_| Full)?;
        self.names.extend_from_slice(name);
        self.ends.push(end);
        self.place.push(place);
        self.labels.push(label);
        Ok(())
    }

    /// Adds all places and samples of `part`; `relabel` gives the class of each.
    pub(crate) fn append(&mut self, part: Self, relabel: impl Fn(u32) -> u32) -> Result<(), Full> {
        let (names, places) = (self.names.len(), self.places.len());
        u32::try_from(names + part.names.len()).map_err(|_| Full)?;
        u32::try_from(places + part.places.len()).map_err(|_| Full)?;
        self.names.extend_from_slice(&part.names);
        self.ends.extend(part.ends.iter().map(|end| end + names as u32));
        self.places.extend(part.places);
        self.place.extend(part.place.iter().map(|place| place + places as u32));
        self.labels.extend(part.labels.iter().map(|&label| relabel(label)));
        self.spans.extend(part.spans);
        self.left_out.add(part.left_out);
        Ok(())
    }

    /// Gives back what growing reserved.
    pub(crate) fn shrink(&mut self) {
        self.names.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.place.shrink_to_fit();
        self.labels.shrink_to_fit();
        self.spans.shrink_to_fit();
        self.places.shrink_to_fit();
    }

    /// File name of a sample, or its name in the shard; empty for an index past the end.
    pub(crate) fn name(&self, i: usize) -> &OsStr {
        let end = self.ends.get(i).map_or(0, |&e| e as usize);
        let start = i.checked_sub(1).and_then(|i| self.ends.get(i)).map_or(0, |&e| e as usize);
        OsStr::from_bytes(self.names.get(start..end).unwrap_or_default())
    }

    /// Number of the place of a sample.
    pub(crate) fn place_of(&self, i: usize) -> usize {
        self.place.get(i).map_or(usize::MAX, |&p| p as usize)
    }

    /// Folder or shard of a sample, below the root.
    pub(crate) fn place_path(&self, i: usize) -> &Path {
        self.places.get(self.place_of(i)).map_or(Path::new(""), |place| &place.path)
    }

    /// Class of a sample.
    pub(crate) fn class(&self, i: usize) -> Option<u32> {
        self.labels.get(i).copied().filter(|&label| label != NONE)
    }

    /// Whether every position in every column points at something.
    pub(crate) fn is_sound(&self) -> bool {
        let n = self.len();
        let (places, classes) = (self.places.len() as u64, self.classes.len() as u64);
        self.place.len() == n
            && self.labels.len() == n
            && (self.spans.is_empty() || self.spans.len() == n)
            && self.ends.last().is_none_or(|&end| end as usize == self.names.len())
            && (n > 0 || self.names.is_empty())
            // strictly: no name is empty
            && self.ends.first().is_none_or(|&end| end > 0)
            && self.ends.windows(2).all(|pair| pair.first() < pair.last())
            && self.place.iter().all(|&place| u64::from(place) < places)
            && self.labels.iter().all(|&label| label == NONE || u64::from(label) < classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_with_their_numbers_moved() {
        let part = |folder: &str, names: &[&str]| {
            let mut index = Index::default();
            let place = index.add_place(folder.into(), Stamp::default()).expect("room");
            names.iter().for_each(|name| index.push(place, name.as_bytes(), 0).expect("room"));
            index
        };
        let mut index = Index { classes: vec!["a".into(), "b".into()], ..Index::default() };
        index.append(part("a", &["1.jpg", "22.jpg"]), |_| 0).expect("room");
        index.append(part("b", &["333.jpg"]), |_| 1).expect("room");
        assert!(index.is_sound());
        let seen: Vec<_> = (0..4)
            .map(|i| (index.place_path(i).to_owned(), index.name(i).to_owned(), index.class(i)))
            .collect();
        assert_eq!(seen[0], ("a".into(), "1.jpg".into(), Some(0)));
        assert_eq!(seen[1], ("a".into(), "22.jpg".into(), Some(0)));
        assert_eq!(seen[2], ("b".into(), "333.jpg".into(), Some(1)));
        assert_eq!(seen[3], ("".into(), "".into(), None), "past the end");
    }
}
