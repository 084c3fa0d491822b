//! Teachers: finished networks, or what one of them said, as a matrix of targets that is made before training starts.
//!
//! A teacher sees whole pictures, once, by its own contract. What it says is kept on disk (`cache`); targets are made of that
//! for every run, which takes seconds.

mod cache;
mod checkpoint;
mod embeddings;
mod onnx;
mod targets;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use occlude_checkpoint::Checkpoint;
use occlude_dataset::{Dataset, Identity};
use occlude_preprocess::Preprocess;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::config::{Config, Teacher, TeacherKind};
use cache::Cache;
pub use targets::Targets;

/// Where and how fast a teacher answers, never what.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Folder of what teachers said.
    pub cache: &'a Path,
    /// Threads that decode and compute.
    pub workers: usize,
    /// Where to compute.
    pub device: Device,
}

/// Something that gives embeddings of pictures.
trait Source {
    /// Those of the pictures at `which`, ascending positions: `(n, D)` float32 on the CPU; a row of NaN where a picture
    /// cannot be read.
    ///
    /// # Errors
    /// Where none can be read, or the network cannot run.
    fn embed(&mut self, data: &Dataset, which: &[usize]) -> Result<Tensor>;
}

/// The targets of a run on `data`, where `config` distils; and the configuration with the numbers that became known.
/// `resumed`: the checkpoint that the run goes on from, whose targets are made of embeddings as they were.
///
/// # Errors
/// Where there is no teacher, or its embeddings are none, of other pictures, or cannot be made.
pub fn targets(
    config: &Config,
    data: &Dataset,
    identity: &Identity,
    resumed: Option<&Checkpoint>,
    place: Place<'_>,
) -> Result<(Config, Option<Targets>)> {
    let mut config = config.clone();
    let Some(settings) = config.method.distill_mut() else { return Ok((config, None)) };
    let teacher = settings.teacher.as_mut().with_context(
        || "distillation has no teacher; hint: `--teacher MODEL` or `--targets EMBEDDINGS.parquet`",
    )?;
    let known = resumed.map(targets::projection_of).transpose()?;
    let made = match teacher.kind {
        TeacherKind::Embeddings => {
            let rows = embeddings::read(teacher, data)?;
            targets::make(data.len(), settings.head.dim, known, &teacher.fingerprint, &mut |which| {
                Ok(rows.narrow(0, which.start as i64, which.len() as i64))
            })
        }
        _ => {
            let cache = Cache::new(place.cache, teacher, identity);
            let mut answers = Answers { teacher, data, place, cache, source: None, told: false };
            let fingerprint = &teacher.fingerprint;
            targets::make(data.len(), settings.head.dim, known, fingerprint, &mut |which| answers.of(which))
        }
    };
    let made = made.with_context(|| format!("targets of `{}`", teacher.path.display()))?;
    teacher.dim = Some(made.of_dim());
    if made.dim() < settings.head.dim {
        tell!("targets have {} numbers: {}", made.dim(), made.why());
    }
    settings.head.dim = made.dim();
    Ok((config, Some(made)))
}

/// What a network says, from the cache or anew.
struct Answers<'a> {
    teacher: &'a Teacher,
    data: &'a Dataset,
    place: Place<'a>,
    cache: Cache,
    /// Opened when it is first needed.
    source: Option<Box<dyn Source>>,
    told: bool,
}

impl Answers<'_> {
    /// Embeddings of the pictures in `which`.
    fn of(&mut self, which: std::ops::Range<usize>) -> Result<Tensor> {
        if let Some(found) = self.cache.read(&which)? {
            if !std::mem::replace(&mut self.told, true) {
                tell!(
                    "the embeddings of `{}` are cached in `{}`",
                    self.teacher.path.display(),
                    self.cache.folder().display()
                );
            }
            return Ok(found);
        }
        self.told = true;
        if self.source.is_none() {
            tell!("`{}` embeds {} pictures", self.teacher.path.display(), self.data.len());
            self.source = Some(open(self.teacher, self.place)?);
        }
        let Some(source) = &mut self.source else { unreachable!("just opened") };
        let all: Vec<usize> = which.clone().collect();
        let rows = source.embed(self.data, &all)?;
        numbers(&rows, self.teacher, |i| self.data.name(all[i]))?;
        self.cache.write(&which, &rows)?;
        if which.end < self.data.len() {
            tell!("{} of {} pictures done", which.end, self.data.len());
        }
        Ok(rows)
    }
}

