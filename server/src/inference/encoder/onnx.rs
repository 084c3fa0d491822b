//! ONNX Runtime sessions behind the [`Encode`] trait.

use std::path::Path;

use occlude_contract::{Golden, key, output};
use occlude_onnxruntime::encoder;
use occlude_preprocess::{Preprocess, Rgb};
use ort::memory::AllocationDevice;
use ort::session::{Session, SessionOutputs};

use super::error::LoadError;
use super::golden::{Check, Least};
use super::io::{Bound, Format, Host};
use super::outputs::{Selected, read};
use super::provider::{Opener, Runs};
use super::{file_kind, files};
use crate::config::Sessions;
use crate::inference::encode::{Crop, Encode, EncodeError, Encoded, Wants};
use crate::inference::model::ModelInfo;
use crate::inference::rule::MapRule;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// What runs it.
    pub sessions: Sessions,
    /// Largest batch; shapes up to it are run once before the server is ready.
    pub max_batch: usize,
    /// Name in answers.
    pub name: String,
}

/// A session and the memory it is fed from.
pub struct OnnxEncoder {
    // Buffers are bound to the session, so they are let go first.
    memory: Memory,
    session: Session,
    selected: Selected,
    format: Format,
}

enum Memory {
    Host(Host),
    Bound(Bound),
}

/// A model that is ready to be served.
pub struct Loaded {
    /// What is known about it.
    pub info: ModelInfo,
    /// One for each worker.
    pub encoders: Vec<OnnxEncoder>,
    /// Why `--provider auto` did not take CUDA.
    pub note: Option<String>,
    /// What the user should know about the file.
    pub warning: Option<&'static str>,
    /// SHA-256 over the model's file and its external data.
    pub digest: String,
}

/// What is said about a file without golden data.
const UNCHECKED: &str = "the model has no golden picture, so its outputs cannot be checked on this machine; hint: export it again with `occlude-export onnx`";

