//! Pictures a second of pretraining, from JPEG files to the optimiser's step, against PyTorch and against lightly.

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;

use super::{Better, Figure, number, peer};
use crate::{paths, sh};

/// What all sides have in common.
const SETTINGS: &str = "--arch resnet18 --image-size 64 --batch-size 128 --epochs 2 --device cpu";
const FP32: &str = "--precision fp32";
/// The same computation as the peer's: one normalisation group, its queue, its schedule.
const MOCO: &str = "--lr 0.06 --momentum 0.99 --momentum-start 0.99 --queue 4096 --bn-splits 1";
/// Likewise; the published rate is for a batch 32 times as large.
const BYOL: &str = "--lr 0.1 --warmup-epochs 0";

/// The package `lightly` and what its import asks for besides the environment's packages. Without their dependencies, which
/// would bring another torch.
const LIGHTLY: [&str; 3] = ["lightly==1.6.0", "lightning-utilities==0.15.3", "tqdm==4.70.1"];

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    let images = folder.join("images");
    peer(include_str!("train.py"), &[&images])?;
    let in_half = |name: &str, more: &[&str]| ours(&images, &folder.join(name), "moco-v2", more);
    let ours = |name: &str, recipe: &str, more: &[&str]| {
        ours(&images, &folder.join(name), recipe, &[more, &[FP32]].concat())
    };
    let plain = ours("moco", "moco-v2", &[MOCO])?;
    // Masks without hard negatives: those cost one more forward pass each.
    let masked = ours("masked", "saliency-moco", &[MOCO, "--saliency-stage 4 --num-nonsem 0"])?;
    let uncached = ours("uncached", "moco-v2", &[MOCO, "--cache 0"])?;
    let byol = ours("byol", "byol", &[BYOL])?;
    let lewel = ours("lewel", "lewel-b-eman", &[BYOL])?;
    let answer = peer(include_str!("train.py"), &[&images, Path::new("train")])?;
    let theirs = number(&answer, "images_per_s")?;
    let half = match multiplies_bf16()? {
        true => {
            let ours = in_half("half", &[MOCO, "--precision bf16"])?;
            let script = include_str!("train.py");
            let answer = peer(script, &[&images, Path::new("train"), Path::new("bf16")])?;
            Some((ours, number(&answer, "images_per_s")?))
        }
        false => None,
    };
    let packages = folder.join("packages");
    super::install(&packages, &LIGHTLY)?;
    let lightly = |script: &str| number(&peer(script, &[&images, &packages])?, "images_per_s");
    let lightly_byol = lightly(include_str!("lightly_byol.py"))?;
    let lightly = lightly(include_str!("lightly.py"))?;
    let figure = |what: &str, ours, peer| Figure {
        what: what.into(),
        unit: "images/s",
        ours,
        peer,
        better: Better::Higher,
    };
    let mut figures = vec![
        figure("MoCo v2, beside lightly", plain, lightly),
        figure("the same, decoding every epoch", uncached, lightly),
        figure("MoCo v2, beside plain PyTorch", plain, theirs),
        figure("saliency masks, beside our MoCo v2", masked, plain),
        figure("BYOL, beside lightly's", byol, lightly_byol),
        figure("LEWEL on BYOL with EMAN, beside lightly's BYOL", lewel, lightly_byol),
    ];
    if let Some((ours, theirs)) = half {
        figures.push(figure("MoCo v2 in bfloat16, beside plain PyTorch's", ours, theirs));
    }
    Ok(figures)
}

/// Whether the processor multiplies bfloat16 itself, as the trainer sees it; without that, it is slower than float32.
fn multiplies_bf16() -> Result<bool> {
    let said = sh::capture(sh::command(paths::tool("occlude-train")).args(["doctor", "--json"]))?;
    let said: Value = serde_json::from_str(&said).context("`occlude-train doctor --json` printed no JSON")?;
    Ok(said["cpu_bf16"].is_string())
}

/// Images/s of the second epoch.
fn ours(images: &Path, out: &Path, recipe: &str, more: &[&str]) -> Result<f64> {
    let mut command = sh::command(paths::tool("occlude-train"));
    command.arg("pretrain").arg(images).arg("--out").arg(out).args(["--recipe", recipe]);
    sh::capture(
        command
            .args(SETTINGS.split_whitespace())
            .args(more.iter().flat_map(|flags| flags.split_whitespace())),
    )?;
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl"))?;
    let rows = metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let epoch = rows.rev().find(|row| row["kind"] == "epoch").context("no epoch in `metrics.jsonl`")?;
    number(&epoch, "images_per_s")
}