/// Refuses embeddings with infinite numbers or some that are none; whole rows of those stand for unreadable pictures.
fn numbers(rows: &Tensor, teacher: &Teacher, name: impl Fn(usize) -> String) -> Result<()> {
    let finite = rows.isfinite();
    let some = finite.any_dim(1, false);
    let wrong = some.logical_and(&finite.all_dim(1, false).logical_not());
    let wrong = wrong.logical_or(&rows.isinf().any_dim(1, false));
    if wrong.any().int64_value(&[]) != 0 {
        let first = wrong.to_kind(tch::Kind::Int64).argmax(0, false).int64_value(&[]) as usize;
        bail!(
            "`{}` gives `{}` values that are not finite (infinite or NaN); hint: is it intact, and is its contract the right one?",
            teacher.path.display(),
            name(first)
        );
    }
    Ok(())
}

fn open(teacher: &Teacher, place: Place<'_>) -> Result<Box<dyn Source>> {
    let path = &teacher.path;
    let contract = teacher.preprocess().with_context(|| format!("`{}`", path.display()))?;
    let contract = contract.with_context(|| format!("`{}` has no contract", path.display()))?;
    Ok(match teacher.kind {
        TeacherKind::Onnx => Box::new(onnx::Model::open(path, contract, place)?),
        TeacherKind::Checkpoint => Box::new(checkpoint::Frozen::open(teacher, contract, place)?),
        TeacherKind::Embeddings => bail!("`{}` holds embeddings", path.display()),
    })
}

/// The teacher in the file at `path`: a network by what it begins with, `contract` being the one that was asked for.
///
/// # Errors
/// Where it is no network, or nobody knows how it wants pictures.
pub fn network(path: &Path, contract: Option<&str>) -> Result<Teacher> {
    let name = path.display();
    ensure!(path.exists(), "no teacher at `{name}`");
    ensure!(
        !embeddings::is_that(path),
        "`{name}` holds embeddings, and `--teacher` takes a network; hint: `--targets {name}`"
    );
    let asked = contract.map(|asked| {
        Preprocess::named_or_read(asked).with_context(|| {
            let names = Preprocess::NAMES.join(", ");
            format!("`--teacher-contract {asked}`: expected a file with a contract, or one of {names}")
        })
    });
    let asked = asked.transpose()?;
    if onnx::is_that(path)? {
        onnx::describe(path, asked.as_ref())
    } else {
        checkpoint::describe(path, asked)
    }
}

/// The teacher whose embeddings are in the file at `path`, or in all of a folder.
///
/// # Errors
/// Where there are none.
pub fn said(path: &Path) -> Result<Teacher> {
    embeddings::describe(path)
}

/// What a teacher is whose contract nobody knows.
fn unknown(path: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "`{}` does not state its preprocessing; hint: `--teacher-contract FILE` (docs/export.md shows one), or one of {}",
        path.display(),
        Preprocess::NAMES.join(", ")
    )
}

/// A network with a contract.
fn described(
    (path, kind): (&Path, TeacherKind),
    contract: &Preprocess,
    fingerprint: String,
    identity: String,
    dim: Option<usize>,
) -> Result<Teacher> {
    let contract = Some(serde_json::from_str(&contract.to_json())?);
    Ok(Teacher { path: path.to_owned(), kind, contract, fingerprint, identity, dim })
}

/// SHA-256 over the contents of files, and then of some text.
fn digest(files: &[PathBuf], text: &str) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files {
        let read = std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hash));
        read.with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    hash.update(text.as_bytes());
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
