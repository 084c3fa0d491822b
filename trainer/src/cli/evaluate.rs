//! How good an encoder is: `linear`, `finetune`, and what `knn` shares with them; and `embed`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use occlude_dataset::Dataset;
use occlude_encoder::Arch;
use occlude_preprocess::Preprocess;
use serde_json::json;

use super::contract::contract_of;
use super::together::{Here, RankArgs, together};
use super::{Machine, processes};
use crate::config::Invalid;
use crate::device::Precision;
use crate::eval::{
    self, Extractor, FeatureSet, FinetunePreset, LinearPreset, Lr, Outcome, Overrides, Protocol, Reading,
    Report, Scores, Splits, Subject, Views, Whitener,
};
use crate::loss::normalize;
use crate::model::Encoder;
use crate::ranks;

/// What every evaluation reads, and how it answers.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// Checkpoint of `pretrain`, or any other that holds a known encoder
    pub(super) checkpoint: PathBuf,
    /// Training data: a folder with one sub-folder per class, a list, or shards
    pub(super) train: PathBuf,
    /// Validation data with the same classes, in any of these forms
    pub(super) val: PathBuf,
    /// Folder for state and result; the same command resumes there, or prints the result again. Without it, nothing
    /// is kept
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) weights: WeightArgs,
    #[command(flatten)]
    pub(super) machine: Machine,
    #[command(flatten)]
    pub(super) ranks: RankArgs,
}

/// Which pictures were classified rightly, told in a file.
#[derive(Args, Debug)]
pub(super) struct PerPictureArgs {
    /// Write to this file which validation pictures were classified correctly, as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub(super) per_picture: Option<PathBuf>,
    /// Replace an existing file of that name; never an input
    #[arg(long)]
    force: bool,
}

impl PerPictureArgs {
    /// Refuses a file that must not be replaced; before the work, not after it.
    pub(super) fn check(&self, common: &Common) -> Result<()> {
        let outputs: Vec<&Path> = self.per_picture.iter().map(PathBuf::as_path).collect();
        let inputs = [&common.checkpoint, &common.train, &common.val].map(PathBuf::as_path);
        Ok(occlude_output::check(&outputs, &inputs, self.force)?)
    }
}

/// Settings that both ways of training a classifier have.
#[derive(Args, Debug)]
struct Hyper {
    /// Passes over the training pictures; default: the protocol's
    #[arg(long)]
    epochs: Option<usize>,
    /// Pictures per step; default: the protocol's. The learning rate is not scaled with it
    #[arg(long)]
    batch_size: Option<usize>,
    /// Epochs after which the learning rates fall to a tenth, like `60,80`; default: the protocol's, moved with `--epochs`
    #[arg(long, value_delimiter = ',')]
    steps: Option<Vec<usize>>,
    /// L2 penalty on what is trained; default: the protocol's
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Seed of the initial weights, the order and the crops
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Decoded pictures to keep in memory, MiB; 0 decodes every picture every epoch
    #[arg(long, default_value_t = 2048)]
    cache: u64,
    /// Stop after that many steps, as a signal would (to test resuming)
    #[arg(long, hide = true)]
    stop_after: Option<u64>,
}

#[derive(Args, Debug)]
pub(super) struct LinearArgs {
    #[command(flatten)]
    common: Common,
    /// Published settings; the flags below override them
    #[arg(long, value_enum, default_value = "moco")]
    protocol: LinearPreset,
    /// What the classifier is trained on
    #[arg(long, value_enum, default_value = "fresh")]
    views: Views,
    /// Learning rate, or `auto`: the best of a grid on a tenth of the training pictures; default: the protocol's
    #[arg(long)]
    lr: Option<Lr>,
    #[command(flatten)]
    written: PerPictureArgs,
    #[command(flatten)]
    hyper: Hyper,
}

