//! Fine-tuning: encoder and classifier trained together, on all labels or on a list of pictures.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use occlude_checkpoint::{Dtype, EncoderData, EncoderTensor, LoadReport, TensorOut, meta, save_safetensors};
use occlude_encoder::layout::{Layout, Naming};

use super::begin::{Begun, Machine, Outcome, Subject, load};
use super::classifier::{Body, Classifier, Learner};
use super::features::Extractor;
use super::folder;
use super::protocol::{Lr, Protocol};
use super::report::{Question, Report};
use super::source::Fresh;
use super::split::Splits;
use super::training::{End, Plan, train};
use crate::engine::snapshot::to_out;
use crate::model::Encoder;
use crate::ranks;
use crate::signals::Interrupt;

/// The names of the classes, JSON, in the metadata of a fine-tuned model.
const CLASSES: &str = "occlude.classes";

/// Trains encoder and classifier, normalisations in training mode, tells the accuracy after the last epoch and saves the
/// model in the machine's folder. Ranks train on parts of the batches, with the mean of their gradients and the statistics of
/// all of them.
///
/// # Errors
/// Where pictures cannot be read, training diverges, or a file cannot be written.
pub fn finetune(
    subject: &Subject<'_>,
    splits: &Splits,
    protocol: &Protocol,
    bf16: bool,
    machine: &Machine,
) -> Result<Outcome> {
    let question = Question {
        task: "finetune".into(),
        fingerprint: subject.weights.fingerprint(&subject.contract.to_json()),
        data: splits.identity()?,
        views: "fresh".into(),
        precision: if bf16 { "bf16" } else { "fp32" }.into(),
        protocol: protocol.clone(),
    };
    let folder = match machine.begin(&question)? {
        Begun::Done(outcome) => return Ok(outcome),
        Begun::Folder(folder) => folder,
    };
    let world = &machine.world;
    let Lr::Value(lr) = protocol.lr else {
        anyhow::bail!("`auto` is for a frozen encoder; hint: give a learning rate")
    };
    let interrupt = Interrupt::register()?;
    let mut encoder = load(subject, machine.device)?;
    encoder.join(world);
    let source = Fresh::new(&splits.train, subject.contract, protocol, machine.reading, machine.device);
    let source = if world.is_single() { source.heeding(interrupt.flag()) } else { source };
    let source = ranks::agreed(world, source.shared(world), "the batches")?;
    let dim = subject.weights.arch.feature_dim() as i64;
    let fc = Classifier::new(dim, splits.classes(), protocol.seed, machine.device);
    let mut learner = Learner::new(Body::Trained(&encoder, bf16), fc, protocol, lr).joined(world)?;
    let plan = Plan {
        protocol,
        folder: folder.as_ref(),
        interrupt: Some(&interrupt),
        stop_after: machine.stop_after,
        verbose: true,
        world,
    };
    let train_loss = match train(&mut learner, &source, &plan, |_| None)? {
        End::Finished(loss) => loss,
        End::Interrupted(signal) => return Ok(Outcome::Interrupted(signal)),
    };
    let extractor = Extractor::Encoder(&encoder, subject.contract);
    let workers = machine.reading.workers;
    let val = extractor.run_together(&splits.val.data, &splits.val.which, workers, world)?;
    if !world.is_main() {
        return Ok(Outcome::Elsewhere);
    }
    let labels = Vec::<i64>::try_from(&val.labels)?;
    let mut report = Report {
        checkpoint: subject.name.clone(),
        question,
        lr_used: lr,
        lr_search: None,
        train_loss,
        unreadable: splits.val.len() - labels.len(),
        scores: learner.classifier().scores(&val.features, &labels),
        backbone_unchanged: None,
        model: None,
        per_picture: None,
    };
    if let Some(folder) = &folder {
        let path = folder.file(folder::MODEL);
        let fc = learner.classifier();
        save(&path, &encoder, fc, subject, splits.train.data.classes(), &report)?;
        report.model = Some(path.display().to_string());
        folder.finish(&report)?;
    }
    Ok(Outcome::Answer(Box::new(report)))
}

/// Writes encoder and classifier with torchvision's names and the contract of the checkpoint that it began with.
fn save(
    path: &Path,
    encoder: &Encoder,
    fc: &Classifier,
    subject: &Subject<'_>,
    classes: &[String],
    report: &Report,
) -> Result<()> {
    let body = encoder.named("").iter().map(to_out).collect::<Result<Vec<_>>>()?;
    let contract = subject.contract.to_json();
    let fingerprint = fingerprint(encoder, &body, &contract);
    let metadata = BTreeMap::from([
        (meta::FORMAT.into(), meta::FORMAT_VERSION.into()),
        (meta::VERSION.into(), env!("CARGO_PKG_VERSION").into()),
        (meta::ARCH.into(), encoder.arch().name()),
        (meta::METHOD.into(), "finetune".into()),
        (meta::CONFIG.into(), serde_json::to_string(&report.question)?),
        (meta::EPOCH.into(), report.question.protocol.epochs.to_string()),
        (meta::METRICS.into(), serde_json::to_string(&report.scores)?),
        (meta::FINGERPRINT.into(), fingerprint),
        (meta::PREPROCESS.into(), contract),
        (CLASSES.into(), serde_json::to_string(classes)?),
    ]);
    let fc = fc.named().iter().map(to_out).collect::<Result<Vec<_>>>()?;
    let all: Vec<TensorOut<'static>> = body.into_iter().chain(fc).collect();
    save_safetensors(path, &all, &metadata)
        .with_context(|| format!("cannot save `{}`; hint: is the disk full?", path.display()))
}

fn fingerprint(encoder: &Encoder, body: &[TensorOut<'_>], contract: &str) -> String {
    let floats = |data: &Cow<'_, [u8]>| {
        let (chunks, _) = data.as_chunks::<4>();
        EncoderData::F32(chunks.iter().map(|&b| f32::from_le_bytes(b)).collect())
    };
    let weights = body.iter().filter(|t| t.dtype == Dtype::F32);
    occlude_checkpoint::Encoder {
        arch: encoder.arch(),
        layout: Layout { prefix: String::new(), naming: Naming::Torchvision },
        tensors: weights
            .map(|t| (t.name.clone(), EncoderTensor { shape: t.shape.clone(), data: floats(&t.data) }))
            .collect(),
        whitening: None,
        report: LoadReport::default(),
    }
    .fingerprint(contract)
}
