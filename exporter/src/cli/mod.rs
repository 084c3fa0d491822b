//! The command line.

mod adopt;
mod args;
mod check;
mod hub;
mod onnx;
mod weights;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// Exit code of a verification that found differences past the tolerance.
pub const EXIT_DIFFERENT: u8 = 3;

/// Converts encoder checkpoints to ONNX, safetensors and torch, verifies models on real pictures, and
/// shows what is in checkpoints and ONNX files.
///
/// Reads safetensors, torch (zip and legacy) and Detectron2 pickles, told apart by content; needs neither PyTorch nor
/// Python. Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 verification above
/// the tolerance.
#[derive(Debug, Parser)]
#[command(name = "occlude-export", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write an ONNX model with the outputs `embedding` and `saliency`
    Onnx(onnx::OnnxArgs),
    /// Make another project's ONNX image encoder a model that the server takes
    Adopt(adopt::AdoptArgs),
    /// Run an ONNX model on pictures in ONNX Runtime and tract, and compare both with the checkpoint
    Verify(check::VerifyArgs),
    /// Write a folder to publish a model with: for transformers, timm and ONNX Runtime, with a page about the model
    Hub(hub::HubArgs),
    /// Show what is in a checkpoint or an ONNX file
    Inspect(check::InspectArgs),
    /// Write the bare encoder as safetensors under torchvision's names
    Safetensors(weights::SafetensorsArgs),
    /// Write the bare encoder as a `.pth` that `torch.load(weights_only=True)` reads
    Torch(weights::TorchArgs),
}

impl Cli {
    /// What clap reads, where each flag has an effect.
    fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(args)?;
        if let Command::Onnx(args) = &cli.command
            && let Some(flag) = args.precision.idle()
        {
            let reason = format!("`{flag}` is about models in int8; hint: add `--precision int8`");
            return Err(Self::command().error(ErrorKind::ArgumentConflict, reason));
        }
        Ok(cli)
    }
}

