//! Training steps and runs, on the device and on the CPU.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use occlude_torch_ext::Tf32;
use tch::{Device, Tensor};

use super::{Check, pictures, relative};
use crate::config::{Config, Recipe, Strategy};
use crate::engine::{self, Run};
use crate::method::{self, Step};
use crate::model::Optimizer;
use crate::rng::seed_device;
use crate::teacher::Targets;
use crate::tolerance;

fn small() -> Config {
    let mut c = Config::new(Recipe::SaliencyMocoSmall);
    (c.image_size, c.batch_size, c.epochs, c.optimizer.warmup_epochs) = (32, 16, 2, 0.0);
    c
}

/// Losses of steps on fixed views, with the weights that a network on the CPU starts from.
fn losses(config: &Config, bf16: bool, device: Device, steps: u64) -> Result<Vec<f64>> {
    let targets = Targets::made_up(config, config.batch_size);
    let start = method::build(config, targets.as_ref(), false, Device::Cpu)?;
    let mut method = method::build(config, targets.as_ref(), bf16, device)?;
    method.load_state(&start.state())?;
    let mut optimizer = Optimizer::new(method.trainable(), &config.optimizer);
    let side = config.image_size as i64;
    let views = [pictures(16, side), pictures(32, side).narrow(0, 16, 16)].map(|v| v.to(device)).into();
    let mut out = Vec::new();
    for number in 0..steps {
        let step = Step { number, epoch: 0.0, preview: false, measure: true };
        seed_device(config.seed, number);
        let made = method.step(&views, step)?;
        let health = made.health.iter().flat_map(method::Health::named).map(|(_, m)| m);
        ensure!(
            made.metrics.iter().map(|(_, m)| m).chain(health).all(|m| m.double_value(&[]).is_finite()),
            "a metric is not a number"
        );
        out.push(made.loss.double_value(&[]));
        optimizer.zero_grad();
        made.loss.f_backward()?;
        optimizer.step(1e-4)?;
        method.after_step(step)?;
    }
    ensure!(out.iter().all(|l| l.is_finite()), "the loss is not a number on {device:?}: {out:?}");
    Ok(out)
}

/// Largest relative difference.
fn worst(found: &[f64], reference: &[f64]) -> f64 {
    found.iter().zip(reference).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

pub(super) fn steps(device: Device) -> Result<Vec<Check>> {
    let mut config = small();
    if let Some(m) = &mut config.masking {
        // every cell is masked, so that no draw decides which
        (m.strategy, m.ratio, m.num_nonsem) = (Strategy::Mean, [1.0, 1.0], 0);
    }
    let reference = losses(&config, false, Device::Cpu, 4)?;
    let found = |bf16, tf32| {
        let _precision = Tf32::allow(tf32);
        Ok::<_, anyhow::Error>(worst(&losses(&config, bf16, device, 4)?, &reference))
    };
    let name = |kind: &str| format!("loss of 4 steps, {kind}, relative error");
    let mut checks = vec![
        Check::at_most(name("float32"), found(false, false)?, tolerance::DEVICE_LOSS),
        Check::at_most(name("bfloat16"), found(true, false)?, tolerance::BF16_LOSS),
    ];
    if device.is_cuda() {
        checks.push(Check::at_most(name("TF32"), found(false, true)?, tolerance::TF32_LOSS));
    }
    Ok(checks)
}

/// A recipe small enough for a few steps.
fn tiny(recipe: Recipe) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "resnet18".into();
    (c.image_size, c.batch_size) = (32, 16);
    if let Some(splits) = c.method.bn_splits_mut() {
        *splits = 2;
    }
    if let Some(m) = c.method.moco_mut() {
        m.queue = m.queue.min(64);
    }
    if let Some(b) = c.method.byol_mut() {
        (b.head.hidden, b.predictor) = (Some(64), 64);
    }
    if let Some(d) = c.method.dino_mut() {
        // which pictures drop a block is drawn on the device
        (d.head.hidden, d.prototypes, d.drop_path) = (Some(64), 64, 0.0);
        c.arch = "vit_64x2x2_patch8_32".into();
        c.views.truncate(2);
    }
    if let Some(m) = &mut c.masking {
        m.stage = 4;
    }
    c
}

