//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use occlude_encoder::Arch;

use crate::convert::{Conversion, Options, convert};
use crate::recipe::{Norm, Recipe};

/// Converts encoder checkpoints to Detectron2 pickles.
///
/// Reads checkpoints of Occlude and of other projects (safetensors, torch, Detectron2) by their
/// content and never executes what is in them. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "occlude-detectron", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Convert(ConvertArgs),
}

/// Write OUT.pkl for Detectron2, and beside it OUT.yaml with the settings that these weights need.
///
/// Both paths are printed on stdout when they are complete.
#[derive(Debug, clap::Args)]
struct ConvertArgs {
    /// The checkpoint: safetensors, `torch.save` of any version, or a pickle of numpy arrays.
    checkpoint: PathBuf,
    /// The pickle to write; its name must end in `.pkl`, which is how Detectron2 tells formats apart.
    out: PathBuf,
    /// What the names of the encoder begin with in the checkpoint, such as `module.encoder_q`;
    /// default: found, and an error where several encoders could be meant.
    #[arg(long, value_name = "P")]
    prefix: Option<String>,
    /// Architecture: resnet18, resnet34, resnet50 or resnet101; default: as the checkpoint says or
    /// shows.
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

/// Runs the command.
///
/// # Errors
/// Whatever the command reports.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Convert(args) => report(&convert(&args.into())?),
    }
    Ok(())
}

fn report(done: &Conversion) {
    for warning in &done.warnings {
        eprintln!("warning: {warning}");
    }
    eprintln!("{} from {}: {}", done.arch, done.layout, done.report);
    eprintln!("{} arrays; recipe {}", done.arrays, done.recipe.name());
    println!("{}\n{}", done.pickle.display(), done.yaml.display());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Result<Options, clap::Error> {
        let words = ["occlude-detectron"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Convert(args) => args.into(),
        })
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
}
