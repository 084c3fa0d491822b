//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use occlude_encoder::Arch;

use crate::convert::{Conversion, Options, convert};
use crate::driver::write_driver;
use crate::error::Error;
use crate::import::{ImportOptions, import};
use crate::pseudo::{Boxes, PseudoOptions, pseudo_boxes};
use crate::recipe::{Norm, Recipe};
use crate::verify::{VerifyOptions, verify};

/// The pickle is not what Detectron2 needs.
const EXIT_DIFFERENT: u8 = 3;

/// Encoders to Detectron2 and back.
///
/// Reads checkpoints of Occlude and of other projects (safetensors, torch, Detectron2) by their
/// content and never executes what is in them. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 `verify`
/// found something wrong.
#[derive(Debug, Parser)]
#[command(name = "occlude-detectron", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Convert(ConvertArgs),
    Import(ImportArgs),
    Verify(VerifyArgs),
    Driver(DriverArgs),
    PseudoBoxes(PseudoBoxesArgs),
}

/// Write OUT.pkl for Detectron2, and beside it OUT.yaml with the settings that these weights need.
///
/// Both paths are printed on stdout when they are complete.
#[derive(Debug, clap::Args)]
struct ConvertArgs {
    /// The checkpoint: safetensors, `torch.save` of any version, or a pickle of numpy arrays.
    checkpoint: PathBuf,
    /// The pickle to write; its name must end in `.pkl`, which is how Detectron2 recognises the format.
    out: PathBuf,
    /// Prefix of the encoder's names in the checkpoint, such as `module.encoder_q`; default: detected, with an error
    /// if several encoders are possible.
    #[arg(long, value_name = "P")]
    prefix: Option<String>,
    /// Architecture: resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    /// resnext101_64x4d, wide_resnet50_2 or wide_resnet101_2; default: from the checkpoint's metadata or shapes.
    #[arg(long, value_name = "A")]
    arch: Option<Arch>,
    /// Also write the projection head, as `stem.fc.*`, the way MoCo's script does; Detectron2 does not
    /// use it.
    #[arg(long)]
    keep_head: bool,
    /// Training recipe of the YAML; default: coco-c4-1x for bottleneck encoders, coco-fpn-1x for
    /// resnet18 and resnet34.
    #[arg(long, value_enum, value_name = "R")]
    recipe: Option<Recipe>,
    /// Batch normalisation of the YAML.
    #[arg(long, value_enum, value_name = "N", default_value_t = Norm::SyncBn)]
    norm: Norm,
    /// Replace OUT.pkl and OUT.yaml where they exist.
    #[arg(long)]
    force: bool,
}

impl From<ConvertArgs> for Options {
    fn from(args: ConvertArgs) -> Self {
        let ConvertArgs { checkpoint, out, prefix, arch, keep_head, recipe, norm, force } = args;
        Self { checkpoint, out, prefix, arch, keep_head, recipe, norm, force }
    }
}

/// Write the encoder of a Detectron2 file as OUT.safetensors, under torchvision's names.
///
/// Takes pickles for pretraining and trained detectors (C4 and FPN). Weights that need BGR pixels or
/// strides in the 1x1 convolutions, as Caffe2's do, are refused. The path is printed on stdout.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// Pickle (`.pkl`) or checkpoint (`.pth`) of Detectron2.
    file: PathBuf,
    /// The safetensors file to write.
    out: PathBuf,
    /// Architecture: resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    /// resnext101_64x4d, wide_resnet50_2 or wide_resnet101_2; default: from names and shapes.
    #[arg(long, value_name = "A")]
    arch: Option<Arch>,
    /// Replace OUT.safetensors where it exists.
    #[arg(long)]
    force: bool,
}

/// Check that Detectron2 would load every array of a pickle.
///
/// Always: the outer dictionary, names, shapes, types and values, without Python. Where Python can import detectron2:
/// its own checkpointer loads the pickle into the detector of the YAML, and every tensor is compared. The result says
/// which of the two was done.
#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The pickle.
    pickle: PathBuf,
    /// Settings of the detector; default: the YAML beside the pickle, else the usual recipe.
    #[arg(long, value_name = "YAML")]
    config: Option<PathBuf>,
    /// Architecture: resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    /// resnext101_64x4d, wide_resnet50_2 or wide_resnet101_2; default: from names and shapes.
    #[arg(long, value_name = "A")]
    arch: Option<Arch>,
    /// Interpreter that has detectron2; default: the variable OCCLUDE_PYTHON, else python3.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Fail if Detectron2 cannot be imported; default: check the structure only and report that.
    #[arg(long)]
    require_detectron2: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Write the Python script that trains and evaluates detectors with what `convert` wrote.