/// A few steps of every recipe. What is masked is drawn on the device, where the CPU's draws do not repeat.
pub(super) fn methods(device: Device) -> Result<Vec<Check>> {
    let _exact = Tf32::allow(false);
    // the CPU against itself shows that a recipe runs; where its losses would part, only another device could show
    let steps = if device.is_cuda() { 3 } else { 1 };
    let check = |&recipe: &Recipe| -> Result<Check> {
        let config = tiny(recipe);
        let found =
            worst(&losses(&config, false, device, steps)?, &losses(&config, false, Device::Cpu, steps)?);
        let bound = if config.masking.is_some() { tolerance::OTHER_DRAWS } else { tolerance::DEVICE_LOSS };
        Ok(Check::at_most(
            format!("loss of the first steps, {}, relative error", recipe.name()),
            found,
            bound,
        ))
    };
    let half = |&recipe: &Recipe| -> Result<Check> {
        let config = tiny(recipe);
        let found = worst(&losses(&config, true, device, 1)?, &losses(&config, false, device, 1)?);
        let bound = if config.masking.is_some() { tolerance::OTHER_DRAWS } else { tolerance::BF16_LOSS };
        Ok(Check::at_most(
            format!("loss of the first step, {}, bfloat16, relative error", recipe.name()),
            found,
            bound,
        ))
    };
    let recipes = Recipe::value_variants();
    recipes.iter().map(check).chain(recipes.iter().map(half)).collect()
}

/// One step with everything that a step can have.
pub(super) fn one_step(device: Device) -> Result<Check> {
    let loss = losses(&tiny(Recipe::SaliencyMoco), device.is_cuda(), device, 1)?;
    Ok(Check::at_least("one step of saliency-moco, loss", loss[0], 0.0))
}

/// A run stopped in the middle and resumed against one that was not: largest difference of the encoders.
pub(super) fn resume(device: Device) -> Result<Check> {
    let folder = Folder::create()?;
    let data = folder.0.join("pictures");
    std::fs::create_dir_all(&data)?;
    for i in 0..40u32 {
        let picture = image::RgbImage::from_fn(48, 40, |x, y| {
            image::Rgb([(x * (i + 1)) as u8, (y * (41 - i)) as u8, (x * y / (i + 1)) as u8])
        });
        picture.save(data.join(format!("{i:02}.png"))).context("cannot write a picture")?;
    }
    let config = small();
    let run = |out: &str, stop_after, resume| {
        let out = folder.0.join(out);
        let resume = if resume { Some(out.clone()) } else { None };
        let run = Run { out, resume, stop_after, log_every: 10, ..Run::bare(data.clone(), device, 2) };
        engine::pretrain(&config, &run)
    };
    run("whole", None, false)?;
    run("parts", Some(3), false)?;
    run("parts", None, true)?;
    let weights = |out: &str| -> Result<Tensor> {
        let path = folder.0.join(out).join("checkpoint_0001.safetensors");
        let checkpoint = occlude_checkpoint::Checkpoint::open(path)?;
        let all = checkpoint
            .tensors()
            .filter(|t| t.name.starts_with("encoder_q"))
            .map(|t| Ok(Tensor::from_slice(&t.to_f32()?)));
        Ok(Tensor::cat(&all.collect::<Result<Vec<_>>>()?, 0))
    };
    let found = relative(&weights("parts")?, &weights("whole")?);
    // on the CPU every step repeats exactly; CUDA sums gradients in any order
    let bound = if device == Device::Cpu { 0.0 } else { tolerance::DEVICE_RESUME };
    Ok(Check::at_most("resumed run, relative error", found, bound))
}

/// A folder that goes away with the value.
struct Folder(std::path::PathBuf);

impl Folder {
    fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("occlude-selftest-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        // a leftover in the temporary folder is no reason to fail
        let _ = std::fs::remove_dir_all(path);
    }
}
