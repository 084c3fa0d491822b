//! A folder of pictures, indexed in memory for exact nearest-neighbour search.

pub(crate) mod indexing;

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use occlude_preprocess::files::{Listing, Sample};
use occlude_preprocess::names::relative;
use occlude_preprocess::{Interpolation, LoadError, load, resize};
use occlude_retrieval::Vectors;

use crate::config::Limits;

/// Longest side of a thumbnail in pixels.
const THUMBNAIL: u32 = 240;
const THUMBNAIL_QUALITY: u8 = 82;

struct Entry {
    path: PathBuf,
    /// Below the folder, with `/` between its parts.
    relative: String,
    class: Option<u32>,
}

/// The indexed folder.
pub struct Gallery {
    entries: Vec<Entry>,
    classes: Vec<String>,
    vectors: Vectors,
    skipped: usize,
    identity: String,
}

/// A picture that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit<'a> {
    /// Its number, which its thumbnail is served by.
    pub id: usize,
    /// Path below the folder.
    pub path: &'a str,
    /// Name of its class folder.
    pub class: Option<&'a str>,
    /// Cosine of the angle between the embeddings, -1..1.
    pub cosine: f32,
}

impl Gallery {
    /// Pictures of a folder by their places in its listing, each with its embedding, of the model of this identity.
    pub(crate) fn new(
        dir: &Path,
        listing: Listing,
        mut rows: Vec<(usize, Vec<f32>)>,
        identity: &str,
    ) -> Self {
        rows.sort_unstable_by_key(|(i, _)| *i);
        let skipped = listing.samples.len() - rows.len();
        let entry = |i: usize| {
            let Sample { path, class } = &listing.samples[i];
            Entry { relative: relative(dir, path), path: path.clone(), class: *class }
        };
        let entries = rows.iter().map(|(i, _)| entry(*i)).collect();
        let vectors = Vectors::new(rows.into_iter().map(|(_, v)| v));
        Self { entries, classes: listing.classes, vectors, skipped, identity: identity.to_owned() }
    }

    /// Pictures that can be found.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; an indexed gallery never is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Identity of the model that made its vectors.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Pictures that could not be read.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The `k` pictures whose embeddings have the largest cosine with `query`, best first; of equals the one that
    /// was listed first. Exact: every picture is compared.
    pub fn search(&self, query: &[f32], k: usize) -> Vec<Hit<'_>> {
        let found = self.vectors.nearest(query, k).into_iter();
        found.filter_map(|(id, cosine)| self.hit(id, cosine)).collect()
    }

    /// The `k` pictures most like the one of this number, itself left out; nothing where there is none of this number.
    pub(crate) fn near(&self, id: usize, k: usize) -> Option<Vec<Hit<'_>>> {
        let found = self.vectors.nearest(self.vectors.row(id)?, k.saturating_add(1)).into_iter();
        let others = found.filter(|(other, _)| *other != id).take(k);
        Some(others.filter_map(|(other, cosine)| self.hit(other, cosine)).collect())
    }

    /// Number, path below the folder and class of the pictures from a number on.
    pub(crate) fn pictures(&self, from: usize) -> impl Iterator<Item = (usize, &str, Option<&str>)> {
        let from = self.entries.iter().enumerate().skip(from);
        from.map(|(id, entry)| (id, entry.relative.as_str(), self.class(entry)))
    }

    fn class(&self, entry: &Entry) -> Option<&str> {
        entry.class.and_then(|c| self.classes.get(c as usize)).map(String::as_str)
    }

    fn hit(&self, id: usize, cosine: f32) -> Option<Hit<'_>> {
        let entry = self.entries.get(id)?;
        Some(Hit { id, path: &entry.relative, class: self.class(entry), cosine })
    }

    /// The file of a picture, by its number only: no path of a client's ever reaches the disk.
    pub(crate) fn file(&self, id: usize) -> Option<&Path> {
        self.entries.get(id).map(|e| e.path.as_path())
    }
}

/// A small JPEG of a picture on disk.
pub(crate) fn thumbnail(path: &Path, limits: &Limits) -> Result<Vec<u8>, LoadError> {
    let image = load(path, &limits.decode())?.image;
    let long = image.width.max(image.height).max(1);
    let side = |s: u32| {
        if long <= THUMBNAIL {
            s
        } else {
            (u64::from(s) * u64::from(THUMBNAIL) / u64::from(long)).max(1) as u32
        }
    };
    let small = resize(&image, side(image.width), side(image.height), Interpolation::Bilinear);
    let mut out = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut out, THUMBNAIL_QUALITY);
    let written = image::ImageEncoder::write_image(
        encoder,
        &small.data,
        small.width,
        small.height,
        image::ExtendedColorType::Rgb8,
    );
    let failed = |e| LoadError::Read { path: path.to_owned(), reason: std::io::Error::other(e) };
    written.map(|()| out).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_support::png;
    use std::fs;

    #[test]
    fn thumbnails_are_small_jpegs() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.png"), png(300, 200, [250, 10, 10])).unwrap();
        let bytes = thumbnail(&dir.path().join("a.png"), &Limits::default()).unwrap();
        let image = occlude_preprocess::decode(&bytes, &Default::default()).unwrap().image;
        assert_eq!((image.width, image.height), (240, 160));
        fs::write(dir.path().join("s.png"), png(20, 10, [1, 2, 3])).unwrap();
        let small = thumbnail(&dir.path().join("s.png"), &Limits::default()).unwrap();
        assert_eq!(occlude_preprocess::decode(&small, &Default::default()).unwrap().image.width, 20);
        assert!(thumbnail(&dir.path().join("gone.png"), &Limits::default()).is_err());
    }
}
