//! One pass of each part, on the device and on the CPU.

use anyhow::Result;
use occlude_contract::golden;
use occlude_preprocess::Preprocess;
use occlude_torch_ext::{Autocast, Copier, Tf32};
use tch::{Device, Kind, Tensor};

use super::{Check, pictures, relative};
use crate::augment::Augmenter;
use crate::config::{Config, Recipe};
use crate::data::ViewSpec;
use crate::mask::{aggregate, foreground};
use crate::model::{Encoder, Mode};
use crate::rng::{Domain, stream};
use crate::tolerance;
use occlude_saliency::DEVIATIONS;

/// A network on `device` with the CPU network's weights.
fn copy_to(cpu: &Encoder, device: Device) -> Result<Encoder> {
    let encoder = Encoder::new(cpu.arch(), 0, device);
    crate::model::load(&encoder.named(""), &cpu.named(""))?;
    Ok(encoder)
}

/// Features of `x`, and the gradient of their product with `t` for all weights.
fn passes(e: &Encoder, x: &Tensor, t: &Tensor) -> (Tensor, Tensor) {
    let out = e.forward(x, Mode::Peek { splits: 2 }, &[]).embedding;
    occlude_torch_ext::forget_grads(&e.trainable());
    (&out * t).sum(Kind::Float).backward();
    let grads: Vec<Tensor> =
        e.trainable().iter().map(|p| p.grad().to_device(Device::Cpu).flatten(0, -1)).collect();
    (out.detach(), Tensor::cat(&grads, 0))
}

/// Least cosine of a picture's features with the reference's.
fn cosine(found: &Tensor, reference: &Tensor) -> f64 {
    let found = found.to_device(Device::Cpu).to_kind(Kind::Float);
    Tensor::cosine_similarity(&found, reference, 1, 1e-12).min().double_value(&[])
}

/// Features in half precision against the reference: least cosine.
fn halves(e: &Encoder, x: &Tensor, mode: Mode, reference: &Tensor, what: &str) -> Vec<Check> {
    let found = |guard: Autocast| {
        let found = tch::no_grad(|| e.forward(x, mode, &[]).embedding);
        drop(guard);
        cosine(&found, reference)
    };
    let device = x.device();
    let bf16 = found(Autocast::bf16(device, true));
    let fp16 = found(Autocast::fp16(device, true));
    vec![
        Check::at_least(format!("{what}, bfloat16, least cosine"), bf16, tolerance::BF16_COSINE),
        Check::at_least(format!("{what}, float16, least cosine"), fp16, tolerance::FP16_COSINE),
    ]
}

pub(super) fn forward_and_backward(device: Device) -> Result<Vec<Check>> {
    let x = pictures(8, 64);
    let cpu = Encoder::new("resnet18".parse()?, 0, Device::Cpu);
    let other = copy_to(&cpu, device)?;
    let target = pictures(8, 64).flatten(1, -1).narrow(1, 0, 512);
    let (reference, reference_grad) = passes(&cpu, &x, &target);
    let (x, target) = (x.to(device), target.to(device));
    let (out, grad) = {
        let _exact = Tf32::allow(false);
        passes(&other, &x, &target)
    };
    let mut checks = vec![
        Check::at_most(
            "forward, float32, relative error",
            relative(&out, &reference),
            tolerance::DEVICE_FP32,
        ),
        Check::at_most(
            "backward, float32, relative error",
            relative(&grad, &reference_grad),
            tolerance::DEVICE_GRADIENT,
        ),
    ];
    if device.is_cuda() {
        let _rounded = Tf32::allow(true);
        let (out, grad) = passes(&other, &x, &target);
        let apart = relative(&grad, &reference_grad);
        checks.push(Check::at_least(
            "forward, TF32, least cosine",
            cosine(&out, &reference),
            tolerance::TF32_COSINE,
        ));
        checks.push(Check::at_most("backward, TF32, relative error", apart, tolerance::TF32_GRADIENT));
    }
    checks.extend(halves(&other, &x, Mode::Peek { splits: 2 }, &reference, "forward"));
    Ok(checks)
}

/// The picture that models carry with them, through a network as it is deployed.
pub(super) fn golden(device: Device) -> Result<Vec<Check>> {
    let contract = Preprocess::imagenet(224);
    let pixels = contract.pixels(&golden::picture(&contract));
    let x = Tensor::from_slice(&contract.tensor(&pixels)).view([1, 3, 224, 224]);
    let cpu = Encoder::new("resnet18".parse()?, 0, Device::Cpu);
    // running statistics that are those of pictures
    tch::no_grad(|| (0..3).for_each(|_| drop(cpu.forward(&x, Mode::Train { splits: 1 }, &[]))));
    let other = copy_to(&cpu, device)?;
    let forward = |e: &Encoder, x: &Tensor| tch::no_grad(|| e.forward(x, Mode::Eval, &[]).embedding);
    let reference = forward(&cpu, &x);
    let x = x.to(device);
    let exact = {
        let _exact = Tf32::allow(false);
        cosine(&forward(&other, &x), &reference)
    };
    let mut checks =
        vec![Check::at_least("golden picture, float32, least cosine", exact, tolerance::GOLDEN_COSINE)];
    if device.is_cuda() {
        let _rounded = Tf32::allow(true);
        let found = cosine(&forward(&other, &x), &reference);
        checks.push(Check::at_least("golden picture, TF32, least cosine", found, tolerance::TF32_COSINE));
    }
    checks.extend(halves(&other, &x, Mode::Eval, &reference, "golden picture"));
    Ok(checks)
}

/// Views whose colours the CPU's loops change, against the device's operators.
pub(super) fn colours(device: Device) -> Check {
    let config = Config::new(Recipe::MocoV2);
    let spec = ViewSpec { size: 64, ..ViewSpec::of(&config).remove(0) };
    let mut rng = stream(1, Domain::View, 0, 0);
    let photometric: Vec<_> = (0..64).map(|_| spec.draw(64, 64, &mut rng).1).collect();
    let bytes: Vec<u8> = (0..64 * 3 * 64 * 64).map(|i: usize| (i * i / 7 % 256) as u8).collect();
    let pixels = Tensor::from_slice(&bytes).view([64, 3, 64, 64]).to(device);
    let augmenter = |on| Augmenter::new(&config.preprocess(), 64, spec.augment.blur_sigma[1], on);
    let found = augmenter(device).on_device(&pixels, &photometric);
    let view = crate::data::View { size: 64, pixels: bytes, placed: Vec::new(), photometric };
    let reference = augmenter(Device::Cpu).apply(&view);
    let apart = (found.to_device(Device::Cpu) - reference).abs().max().double_value(&[]);
    Check::at_most("colours of views, largest difference", apart, tolerance::COLOURS)
}

/// Share of cells that two devices put on different sides of the threshold.
pub(super) fn masking(device: Device) -> Check {
    let map = pictures(64, 14).abs();
    let reference = foreground(&aggregate(&map), DEVIATIONS);
    let found = foreground(&aggregate(&map.to(device)), DEVIATIONS).to_device(Device::Cpu);
    let differing = (found - reference).abs().mean(Kind::Double).double_value(&[]);
    Check::at_most("saliency, share of differing cells", differing, tolerance::MASK_CELLS)
}

/// Bytes that differ after copies on a stream of their own, beside the device's work, and after small copies in between.
pub(super) fn copies(device: Device) -> Result<Check> {
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
    Ok(Check::at_most("copies to the device, differing numbers", found, 0.0))
}
