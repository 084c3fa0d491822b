//! A folder of pictures, indexed in memory for exact nearest-neighbour search.

pub(crate) mod indexing;

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use occlude_preprocess::files::{Listing, Sample};
use occlude_preprocess::names::relative;
use occlude_preprocess::{Interpolation, LoadError, load, resize};

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
    /// (n, dim), rows of length 1.
    vectors: Vec<f32>,
    dim: usize,
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
        let dim = rows.first().map_or(0, |(_, v)| v.len());
        let entries = rows.iter().map(|(i, _)| entry(*i)).collect();
        let vectors = rows.into_iter().flat_map(|(_, v)| unit(v)).collect();
        Self { entries, classes: listing.classes, vectors, dim, skipped, identity: identity.to_owned() }
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
        if self.dim == 0 || query.len() != self.dim {
            return Vec::new();
        }
        let query = unit(query.to_vec());
        let mut scored: Vec<(f32, usize)> =
            self.vectors.chunks_exact(self.dim).map(|row| dot(row, &query)).zip(0..).collect();
        let best = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if k < scored.len() {
            scored.select_nth_unstable_by(k, best);
            scored.truncate(k);
        }
        scored.sort_unstable_by(best);
        scored.into_iter().filter_map(|(cosine, id)| self.hit(id, cosine)).collect()
    }

    fn hit(&self, id: usize, cosine: f32) -> Option<Hit<'_>> {
        let entry = self.entries.get(id)?;
        let class = entry.class.and_then(|c| self.classes.get(c as usize)).map(String::as_str);
        Some(Hit { id, path: &entry.relative, class, cosine })
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

/// Scaled to length 1; a vector of zeros stays so, and is like nothing.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = dot(&vector, &vector).sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|v| *v /= norm);
    }
    vector
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side, which the compiler turns into vector instructions.
    let mut sums = [0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_support::png;
    use std::fs;

    #[test]
    fn search_is_the_same_as_sorting_everything() {
        let n = 500;
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 - 50.0;
        let rows = (0..n).map(|i| (i, (0..11).map(|j| value(i * 11 + j)).collect())).collect();
        let samples = vec![Sample { path: "d/x".into(), class: None }; n];
        let gallery = Gallery::new("d".as_ref(), Listing { samples, ..Listing::default() }, rows, "");
        let query: Vec<f32> = (0..11).map(|j| value(j * 31)).collect();
        let mut naive: Vec<(usize, f32)> = gallery
            .vectors
            .chunks(11)
            .map(|v| v.iter().zip(unit(query.clone())).map(|(a, b)| a * b).sum())
            .enumerate()
            .collect();
        naive.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (hit, (_, cosine)) in gallery.search(&query, 25).iter().zip(&naive) {
            assert!((hit.cosine - cosine).abs() < 1e-5);
        }
        assert_eq!(gallery.search(&query, 25).len(), 25);
    }

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