///
/// The path is printed on stdout; `python OUT.py --help` explains the rest.
#[derive(Debug, clap::Args)]
struct DriverArgs {
    /// The file to write, or a folder, which gets `train_detector.py`.
    #[arg(default_value = "train_detector.py")]
    out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

/// Write boxes of what a model's saliency maps show, as COCO annotations: a class-agnostic object detector can be
/// trained with them, without any labels.
///
/// Each picture is seen whole (squashed to the model's size; of one longer than 4:1 the middle). Connected parts of
/// the map's foreground become annotations of one category `object`, with box, mask (compressed RLE), area and a
/// score, the mean of the map inside, scaled to 0..1. Broken pictures are reported and skipped. The path is printed on
/// stdout.
#[derive(Debug, clap::Args)]
struct PseudoBoxesArgs {
    /// Folder of pictures, flat or with sub-folders; names in the file are relative to it.
    data: PathBuf,
    /// ONNX file written by `occlude-export onnx`, with the output `saliency`.
    #[arg(long, value_name = "ONNX")]
    model: PathBuf,
    /// The JSON to write.
    #[arg(short, long, value_name = "JSON")]
    out: PathBuf,
    /// Cells at or above this many standard deviations from the map's mean are foreground, -100 to 100; default: the
    /// model's own, or -0.6 if it has none.
    #[arg(long, value_name = "D", allow_hyphen_values = true, value_parser = deviations)]
    threshold: Option<f64>,
    /// Parts that cover less than this share of the picture, 0 to 1, are skipped.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    min_area: f64,
    /// Boxes around what the map shows, or as many and as large ones in the middle of each picture, as a baseline.
    #[arg(long, value_enum, value_name = "B", default_value_t = Boxes::Map)]
    boxes: Boxes,
    /// Align the map with the picture's edges before boxes are taken, by the guided filter of the server's
    /// `refine=true`.
    #[arg(long)]
    refine: bool,
    /// Replace an existing file; never the model or a picture.
    #[arg(long)]
    force: bool,
}

impl From<PseudoBoxesArgs> for PseudoOptions {
    fn from(args: PseudoBoxesArgs) -> Self {
        let PseudoBoxesArgs { data, model, out, threshold, min_area, boxes, refine, force } = args;
        Self { data, model, out, threshold, min_area, boxes, refine, force }
    }
}

fn number(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (low..=high).contains(value));
    value.ok_or_else(|| format!("expected a number from {low} to {high}"))
}

fn deviations(text: &str) -> Result<f64, String> {
    number(text, -100.0, 100.0)
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1.0)
}

