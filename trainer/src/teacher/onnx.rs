//! A teacher in an ONNX file: ONNX Runtime runs it, on threads beside libtorch or on the GPU that the run has.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use occlude_contract::{InputKind, external, key, output};
use occlude_dataset::Dataset;
use occlude_onnxruntime::{encoder, environment};
use occlude_preprocess::{Broken, Preprocess, Rgb};
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::Session;
use tch::{Device, Tensor};

use super::cells::reduced;
use super::{Heard, Place, Said, Source, described, digest, unknown};
use crate::config::{Teacher, TeacherKind};
use crate::eval::decode;

/// Pictures that a session is given at a time.
const BATCH: usize = 16;
/// Sessions at most: each has its own copy of the weights.
const SESSIONS: usize = 4;
/// The first byte of a protobuf message that begins with ONNX's `ir_version`.
const ONNX: u8 = 8;

/// Whether the file at `path` is an ONNX file, by its name or its first byte.
pub(super) fn is_that(path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx")) {
        return Ok(true);
    }
    let mut first = [0];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut first));
    Ok(read.with_context(|| format!("cannot read `{}`", path.display()))? == 1 && first[0] == ONNX)
}

/// What the file at `path` is.
pub(super) fn describe(path: &Path, asked: Option<&Preprocess>) -> Result<Teacher> {
    let session = session(path, 1, Device::Cpu)?;
    let said = |key: &str| -> Result<Option<String>> {
        let metadata = session.metadata().map_err(|e| anyhow!("`{}`: {e}", path.display()))?;
        Ok(metadata.custom(key).filter(|value| !value.is_empty()))
    };
    let stored = said(key::PREPROCESS)?.map(|json| Preprocess::from_json(&json)).transpose();
    let stored = stored.with_context(|| format!("`{}`", path.display()))?;
    let contract = match (asked, &stored) {
        (Some(contract), _) | (None, Some(contract)) => contract.clone(),
        (None, None) => Preprocess::beside(path)?.ok_or_else(|| unknown(path))?,
    };
    input_of(path, &session, contract.crop)?;
    let dim = embedding_of(path, &session)?;
    let identity = digest(&external::files(path), &contract.to_json())?;
    // the stored one is of the stored contract
    let own = if stored.is_some_and(|stored| stored == contract) { said(key::FINGERPRINT)? } else { None };
    let fingerprint = own.unwrap_or_else(|| identity.clone());
    described((path, TeacherKind::Onnx), &contract, fingerprint, identity, dim)
}

fn session(path: &Path, threads: usize, device: Device) -> Result<Session> {
    let failed = |e: &dyn std::fmt::Display| anyhow!("cannot load `{}`: {e}", path.display());
    let builder = Session::builder(environment()?).map_err(|e| failed(&e))?;
    let builder = builder.with_intra_threads(threads).map_err(|e| failed(&e))?;
    // threads that spin between runs take the cores that decode the next pictures
    let mut builder = builder.with_intra_op_spinning(false).map_err(|e| failed(&e))?;
    if let Device::Cuda(number) = device {
        // without `error_on_failure` a provider that fails to load leaves the CPU in its place, silently
        let cuda = CUDA::default().with_device_id(number as i32).build().error_on_failure();
        builder = builder.with_execution_providers([cuda]).map_err(|e| failed(&e))?;
    }
    builder.commit_from_file(path).map_err(|e| failed(&e))
}

/// How the graph takes pictures of `crop` pixels.
fn input_of(path: &Path, session: &Session, crop: u32) -> Result<InputKind> {
    encoder::input(session, crop)
        .map_err(|mismatch| anyhow!("cannot take `{}` as a teacher: {mismatch}", path.display()))
}

