//! `cargo xtask detector`: a detector that no label was needed for, beside one that knows no more than where the middle is.
//!
//! Photos with masks are split in two. On one part `occlude-detectron pseudo-boxes` draws boxes, and Detectron2 learns from
//! them by `occlude-detectron`'s script; on the other part it is judged by boxes around the masks, which nothing else saw.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{build, paths, setup, sh};

/// Splits the photos and draws the true boxes.
const PREPARE: &str = include_str!("prepare.py");
/// Holds boxes against the true ones.
const JUDGE: &str = include_str!("judge.py");

/// Options of `cargo xtask detector`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of photos
    photos: PathBuf,
    /// Folder with a mask `NAME.png` for each photo
    masks: PathBuf,
    /// Encoder to start from and to draw boxes with
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Python that can import Detectron2
    #[arg(long, value_name = "PROGRAM")]
    python: PathBuf,
    /// Folder of the results; detectors that are already there are not trained again
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Iterations of each detector
    #[arg(long, default_value_t = 200)]
    iterations: u32,
    /// Pictures per iteration
    #[arg(long, default_value_t = 4)]
    batch_size: u32,
    /// Shorter side of the pictures that the detector sees
    #[arg(long, default_value_t = 128)]
    image_size: u32,
    /// Side of the pictures that the encoder sees
    #[arg(long, default_value_t = 224)]
    map_size: u32,
    /// Share of the pictures for testing: one of this many
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    test_every: u32,
    /// Detectors of which boxes: maps, maps with the picture's edges, the middle, or the masks themselves
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["map", "centre"])]
    boxes: Vec<Boxes>,
}

/// Where a detector's boxes come from.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Boxes {
    Map,
    Refined,
    Centre,
    Masks,
}

impl Boxes {
    fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Refined => "refined",
            Self::Centre => "centre",
            Self::Masks => "masks",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Map => "`pseudo-boxes`",
            Self::Refined => "`pseudo-boxes --refine`",
            Self::Centre => "`pseudo-boxes --boxes centre`",
            Self::Masks => "the masks, as people drew them",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { all: true, quiet: true })?;
    if std::env::var_os("OCCLUDE_BIN_DIR").is_none() {
        build::tools()?;
    }
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    let out = fs::canonicalize(&args.out)?;
    let log = out.join("log.txt");
    let counts = prepare(args, &out)?;
    draw(args, &out, &log)?;
    let mut rows = Vec::new();
    for &boxes in &args.boxes {
        let drawn = judged(&args.python, &out, &of_train(&out, boxes))?;
        let detector = trained(args, &out, boxes, &log)?;
        rows.push(json!({"boxes": boxes.name(), "drawn": drawn, "detector": detector}));
        println!("{}", row(boxes, &drawn, &detector));
    }
    let record = json!({
        "pictures": counts, "iterations": args.iterations, "batch_size": args.batch_size,
        "image_size": args.image_size, "map_size": args.map_size, "rows": rows,
    });
    fs::write(out.join("detector.json"), serde_json::to_string_pretty(&record)? + "\n")?;
    Ok(())
}

/// Splits the photos; how many are for what.
fn prepare(args: &Args, out: &Path) -> Result<Value> {
    let mut python = sh::command(paths::python());
    python.args(["-c", PREPARE]).args([&absolute(&args.photos)?, &absolute(&args.masks)?]).arg(out);
    let counts: Value = serde_json::from_str(&sh::capture(python.arg(args.test_every.to_string()))?)?;
    let count = |part: &str| counts[part].as_u64().unwrap_or(0);
    ensure!(
        count("train") > 0 && count("test") > 0,
        "`{}` has {} photos with a mask in `{}` to train on and {} to test\nhint: masks are `NAME.png` of `NAME.jpg`",
        args.photos.display(),
        count("train"),
        args.masks.display(),
        count("test")
    );
    println!("{} photos to train on, {} to test", count("train"), count("test"));
    println!(
        "\n| boxes to learn from | AP50 of the boxes | AP | AP50 of the detector | AP |\n|---|---:|---:|---:|---:|"
    );
    Ok(counts)
}

/// The annotations that a detector learns from.
fn of_train(out: &Path, boxes: Boxes) -> PathBuf {
    match boxes {
        Boxes::Masks => out.join("train.json"),
        _ => out.join(format!("{}.json", boxes.name())),
    }
}

/// Model, boxes, weights and script, by the tools.
fn draw(args: &Args, out: &Path, log: &Path) -> Result<()> {
    let (model, checkpoint) = (out.join("encoder.onnx"), absolute(&args.checkpoint)?);
    let size = args.map_size.to_string();
    let mut export = sh::command(paths::tool("occlude-export"));
    export.arg("onnx").args([&checkpoint, &model]).args(["--image-size", &size, "--force"]);
    sh::logged(&mut export, log)?;
    for &boxes in args.boxes.iter().filter(|boxes| **boxes != Boxes::Masks) {
        let mut draw = sh::command(paths::tool("occlude-detectron"));
        draw.arg("pseudo-boxes").arg(out.join("train")).arg("--model").arg(&model);
        match boxes {
            Boxes::Refined => draw.arg("--refine"),
            _ => draw.args(["--boxes", boxes.name()]),
        };
        sh::logged(draw.arg("-o").arg(of_train(out, boxes)).arg("--force"), log)?;
    }
    let mut convert = sh::command(paths::tool("occlude-detectron"));
    convert.arg("convert").arg(&checkpoint).arg(out.join("objects.pkl"));
    sh::logged(convert.args(["--recipe", "coco-fpn-1x", "--force"]), log)?;
    let mut driver = sh::command(paths::tool("occlude-detectron"));
    sh::logged(driver.arg("driver").arg(out).arg("--force"), log)?;
    Ok(())
}

