//! Filling a gallery: every picture of a folder through the model.

use std::path::Path;

use occlude_preprocess::AllBroken;
use occlude_preprocess::files::{ListError, list};

use crate::config::Limits;
use crate::gallery::Gallery;
use crate::inference::bulk::{Outcome, Progress, Run, tell_left_out};
use crate::inference::encode::{EncodeError, Encoded, Wants};
use crate::inference::model::Model;

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
        let run = Run { samples, model, limits, wants: Wants::default(), progress };
        if let Outcome { done: 0, first_error: Some(first), .. } = run.encode(&mut keep)? {
            return Err(AllBroken { folder: Some(dir.to_owned()), count: samples.len(), first }.into());
        }
        Ok(Self::new(dir, listing, rows, &model.info.identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::inference::encode::{Crop, Encode};
    use crate::observe::metrics::Metrics;
    use crate::serving::state::{AppState, Expected};
    use crate::tests_support::{fake_model, png};
    use std::fmt::Display;
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

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

    /// Fails as halves do that overflow: the embedding of a picture that begins with 7 is NaN.
    struct Overflows;

    impl Encode for Overflows {
        fn encode(&mut self, images: &[Crop], wants: Wants) -> Result<Vec<Encoded>, EncodeError> {
            let mut rows = Fake::default().encode(images, wants)?;
            for (row, image) in rows.iter_mut().zip(images) {
                if matches!(image, Crop::Pixels(pixels) if pixels.data.first() == Some(&7)) {
                    row.embedding[1] = f32::NAN;
                }
            }
            Ok(rows)
        }
    }

    #[test]
    fn embeddings_that_are_not_finite_are_skipped_and_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("good.png"), png(32, 32, [200, 10, 10])).unwrap();
        fs::write(dir.path().join("nan.png"), png(32, 32, [7; 3])).unwrap();
        let metrics = Arc::new(Metrics::default());
        let (info, limits) = (Fake::info("fake", "f00d"), Limits::default());
        let model = Model::start(info, vec![Box::new(Overflows)], &limits, &metrics);
        let seen = Seen::default();
        let gallery = Gallery::index(dir.path(), &model, &limits, &seen).unwrap();
        assert_eq!((gallery.len(), gallery.skipped()), (1, 1));
        let told = seen.skipped.lock().unwrap().concat();
        assert!(told.contains("nan.png`: the model returned values that are not finite"), "{told}");
        fs::remove_file(dir.path().join("good.png")).unwrap();
        let error = Gallery::index(dir.path(), &model, &limits, &Seen::default()).err().unwrap();
        assert!(matches!(error, GalleryError::AllBroken(AllBroken { count: 1, .. })), "{error}");
    }

    #[test]
    fn a_failing_model_ends_the_run() {
        let dir = tempfile::tempdir().unwrap();
        // More than readers may have in hand: they are not to wait for who has given up.
        for i in 0..300 {
            fs::write(dir.path().join(format!("{i}.png")), png(8, 8, [Fake::FAILS; 3])).unwrap();
        }
        let error = Gallery::index(dir.path(), &model(), &Limits::default(), &Seen::default()).err();
        assert!(matches!(error, Some(GalleryError::Encode(EncodeError::Runtime(_)))), "{error:?}");
    }
}
