//! The command line.

mod adopt;
mod args;
mod check;
mod hub;
mod onnx;
mod weights;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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

/// Runs the command line; wrong usage exits with 2 before anything is read.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::try_parse_from(args).unwrap_or_else(|e| e.exit());
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
    use clap::CommandFactory;
    use occlude_contract::InputKind;
    use occlude_encoder::Arch;
    use occlude_preprocess::{HighPass, Interpolation};
    use onnx::OnnxArgs;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("occlude-export").chain(line.split_whitespace()))
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
            (2, Method::Percentile(99.9))
        );
        assert_eq!(onnx_args("").precision.calibration, Method::MinMax);
        for wrong in ["--precision int8", "--precision int4", "--calibration mean", "--keep-float middle"] {
            assert!(parse(&format!("onnx a b {wrong}")).is_err(), "{wrong}");
        }
        assert!(onnx_args("--dynamic-size").dynamic_size && onnx_args("--external-data").external_data);
    }

    #[test]
    fn torch_flags() {
        let Command::Torch(args) = parse("torch a b --layout moco --fc 10 --force").expect("valid").command
        else {
            panic!("torch")
        };
        assert_eq!((args.layout, args.fc, args.force), (TorchLayout::Moco, Some(10), true));
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
}