#[derive(Args, Debug)]
pub(super) struct FinetuneArgs {
    #[command(flatten)]
    common: Common,
    /// Settings; the flags below override them
    #[arg(long, value_enum, default_value = "transfer")]
    protocol: FinetunePreset,
    /// File that names the training pictures to use, one per line, relative to TRAIN (1 % and 10 % lists)
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Learning rate of the encoder; default: the protocol's
    #[arg(long)]
    lr: Option<f64>,
    /// Learning rate of the classifier; default: the protocol's
    #[arg(long)]
    lr_classifier: Option<f64>,
    /// Number format of convolutions and matrix products in training; accuracies are measured in fp32
    #[arg(long, value_enum, default_value = "fp32")]
    precision: Precision,
    #[command(flatten)]
    hyper: Hyper,
}

#[derive(Args, Debug)]
pub(super) struct EmbedArgs {
    /// Checkpoint
    checkpoint: PathBuf,
    /// Pictures, folders of pictures, lists or shards
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Scale embeddings to unit length
    #[arg(long)]
    normalize: bool,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    ranks: RankArgs,
}

/// How to read a checkpoint.
#[derive(Args, Debug)]
pub(super) struct WeightArgs {
    /// Prefix of the encoder's tensor names, if the file holds several encoders
    #[arg(long)]
    prefix: Option<String>,
    /// Architecture, if names and shapes do not determine it
    #[arg(long)]
    arch: Option<Arch>,
    /// Side of the network's input, pixels; default: the checkpoint's. The resize keeps its proportion to it
    #[arg(long)]
    image_size: Option<u32>,
    /// Preprocessing of checkpoints that do not state theirs: a file (a contract, a `preprocessor_config.json`,
    /// timm's `config.json`), or the name of published weights: imagenet, dino, ibot, dinov2, mae, deit, augreg
    #[arg(long, value_name = "FILE|NAME")]
    contract: Option<String>,
}

/// The encoder of a checkpoint and the contract it comes with.
pub(super) fn open<'a>(
    checkpoint: &'a Checkpoint,
    args: &WeightArgs,
) -> Result<(occlude_checkpoint::Encoder<'a>, Preprocess)> {
    let options = LoadOptions { arch: args.arch, prefix: args.prefix.clone(), partial: false };
    let weights = load_encoder(checkpoint, &options)?;
    let contract = contract_of(checkpoint, args.contract.as_deref(), args.image_size)?;
    whole_patches(weights.arch, contract.crop, "--image-size")?;
    Ok((weights, contract))
}

/// # Errors
/// Where pictures of `side` pixels, as `flag` says it, leave a vision transformer with parts of patches, which it would not see.
pub(super) fn whole_patches(arch: Arch, side: u32, flag: &str) -> Result<()> {
    let Some(vit) = arch.vit() else { return Ok(()) };
    ensure!(
        (side as usize).is_multiple_of(vit.patch),
        "{arch} needs a picture side that is a multiple of its patch size, {} pixels, not {side}; hint: `{flag}`",
        vit.patch
    );
    Ok(())
}

/// `45.32 [43.51, 47.14]` for top-1, top-5 and the mean per class.
pub(super) fn cells(s: &Scores) -> [String; 3] {
    [(s.top1, s.top1_ci), (s.top5, s.top5_ci), (s.mean_per_class, s.mean_per_class_ci)]
        .map(|(value, [low, high])| format!("{:.2} [{:.2}, {:.2}]", 100.0 * value, 100.0 * low, 100.0 * high))
}

/// `occlude-train linear`.
pub(super) fn linear(args: &LinearArgs) -> Result<ExitCode> {
    let flags = Overrides { lr: args.lr, ..args.hyper.overrides() };
    let protocol = match args.protocol.resolve(&flags) {
        Ok(protocol) => protocol,
        Err(error) => return Ok(usage(&error)),
    };
    together(&args.common.machine, &args.common.ranks, |here| {
        ranks::agreed(&here.world, args.written.check(&args.common), "the files")?;
        let splits = args.common.splits(here)?;
        args.common.evaluate(here, &args.hyper, (&splits, &protocol), |subject, machine| {
            let outcome = eval::linear(subject, &splits, args.views, &protocol, machine)?;
            if let (Outcome::Answer(report), Some(path)) = (&outcome, &args.written.per_picture)
                && let Some(per_picture) = &report.per_picture
            {
                per_picture.write(path)?;
            }
            Ok(outcome)
        })
    })
}