/// Runs the command line; wrong usage exits with 2 before anything is read.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::read(args).unwrap_or_else(|e| e.exit());
    let result = match cli.command {
        Command::Onnx(args) => onnx::run(args),
        Command::Adopt(args) => adopt::run(args),
        Command::Hub(args) => hub::run(args),
        Command::Verify(args) => check::run_verify(args),
        Command::Inspect(args) => check::run_inspect(args),
        Command::Safetensors(args) => weights::run_safetensors(args),
        Command::Torch(args) => weights::run_torch(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ContractOverrides;
    use crate::adopt::Pooling;
    use crate::calibrate::Method;
    use crate::onnx::OutputKind;
    use crate::torch::TorchLayout;
    use occlude_contract::InputKind;
    use occlude_encoder::Arch;
    use occlude_preprocess::{HighPass, Interpolation};
    use onnx::OnnxArgs;
    use std::path::Path;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::read(std::iter::once("occlude-export").chain(line.split_whitespace()).map(OsString::from))
    }

    fn onnx_args(flags: &str) -> OnnxArgs {
        match parse(&format!("onnx in.pth out.onnx {flags}")).expect("valid").command {
            Command::Onnx(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn onnx_flags() {
        let plain = onnx_args("");
        assert_eq!(
            (plain.input, plain.opset, plain.no_fold, plain.no_normalize),
            (InputKind::Float, 17, false, false)
        );
        assert_eq!(plain.outputs, [OutputKind::Embedding, OutputKind::Saliency]);
        assert_eq!(onnx_args("--input uint8").input, InputKind::Uint8);
        assert_eq!(
            onnx_args("--outputs res4,embedding").outputs,
            [OutputKind::Stage(4), OutputKind::Embedding]
        );
        assert!(onnx_args("--no-normalize").no_normalize);
        assert!(onnx_args("--force").force && !plain.force);
        assert!(onnx_args("--no-fold").no_fold);
        assert_eq!(onnx_args("--opset 20").opset, 20);
        assert_eq!(onnx_args("--licence MIT").licence.as_deref(), Some("MIT"));
        assert_eq!(onnx_args("--prefix encoder_k").encoder.prefix.as_deref(), Some("encoder_k"));
        assert_eq!(onnx_args("--arch resnet34").encoder.arch, Some(Arch::ResNet34));
    }

    #[test]
    fn precision_flags() {
        let int8 = onnx_args("--precision int8 --calibrate a b --calibration percentile:99.9");
        assert_eq!(
            (int8.precision.calibrate.len(), int8.precision.calibration),
            (2, Some(Method::Percentile(99.9)))
        );
        assert_eq!(onnx_args("").precision.calibration, None);
        for wrong in ["--precision int8", "--precision int4", "--calibration mean", "--keep-float middle"] {
            assert!(parse(&format!("onnx a b {wrong}")).is_err(), "{wrong}");
        }
        assert!(onnx_args("--dynamic-size").dynamic_size && onnx_args("--external-data").external_data);
    }

    #[test]
    fn flags_of_int8_are_refused_elsewhere() {
        for flags in [
            "--calibrate a",
            "--calibration entropy",
            "--calibration min-max",
            "--calibration-limit 8",
            "--keep-float first",
            "--reduce-range",
        ] {
            assert!(parse(&format!("onnx a b --precision int8 --calibrate p {flags}")).is_ok(), "{flags}");
            for precision in ["", "--precision fp32", "--precision fp16"] {
                let error = parse(&format!("onnx a b {precision} {flags}")).expect_err(flags);
                assert_eq!(error.exit_code(), 2, "{flags}");
                let (flag, said) = (flags.split(' ').next().unwrap_or_default(), error.to_string());
                assert!(said.contains(&format!("`{flag}` is about models in int8; hint: ")), "{said}");
            }
        }
    }

    #[test]
    fn torch_flags() {
        let Command::Torch(args) = parse("torch a b --layout moco --fc 10 --force").expect("valid").command
        else {
            panic!("torch")
        };
        assert_eq!((args.layout, args.fc, args.force), (TorchLayout::Moco, Some(10), true));
        for wrong in ["0", "250001", "10000000000000000", "-1"] {
            let error = parse(&format!("torch a b --fc={wrong}")).expect_err(wrong);
            assert!(error.to_string().contains(&format!("invalid value '{wrong}' for '--fc")), "{error}");
        }
    }

    #[test]
    fn hub_flags() {
        let Command::Hub(args) =
            parse("hub a b --licence MIT --title T --figures k.json l.json --calibrate p --force")
                .expect("valid")
                .command
        else {
            panic!("hub")
        };
        assert_eq!((args.figures.len(), args.calibrate.len(), args.force), (2, 1, true));
    }

    #[test]
    fn adopt_flags() {
        let adopt = |flags: &str| match parse(&format!("adopt in.onnx -o out.onnx {flags}")) {
            Ok(Cli { command: Command::Adopt(args) }) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.exit_code()),
        };
        let plain = adopt("").expect("valid");
        assert_eq!((plain.pool, plain.skip_tokens, plain.no_normalize), (None, 0, false));
        let all = adopt(
            "--contract dino --output x --pool mean --skip-tokens 5 --no-normalize --licence MIT --external-data --force",
        );
        let all = all.expect("valid");
        assert_eq!((all.contract.as_deref(), all.output.as_deref()), (Some("dino"), Some("x")));
        assert_eq!((all.pool, all.skip_tokens), (Some(Pooling::Mean), 5));
        assert!(all.no_normalize && all.external_data && all.force && all.licence.is_some());
        assert_eq!(adopt("--pool max").expect_err("unknown"), 2);
        assert!(parse("adopt in.onnx").is_err(), "no output");
    }

    #[test]
    fn contract_flags() {
        let overrides = |flags| onnx_args(flags).contract.overrides();
        assert_eq!(overrides(""), ContractOverrides::default());
        let set = overrides(
            "--image-size 64 --resize 70 --interpolation bicubic --mean 0.5,0.4,0.3 --std 1,1,2 --high-pass 11,5",
        );
        assert_eq!(
            (set.image_size, set.resize, set.interpolation),
            (Some(64), Some(70), Some(Interpolation::Bicubic))
        );
        assert_eq!((set.mean, set.std), (Some([0.5, 0.4, 0.3]), Some([1.0, 1.0, 2.0])));
        assert_eq!(set.high_pass, Some(Some(HighPass { kernel: 11, sigma: 5.0 })));
        assert_eq!(overrides("--high-pass none").high_pass, Some(None));
    }

    #[test]
    fn verify_and_inspect_flags() {
        let Command::Verify(v) =
            parse("verify a.onnx b.pth x.jpg y --tolerance 1e-3 --limit 0 --json").expect("valid").command
        else {
            panic!("verify")
        };
        assert_eq!((v.images.len(), v.tolerance, v.limit, v.json), (2, Some(1e-3), 0, true));
        assert!(parse("verify a.onnx b.pth").is_err(), "no pictures");
        assert!(parse("inspect a --json").is_ok());
        assert!(parse("safetensors a b --prefix x").is_ok());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for flags in [
            "--opset 16",
            "--opset 23",
            "--input int8",
            "--outputs logits",
            "--mean 1,2",
            "--std a,b,c",
            "--high-pass 11",
            "--arch vgg",
            "--interpolation nearest",
        ] {
            let error = parse(&format!("onnx a b {flags}")).expect_err(flags);
            assert_eq!(error.exit_code(), 2, "{flags}");
        }
    }

    /// Runs a command whose every file lies in a folder.
    fn run(folder: &Path, line: &str) -> anyhow::Result<ExitCode> {
        match parse(&line.replace('@', &folder.display().to_string())).expect("valid").command {
            Command::Onnx(args) => onnx::run(args),
            Command::Hub(args) => hub::run(args),
            Command::Verify(args) => check::run_verify(args),
            other => panic!("{other:?}"),
        }
    }

    /// A folder named as an input stands for its pictures, which `--force` must not replace.
    #[test]
    fn pictures_in_folders_are_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for class in ["photos/cat", "more/cat"] {
            std::fs::create_dir_all(at(class)).expect("folders");
            std::fs::write(at(class).join("a.png"), "precious").expect("written");
        }
        std::os::unix::fs::symlink(at("photos/cat/a.png"), at("link.png")).expect("a link");
        std::fs::hard_link(at("more/cat/a.png"), at("out.onnx.data")).expect("a link");
        let verify = "verify @/in.onnx @/in.pth @/photos --gallery @/more --force --maps";
        let int8 = "--precision int8 --calibrate @/photos @/more --force";
        for line in [
            format!("{verify} @/photos/cat/a.png"),
            format!("{verify} @/more/cat/a.png"),
            format!("{verify} @/link.png"),
            format!("onnx @/in.pth @/photos/cat/a.png {int8}"),
            format!("onnx @/in.pth @/out.onnx {int8} --external-data"),
        ] {
            let refused = run(folder.path(), &line).expect_err(&line).to_string();
            assert!(refused.contains("hint: name another output, the input would be lost"), "{refused}");
        }
        for picture in ["photos/cat/a.png", "more/cat/a.png"] {
            assert_eq!(std::fs::read(at(picture)).expect("there"), b"precious");
        }
    }

    /// The last model fails, and the folder has no file that would be in the way of the next try.
    #[test]
    fn a_hub_folder_is_written_when_all_its_models_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/encoder/golden/timm.safetensors");
        std::fs::copy(golden, folder.path().join("in.safetensors")).expect("copied");
        std::fs::write(folder.path().join("broken.png"), "broken").expect("written");
        let hub = "hub @/in.safetensors @/out --arch vit_16x2x2_patch4_16 --image-size 16";
        run(folder.path(), &format!("{hub} --calibrate @/broken.png")).expect_err("nothing to calibrate on");
        let written = |name: &str| folder.path().join("out").join(name).is_file();
        let files = ["README.md", "config.json", "model.safetensors", "onnx/model.onnx"];
        assert!(!files.into_iter().any(written), "half of a folder");
        run(folder.path(), hub).expect("written");
        assert!(files.into_iter().all(written) && !written("onnx/model_quantized.onnx"));
    }
}
