//! `whiten`: centring and whitening of a checkpoint's embeddings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use occlude_checkpoint::{Checkpoint, TensorOut, Whitening, meta, save_safetensors};
use occlude_dataset::Dataset;
use occlude_preprocess::Preprocess;
use serde_json::json;
use tch::Tensor;

use super::Machine;
use super::evaluate::{WeightArgs, open};
use crate::eval::{Extractor, How, Moments, Whitener, mean_cosine};
use crate::model::Encoder;

/// Pictures whose embeddings are in memory at a time.
const PIECE: usize = 4096;
/// Pictures whose cosines are told, at most.
const SPREAD: usize = 8192;

#[derive(Args, Debug)]
pub(super) struct WhitenArgs {
    /// Checkpoint of `pretrain`, or any other that holds a known encoder
    checkpoint: PathBuf,
    /// Folder of pictures, list, or shards to fit on (labels are not used): those of training, or some like them
    data: PathBuf,
    /// Numbers of a whitened embedding: the directions of largest variance
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    dim: u64,
    /// Only subtract the mean; embeddings keep their length
    #[arg(long, conflicts_with = "dim")]
    center: bool,
    /// Checkpoint to write; default: CHECKPOINT with `.whitened` (or `.centered`) before `.safetensors`, beside it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file that is written if it exists; never CHECKPOINT
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    machine: Machine,
}

impl WhitenArgs {
    fn how(&self) -> How {
        if self.center { How::Center } else { How::Pca(self.dim as usize) }
    }

    fn out(&self) -> PathBuf {
        let ending = if self.center { "centered.safetensors" } else { "whitened.safetensors" };
        self.out.clone().unwrap_or_else(|| self.checkpoint.with_extension(ending))
    }

    /// Refuses what cannot be done, before the work.
    fn check(&self, weights: &occlude_checkpoint::Encoder<'_>) -> Result<()> {
        if let Some(whitening) = &weights.whitening {
            bail!(
                "`{}` is already whitened ({whitening}); hint: whiten the checkpoint that it was made from, or the encoder alone, which `occlude-export safetensors` writes",
                self.checkpoint.display()
            );
        }
        let numbers = weights.arch.feature_dim();
        ensure!(
            self.center || self.dim as usize <= numbers,
            "`--dim {}` is more than the {numbers} numbers of a {}'s embeddings; hint: `--dim {}` or less",
            self.dim,
            weights.arch,
            numbers.min(128)
        );
        Ok(())
    }

    /// Tells what was done; `spread` is the mean cosine before and after.
    fn answer(&self, out: &Path, whitening: &Whitening, spread: [Option<f64>; 2], fingerprint: &str) {
        let info = whitening.info();
        if self.json {
            let said = json!({
                "task": "whiten", "checkpoint": self.checkpoint.to_string_lossy(), "out": out.to_string_lossy(),
                "fingerprint": fingerprint, "dim": whitening.outputs(), "of": whitening.inputs(),
                "center_only": self.center, "pictures": info.pictures, "variance": info.variance,
                "shrinkage": info.shrinkage, "mean_cosine": { "before": spread[0], "after": spread[1] },
            });
            answer!("{said}");
            return;
        }
        let line = |name: &str, value: &str| answer!("{name:<12} {value}");
        let [before, after] = spread.map(|value| value.map_or("-".to_owned(), |v| format!("{v:.3}")));
        line("embeddings", &whitening.to_string());
        line("mean cosine", &format!("{before} between different pictures before, {after} after"));
        line("checkpoint", &out.display().to_string());
        line("fingerprint", fingerprint);
    }
}

/// `occlude-train whiten`.
pub(super) fn whiten(args: &WhitenArgs) -> Result<ExitCode> {
    let out = args.out();
    occlude_output::check(&[&out], &[&args.checkpoint], args.force)?;
    let data = crate::data::open(&args.data)?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let (mut weights, contract) = open(&checkpoint, &args.weights)?;
    args.check(&weights)?;
    let device = args.machine.device.resolve()?;
    args.machine.apply();
    let encoder = Encoder::from_checkpoint(&weights, device)?;
    let extractor = Extractor::Encoder(&encoder, &contract);
    let numbers = weights.arch.feature_dim();
    let (moments, some) = gather(&extractor, &data, args.machine.workers(), numbers)?;
    let whitening = moments
        .fit(args.how(), &weights.fingerprint(&contract.to_json()))
        .with_context(|| format!("cannot fit a whitening to the pictures of `{}`", args.data.display()))?;
    let spread = [mean_cosine(&some), mean_cosine(&Whitener::new(&whitening).apply(&some))];
    weights.whitening = Some(whitening.clone());
    let fingerprint = save(&out, &checkpoint, &weights, &contract)?;
    args.answer(&out, &whitening, spread, &fingerprint);
    Ok(ExitCode::SUCCESS)
}

/// The moments of all embeddings, and some of them, spread evenly over the data.
fn gather(
    extractor: &Extractor<'_>,
    data: &Dataset,
    workers: usize,
    numbers: usize,
) -> Result<(Moments, Tensor)> {
    let mut moments = Moments::new(numbers);
    let stride = data.len().div_ceil(SPREAD).max(1);
    let mut some = Vec::new();
    tell!("embeddings of {} pictures", data.len());
    let all: Vec<usize> = (0..data.len()).collect();
    for piece in all.chunks(PIECE) {
        let Some(set) = extractor.run_readable(data, piece, workers)? else { continue };
        moments.add(&set.features);
        let kept = (0..).zip(&set.samples).filter(|(_, sample)| *sample % stride == 0);
        let kept: Vec<i64> = kept.map(|(row, _)| row).collect();
        some.push(set.features.index_select(0, &Tensor::from_slice(&kept)));
    }
    ensure!(!some.is_empty(), "none of {} pictures can be read", data.len());
    Ok((moments, Tensor::cat(&some, 0)))
}

/// Writes encoder, projection head and whitening; gives the fingerprint. What only training needs is left out: the
/// file is one to evaluate and to deploy.
fn save(
    out: &Path,
    checkpoint: &Checkpoint,
    weights: &occlude_checkpoint::Encoder<'_>,
    contract: &Preprocess,
) -> Result<String> {
    const ENCODER: &str = "encoder_q.";
    const HEAD: &str = "head_q.";
    let mut tensors = weights.tensors_out(ENCODER)?;
    if weights.layout.prefix == ENCODER {
        let head = checkpoint.tensors().filter(|t| t.name.starts_with(HEAD));
        tensors.extend(head.map(|t| TensorOut::of(t.name, &t)).collect::<Result<Vec<_>, _>>()?);
    }
    tensors.extend(weights.whitening.iter().flat_map(Whitening::tensors_out));
    let json = contract.to_json();
    let fingerprint = weights.fingerprint(&json);
    let mut metadata: BTreeMap<String, String> =
        [meta::METHOD, meta::CONFIG, meta::EPOCH, meta::METRICS, meta::TEACHER]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), checkpoint.metadata().get(key)?.clone())))
            .collect();
    for (key, value) in [
        (meta::FORMAT, meta::FORMAT_VERSION),
        (meta::VERSION, env!("CARGO_PKG_VERSION")),
        (meta::ARCH, &weights.arch.name()),
        (meta::FINGERPRINT, &fingerprint),
        (meta::PREPROCESS, &json),
    ] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
    weights.whitening.iter().for_each(|whitening| Whitening::describe(whitening, &mut metadata));
    save_safetensors(out, &tensors, &metadata)
        .with_context(|| format!("cannot save `{}`; hint: is the disk full?", out.display()))?;
    Ok(fingerprint)
}
