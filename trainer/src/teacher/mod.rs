//! Teachers: finished networks, or what one of them said, as a matrix of targets that is made before training starts.
//!
//! A teacher sees whole pictures, once, by its own contract. What it says is kept on disk (`cache`); targets are made of that
//! for every run, which takes seconds.

mod cache;
mod cells;
mod checkpoint;
mod embeddings;
mod onnx;
mod targets;

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use occlude_checkpoint::Checkpoint;
use occlude_dataset::{Dataset, Identity};
use occlude_preprocess::Preprocess;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::config::{Config, Teacher, TeacherKind};
use cache::{Cache, What};
pub use cells::Cells;
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

/// What a network says of some pictures, float32 on the CPU.
struct Said {
    /// `(n, D)`; a row of NaN where a picture cannot be read.
    embeddings: Tensor,
    /// `(n, C, h, w)`, where they were asked for: its grid, each cell of length one; NaN likewise.
    cells: Option<Tensor>,
}

impl Said {
    /// What was said of parts of the pictures that can be read, those at `there`, as what is said of all at `which`.
    fn gathered(parts: &[Self], there: &[usize], which: &[usize]) -> Self {
        let embeddings: Vec<&Tensor> = parts.iter().map(|part| &part.embeddings).collect();
        let cells: Option<Vec<&Tensor>> = parts.iter().map(|part| part.cells.as_ref()).collect();
        Self {
            embeddings: placed(&Tensor::cat(&embeddings, 0), there, which),
            cells: cells.map(|cells| placed(&Tensor::cat(&cells, 0), there, which)),
        }
    }
}

/// What was said, in parts, and of which pictures: those that can be read.
type Heard = (Vec<Said>, Vec<usize>);

/// Something that gives embeddings of pictures.
trait Source {
    /// Those of the pictures at `which`, ascending positions; with `grid` what it says of their parts, too, on so many cells
    /// along a side at most.
    ///
    /// # Errors
    /// Where the network has no grid, or cannot run.
    fn embed(&mut self, data: &Dataset, which: &[usize], grid: Option<usize>) -> Result<Heard>;
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
    let known = |names| resumed.map(|c| targets::projection_of(c, names)).transpose();
    let (asked, fingerprint) = (settings.head.dim, teacher.fingerprint.clone());
    let grid = settings.cells.as_ref().map(|cells| cells.grid);
    let made = match teacher.kind {
        TeacherKind::Embeddings => {
            let rows = embeddings::read(teacher, data)?;
            targets::make(data.len(), asked, known(targets::NAMES)?, &fingerprint, &mut |which| {
                Ok(Some(rows.narrow(0, which.start as i64, which.len() as i64)))
            })
        }
        _ => {
            let cache = Cache::new(place.cache, teacher, identity);
            let mut answers = Answers { teacher, data, place, cache, grid, source: None, told: false };
            let of_all = &mut |which| answers.of(which);
            let made = targets::make(data.len(), asked, known(targets::NAMES)?, &fingerprint, of_all);
            match grid {
                Some(grid) => made.and_then(|made| {
                    let contract = teacher.preprocess()?.context("no contract")?;
                    let of_parts = &mut |which| answers.cells(&which, grid);
                    let about = (&*fingerprint, &contract);
                    let cells = cells::make(&made.there()?, asked, known(cells::NAMES)?, about, of_parts)?;
                    Ok(made.with(cells))
                }),
                None => made,
            }
        }
    };
    let made = made.with_context(|| format!("targets of `{}`", teacher.path.display()))?;
    if let (Some(settings), Some(cells)) = (&mut settings.cells, made.cells()) {
        (settings.dim, settings.channels) = (Some(cells.dim()), Some(cells.channels()));
        tell!("{cells}");
    }
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
    /// Cells along a side at most, where parts of pictures are asked for, too.
    grid: Option<usize>,
    /// Opened when it is first needed.
    source: Option<Box<dyn Source>>,
    told: bool,
}

