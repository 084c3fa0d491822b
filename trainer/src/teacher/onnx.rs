//! A teacher in an ONNX file: ONNX Runtime runs it, on threads beside libtorch or on the GPU that the run has.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use occlude_contract::{InputKind, key, output};
use occlude_dataset::Dataset;
use occlude_onnxruntime::{encoder, environment};
use occlude_preprocess::{Broken, Preprocess, Rgb};
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::Session;
use tch::{Device, Tensor};

use super::checkpoint::placed;
use super::{Place, Source, described, digest, unknown};
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
    let identity = digest(&files(path), &contract.to_json())?;
    // the stored one is of the stored contract
    let own = if stored.is_some_and(|stored| stored == contract) { said(key::FINGERPRINT)? } else { None };
    let fingerprint = own.unwrap_or_else(|| identity.clone());
    described((path, TeacherKind::Onnx), &contract, fingerprint, identity, dim)
}

/// The file, and the one with its weights where that is apart.
fn files(path: &Path) -> Vec<PathBuf> {
    let weights = path.with_added_extension("data");
    std::iter::once(path.to_owned()).chain(weights.exists().then_some(weights)).collect()
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

/// A network in sessions that work side by side.
pub(super) struct Model {
    path: PathBuf,
    sessions: Vec<Session>,
    input: InputKind,
    contract: Preprocess,
    workers: usize,
}

impl Model {
    /// Loads the file at `path` for as many threads as `place` has.
    ///
    /// # Errors
    /// Where ONNX Runtime does not take it.
    pub(super) fn open(path: &Path, contract: Preprocess, place: Place<'_>) -> Result<Self> {
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
        Ok(Self { path: path.to_owned(), sessions, input, contract, workers: place.workers })
    }

    /// Embeddings of prepared pictures, `(n, D)`, each session taking a batch of them.
    fn run(&mut self, images: &[&Rgb]) -> Result<Tensor> {
        let (input, contract) = (self.input, &self.contract);
        let parts: Vec<Result<Tensor>> = std::thread::scope(|scope| {
            let batches = self.sessions.iter_mut().zip(images.chunks(BATCH));
            let running: Vec<_> = batches
                .map(|(session, batch)| scope.spawn(move || answer(session, batch, input, contract)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Tensor>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of ONNX Runtime ended unexpectedly")))
            };
            running.into_iter().map(join).collect()
        });
        let parts = parts.into_iter().collect::<Result<Vec<_>>>();
        Ok(Tensor::cat(&parts.with_context(|| format!("`{}`", self.path.display()))?, 0))
    }
}

impl Source for Model {
    fn embed(&mut self, data: &Dataset, which: &[usize]) -> Result<Tensor> {
        let broken = Mutex::new(Broken::default());
        let (mut parts, mut there) = (Vec::new(), Vec::new());
        for chunk in which.chunks(BATCH * self.sessions.len()) {
            let read = decode(data, chunk, &self.contract, (self.workers, &broken));
            let images: Vec<&Rgb> = read.iter().map(|(_, image)| image).collect();
            if !images.is_empty() {
                parts.push(self.run(&images)?);
                there.extend(read.iter().map(|(i, _)| *i));
            }
        }
        broken.into_inner().unwrap_or_default().not_all(which.len(), None)?;
        ensure!(!parts.is_empty(), "no pictures");
        Ok(placed(&Tensor::cat(&parts, 0), &there, which))
    }
}

/// What the graph says of a batch, `(n, D)`.
fn answer(session: &mut Session, images: &[&Rgb], input: InputKind, contract: &Preprocess) -> Result<Tensor> {
    let (n, name) = (images.len(), output::EMBEDDING);
    let outputs = encoder::run(session, input, contract, images)?;
    let value = outputs.get(name).with_context(|| format!("no output `{name}`"))?;
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    ensure!(
        shape.len() == 2 && shape[0] == n as i64 && shape[1] > 0,
        "`{name}` of {n} pictures has the shape {shape:?}"
    );
    Ok(Tensor::from_slice(values).view([shape[0], shape[1]]))
}
