//! ViT-S/16 at 224 px beside timm's with the same weights: in ONNX Runtime beside what `torch.onnx` writes of it, and a step of
//! iBOT beside one written in PyTorch.

use anyhow::Result;
use serde_json::Value;
use std::path::Path;

use super::{Better, Figure, number, peer};
use crate::{paths, sh};

const SCRIPT: &str = include_str!("vit.py");
/// Without its dependencies, of which the environment has what a network needs.
const TIMM: &str = "timm==1.0.31";
/// Two views of 224 px and four of 96, in float32; the peer has the same sizes of everything.
const IBOT: &str = "--synthetic --recipe ibot --arch vit_small_patch16_224 --image-size 224 --batch-size 4 \
                    --views 1,1,4x96:0.05-0.25 --precision fp32 --device cpu --warmup 1 --steps 3";
/// Turns that both trainers take, each beside the other.
const TURNS: usize = 3;

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    let packages = folder.join("packages");
    super::install(&packages, &[TIMM])?;
    let (weights, theirs) = (folder.join("timm.safetensors"), folder.join("theirs.onnx"));
    peer(SCRIPT, &[&packages, Path::new("make"), &weights, &theirs])?;
    let mut figures = Vec::new();
    for (what, flags) in
        [("embedding", ["--outputs", "embedding"]), ("with saliency", ["--outputs", "embedding,saliency"])]
    {
        let ours = folder.join(format!("{}.onnx", what.replace(' ', "_")));
        let mut export = sh::command(paths::tool("occlude-export"));
        export.arg("onnx").arg(&weights).arg(&ours).args(["--contract", "augreg"]).args(flags);
        sh::capture(&mut export)?;
        let found = peer(SCRIPT, &[&packages, Path::new("onnx"), &ours, &theirs])?;
        for batch in ["1", "8"] {
            let of = |side: &str| number(&found, &format!("{side}.{batch}"));
            figures.push(figure(&format!("ONNX Runtime, {what}, batch {batch}"), of("ours")?, of("peer")?));
        }
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        ours.push(step(&folder.join(format!("profile{turn}.json")))?);
        theirs.push(number(&peer(SCRIPT, &[&packages, Path::new("train")])?, "images_per_s")?);
    }
    figures.push(figure("iBOT, 2 views of 224 px and 4 of 96, batch 4", median(ours), median(theirs)));
    Ok(figures)
}

/// Pictures a second of our steps.
fn step(report: &Path) -> Result<f64> {
    let mut profile = sh::command(paths::tool("occlude-train"));
    profile.arg("profile").args(IBOT.split_whitespace()).arg("--json").arg(report).arg("--force");
    sh::capture(&mut profile)?;
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report)?)?;
    number(&report, "images_per_second")
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn figure(what: &str, ours: f64, peer: f64) -> Figure {
    Figure { what: what.into(), unit: "images/s", ours, peer, better: Better::Higher }
}