/// Numbers of an embedding, where the graph says so.
fn embedding_of(path: &Path, session: &Session) -> Result<Option<usize>> {
    let shape = encoder::output(session, output::EMBEDDING, 2).map_err(|mismatch| {
        anyhow!(
            "cannot take `{}` as a teacher: {mismatch}; hint: export it with `occlude-export onnx`, or rename its output to that",
            path.display()
        )
    })?;
    Ok(shape.last().and_then(|&d| usize::try_from(d).ok()).filter(|&d| d > 0))
}

/// An output with something of every part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    name: &'static str,
    /// Whether they are tokens, some of which may be no patches.
    tokens: bool,
}

/// Those that are known: our own, and what others call the tokens of the end.
const GRIDS: [Grid; 3] = [
    Grid { name: output::FEATURES, tokens: false },
    Grid { name: output::TOKENS, tokens: true },
    Grid { name: "last_hidden_state", tokens: true },
];

/// The output that tells of parts of pictures.
fn grid_of(path: &Path, session: &Session) -> Result<Grid> {
    let there = |grid: &Grid| encoder::output(session, grid.name, if grid.tokens { 3 } else { 4 }).is_ok();
    GRIDS.into_iter().find(there).with_context(|| {
        let names = session.outputs().iter().map(|o| format!("`{}`", o.name())).collect::<Vec<_>>().join(", ");
        let [map, tokens, others] = GRIDS.map(|grid| grid.name);
        format!(
            "`{}` says nothing of the parts of a picture: expected a float output `{map}` (N, C, h, w), or `{tokens}` or `{others}` (N, T, D), found {names}; hint: export it with `occlude-export onnx --outputs embedding,{map}` (`{tokens}` of a vision transformer), or leave `--dense-weight` out",
            path.display(),
        )
    })
}

/// Most tokens before those of the patches: a class token and registers.
const PREFIX: i64 = 8;

/// The patches of tokens `(n, T, D)` as a map `(n, D, h, h)`: the last of them, as many as the largest square has. Others are
/// before them.
fn patches(tokens: &Tensor) -> Result<Tensor> {
    let (_, t, _) = tokens.size3()?;
    let side = t.max(0).isqrt();
    // of a smaller grid nobody knows whether a token is one more patch
    let before = t - side * side;
    ensure!(
        side >= 3 && before <= PREFIX && before <= 2 * side,
        "{t} tokens are no square of patches behind at most {PREFIX} others"
    );
    Ok(tokens.narrow(1, before, side * side).transpose(1, 2).unflatten(2, [side, side]))
}

/// A network in sessions that work side by side.
pub(super) struct Model {
    path: PathBuf,
    sessions: Vec<Session>,
    input: InputKind,
    contract: Preprocess,
    /// What tells of parts of pictures, where these are asked for.
    grid: Option<Grid>,
    workers: usize,
}

