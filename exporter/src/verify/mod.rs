//! Does an ONNX file compute what the checkpoint says, in two runtimes, on real pictures?

mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use occlude_checkpoint::{Checkpoint, Encoder, LoadOptions, load_encoder};
use occlude_preprocess::{Limits, Preprocess, Rgb, files, load};

pub use report::{Comparison, Difference, PictureResult};

use crate::onnx::InputKind;
use crate::runtime::{Batch, OrtModel, Outputs, TractModel};
use crate::{Error, OnnxFile, reference};

/// Pictures that ONNX Runtime gets at once; a batch that is not full is run as it is.
const BATCH: usize = 8;

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Which encoder of the checkpoint.
    pub load: LoadOptions,
    /// Most pictures taken from each folder; `None` takes all.
    pub limit: Option<usize>,
}

/// Runs the pictures (files or folders) through the model in ONNX Runtime (in batches) and in tract
/// (one by one), and through the checkpoint's encoder computed plainly, by the contract in the
/// file's metadata; holds the fingerprint against the checkpoint.
///
/// # Errors
/// [`Error`] where a file cannot be read or a runtime fails. Differences are no errors: see
/// [`Comparison::passes`].
pub fn verify(
    model: &Path,
    checkpoint: &Path,
    pictures: &[PathBuf],
    options: &VerifyOptions,
) -> Result<Comparison, Error> {
    let file = OnnxFile::open(model)?;
    let contract = file.contract()?;
    let normalized = file.metadata().get("normalized") != Some(&"false");
    let stored = file.property("fingerprint")?.to_owned();
    let encoder = load_encoder(&Checkpoint::open(checkpoint)?, &options.load)?;
    let computed = encoder.fingerprint(&contract.to_json());
    let paths = expand(pictures, options.limit)?;
    let inputs = Inputs::load(&paths, &contract, file.input()?)?;
    let mut times = Times::default();
    let ort = times.ort.measure(|| run_ort(&file, &inputs))?;
    let tract = times.tract.measure(|| run_tract(&file, &inputs))?;
    let plain = times.reference.measure(|| run_reference(&encoder, &contract, &inputs, normalized))?;
    let results = paths
        .into_iter()
        .enumerate()
        .map(|(i, path)| PictureResult {
            path,
            tract: Difference::of(&ort[i], &tract[i]),
            checkpoint: Difference::of(&ort[i], &plain[i]),
        })
        .collect();
    Ok(Comparison { results, fingerprint: (stored, computed), times: times.per_picture(inputs.pixels.len()) })
}

/// Wall time of one way to compute.
#[derive(Default)]
struct Timer(Duration);

impl Timer {
    fn measure<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = f();
        self.0 = start.elapsed();
        result
    }
}

#[derive(Default)]
struct Times {
    ort: Timer,
    tract: Timer,
    reference: Timer,
}

impl Times {
    /// Milliseconds, loading included.
    fn per_picture(&self, pictures: usize) -> [f64; 3] {
        [&self.ort, &self.tract, &self.reference].map(|t| t.0.as_secs_f64() * 1e3 / pictures.max(1) as f64)
    }
}

/// Folders become their pictures; with a limit, evenly spread over the listing.
fn expand(paths: &[PathBuf], limit: Option<usize>) -> Result<Vec<PathBuf>, Error> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let samples = files::list(path)?.samples;
        let step = limit.map_or(1, |n| samples.len().div_ceil(n.max(1))).max(1);
        all.extend(samples.into_iter().step_by(step).map(|s| s.path));
    }
    Ok(all)
}

/// Pictures as the model takes them.
struct Inputs {
    kind: InputKind,
    pixels: Vec<Rgb>,
    /// Normalised planes, for models that take them; without the high-pass filter.
    planes: Vec<Vec<f32>>,
}

impl Inputs {
    fn load(paths: &[PathBuf], contract: &Preprocess, kind: InputKind) -> Result<Self, Error> {
        let mut inputs = Self { kind, pixels: Vec::new(), planes: Vec::new() };
        for path in paths {
            let pixels = contract.pixels(&load(path, &Limits::default())?.image);
            if kind == InputKind::Float {
                let mut planes = vec![0.0; pixels.data.len()];
                contract.normalized_into(&pixels, &mut planes);
                inputs.planes.push(planes);
            }
            inputs.pixels.push(pixels);
        }
        Ok(inputs)
    }

    fn side(&self) -> usize {
        self.pixels.first().map_or(0, |p| p.width as usize)
    }

    fn row(&self, i: usize) -> Batch<'_> {
        match self.kind {
            InputKind::Float => Batch::Float(&self.planes[i]),
            InputKind::Uint8 => Batch::Uint8(&self.pixels[i].data),
        }
    }
}

fn run_ort(file: &OnnxFile, inputs: &Inputs) -> Result<Vec<Outputs>, Error> {
    let mut model = OrtModel::load(file, inputs.side())?;
    let mut outputs = Vec::new();
    let indices: Vec<usize> = (0..inputs.pixels.len()).collect();
    for chunk in indices.chunks(BATCH) {
        let planes: Vec<f32>;
        let pixels: Vec<u8>;
        let batch = match inputs.kind {
            InputKind::Float => {
                planes = chunk.iter().flat_map(|&i| inputs.planes[i].iter().copied()).collect();
                Batch::Float(&planes)
            }
            InputKind::Uint8 => {
                pixels = chunk.iter().flat_map(|&i| inputs.pixels[i].data.iter().copied()).collect();
                Batch::Uint8(&pixels)
            }
        };
        outputs.extend(model.run(batch, chunk.len())?);
    }
    Ok(outputs)
}

fn run_tract(file: &OnnxFile, inputs: &Inputs) -> Result<Vec<Outputs>, Error> {
    let model = TractModel::load(file, inputs.side())?;
    (0..inputs.pixels.len()).map(|i| model.run(inputs.row(i))).collect()
}

fn run_reference(
    encoder: &Encoder,
    contract: &Preprocess,
    inputs: &Inputs,
    normalized: bool,
) -> Result<Vec<Outputs>, Error> {
    let one = |pixels: &Rgb| {
        let map = reference::features(encoder, &contract.tensor(pixels), inputs.side())?;
        let mut embedding = map.pooled();
        if normalized {
            let length = embedding.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
            embedding.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
        Ok(Outputs { embedding, saliency: map.channel_sum() })
    };
    inputs.pixels.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_expanded_and_limited() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for i in 0..10 {
            std::fs::write(folder.path().join(format!("{i}.jpg")), "").expect("writes");
        }
        let paths = [folder.path().to_owned(), PathBuf::from("single.png")];
        assert_eq!(expand(&paths, None).expect("lists").len(), 11);
        let some = expand(&paths, Some(3)).expect("lists");
        let names: Vec<_> = some.iter().filter_map(|p| p.file_name()?.to_str()).collect();
        assert_eq!(names, ["0.jpg", "4.jpg", "8.jpg", "single.png"]);
    }
}
