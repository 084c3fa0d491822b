//! What a network said of pictures, on disk: a folder for each network and data set, a file for so many pictures.
//!
//! A file is whole or not there, and says whose answers it holds: a run that was killed goes on behind the last one, and
//! nothing of another network or other pictures is ever taken.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use occlude_checkpoint::{Checkpoint, Dtype, TensorOut, save_safetensors};
use occlude_dataset::Identity;
use tch::{Kind, Tensor};

use crate::config::Teacher;

/// Keys of what a file says of itself.
const TEACHER: &str = "occlude.said.by";
const DATA: &str = "occlude.said.of";
const PICTURES: &str = "occlude.said.pictures";
const GRID: &str = "occlude.said.grid";

/// What of a network's answers a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// `(n, D)` in single precision.
    Embeddings,
    /// `(n, C, h, w)` in half precision: grids of at most so many cells along a side.
    Cells(usize),
}

impl What {
    /// The tensor's name.
    fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Cells(_) => "cells",
        }
    }

    /// The sides of the tensor.
    fn rank(self) -> usize {
        match self {
            Self::Embeddings => 2,
            Self::Cells(_) => 4,
        }
    }
}

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

    fn file(&self, what: What, which: &Range<usize>) -> PathBuf {
        self.folder.join(match what {
            What::Embeddings => format!("{:08}.safetensors", which.start),
            What::Cells(grid) => format!("cells{grid}-{:08}.safetensors", which.start),
        })
    }

    /// What a file of these pictures says of itself.
    fn about(&self, what: What, which: &Range<usize>) -> BTreeMap<String, String> {
        let pictures = format!("{}..{}", which.start, which.end);
        let grid = match what {
            What::Embeddings => None,
            What::Cells(grid) => Some((GRID, grid.to_string())),
        };
        [(TEACHER, self.teacher.clone()), (DATA, self.data.clone()), (PICTURES, pictures)]
            .into_iter()
            .chain(grid)
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    /// Embeddings or cells of those pictures, where they are there.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds something else.
    pub(super) fn read(&self, what: What, which: &Range<usize>) -> Result<Option<Tensor>> {
        let path = self.file(what, which);
        if !path.exists() {
            return Ok(None);
        }
        let name = path.display();
        let hint = || format!("`{name}` cannot be used; hint: delete `{}`", self.folder.display());
        let file = Checkpoint::open(&path).with_context(hint)?;
        for (key, expected) in self.about(what, which) {
            let found = file.metadata().get(&key).map_or("nothing", String::as_str);
            ensure!(
                found == expected,
                "`{name}` holds {} of another teacher or other pictures: `{key}` is {found}, expected {expected}; hint: delete it, or use another `--teacher-cache`",
                what.name()
            );
        }
        let rows = file.tensor(what.name());
        let rows = rows.with_context(|| format!("no `{}`", what.name())).with_context(hint)?;
        let shape: Vec<i64> = rows.shape.iter().map(|&d| d as i64).collect();
        let fits = shape.len() == what.rank() && shape[0] == which.len() as i64;
        ensure!(fits, "{}: shape {shape:?}", hint());
        let rows = Tensor::from_slice(&rows.to_f32().with_context(hint)?).view(shape.as_slice());
        Ok(Some(match what {
            What::Embeddings => rows,
            What::Cells(_) => rows.to_kind(Kind::Half),
        }))
    }

    /// Keeps the embeddings or cells of those pictures.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn write(&self, what: What, which: &Range<usize>, rows: &Tensor) -> Result<()> {
        let shape: Vec<usize> = rows.size().into_iter().map(|d| d as usize).collect();
        let written = || -> Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            let rows = rows.contiguous().flatten(0, -1);
            let (dtype, data) = match what {
                What::Embeddings => {
                    let values = Vec::<f32>::try_from(rows)?;
                    (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
                }
                What::Cells(_) => {
                    let bits = Vec::<i16>::try_from(rows.to_kind(Kind::Half).view_dtype(Kind::Int16))?;
                    (Dtype::F16, bits.iter().flat_map(|x| x.to_le_bytes()).collect())
                }
            };
            let out = [TensorOut { name: what.name().into(), dtype, shape, data: data.into() }];
            Ok(save_safetensors(&self.file(what, which), &out, &self.about(what, which))?)
        };
        written().with_context(|| {
            format!(
                "cannot cache the teacher's {} in `{}`; hint: `--teacher-cache DIR` names another folder",
                what.name(),
                self.folder.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TeacherKind;
    use tch::Device;

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
        assert!(cache.read(What::Embeddings, &(0..3)).expect("absent").is_none());
        cache.write(What::Embeddings, &(0..3), &rows).expect("written");
        let back = cache.read(What::Embeddings, &(0..3)).expect("read").expect("there");
        let bits = |t: &Tensor| {
            Vec::<f32>::try_from(t.flatten(0, -1))
                .map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        assert_eq!(bits(&back).expect("numbers"), bits(&rows).expect("numbers"));
        for other in [
            Cache::new(dir.path(), &teacher("b"), &data("x")),
            Cache::new(dir.path(), &teacher("a"), &data("y")),
        ] {
            assert!(other.read(What::Embeddings, &(0..3)).expect("absent").is_none());
            // somebody puts it there by hand
            std::fs::create_dir_all(other.folder()).expect("a folder");
            std::fs::copy(cache.file(What::Embeddings, &(0..3)), other.file(What::Embeddings, &(0..3)))
                .expect("copied");
            let error = other.read(What::Embeddings, &(0..3)).expect_err("refused").to_string();
            assert!(
                error.contains("another teacher or other pictures") && error.contains("hint: "),
                "{error}"
            );
        }
        let error = cache.read(What::Embeddings, &(0..2)).expect_err("refused").to_string();
        assert!(error.contains("is 0..3, expected 0..2"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named_and_a_folder_that_cannot_be_written_has_a_way_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(dir.path(), &teacher("a"), &data("x"));
        let rows = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        cache.write(What::Embeddings, &(0..2), &rows).expect("written");
        std::fs::write(cache.file(What::Embeddings, &(0..2)), b"cut off").expect("written");
        let error = format!("{:#}", cache.read(What::Embeddings, &(0..2)).expect_err("refused"));
        assert!(error.contains("cannot be used; hint: delete"), "{error}");
        std::fs::write(dir.path().join("file"), b"").expect("written");
        let nowhere = Cache::new(&dir.path().join("file"), &teacher("a"), &data("x"));
        let error = format!("{:#}", nowhere.write(What::Embeddings, &(0..2), &rows).expect_err("refused"));
        assert!(error.contains("--teacher-cache"), "{error}");
    }

    /// Beside the embeddings of the same pictures, and for each size of the grid its own.
    #[test]
    fn grids_are_kept_in_half_precision_each_size_for_itself() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(dir.path(), &teacher("a"), &data("x"));
        let rows = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        cache.write(What::Embeddings, &(0..2), &rows).expect("written");
        let cells = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 2, 2]) / 7.0;
        let cells = cells.to_kind(Kind::Half);
        let _ = cells.get(1).fill_(f64::NAN);
        cache.write(What::Cells(2), &(0..2), &cells).expect("written");
        let bytes = std::fs::metadata(cache.file(What::Cells(2), &(0..2))).expect("there").len();
        assert!((48..1000).contains(&bytes), "{bytes}");
        let back = cache.read(What::Cells(2), &(0..2)).expect("read").expect("there");
        assert_eq!((back.kind(), back.size()), (Kind::Half, vec![2, 3, 2, 2]));
        assert!(back.get(0).equal(&cells.get(0)) && back.get(1).isnan().all().int64_value(&[]) == 1);
        assert!(cache.read(What::Cells(3), &(0..2)).expect("absent").is_none());
        let kept = cache.read(What::Embeddings, &(0..2)).expect("read").expect("there");
        assert_eq!(kept, rows);
        std::fs::copy(cache.file(What::Cells(2), &(0..2)), cache.file(What::Cells(3), &(0..2)))
            .expect("copied");
        let error = cache.read(What::Cells(3), &(0..2)).expect_err("refused").to_string();
        assert!(error.contains("`occlude.said.grid` is 2, expected 3"), "{error}");
    }
}