/// `occlude-train finetune`.
pub(super) fn finetune(args: &FinetuneArgs) -> Result<ExitCode> {
    let flags =
        Overrides { lr: args.lr_classifier.map(Lr::Value), lr_backbone: args.lr, ..args.hyper.overrides() };
    let protocol = match args.protocol.resolve(&flags) {
        Ok(protocol) => protocol,
        Err(error) => return Ok(usage(&error)),
    };
    together(&args.common.machine, &args.common.ranks, |here| {
        let mut splits = args.common.splits(here)?;
        if let Some(list) = &args.list {
            ranks::agreed(&here.world, splits.keep_listed(list), "the list")?;
        }
        if args.common.out.is_none() {
            tell!("without `--out` the fine-tuned model is not saved");
        }
        let bf16 = args.precision.bf16(here.device);
        args.common.evaluate(here, &args.hyper, (&splits, &protocol), |subject, machine| {
            eval::finetune(subject, &splits, &protocol, bf16, machine)
        })
    })
}

/// A wrong combination of flags is wrong usage, like a wrong flag.
fn usage(error: &Invalid) -> ExitCode {
    tell!("error: {error:#}");
    ExitCode::from(2)
}

impl Hyper {
    fn overrides(&self) -> Overrides {
        Overrides {
            epochs: self.epochs,
            batch_size: self.batch_size,
            steps: self.steps.clone(),
            weight_decay: self.weight_decay,
            seed: self.seed,
            ..Overrides::default()
        }
    }
}

impl Common {
    /// Opens the data: the first process of each machine before the others, which find its index.
    pub(super) fn splits(&self, here: &Here) -> Result<Splits> {
        ranks::first(&here.world, "opening the data", || Splits::open(&self.train, &self.val))
    }

