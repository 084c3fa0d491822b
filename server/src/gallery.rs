//! A folder of pictures, indexed in memory for exact nearest-neighbour search.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use occlude_preprocess::files::{ListError, Listing, Sample, list};
use occlude_preprocess::names::relative;
use occlude_preprocess::{AllBroken, Interpolation, LoadError, load, resize};

use crate::batch::{EncodeError, Encoded};
use crate::bulk::{Outcome, Progress, Run};
use crate::config::Limits;
use crate::model::Model;
use crate::picture::decode_limits;

/// Longest side of a thumbnail in pixels.
const THUMBNAIL: u32 = 240;
const THUMBNAIL_QUALITY: u8 = 82;

/// Why a folder could not be indexed.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// The folder cannot be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// Not one picture could be read.
    #[error(transparent)]
    AllBroken(#[from] AllBroken),
    /// The model failed on pictures that could be read.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

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
    /// Reads and encodes every picture below `dir`: `limits.decode_threads` decode side by side, the model's own
    /// workers encode in batches. Pictures that cannot be read are reported and left out.
    pub fn index(
        dir: &Path,
        model: &Model,
        limits: &Limits,
        progress: &dyn Progress,
    ) -> Result<Self, GalleryError> {
        let listing = list(dir)?;
        tell_left_out(dir, &listing);
        let samples = &listing.samples;
        let mut rows = Vec::new();
        let mut keep = |i: usize, encoded: Encoded| {
            rows.push((i, encoded.embedding));
            Ok::<_, GalleryError>(())
        };
        let run = Run { samples, model, limits, progress };
        if let Outcome { done: 0, first_error: Some(first), .. } = run.encode(&mut keep)? {
            return Err(AllBroken { folder: Some(dir.to_owned()), count: samples.len(), first }.into());
        }
        rows.sort_unstable_by_key(|(i, _)| *i);
        let skipped = samples.len() - rows.len();
        let entry = |i: usize| {
            let Sample { path, class } = &samples[i];
            Entry { relative: relative(dir, path), path: path.clone(), class: *class }
        };
        let dim = rows.first().map_or(0, |(_, v)| v.len());
        let entries = rows.iter().map(|(i, _)| entry(*i)).collect();
        let vectors = rows.into_iter().flat_map(|(_, v)| unit(v)).collect();
        let identity = model.info.identity.clone();
        Ok(Self { entries, classes: listing.classes, vectors, dim, skipped, identity })
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

/// Tells what of a folder is left out, if anything.
pub(crate) fn tell_left_out(dir: &Path, listing: &Listing) {
    if !listing.left_out.is_empty() {
        tracing::info!("`{}`: {}", dir.display(), listing.left_out);
    }
}

/// A small JPEG of a picture on disk.
pub(crate) fn thumbnail(path: &Path, limits: &Limits) -> Result<Vec<u8>, LoadError> {
    let image = load(path, &decode_limits(limits))?.image;
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
    use crate::encoder::fake::Fake;
    use crate::routes::tests_support::{fake_model, png};
    use crate::state::{AppState, Expected};
    use std::fmt::Display;
    use std::fs;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Seen {
        skipped: Mutex<Vec<String>>,
        most: AtomicUsize,
    }

    impl Progress for Seen {
        fn at(&self, done: usize, _: usize) {
            self.most.fetch_max(done, Ordering::Relaxed);
        }
        fn skipped(&self, why: &dyn Display) {
            self.skipped.lock().unwrap().push(why.to_string());
        }
    }

    fn model() -> Model {
        fake_model(vec![Fake::default()], &AppState::new(Limits::default(), Expected::default()))
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (class, name, colour) in
            [("red", "a", [250, 10, 10]), ("red", "b", [200, 60, 60]), ("blue", "c", [0, 0, 255])]
        {
            fs::create_dir_all(dir.path().join(class)).unwrap();
            fs::write(dir.path().join(class).join(format!("{name}.png")), png(300, 200, colour)).unwrap();
        }
        fs::write(dir.path().join("blue/broken.jpg"), b"\xff\xd8\xff\xe0 not really").unwrap();
        dir
    }

    #[test]
    fn finds_the_nearest_and_skips_the_broken() {
        let (dir, seen) = (folder(), Seen::default());
        let gallery = Gallery::index(dir.path(), &model(), &Limits::default(), &seen).unwrap();
        assert_eq!((gallery.len(), gallery.skipped(), gallery.is_empty()), (3, 1, false));
        assert_eq!(seen.most.load(Ordering::Relaxed), 4);
        assert!(seen.skipped.lock().unwrap()[0].contains("broken.jpg"));
        let hits = gallery.search(&[1.0, 0.05, 0.05], 2);
        let paths: Vec<_> = hits.iter().map(|h| (h.path, h.class)).collect();
        assert_eq!(paths, [("red/a.png", Some("red")), ("red/b.png", Some("red"))]);
        assert!(hits[0].cosine > hits[1].cosine && hits[0].cosine <= 1.0 + 1e-6);
        assert_eq!(gallery.search(&[0.0, 0.0, 9.0], 100).len(), 3, "no more than there are");
        assert_eq!(gallery.search(&[0.0, 0.0, 9.0], 1)[0].path, "blue/c.png");
        assert!(gallery.search(&[1.0], 3).is_empty(), "another length is another model");
    }

    #[test]
    fn search_is_the_same_as_sorting_everything() {
        let dir = folder();
        let mut gallery = Gallery::index(dir.path(), &model(), &Limits::default(), &Seen::default()).unwrap();
        let n = 500;
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 - 50.0;
        gallery.dim = 11;
        gallery.entries =
            (0..n).map(|i| Entry { path: "x".into(), relative: i.to_string(), class: None }).collect();
        gallery.vectors = (0..n).flat_map(|i| unit((0..11).map(|j| value(i * 11 + j)).collect())).collect();
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
    fn a_folder_of_broken_pictures_and_no_folder_are_errors() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let index = |path: &Path| Gallery::index(path, &model(), &Limits::default(), &Seen::default()).err();
        assert!(matches!(
            index(&dir.path().join("gone")),
            Some(GalleryError::List(ListError::Missing { .. }))
        ));
        let folder = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe8"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.png"), "no").unwrap();
        let Some(error @ GalleryError::AllBroken(AllBroken { count: 1, .. })) = index(&folder) else {
            panic!("a gallery")
        };
        let told = error.to_string();
        assert!(
            told.starts_with("none of the 1 pictures in `") && told.contains("/caf%E8` could be"),
            "{told}"
        );
        assert!(told.contains("a.png"), "{told}");
    }

    #[test]
    fn names_of_other_encodings_stay_apart_and_pipes_are_left_out() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        for (name, colour) in
            [(b"caf\xe8.png".as_slice(), [250, 10, 10]), (b"caf\xe9.png", [0, 0, 255]), (b"a\nb.png", [0; 3])]
        {
            fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), png(9, 9, colour)).unwrap();
        }
        let pipe = dir.path().join("pipe.png");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let gallery = Gallery::index(dir.path(), &model(), &Limits::default(), &Seen::default()).unwrap();
        let mut paths: Vec<_> =
            gallery.search(&[1.0, 0.0, 0.0], 9).iter().map(|h| h.path.to_owned()).collect();
        paths.sort();
        assert_eq!(paths, ["a%0Ab.png", "caf%E8.png", "caf%E9.png"]);
    }

    #[test]
    fn a_failing_model_ends_the_run() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..20 {
            fs::write(dir.path().join(format!("{i}.png")), png(8, 8, [Fake::FAILS; 3])).unwrap();
        }
        let error = Gallery::index(dir.path(), &model(), &Limits::default(), &Seen::default()).err();
        assert!(matches!(error, Some(GalleryError::Encode(EncodeError::Runtime(_)))), "{error:?}");
    }

    #[test]
    fn thumbnails_are_small_jpegs() {
        let dir = folder();
        let bytes = thumbnail(&dir.path().join("red/a.png"), &Limits::default()).unwrap();
        let image = occlude_preprocess::decode(&bytes, &Default::default()).unwrap().image;
        assert_eq!((image.width, image.height), (240, 160));
        fs::write(dir.path().join("s.png"), png(20, 10, [1, 2, 3])).unwrap();
        let small = thumbnail(&dir.path().join("s.png"), &Limits::default()).unwrap();
        assert_eq!(occlude_preprocess::decode(&small, &Default::default()).unwrap().image.width, 20);
        assert!(thumbnail(&dir.path().join("gone.png"), &Limits::default()).is_err());
    }
}