impl Model {
    /// Loads the file at `path` for as many threads as `place` has; `grid`: to be asked for parts of pictures, too.
    ///
    /// # Errors
    /// Where ONNX Runtime does not take it, or it has nothing to say of parts.
    pub(super) fn open(path: &Path, contract: Preprocess, (place, grid): (Place<'_>, bool)) -> Result<Self> {
        environment()?;
        let cuda = place.device.is_cuda() && matches!(CUDA::is_available(), Ok(true));
        if place.device.is_cuda() && !cuda {
            tell!("this ONNX Runtime has no CUDA: `{}` runs on the CPU", path.display());
        }
        let device = if cuda { place.device } else { Device::Cpu };
        let count = if cuda { 1 } else { place.workers.clamp(1, SESSIONS) };
        let threads = (place.workers / count).max(1);
        let sessions = (0..count).map(|_| session(path, threads, device)).collect::<Result<Vec<_>>>()?;
        let input = input_of(path, &sessions[0], contract.crop)?;
        embedding_of(path, &sessions[0])?;
        let grid = grid.then(|| grid_of(path, &sessions[0])).transpose()?;
        Ok(Self { path: path.to_owned(), sessions, input, contract, grid, workers: place.workers })
    }

    /// What it says of prepared pictures, each session taking a batch of them.
    fn run(&mut self, images: &[&Rgb], most: Option<usize>) -> Result<Vec<Said>> {
        let (input, contract) = (self.input, &self.contract);
        let grid = self.grid.zip(most);
        let parts: Vec<Result<Said>> = std::thread::scope(|scope| {
            let batches = self.sessions.iter_mut().zip(images.chunks(BATCH));
            let running: Vec<_> = batches
                .map(|(session, batch)| scope.spawn(move || answer(session, batch, (input, contract), grid)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Said>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of ONNX Runtime ended unexpectedly")))
            };
            running.into_iter().map(join).collect()
        });
        let parts = parts.into_iter().collect::<Result<Vec<_>>>();
        parts.with_context(|| format!("`{}`", self.path.display()))
    }
}

impl Source for Model {
    fn embed(&mut self, data: &Dataset, which: &[usize], grid: Option<usize>) -> Result<Heard> {
        let broken = Mutex::new(Broken::default());
        let (mut parts, mut there) = (Vec::new(), Vec::new());
        for chunk in which.chunks(BATCH * self.sessions.len()) {
            let read = decode(data, chunk, &self.contract, (self.workers, &broken));
            let images: Vec<&Rgb> = read.iter().map(|(_, image)| image).collect();
            if !images.is_empty() {
                parts.extend(self.run(&images, grid)?);
                there.extend(read.iter().map(|(i, _)| *i));
            }
        }
        Ok((parts, there))
    }
}

/// What the graph says of a batch; of its parts on so many cells along a side at most.
fn answer(
    session: &mut Session,
    images: &[&Rgb],
    (input, contract): (InputKind, &Preprocess),
    grid: Option<(Grid, usize)>,
) -> Result<Said> {
    let (n, name) = (images.len(), output::EMBEDDING);
    let outputs = encoder::run(session, input, contract, images)?;
    let value = outputs.get(name).with_context(|| format!("no output `{name}`"))?;
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    ensure!(
        shape.len() == 2 && shape[0] == n as i64 && shape[1] > 0,
        "`{name}` of {n} pictures has the shape {shape:?}"
    );
    let embeddings = Tensor::from_slice(values).view([shape[0], shape[1]]);
    let Some((Grid { name, tokens }, most)) = grid else { return Ok(Said { embeddings, cells: None }) };
    let value = outputs.get(name).with_context(|| format!("no output `{name}`"))?;
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    let rank = if tokens { 3 } else { 4 };
    ensure!(
        shape.len() == rank && shape[0] == n as i64 && shape.iter().all(|&side| side > 0),
        "`{name}` of {n} pictures has the shape {shape:?}"
    );
    let value = Tensor::from_slice(values).view(&shape[..]);
    let map = if tokens { patches(&value).with_context(|| format!("`{name}`"))? } else { value };
    Ok(Said { embeddings, cells: Some(reduced(&map, most)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// Those behind class token and registers, row by row; and nothing where it cannot be told.
    #[test]
    fn patches_are_the_last_tokens_of_a_square() {
        let tokens = |t: i64| Tensor::arange(2 * t * 3, (Kind::Float, Device::Cpu)).view([2, t, 3]);
        for (t, side, before) in [(9, 3, 0), (10, 3, 1), (14, 3, 5), (21, 4, 5), (197, 14, 1), (261, 16, 5)] {
            let (all, map) = (tokens(t), patches(&tokens(t)).expect("patches"));
            assert_eq!(map.size(), [2, 3, side, side], "{t}");
            for (y, x) in [(0, 0), (1, 2), (side - 1, side - 1)] {
                let expected = all.get(1).get(before + y * side + x);
                assert_eq!(map.get(1).select(2, x).select(1, y), expected, "{t} {y} {x}");
            }
        }
        for t in [1, 4, 5, 8, 13 * 13 + 9] {
            assert!(patches(&tokens(t)).is_err(), "{t}");
        }
    }
}