/// Runs the command.
///
/// # Errors
/// Whatever the command reports.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Convert(args) => report(&convert(&args.into())?),
        Command::Import(args) => run_import(args)?,
        Command::Verify(args) => return run_verify(args),
        Command::Driver(args) => println!("{}", write_driver(&args.out, args.force)?.display()),
        Command::PseudoBoxes(args) => run_pseudo_boxes(&args.into())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn report(done: &Conversion) {
    warn(&done.warnings);
    eprintln!("{} from {}: {}", done.arch, done.layout, done.report);
    eprintln!("{} arrays; recipe {}", done.arrays, done.recipe.name());
    println!("{}\n{}", done.pickle.display(), done.yaml.display());
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

fn run_import(args: ImportArgs) -> anyhow::Result<()> {
    let ImportArgs { file, out, arch, force } = args;
    let options = ImportOptions { file, out, arch, force };
    let done = import(&options)?;
    warn(&done.warnings);
    eprintln!("{}: {}; {} other tensors left out", done.arch, done.report, done.left_out);
    eprintln!("fingerprint {}", done.fingerprint);
    println!("{}", options.out.display());
    Ok(())
}

fn run_pseudo_boxes(options: &PseudoOptions) -> anyhow::Result<()> {
    let done = pseudo_boxes(options, &mut |line| eprintln!("{line}"))?;
    eprintln!(
        "{} boxes in {} pictures; {} pictures without a box, {} skipped",
        done.boxes, done.pictures, done.empty, done.skipped
    );
    println!("{}", options.out.display());
    Ok(())
}

fn run_verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let VerifyArgs { pickle, config, arch, python, require_detectron2, json } = args;
    let found = verify(&VerifyOptions { pickle, config, arch, python })?;
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        println!("{found}");
    }
    if !found.passed() {
        eprintln!("error: this is not what Detectron2 needs; hint: convert the checkpoint again");
        return Ok(ExitCode::from(EXIT_DIFFERENT));
    }
    match found.not_asked {
        Some(reason) if require_detectron2 => Err(Error::NoDetectron2 { reason }.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Result<Options, clap::Error> {
        let words = ["occlude-detectron"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Convert(args) => args.into(),
            other => panic!("parsed as {other:?}"),
        })
    }

    fn command(words: &str) -> Command {
        let words = ["occlude-detectron"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(words).expect("parses").command
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let options = parse("convert a.pth b.pkl").expect("parses");
        assert_eq!((options.checkpoint, options.out), ("a.pth".into(), "b.pkl".into()));
        assert_eq!((options.prefix, options.arch, options.recipe), (None, None, None));
        assert_eq!((options.keep_head, options.norm, options.force), (false, Norm::SyncBn, false));
    }

    #[test]
    fn every_flag() {
        let options = parse(
            "convert a b.pkl --prefix encoder_k --arch resnet34 --keep-head --recipe voc-c4-24k --norm bn --force",
        )
        .expect("parses");
        assert_eq!(options.prefix.as_deref(), Some("encoder_k"));
        assert_eq!(options.arch, Some(Arch::ResNet34));
        assert_eq!(options.recipe, Some(Recipe::VocC4_24k));
        assert_eq!((options.keep_head, options.norm, options.force), (true, Norm::Bn, true));
    }

    #[test]
    fn unknown_values_are_wrong_usage() {
        for words in
            ["convert a", "convert a b.pkl --arch resnet51", "convert a b.pkl --recipe x", "transmute"]
        {
            assert_eq!(parse(words).expect_err("refused").exit_code(), 2, "{words}");
        }
        let text = parse("convert a b.pkl --arch resnet51").expect_err("refused").to_string();
        assert!(text.contains("resnet50"), "{text}");
    }

    #[test]
    fn every_flag_of_import() {
        let Command::Import(args) = command("import a.pth b.safetensors --arch resnet50 --force") else {
            panic!("no import")
        };
        assert_eq!((args.file, args.out), ("a.pth".into(), "b.safetensors".into()));
        assert_eq!((args.arch, args.force), (Some(Arch::ResNet50), true));
    }

    #[test]
    fn every_flag_of_verify() {
        let line = "verify a.pkl --config b.yaml --arch resnet18 --python py --require-detectron2 --json";
        let Command::Verify(args) = command(line) else { panic!("no verify") };
        assert_eq!((args.pickle, args.config), ("a.pkl".into(), Some("b.yaml".into())));
        assert_eq!((args.arch, args.python), (Some(Arch::ResNet18), Some("py".into())));
        assert!(args.require_detectron2 && args.json);
    }

    #[test]
    fn every_flag_of_pseudo_boxes() {
        let line = "pseudo-boxes d --model m.onnx -o c.json --threshold -0.5 --min-area 0.1 --boxes centre --refine --force";
        let Command::PseudoBoxes(args) = command(line) else { panic!("no pseudo-boxes") };
        let options = PseudoOptions::from(args);
        let (data, model, out) = ("d".into(), "m.onnx".into(), "c.json".into());
        let (threshold, min_area, boxes) = (Some(-0.5), 0.1, Boxes::Centre);
        assert_eq!(
            options,
            PseudoOptions { data, model, out, threshold, min_area, boxes, refine: true, force: true }
        );
        let Command::PseudoBoxes(args) = command("pseudo-boxes d --model m --out c") else { panic!() };
        assert_eq!((args.threshold, args.min_area, args.boxes, args.refine), (None, 0.01, Boxes::Map, false));
        for wrong in ["--min-area 1.5", "--min-area x", "--threshold nan", "--threshold 1e3", "--boxes x"] {
            let words = format!("pseudo-boxes d --model m -o c {wrong}");
            assert_eq!(parse(&words).expect_err("refused").exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn the_driver_has_a_usual_name() {
        let Command::Driver(args) = command("driver") else { panic!("no driver") };
        assert_eq!((args.out, args.force), (crate::driver::DRIVER_NAME.into(), false));
    }
}
