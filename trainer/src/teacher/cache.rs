//! What a network said of pictures, on disk: a folder for each network and data set, a file for so many pictures.
//!
//! A file is whole or not there, and says whose embeddings it holds: a run that was killed goes on behind the last one, and
//! nothing of another network or other pictures is ever taken.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use occlude_checkpoint::{Checkpoint, TensorOut, save_safetensors};
use occlude_dataset::Identity;
use tch::Tensor;

use crate::config::Teacher;

const ROWS: &str = "embeddings";
/// Keys of what a file says of itself.
const TEACHER: &str = "occlude.said.by";
const DATA: &str = "occlude.said.of";
const PICTURES: &str = "occlude.said.pictures";

/// What one network said of one data set.
pub(super) struct Cache {
    folder: PathBuf,
    teacher: String,
    data: String,
}

impl Cache {
    /// In a folder of its own below `place`.
    pub(super) fn new(place: &Path, teacher: &Teacher, data: &Identity) -> Self {
        let (teacher, data) = (teacher.identity.clone(), data.hash());
        let short = teacher.get(..16).unwrap_or(&teacher);
        Self { folder: place.join(format!("{short}-{data}")), teacher, data }
    }

    /// Where the files are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, which: &Range<usize>) -> PathBuf {
        self.folder.join(format!("{:08}.safetensors", which.start))
    }

    /// What a file of these pictures says of itself.
    fn about(&self, which: &Range<usize>) -> BTreeMap<String, String> {
        let pictures = format!("{}..{}", which.start, which.end);
        [(TEACHER, self.teacher.clone()), (DATA, self.data.clone()), (PICTURES, pictures)]
            .map(|(key, value)| (key.to_owned(), value))
            .into()
    }

    /// Embeddings `(n, D)` of those pictures, where they are there.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds something else.
    pub(super) fn read(&self, which: &Range<usize>) -> Result<Option<Tensor>> {
        let path = self.file(which);
        if !path.exists() {
            return Ok(None);
        }
        let name = path.display();
        let hint = || format!("`{name}` cannot be used; hint: delete `{}`", self.folder.display());
        let file = Checkpoint::open(&path).with_context(hint)?;
        for (key, expected) in self.about(which) {
            let found = file.metadata().get(&key).map_or("nothing", String::as_str);
            ensure!(
                found == expected,
                "`{name}` holds embeddings of another teacher or other pictures: `{key}` is {found}, expected {expected}; hint: delete it, or use another `--teacher-cache`"
            );
        }
        let rows = file.tensor(ROWS).with_context(|| format!("no `{ROWS}`")).with_context(hint)?;
        let shape: Vec<i64> = rows.shape.iter().map(|&d| d as i64).collect();
        ensure!(shape.len() == 2 && shape[0] == which.len() as i64, "{}: shape {shape:?}", hint());
        let rows = Tensor::from_slice(&rows.to_f32().with_context(hint)?).view(shape.as_slice());
        Ok(Some(rows))
    }

    /// Keeps the embeddings of those pictures.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn write(&self, which: &Range<usize>, rows: &Tensor) -> Result<()> {
        let written = || -> Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            let values = Vec::<f32>::try_from(rows.contiguous().flatten(0, -1))?;
            let shape: Vec<usize> = rows.size().into_iter().map(|d| d as usize).collect();
            let out = [TensorOut::f32(ROWS, shape, &values)];
            Ok(save_safetensors(&self.file(which), &out, &self.about(which))?)
        };
        written().with_context(|| {
            format!(
                "cannot cache the teacher's embeddings in `{}`; hint: `--teacher-cache DIR` names another folder",
                self.folder.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TeacherKind;
    use tch::{Device, Kind};

    fn teacher(identity: &str) -> Teacher {
        Teacher {
            path: "t".into(),
            kind: TeacherKind::Checkpoint,
            contract: None,
            fingerprint: String::new(),
            identity: identity.into(),
            dim: None,
        }
    }

    fn data(contents: &str) -> Identity {
        Identity { contents: contents.into(), ..Identity::default() }
    }

    #[test]
    fn what_was_kept_comes_back_to_the_bit_for_nobody_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(dir.path(), &teacher("a"), &data("x"));
        let rows = Tensor::from_slice(&[1.5f32, f32::NAN, -3.0, 0.1, 1e-30, 7.0]).view([3, 2]);
        assert!(cache.read(&(0..3)).expect("absent").is_none());
        cache.write(&(0..3), &rows).expect("written");
        let back = cache.read(&(0..3)).expect("read").expect("there");
        let bits = |t: &Tensor| {
            Vec::<f32>::try_from(t.flatten(0, -1))
                .map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        assert_eq!(bits(&back).expect("numbers"), bits(&rows).expect("numbers"));
        for other in [
            Cache::new(dir.path(), &teacher("b"), &data("x")),
            Cache::new(dir.path(), &teacher("a"), &data("y")),
        ] {
            assert!(other.read(&(0..3)).expect("absent").is_none());
            // somebody puts it there by hand
            std::fs::create_dir_all(other.folder()).expect("a folder");
            std::fs::copy(cache.file(&(0..3)), other.file(&(0..3))).expect("copied");
            let error = other.read(&(0..3)).expect_err("refused").to_string();
            assert!(
                error.contains("another teacher or other pictures") && error.contains("hint: "),
                "{error}"
            );
        }
        let error = cache.read(&(0..2)).expect_err("refused").to_string();
        assert!(error.contains("is 0..3, expected 0..2"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named_and_a_folder_that_cannot_be_written_has_a_way_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(dir.path(), &teacher("a"), &data("x"));
        let rows = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        cache.write(&(0..2), &rows).expect("written");
        std::fs::write(cache.file(&(0..2)), b"cut off").expect("written");
        let error = format!("{:#}", cache.read(&(0..2)).expect_err("refused"));
        assert!(error.contains("cannot be used; hint: delete"), "{error}");
        std::fs::write(dir.path().join("file"), b"").expect("written");
        let nowhere = Cache::new(&dir.path().join("file"), &teacher("a"), &data("x"));
        let error = format!("{:#}", nowhere.write(&(0..2), &rows).expect_err("refused"));
        assert!(error.contains("--teacher-cache"), "{error}");
    }
}
