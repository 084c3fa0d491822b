//! Does training on this device compute what the CPU computes? What a user runs first on a new machine.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use occlude_torch_ext::Copier;
use tch::{Device, Kind, Tensor};

use crate::config::{Config, Recipe, Strategy};
use crate::engine::{self, Run};
use crate::mask::{aggregate, foreground};
use crate::method::{Method, Moco, Step};
use crate::model::{Encoder, Mode, Optimizer};
use crate::tolerance;

/// One check: what it measures, what it found, the bound.
struct Check {
    name: &'static str,
    found: f64,
    /// At most this, or at least this.
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Check {
    fn passes(&self) -> bool {
        match self.bound {
            Bound::AtMost(b) => self.found <= b,
            Bound::AtLeast(b) => self.found >= b,
        }
    }
}

/// Runs every check on `device` and prints a table; exit code 3 where one fails.
///
/// # Errors
/// Where a check cannot run at all.
pub fn run(device: Device) -> Result<ExitCode> {
    let mut checks = forward_and_backward(device)?;
    checks.push(masking(device));
    checks.push(copies(device)?);
    checks.extend(steps(device)?);
    checks.push(resume(device)?);
    answer!("{:<44} {:>12} {:>16}", format!("check on {device:?}"), "found", "bound");
    for c in &checks {
        let bound = match c.bound {
            Bound::AtMost(b) => format!("<= {b}"),
            Bound::AtLeast(b) => format!(">= {b}"),
        };
        answer!("{:<44} {:>12.3e} {bound:>16} {}", c.name, c.found, if c.passes() { "ok" } else { "FAILED" });
    }
    let failed = checks.iter().filter(|c| !c.passes()).count();
    if failed > 0 {
        tell!("error: {failed} of {} checks failed on {device:?}", checks.len());
        return Ok(ExitCode::from(3));
    }
    Ok(ExitCode::SUCCESS)
}

/// Largest difference, relative to the largest reference value.
fn relative(found: &Tensor, reference: &Tensor) -> f64 {
    let found = found.to_device(Device::Cpu).to_kind(Kind::Double);
    let reference = reference.to_device(Device::Cpu).to_kind(Kind::Double);
    let scale = reference.abs().max().double_value(&[]).max(1e-12);
    (found - &reference).abs().max().double_value(&[]) / scale
}

fn pictures(n: i64, size: i64) -> Tensor {
    tch::manual_seed(1);
    Tensor::randn([n, 3, size, size], (Kind::Float, Device::Cpu))
}

/// A network on `device` with the CPU network's weights.
fn copy_to(cpu: &Encoder, device: Device) -> Result<Encoder> {
    let encoder = Encoder::new(cpu.arch(), 0, device);
    crate::model::load(&encoder.named(""), &cpu.named(""))?;
    Ok(encoder)
}

fn forward_and_backward(device: Device) -> Result<Vec<Check>> {
    let x = pictures(8, 64);
    let cpu = Encoder::new("resnet18".parse()?, 0, Device::Cpu);
    let other = copy_to(&cpu, device)?;
    let mode = Mode::Peek { splits: 2 };
    let target = pictures(8, 64).flatten(1, -1).narrow(1, 0, 512);
    let backward = |e: &Encoder, x: &Tensor, t: &Tensor| {
        let out = e.forward(x, mode, 5).embedding;
        (&out * t).sum(Kind::Float).backward();
        let grads: Vec<Tensor> =
            e.trainable().iter().map(|p| p.grad().to_device(Device::Cpu).flatten(0, -1)).collect();
        (out.detach(), Tensor::cat(&grads, 0))
    };
    let (reference, reference_grad) = backward(&cpu, &x, &target);
    let (out, grad) = backward(&other, &x.to(device), &target.to(device));
    let bf16 = {
        let _guard = occlude_torch_ext::Autocast::bf16(device, true);
        tch::no_grad(|| other.forward(&x.to(device), mode, 5).embedding)
    };
    let cosine =
        Tensor::cosine_similarity(&bf16.to_device(Device::Cpu), &reference, 1, 1e-12).min().double_value(&[]);
    Ok(vec![
        Check {
            name: "forward, float32, relative error",
            found: relative(&out, &reference),
            bound: Bound::AtMost(tolerance::DEVICE_FP32),
        },
        Check {
            name: "backward, float32, relative error",
            found: relative(&grad, &reference_grad),
            bound: Bound::AtMost(tolerance::DEVICE_GRADIENT),
        },
        Check {
            name: "forward, bfloat16, least cosine",
            found: cosine,
            bound: Bound::AtLeast(tolerance::BF16_COSINE),
        },
    ])
}

/// Share of cells that two devices put on different sides of the threshold.
fn masking(device: Device) -> Check {
    let map = pictures(64, 14).abs();
    let reference = foreground(&aggregate(&map));
    let found = foreground(&aggregate(&map.to(device))).to_device(Device::Cpu);
    let differing = (found - reference).abs().mean(Kind::Double).double_value(&[]);
    Check {
        name: "saliency, share of differing cells",
        found: differing,
        bound: Bound::AtMost(tolerance::MASK_CELLS),
    }
}

/// Bytes that differ after copies on a stream of their own, beside the device's work, and after small copies in between.
fn copies(device: Device) -> Result<Check> {
    let copier = Copier::new(device)?;
    let busy = pictures(64, 224).to(device).flatten(1, -1);
    let mut differing = 0;
    let host = |round: i64| Tensor::arange(1 << 22, (Kind::Int64, Device::Cpu)) * (2 * round + 1);
    let mut under_way = copier.start(&host(0))?;
    for round in 0..8 {
        let next = copier.start(&host(round + 1))?;
        // what the device has to do meanwhile
        let _product = busy.matmul(&busy.transpose(0, 1));
        let small = occlude_torch_ext::upload(&Tensor::from(round), device)?;
        let found = std::mem::replace(&mut under_way, next).finish()? + small;
        let expected: Tensor = host(round) + round;
        differing += found.to_device(Device::Cpu).ne_tensor(&expected).sum(Kind::Int64).int64_value(&[]);
    }
    let found = differing as f64;
    Ok(Check { name: "copies to the device, differing numbers", found, bound: Bound::AtMost(0.0) })
}

fn small() -> Config {
    let mut c = Config::new(Recipe::SaliencyMocoSmall);
    (c.image_size, c.batch_size, c.epochs, c.optimizer.warmup_epochs) = (32, 16, 2, 0.0);
    c
}

/// Losses of a few steps on fixed views without anything drawn on the device.
fn losses(device: Device, bf16: bool) -> Result<Vec<f64>> {
    let mut config = small();
    if let Some(m) = &mut config.masking {
        // every cell is masked, so that no draw decides which
        (m.strategy, m.ratio, m.num_nonsem) = (Strategy::Mean, [1.0, 1.0], 0);
    }
    let mut method = Moco::new(&config, bf16, Device::Cpu)?;
    if device != Device::Cpu {
        let start = method;
        method = Moco::new(&config, bf16, device)?;
        method.load_state(&start.state())?;
    }
    let mut optimizer = Optimizer::new(method.trainable(), &config.optimizer);
    let views = [pictures(16, 32), pictures(32, 32).narrow(0, 16, 16)].map(|v| v.to(device));
    let mut out = Vec::new();
    for number in 0..4 {
        let step = Step { number, epoch: 0.0, preview: false };
        let loss = method.step(&views, step)?.loss;
        out.push(loss.double_value(&[]));
        optimizer.zero_grad();
        loss.backward();
        optimizer.step(1e-4)?;
        method.after_step(step)?;
    }
    Ok(out)
}

fn steps(device: Device) -> Result<Vec<Check>> {
    let reference = losses(Device::Cpu, false)?;
    ensure!(reference.iter().all(|l| l.is_finite()), "the loss is not a number on the CPU: {reference:?}");
    let worst =
        |of: &[f64]| of.iter().zip(&reference).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max);
    Ok(vec![
        Check {
            name: "loss of 4 steps, float32, relative error",
            found: worst(&losses(device, false)?),
            bound: Bound::AtMost(tolerance::DEVICE_LOSS),
        },
        Check {
            name: "loss of 4 steps, bfloat16, relative error",
            found: worst(&losses(device, true)?),
            bound: Bound::AtMost(tolerance::BF16_LOSS),
        },
    ])
}

/// A run stopped in the middle and resumed against one that was not: largest difference of the encoders.
fn resume(device: Device) -> Result<Check> {
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
        let run = Run {
            data: data.clone(),
            out,
            device,
            bf16: false,
            workers: 2,
            save_every: 10,
            save_interval: std::time::Duration::from_secs(600),
            on_collapse: engine::OnCollapse::Warn,
            online: None,
            log_every: 10,
            cache_bytes: 0,
            resume,
            allow: engine::Allow::default(),
            stop_after,
        };
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
    Ok(Check { name: "resumed run, relative error", found, bound: Bound::AtMost(bound) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself() {
        let _alone = crate::rng::alone();
        assert_eq!(format!("{:?}", run(Device::Cpu).expect("it runs")), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn a_difference_past_the_bound_fails() {
        let _alone = crate::rng::alone();
        let check = |found, bound| Check { name: "", found, bound }.passes();
        assert!(check(0.0, Bound::AtMost(0.0)) && !check(0.2, Bound::AtMost(0.1)));
        assert!(check(0.99, Bound::AtLeast(0.9)) && !check(f64::NAN, Bound::AtLeast(0.9)));
    }
}