    /// Opens the checkpoint, runs `evaluate`, prints its answer.
    fn evaluate(
        &self,
        here: &Here,
        hyper: &Hyper,
        (splits, protocol): (&Splits, &Protocol),
        evaluate: impl FnOnce(&Subject<'_>, &eval::Machine) -> Result<Outcome>,
    ) -> Result<ExitCode> {
        let (world, device) = (&here.world, here.device);
        let checkpoint = Checkpoint::open(&self.checkpoint).map_err(anyhow::Error::from);
        let checkpoint = ranks::agreed(world, checkpoint, "the checkpoint")?;
        let opened = ranks::agreed(world, open(&checkpoint, &self.weights), "the checkpoint")?;
        let (mut weights, contract) = opened;
        if weights.whitening.take().is_some() {
            tell!(
                "note: the whitening of `{}` is ignored: a classifier that is trained rescales its input anyway, and the result is that of the encoder",
                self.checkpoint.display()
            );
        }
        let machine = eval::Machine {
            device,
            reading: Reading { workers: here.workers, cache_bytes: hyper.cache << 20 },
            out: self.out.clone(),
            stop_after: hyper.stop_after,
            world: world.clone(),
        };
        tell!(
            "{} on {device:?}{}, {} at {} px: {} training and {} validation pictures of {} classes",
            protocol.name,
            processes(world),
            weights.arch,
            contract.crop,
            splits.train.len(),
            splits.val.len(),
            splits.classes()
        );
        let name = self.checkpoint.to_string_lossy().into_owned();
        match evaluate(&Subject { name, weights: &weights, contract: &contract }, &machine)? {
            Outcome::Answer(report) if self.json => answer!("{}", serde_json::to_string(&report)?),
            Outcome::Answer(report) => print(&report),
            Outcome::Elsewhere | Outcome::Interrupted(0) => {}
            Outcome::Interrupted(signal) => return Ok(ExitCode::from(128 + signal as u8)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(report: &Report) {
    let question = &report.question;
    let line = |name: &str, value: &str| answer!("{name:<18} {value}");
    let protocol = &question.protocol;
    line("task", &format!("{}, protocol {}, {} views", question.task, protocol.name, question.views));
    line("checkpoint", &report.checkpoint);
    let lr = match protocol.lr_backbone {
        Some(backbone) => format!("lr {backbone} for the encoder, {} for the classifier", report.lr_used),
        None => format!("lr {}", report.lr_used),
    };
    line("training", &format!("{} epochs of batches of {}, {lr}", protocol.epochs, protocol.batch_size));
    if let Some(search) = &report.lr_search {
        let tried = search.grid.len();
        line("lr chosen", &format!("from {tried}, by {} held-out training pictures", search.held_out));
    }
    let [top1, top5, mean] = cells(&report.scores);
    line("top-1", &format!("{top1} %"));
    line("top-5", &format!("{top5} %"));
    line("mean per class", &format!("{mean} %"));
    if report.unreadable > 0 {
        line("unreadable", &format!("{} validation pictures, not counted", report.unreadable));
    }
    if report.backbone_unchanged == Some(true) {
        line("encoder", "unchanged, bit for bit");
    }
    if let Some(model) = &report.model {
        line("model", model);
    }
}

/// `occlude-train embed`.
pub(super) fn embed(args: &EmbedArgs) -> Result<ExitCode> {
    together(&args.machine, &args.ranks, |here| {
        let sets = ranks::first(&here.world, "opening the data", || {
            Ok(Dataset::open_all(&args.images, &crate::data::options())?)
        })?;
        sets.iter().for_each(crate::data::tell_left_out);
        embed_sets(args, here, &sets)
    })
}

fn embed_sets(args: &EmbedArgs, here: &Here, sets: &[Dataset]) -> Result<ExitCode> {
    let world = &here.world;
    let checkpoint = Checkpoint::open(&args.checkpoint).map_err(anyhow::Error::from);
    let checkpoint = ranks::agreed(world, checkpoint, "the checkpoint")?;
    let (weights, contract) = ranks::agreed(world, open(&checkpoint, &args.weights), "the checkpoint")?;
    if !world.is_single() {
        let data = sets.iter().map(|data| Ok(data.identity()?.hash())).collect::<Result<Vec<String>>>();
        let data = ranks::agreed(world, data, "the data")?;
        let asked = format!("{}, {}", weights.fingerprint(&contract.to_json()), data.join(", "));
        here.same("the checkpoint or the data", &asked)?;
    }
    let encoder = Encoder::from_checkpoint(&weights, here.device)?;
    let extractor = Extractor::Encoder(&encoder, &contract);
    let features = |data: &Dataset| {
        let all: Vec<usize> = (0..data.len()).collect();
        extractor.run_together(data, &all, here.workers, world)
    };
    let whitener = weights.whitening.as_ref().map(Whitener::new);
    let mut complete = true;
    let mut show = |data: &Dataset, found: Result<FeatureSet>| -> Result<()> {
        let set = match found {
            Ok(set) => set,
            Err(error) if error.is::<occlude_distributed::Error>() => return Err(error),
            Err(error) => {
                tell!("warning: {error:#}");
                complete = false;
                return Ok(());
            }
        };
        let features = whitener.as_ref().map_or(set.features.shallow_clone(), |w| w.apply(&set.features));
        let features = if args.normalize { normalize(&features) } else { features };
        for (i, &sample) in (0i64..).zip(&set.samples) {
            let row: Vec<f32> = Vec::try_from(features.get(i))?;
            answer!("{}", json!({ "path": data.name(sample), "embedding": row }));
        }
        complete &= set.samples.len() == data.len();
        Ok(())
    };
    if world.is_single() {
        sets.iter().try_for_each(|data| show(data, features(data)))?;
    } else {
        // first all of them: the others must not wait for whoever reads the answers
        let found: Vec<_> = sets.iter().map(features).collect();
        if !world.is_main() {
            return Ok(ExitCode::SUCCESS);
        }
        sets.iter().zip(found).try_for_each(|(data, found)| show(data, found))?;
    }
    // a picture that could not be read is missing from the output, which must not look like success
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
