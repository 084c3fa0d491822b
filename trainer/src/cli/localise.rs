//! `localise`: how well saliency maps find what is known to be in pictures.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{ArgGroup, Args};
use occlude_checkpoint::Checkpoint;
use occlude_encoder::{Arch, Graph};
use occlude_preprocess::Preprocess;
use occlude_saliency::score::{Figures, Means};
use serde_json::{Map, Value, json};

use super::Machine;
use super::evaluate::{WeightArgs, open, whole_patches};
use crate::eval::localise::{Judged, Localiser, Making, Outcome, Row, Sheet, Truths, Window, resized};
use crate::maps::MapRule;
use crate::model::Encoder;
use crate::signals::Interrupt;

/// Pictures on a sheet.
const SHOWN: usize = 8;
/// The standard normal distribution has 95 % of its mass within this many standard deviations.
const Z: f64 = 1.96;

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("truth").required(true).args(["masks", "boxes"])))]
pub(super) struct LocaliseArgs {
    /// Checkpoint of `pretrain`, or any other that holds a known encoder
    checkpoint: PathBuf,
    /// Folder of pictures, list, or shards
    data: PathBuf,
    /// Folder of masks: `a/b.png` or `b.png` for `a/b.jpg`, of the same size; non-zero pixels are foreground
    #[arg(long, value_name = "DIR")]
    masks: Option<PathBuf>,
    /// COCO annotations: the boxes of each picture, by `file_name`; the map is compared with their area, too
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// How the encoder's features become a map: `object` (what resembles the middle and not the border, in features
    /// and colours), `border` (what differs from the border in features), `sum` (of all channels, as published) or
    /// `attention` (what a vision transformer's class token looks at); default: `attention` of a vision transformer,
    /// else `object`
    #[arg(long)]
    rule: Option<MapRule>,
    /// The stage whose features are used, 2 to 5; default: 3 for `object`, 4 for `border`, 5 for `sum`
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=5))]
    stage: Option<u64>,
    /// The block of a vision transformer whose patches or attention are used, from 0; default: the last one
    #[arg(long, value_name = "N", conflicts_with = "stage")]
    block: Option<usize>,
    /// Side of the network's input, pixels; default: that of the checkpoint
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=4096))]
    size: Option<u32>,
    /// Several sides of the input, like `96,128`: their maps are averaged on the finest grid
    #[arg(long, value_delimiter = ',', conflicts_with = "size", value_parser = clap::value_parser!(u32).range(8..=4096))]
    scales: Vec<u32>,
    /// Part of a picture that is seen, and judged
    #[arg(long, value_enum, default_value = "whole")]
    window: Window,
    /// Average each map with that of the mirrored picture
    #[arg(long)]
    mirror: bool,
    /// Leave out the untrained encoder, which takes as long as the encoder
    #[arg(long)]
    no_untrained: bool,
    /// Maximum number of pictures, spread evenly over the data set; default: all
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Write all figures, including those of every picture, to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder for `best.png` and `worst.png`: pictures, truth, the encoder's map and the border-colour prior
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Replace existing files of these names
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    machine: Machine,
}

impl LocaliseArgs {
    /// The sheets, where they are wanted.
    fn sheets(&self) -> Option<[PathBuf; 2]> {
        self.pictures.as_ref().map(|folder| ["best.png", "worst.png"].map(|name| folder.join(name)))
    }