/// How well boxes fit the true ones of the same pictures, as pycocotools says; a box without a score has 1.
fn judged(python: &Path, out: &Path, boxes: &Path) -> Result<Value> {
    let mut command = Command::new(python);
    command.current_dir(out).args(["-c", JUDGE, "train.json"]).arg(boxes);
    let text = sh::capture(&mut command)?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("pycocotools gave no figures")
}

/// A detector's figures on the test part, trained where they are not there.
fn trained(args: &Args, out: &Path, boxes: Boxes, log: &Path) -> Result<Value> {
    let folder = format!("detector-{}", boxes.name());
    let result = out.join(&folder).join("result.json");
    if let Ok(text) = fs::read_to_string(&result) {
        let known: Value = serde_json::from_str(&text)?;
        if known["settings"] == json!(settings(args, "")) {
            return Ok(known["figures"].clone());
        }
        bail!("`{}` has other settings\nhint: use another --out", result.display());
    }
    let mut driver = Command::new(&args.python);
    driver.current_dir(out).args(["train_detector.py", "--config-file", "objects.yaml"]);
    driver.args(["--weights", "objects.pkl", "--num-gpus", "0", "--register", "learnt"]);
    driver.arg(of_train(out, boxes)).args(["train", "--register", "judged", "test.json", "test"]);
    let said = sh::logged(driver.args(settings(args, &folder).split_whitespace()), log)?;
    let figures = figures(&said)?;
    let record = json!({"settings": settings(args, ""), "figures": figures});
    fs::write(&result, record.to_string())?;
    Ok(figures)
}

/// What is not as the recipe has it: one class, boxes alone, and a head and sizes that a CPU can bear.
fn settings(args: &Args, folder: &str) -> String {
    let (side, batch, last) = (args.image_size, args.batch_size, args.iterations);
    let falls = last * 2 / 3;
    format!(
        "DATASETS.TRAIN ('learnt',) DATASETS.TEST ('judged',) MODEL.ROI_HEADS.NUM_CLASSES 1 MODEL.MASK_ON False \
         MODEL.ROI_BOX_HEAD.NUM_CONV 0 MODEL.ROI_BOX_HEAD.NUM_FC 2 MODEL.ROI_BOX_HEAD.FC_DIM 256 \
         MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 64 MODEL.RPN.POST_NMS_TOPK_TRAIN 200 \
         MODEL.RPN.POST_NMS_TOPK_TEST 100 TEST.DETECTIONS_PER_IMAGE 20 \
         MODEL.ANCHOR_GENERATOR.SIZES [[16],[32],[64],[128],[256]] INPUT.MIN_SIZE_TRAIN ({side},) \
         INPUT.MIN_SIZE_TEST {side} SOLVER.IMS_PER_BATCH {batch} SOLVER.MAX_ITER {last} SOLVER.STEPS ({falls},) \
         SOLVER.BASE_LR 0.01 SOLVER.WARMUP_ITERS 20 SOLVER.CLIP_GRADIENTS.ENABLED True SEED 1 \
         DATALOADER.NUM_WORKERS 0 TEST.PRECISE_BN.NUM_ITER 20 OUTPUT_DIR {folder}"
    )
}

/// AP and AP50 out of Detectron2's last lines, `copypaste: AP,AP50,..` and the numbers below.
fn figures(said: &str) -> Result<Value> {
    let lines: Vec<&str> = said.lines().filter_map(|line| line.split("copypaste: ").nth(1)).collect();
    let found = lines.windows(2).rev().find(|pair| pair[0].starts_with("AP,AP50"));
    let numbers: Option<Vec<f64>> =
        found.and_then(|pair| pair[1].split(',').map(|n| n.parse().ok()).collect());
    match numbers.as_deref() {
        Some([ap, ap50, ..]) => Ok(json!({"ap": ap / 100.0, "ap50": ap50 / 100.0})),
        _ => bail!("Detectron2 printed no AP; its output is in the log"),
    }
}

fn row(boxes: Boxes, drawn: &Value, detector: &Value) -> String {
    let figure = |of: &Value, key: &str| of[key].as_f64().map_or(String::new(), |v| format!("{v:.3}"));
    format!(
        "| {} | {} | {} | {} | {} |",
        boxes.about(),
        figure(drawn, "ap50"),
        figure(drawn, "ap"),
        figure(detector, "ap50"),
        figure(detector, "ap")
    )
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("cannot find `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_table_is_the_result() {
        let said = "x d2.evaluation.testing]: copypaste: Task: bbox\n[..]: copypaste: AP,AP50,AP75,APs,APm,APl\n\
                    [..]: copypaste: 12.5,50.25,3.0,nan,1.0,2.0\n";
        assert_eq!(figures(said).unwrap(), json!({"ap": 0.125, "ap50": 0.5025}));
        assert!(figures("copypaste: AP,AP50\n").unwrap_err().to_string().contains("no AP"));
    }
}