fn is_identity(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Loads `path` once for each worker, checks it against its own contract, warms it up and lets every worker answer
/// the golden picture.
pub fn load(path: &Path, options: &Options) -> Result<Loaded, LoadError> {
    file_kind::check(path, &options.name)?;
    let unread = |e: std::io::Error| LoadError::Session { path: path.to_owned(), reason: e.to_string() };
    let digest = files::digest(&occlude_contract::external::files(path)).map_err(unread)?;
    let (opener, opened, note) = Opener::first(path, &options.sessions, (options.max_batch, &digest))?;
    let runs = opener.runs;
    let mut info = describe(path, &opened, options, runs)?;
    if info.identity.is_empty() {
        info.identity.clone_from(&digest);
    }
    let (golden, precision) = golden(path, &opened)?;
    let encoder = |session| {
        let made = OnnxEncoder::new(session, &info, runs, options.max_batch);
        made.map_err(|source| LoadError::Warm { path: path.to_owned(), source })
    };
    let mut encoders = vec![encoder(opened)?];
    while encoders.len() < options.sessions.workers {
        encoders.push(encoder(opener.session(encoders.len())?)?);
    }
    for encoder in &mut encoders {
        info.dim = encoder
            .warm(options.max_batch)
            .map_err(|source| LoadError::Warm { path: path.to_owned(), source })?;
    }
    info.golden = match golden {
        Some(golden) => {
            let least = Least::both(Golden::least_cosine(&precision)).min(runs.least());
            let check = Check::new(path, &golden, &info, least)?;
            let runs = encoders.iter_mut().map(|encoder| check.run(encoder, options.max_batch));
            Some(runs.collect::<Result<Vec<_>, _>>()?.into_iter().fold(1.0, f64::min))
        }
        None => None,
    };
    info.features = encoders.iter().all(|encoder| encoder.selected.all().features);
    info.sum = encoders.iter().all(|encoder| encoder.selected.all().sum);
    let warning = info.golden.is_none().then_some(UNCHECKED);
    Ok(Loaded { info, encoders, note, warning, digest })
}

/// The golden data in the metadata, and the precision that tells how near the answer has to be.
fn golden(path: &Path, session: &Session) -> Result<(Option<Golden>, String), LoadError> {
    let metadata = session
        .metadata()
        .map_err(|e| LoadError::Session { path: path.to_owned(), reason: e.to_string() })?;
    let golden = Golden::read(|key| metadata.custom(key))
        .map_err(|source| LoadError::GoldenData { path: path.to_owned(), source })?;
    Ok((golden, metadata.custom(key::PRECISION).unwrap_or_else(|| "fp32".to_owned())))
}

fn describe(path: &Path, session: &Session, options: &Options, runs: Runs) -> Result<ModelInfo, LoadError> {
    let metadata = session
        .metadata()
        .map_err(|e| LoadError::Session { path: path.to_owned(), reason: e.to_string() })?;
    let required = |key| {
        let value = metadata.custom(key).filter(|v| !v.is_empty());
        value.ok_or_else(|| LoadError::Metadata { path: path.to_owned(), key })
    };
    let contract = Preprocess::from_json(&required(key::PREPROCESS)?)
        .map_err(|source| LoadError::Contract { path: path.to_owned(), source })?;
    let unfit = |mismatch| LoadError::Shape { path: path.to_owned(), mismatch };
    let input = encoder::input(session, contract.crop).map_err(unfit)?;
    // Models of other projects give no map; one of ours without it was exported for something else.
    let adopted = metadata.custom(key::ADOPTED).is_some();
    for (name, rank, needed) in [
        (output::EMBEDDING, 2, true),
        (output::SALIENCY, 3, !adopted),
        (output::FEATURES, 4, false),
        (output::SALIENCY_SUM, 3, false),
    ] {
        if needed || session.outputs().iter().any(|o| o.name() == name) {
            encoder::output(session, name, rank).map_err(unfit)?;
        }
    }
    let rule = MapRule::read(metadata.custom(key::SALIENCY).as_deref())
        .map_err(|reason| LoadError::Rule { path: path.to_owned(), reason })?;
    Ok(ModelInfo {
        name: options.name.clone(),
        fingerprint: required(key::FINGERPRINT)?,
        identity: metadata.custom(key::IDENTITY).filter(|v| is_identity(v)).unwrap_or_default(),
        encoder: metadata.custom(key::ENCODER).unwrap_or_else(|| "unknown".to_owned()),
        method: metadata.custom(key::METHOD),
        licence: metadata.custom(key::LICENCE),
        checkpoint: metadata.custom(key::CHECKPOINT),
        contract,
        input,
        dim: 0,
        golden: None,
        features: false,
        rule,
        maps: session.outputs().iter().any(|o| o.name() == output::SALIENCY),
        sum: false,
        provider: runs.name().to_owned(),
    })
}

impl OnnxEncoder {
    fn new(
        mut session: Session,
        info: &ModelInfo,
        runs: Runs,
        max_batch: usize,
    ) -> Result<Self, EncodeError> {
        let format = Format { contract: info.contract.clone(), input: info.input };
        let selected = Selected::new(&session)?;
        let memory = match runs {
            Runs::Cuda | Runs::TensorRt(_) => {
                let device = AllocationDevice::CUDA_PINNED;
                Memory::Bound(Bound::new(&mut session, &selected, &format, &device, max_batch)?)
            }
            Runs::Cpu | Runs::OpenVino(_) => Memory::Host(Host::default()),
        };
        Ok(Self { session, format, selected, memory })
    }

    /// Runs the batch sizes 1, 2, 4, .. and the largest once, so that no client pays for memory planning, kernel
    /// selection or lazy loading. Gives the length of the embedding.
    fn warm(&mut self, max_batch: usize) -> Result<usize, EncodeError> {
        let side = self.format.contract.crop;
        let grey = Crop::from(Rgb::filled(side, side, [128; 3]));
        let powers = std::iter::successors(Some(1usize), |n| n.checked_mul(2)).take_while(|n| *n < max_batch);
        let mut dim = 0;
        for size in powers.chain([max_batch]) {
            let rows = self.encode(&vec![grey.clone(); size], Wants::default())?;
            dim = rows.first().map_or(0, |r| r.embedding.len());
        }
        Ok(dim)
    }
}

impl Encode for OnnxEncoder {
    fn encode(&mut self, images: &[Crop], wants: Wants) -> Result<Vec<Encoded>, EncodeError> {
        images.iter().try_for_each(|image| self.format.check(image))?;
        let Self { session, format, selected, memory } = self;
        let read = |outputs: &SessionOutputs<'_>| read(outputs, images.len());
        match memory {
            Memory::Host(host) => host.run(session, selected, format, (images, wants), read),
            Memory::Bound(bound) => bound.run(session, selected, format, (images, wants), read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    /// The path of CUDA with memory of the CPU in place of pinned memory: the same answers, for sizes that come again,
    /// more of them than there is room for, and with features now and then.
    #[test]
    fn bound_buffers_give_what_ordinary_memory_gives() {
        let options = Options { sessions: Sessions::on_cpu(1), max_batch: 3, name: "tiny".to_owned() };
        for name in ["tiny-features.onnx", "tiny-border.onnx", "tiny-uint8.onnx"] {
            let make = || load(&fixture(name), &options).unwrap().encoders.remove(0);
            let (mut host, mut bound) = (make(), make());
            let OnnxEncoder { session, selected, format, .. } = &mut bound;
            let memory = Bound::new(session, selected, format, &AllocationDevice::CPU, 3).unwrap();
            bound.memory = Memory::Bound(memory);
            for round in 0..4u8 {
                for n in [1usize, 3, 2, 5] {
                    let shade = |i: usize, p: usize| ((i + 1) * p * (usize::from(round) + 7) % 251) as u8;
                    let pixels = |i| (0..32 * 32 * 3).map(|p| shade(i, p)).collect();
                    let images: Vec<_> =
                        (0..n).map(|i| Rgb { width: 32, height: 32, data: pixels(i) }.into()).collect();
                    let wants = Wants { features: round % 2 == 1, sum: round > 1 };
                    let (got, expected) = (bound.encode(&images, wants), host.encode(&images, wants));
                    assert_eq!(got, expected, "{name}: {n} in round {round}");
                    let (features, sum) = (name == "tiny-features.onnx", name == "tiny-border.onnx");
                    let last = &got.unwrap()[n - 1];
                    assert_eq!(last.features.is_some(), wants.features && features);
                    assert_eq!(last.sum.is_some(), wants.sum && sum);
                }
            }
        }
    }
}