    /// Refuses files that must not be replaced; before the work, not after it.
    fn check_outputs(&self) -> Result<()> {
        if let Some(folder) = &self.pictures {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        let sheets = self.sheets();
        let outputs: Vec<&Path> =
            self.json.iter().chain(sheets.iter().flatten()).map(PathBuf::as_path).collect();
        let inputs: Vec<&Path> = [Some(&self.checkpoint), self.boxes.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        Ok(occlude_output::check(&outputs, &inputs, self.force)?)
    }

    fn truths(&self, data: &occlude_dataset::Dataset, which: &[usize]) -> Result<Truths> {
        match (&self.masks, &self.boxes) {
            (Some(folder), _) => Truths::masks(data, which, folder),
            (None, Some(file)) => Truths::boxes(data, which, file),
            (None, None) => unreachable!("the group wants one of the two"),
        }
    }

    /// The rule, and what it is applied to.
    fn features(&self, arch: Arch) -> Result<occlude_saliency::Making> {
        let usual = if arch.vit().is_some() { MapRule::Attention } else { MapRule::default() };
        let rule = self.rule.unwrap_or(usual);
        let Some(vit) = arch.vit() else {
            ensure!(self.block.is_none(), "`--block`: {arch} has none; hint: `--stage`");
            ensure!(rule != MapRule::Attention, "`--rule attention`: {arch} has none; hint: `--rule object`");
            let stage = self.stage.map_or(rule.stage(), |stage| stage as usize);
            return Ok(occlude_saliency::Making { stage, ..occlude_saliency::Making::of(rule) });
        };
        ensure!(self.stage.is_none(), "`--stage`: {arch} has none; hint: `--block`");
        let block = self.block.unwrap_or(vit.depth - 1);
        ensure!(block < vit.depth, "`--block {block}`: {arch} has blocks 0 to {}", vit.depth - 1);
        Ok(occlude_saliency::Making::of_block(rule, block))
    }

    fn making(&self, arch: Arch, contract: &Preprocess) -> Result<Making> {
        let features = self.features(arch)?;
        let sizes = match (self.scales.as_slice(), self.size) {
            ([], None) => vec![contract.crop],
            ([], Some(size)) => vec![size],
            (several, _) => several.to_vec(),
        };
        let flag = if self.scales.is_empty() { "--size" } else { "--scales" };
        let at = |&size: &u32| {
            whole_patches(arch, size, flag)?;
            resized(contract, size).with_context(|| format!("`{flag} {size}`"))
        };
        Ok(Making {
            rule: features.rule,
            tap: features.tap(),
            contracts: sizes.iter().map(at).collect::<Result<_>>()?,
            window: self.window,
            mirror: self.mirror,
        })
    }
}

/// `occlude-train localise`.
pub(super) fn localise(args: &LocaliseArgs) -> Result<ExitCode> {
    args.check_outputs()?;
    let data = crate::data::open(&args.data)?;
    let which = spread_out(data.len(), args.limit);
    let truths = args.truths(&data, &which)?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let (weights, contract) = open(&checkpoint, &args.weights)?;
    let making = args.making(weights.arch, &contract)?;
    if let Some(error) = too_coarse(&making, weights.arch) {
        tell!("error: {error}");
        return Ok(ExitCode::from(2));
    }
    let device = args.machine.device.resolve()?;
    args.machine.apply();
    let _interrupt = Interrupt::register()?;
    let encoder = Encoder::from_checkpoint(&weights, device)?;
    let untrained = (!args.no_untrained).then(|| Encoder::new(weights.arch, 0, device));
    tell!(
        "{} on {device:?}, {}: {} pictures, {}",
        weights.arch,
        describe(&making),
        which.len(),
        truths.kind()
    );
    let localiser = Localiser {
        making: &making,
        encoder: &encoder,
        untrained: untrained.as_ref(),
        data: &data,
        truths: &truths,
        workers: args.machine.workers(),
    };
    let outcome = localiser.run(&which)?;
    if let Some(path) = &args.json {
        let fingerprint = weights.fingerprint(&contract.to_json());
        let mut answer = question(args, &making, &fingerprint, &truths);
        answer.extend(results(&outcome, |i| data.name_below(i)));
        occlude_output::write(path, |out| writeln!(out, "{}", Value::Object(answer)))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    if let Some(sheets) = args.sheets() {
        draw(&localiser, &outcome, &sheets)?;
    }
    print(&outcome, &making);
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with a map of one cell, if it is one.
fn too_coarse(making: &Making, arch: Arch) -> Option<String> {
    let graph = Graph::new(arch);
    let tap = &graph[graph.tap(&making.tap)?];
    let side = |contract: &Preprocess| tap.side(contract.crop as usize);
    let small = making.contracts.iter().find(|contract| side(contract) < 2)?;
    Some(format!(
        "`{}` of {arch} at {} px is a single cell, which is not a map; hint: a smaller `--stage` or a larger `--size`",
        making.tap, small.crop
    ))
}

/// The number of a ResNet's stage.
fn stage(making: &Making) -> Option<usize> {
    making.tap.strip_prefix("res")?.parse().ok()
}

/// `stage 4`, or the name of what a vision transformer has instead.
fn place(making: &Making) -> String {
    stage(making).map_or(making.tap.clone(), |stage| format!("stage {stage}"))
}

/// What was asked, for JSON.
fn question(args: &LocaliseArgs, making: &Making, fingerprint: &str, truths: &Truths) -> Map<String, Value> {
    let asked = [
        ("task", json!("localise")),
        ("checkpoint", json!(args.checkpoint.to_string_lossy())),
        ("fingerprint", json!(fingerprint)),
        ("rule", json!(making.rule.name())),
        ("stage", json!(stage(making))),
        ("tap", json!(making.tap)),
        ("sizes", json!(making.contracts.iter().map(|c| c.crop).collect::<Vec<_>>())),
        ("window", json!(making.window.name())),
        ("mirror", json!(making.mirror)),
        ("truth", json!(truths.kind())),
    ];
    asked.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

/// Writes the sheets of the best and of the worst, and tells what is on them.
fn draw(localiser: &Localiser<'_>, outcome: &Outcome, [best, worst]: &[PathBuf; 2]) -> Result<()> {
    for (path, order) in [(best, true), (worst, false)] {
        let which = ranked(&outcome.pictures, order);
        localiser.draw(&Sheet { which: &which, path })?;
        let names: Vec<String> = which.iter().map(|&i| localiser.data.name_below(i)).collect();
        tell!("`{}`, from top to bottom: {}", path.display(), names.join(", "));
    }
    Ok(())
}

/// `limit` of `n` numbers, spread evenly.
fn spread_out(n: usize, limit: Option<u64>) -> Vec<usize> {
    let count = limit.map_or(n, |limit| n.min(usize::try_from(limit).unwrap_or(n)));
    (0..count).map(|i| i * n / count).collect()
}

/// The pictures whose map by the encoder is the best or the worst, by IoU at the mean.
fn ranked(pictures: &[Judged], best: bool) -> Vec<usize> {
    let iou = |p: &Judged| p.figures.first().map_or(0.0, |f| f.iou_mean);
    let mut order: Vec<&Judged> = pictures.iter().collect();
    order.sort_by(|a, b| if best { iou(b).total_cmp(&iou(a)) } else { iou(a).total_cmp(&iou(b)) });
    order.iter().take(SHOWN).map(|p| p.index).collect()
}

/// `border of stage 4 at 128 px, whole pictures`.
fn describe(making: &Making) -> String {
    let sizes: Vec<String> = making.contracts.iter().map(|c| c.crop.to_string()).collect();
    let mirrored = if making.mirror { ", mirrored too" } else { "" };
    let window = match making.window {
        Window::Whole => "whole pictures",
        Window::Crop => "centre crops",
    };
    format!("{} of {} at {} px{mirrored}, {window}", making.rule.name(), place(making), sizes.join(" and "))
}

/// The difference to the border-colour prior in IoU at the mean, picture by picture, and the interval of 95 % confidence of
/// its mean.
fn ahead(outcome: &Outcome, row: usize) -> Option<(f64, [f64; 2])> {
    let prior = outcome.rows.iter().position(|(row, _)| *row == Row::BorderColour)?;
    let iou = |p: &Judged, row: usize| p.figures.get(row).map(|f| f.iou_mean);
    let differences: Vec<f64> =
        outcome.pictures.iter().filter_map(|p| Some(iou(p, row)? - iou(p, prior)?)).collect();
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = Z * (variance / n).sqrt();
    // of one picture there is no interval
    half.is_finite().then_some((mean, [mean - half, mean + half]))
}

fn figures(f: &Figures) -> Map<String, Value> {
    let told = [
        ("max_f", json!(f.max_f)),
        ("iou_adaptive", json!(f.iou_adaptive)),
        ("iou_mean", json!(f.iou_mean)),
        ("iou_best", json!(f.iou_best)),
        ("mae", json!(f.mae)),
        ("auroc", json!(f.auroc)),
        ("corloc", json!(f.corloc)),
    ];
    told.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

/// The averages of a row, for JSON.
fn averages(outcome: &Outcome, i: usize, (row, means): &(Row, Means)) -> Value {
    let mut told = Map::from_iter([("map".to_owned(), json!(row.name()))]);
    told.extend(means.figures().as_ref().map(figures).unwrap_or_default());
    told.insert("max_f_threshold".into(), means.curve().best().1.into());
    if let Some((mean, interval)) = ahead(outcome, i).filter(|_| *row != Row::BorderColour) {
        told.insert("iou_mean_ahead".into(), mean.into());
        told.insert("iou_mean_ahead_ci".into(), json!(interval));
    }
    Value::Object(told)
}

/// What came out, for JSON.
fn results(outcome: &Outcome, name: impl Fn(usize) -> String) -> Map<String, Value> {
    let picture = |p: &Judged| {
        let maps = outcome.rows.iter().zip(&p.figures);
        let maps: Map<String, Value> =
            maps.map(|((row, _), f)| (row.name().to_owned(), figures(f).into())).collect();
        json!({ "picture": name(p.index), "maps": maps })
    };
    let rows = outcome.rows.iter().enumerate().map(|(i, row)| averages(outcome, i, row));
    let told = [
        ("pictures", json!(outcome.pictures.len())),
        ("unreadable", json!(outcome.unreadable)),
        ("without_object", json!(outcome.without_object)),
        ("results", rows.collect()),
        ("each", outcome.pictures.iter().map(picture).collect()),
    ];
    told.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

fn title(row: Row, making: &Making) -> String {
    let map = format!("{}, {}", making.rule.name(), place(making));
    match row {
        Row::Encoder => map,
        Row::Untrained => format!("{map}, untrained"),
        Row::Centre => "centre prior".to_owned(),
        Row::BorderColour => "border-colour prior".to_owned(),
        Row::Product => format!("{map} x border-colour prior"),
    }
}

fn print(outcome: &Outcome, making: &Making) {
    let heads = ["maxF", "IoU 2xmean", "IoU mean", "IoU best", "MAE", "AUROC", "CorLoc"];
    let line = |name: &str, cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>10}")).collect();
        answer!("{name:<38} {}", cells.join(" "));
    };
    line("map", &heads.map(str::to_owned));
    for (row, means) in &outcome.rows {
        let Some(f) = means.figures() else { continue };
        let auroc = f.auroc.unwrap_or(f64::NAN);
        let cells = [f.max_f, f.iou_adaptive, f.iou_mean, f.iou_best, f.mae, auroc, f.corloc];
        line(&title(*row, making), &cells.map(|v| if v.is_nan() { "-".into() } else { format!("{v:.3}") }));
    }
    if let Some((mean, [low, high])) = ahead(outcome, 0) {
        answer!(
            "IoU at the mean less that of the border-colour prior: {:+.1} [{:+.1}, {:+.1}] points, {} pictures",
            100.0 * mean,
            100.0 * low,
            100.0 * high,
            outcome.pictures.len()
        );
    }
    let left_out =
        [(outcome.unreadable, "could not be read"), (outcome.without_object, "show nothing to find")];
    for (n, why) in left_out.into_iter().filter(|(n, _)| *n > 0) {
        answer!("not judged: {n} pictures that {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(iou_mean: f64) -> Figures {
        Figures { max_f: 0.0, iou_adaptive: 0.0, iou_mean, iou_best: 0.0, mae: 0.0, auroc: None, corloc: 0.0 }
    }

    fn outcome(pairs: &[(f64, f64)]) -> Outcome {
        let rows = [Row::Encoder, Row::BorderColour].map(|row| (row, Means::default())).to_vec();
        let judged =
            |(index, (a, b)): (usize, &(f64, f64))| Judged { index, figures: vec![flat(*a), flat(*b)] };
        let pictures = pairs.iter().enumerate().map(judged).collect();
        Outcome { rows, pictures, unreadable: 0, without_object: 0 }
    }

    #[test]
    fn a_limit_is_spread_over_all() {
        assert_eq!(spread_out(10, Some(3)), [0, 3, 6]);
        assert_eq!(spread_out(3, Some(7)), [0, 1, 2]);
        assert_eq!(spread_out(2, None), [0, 1]);
        assert!(spread_out(0, Some(1)).is_empty());
    }

    #[test]
    fn the_best_and_the_worst_come_first() {
        let outcome = outcome(&[(0.5, 0.0), (0.9, 0.0), (0.1, 0.0)]);
        assert_eq!(ranked(&outcome.pictures, true), [1, 0, 2]);
        assert_eq!(ranked(&outcome.pictures, false), [2, 0, 1]);
    }

    /// Differences 0.1, 0.2 and 0.3: the mean 0.2, its standard error 0.1 / sqrt(3).
    #[test]
    fn the_lead_over_the_prior_is_paired() {
        let (mean, [low, high]) =
            ahead(&outcome(&[(0.6, 0.5), (0.9, 0.7), (0.4, 0.1)]), 0).expect("an interval");
        let half = 1.96 * 0.1 / 3f64.sqrt();
        assert!((mean - 0.2).abs() < 1e-12 && (low - (0.2 - half)).abs() < 1e-12, "{mean} {low}");
        assert!((high - (0.2 + half)).abs() < 1e-12, "{high}");
        assert_eq!(ahead(&outcome(&[(0.6, 0.5)]), 0), None, "of one picture");
    }
}