impl Answers<'_> {
    /// Embeddings of the pictures in `which`; none where none of them can be read, which is not kept.
    fn of(&mut self, which: Range<usize>) -> Result<Option<Tensor>> {
        if let Some(found) = self.cache.read(What::Embeddings, &which)? {
            if !std::mem::replace(&mut self.told, true) {
                tell!(
                    "the embeddings of `{}` are cached in `{}`",
                    self.teacher.path.display(),
                    self.cache.folder().display()
                );
            }
            return Ok(Some(found));
        }
        self.told = true;
        let all: Vec<usize> = which.clone().collect();
        // the grids of all would not fit into memory: they are written on the way
        let most = if self.grid.is_some() { cells::PIECE } else { all.len() };
        let (mut parts, mut there) = (Vec::new(), Vec::new());
        for piece in all.chunks(most.max(1)) {
            if let Some(said) = self.ask(piece)? {
                parts.push(Said { cells: None, ..said });
                there.extend_from_slice(piece);
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let rows = Said::gathered(&parts, &there, &all).embeddings;
        self.cache.write(What::Embeddings, &which, &rows)?;
        if which.end < self.data.len() {
            tell!("{} of {} pictures done", which.end, self.data.len());
        }
        Ok(Some(rows))
    }

    /// What is said of the parts of the pictures in `which`, `(n, C, h, w)` in half precision.
    fn cells(&mut self, which: &Range<usize>, grid: usize) -> Result<Tensor> {
        if let Some(found) = self.cache.read(What::Cells(grid), which)? {
            return Ok(found);
        }
        let said = self.ask(&which.clone().collect::<Vec<_>>())?;
        said.and_then(|said| said.cells).context("pictures that could be read before cannot be read now")
    }

    /// What the network says now of adjacent pictures, nothing where none of them can be read; its cells are kept.
    fn ask(&mut self, pictures: &[usize]) -> Result<Option<Said>> {
        if self.source.is_none() {
            tell!("`{}` embeds {} pictures", self.teacher.path.display(), self.data.len());
            self.source = Some(open(self.teacher, self.place, self.grid.is_some())?);
        }
        let Some(source) = &mut self.source else { unreachable!("just opened") };
        let (parts, there) = source.embed(self.data, pictures, self.grid)?;
        if parts.is_empty() {
            return Ok(None);
        }
        // before rows of NaN stand for the others
        finite(&parts, &there, (self.teacher, self.data))?;
        let mut said = Said::gathered(&parts, &there, pictures);
        if let (Some(grid), Some(cells), [first, ..]) = (self.grid, &mut said.cells, pictures) {
            *cells = cells.to_kind(Kind::Half);
            self.cache.write(What::Cells(grid), &(*first..first + pictures.len()), cells)?;
        }
        Ok(Some(said))
    }
}

/// `rows` of the pictures at `there` in the places that these have in `which`, and rows of NaN for the others.
fn placed(rows: &Tensor, there: &[usize], which: &[usize]) -> Tensor {
    let places: Vec<i64> =
        there.iter().filter_map(|i| which.binary_search(i).ok()).map(|at| at as i64).collect();
    let size: Vec<i64> = std::iter::once(which.len() as i64).chain(rows.size().into_iter().skip(1)).collect();
    let out = Tensor::full(size, f64::NAN, (Kind::Float, Device::Cpu));
    out.index_copy(0, &Tensor::from_slice(&places), rows)
}

/// Refuses answers that are not finite numbers: of the pictures at `there`, which could be read.
fn finite(parts: &[Said], there: &[usize], (teacher, data): (&Teacher, &Dataset)) -> Result<()> {
    let mut pictures = there.iter();
    for Said { embeddings, cells } in parts {
        let sound = |rows: &Tensor| rows.isfinite().all_dim(1, false);
        let cells = cells.as_ref().map(|cells| sound(&cells.flatten(1, -1)));
        let sound = cells.map_or_else(|| sound(embeddings), |cells| cells.logical_and(&sound(embeddings)));
        for (sound, &i) in Vec::<bool>::try_from(sound)?.into_iter().zip(&mut pictures) {
            ensure!(
                sound,
                "`{}` gives `{}` values that are not finite (infinite or NaN); hint: is it intact, and is its contract the right one?",
                teacher.path.display(),
                data.name(i)
            );
        }
    }
    Ok(())
}

fn open(teacher: &Teacher, place: Place<'_>, grid: bool) -> Result<Box<dyn Source>> {
    let path = &teacher.path;
    let contract = teacher.preprocess().with_context(|| format!("`{}`", path.display()))?;
    let contract = contract.with_context(|| format!("`{}` has no contract", path.display()))?;
    Ok(match teacher.kind {
        TeacherKind::Onnx => Box::new(onnx::Model::open(path, contract, (place, grid))?),
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
