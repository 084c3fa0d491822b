//! The flags of a run that goes on from another encoder.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use occlude_preprocess::HighPass;

use crate::cli::Unusable;
use crate::cli::contract::contract_of;
use crate::config::{Beginning, Config};

/// Layers nearer to the pixels know what every picture has.
const LAYER_DECAY: f64 = 0.75;

/// Flags of a run that goes on from another encoder.
#[derive(Args, Debug, Default)]
pub(super) struct BeginningArgs {
    /// Start from the encoder of this checkpoint, of Occlude or another project, with its architecture and
    /// normalisation; heads start untrained
    #[arg(long, value_name = "CHECKPOINT")]
    init: Option<PathBuf>,
    /// Epochs in which the heads learn and the encoder stays frozen; default: a tenth of all, at most one
    #[arg(long, value_name = "EPOCHS", requires = "init")]
    head_warmup: Option<f64>,
    /// Learning rate of a layer (block or stage) as a share of that of the layer behind it; default: 0.75
    #[arg(long, value_name = "SHARE", requires = "init")]
    layer_decay: Option<f64>,
}

impl BeginningArgs {
    /// `arch`: the architecture that was asked for. The epochs of `c` are final. What it was trained on, to be asked when the
    /// masks of `c` are final, too.
    pub(super) fn apply(self, c: &mut Config, arch: Option<&str>) -> Result<Option<TrainedOn>> {
        let Some(path) = self.init else { return Ok(None) };
        let checkpoint = Checkpoint::open(&path).map_err(|e| Unusable(e.into()))?;
        let weights = load_encoder(&checkpoint, &LoadOptions::default()).map_err(|e| Unusable(e.into()))?;
        let found = weights.arch.to_string();
        ensure!(
            arch.is_none_or(|arch| arch == found),
            "`--init {}` holds {found}, and `--arch` says {}; hint: leave out `--arch`",
            path.display(),
            arch.unwrap_or_default()
        );
        let contract = contract_of(&checkpoint, None, None).map_err(Unusable)?;
        let trained_on = TrainedOn { path: path.clone(), high_pass: contract.high_pass };
        c.arch = found;
        c.beginning = Some(Beginning {
            fingerprint: weights.fingerprint(&contract.to_json()),
            checkpoint: path,
            mean: contract.mean,
            std: contract.std,
            head_warmup: self.head_warmup.unwrap_or(Beginning::usual_warmup(c.epochs)),
            layer_decay: self.layer_decay.unwrap_or(LAYER_DECAY),
        });
        Ok(Some(trained_on))
    }
}

/// What the encoder that a run goes on from saw of pictures.
pub(super) struct TrainedOn {
    path: PathBuf,
    high_pass: Option<HighPass>,
}

impl TrainedOn {
    /// # Errors
    /// Where it saw them filtered, and would see them otherwise in the run.
    pub(super) fn check(&self, c: &Config) -> Result<()> {
        ensure!(
            self.high_pass.is_none() || c.preprocess().high_pass == self.high_pass,
            "`--init {}` was trained on high-pass filtered pictures, and this run does not filter in the same way; hint: `--strategy hp` at its size",
            self.path.display()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::resolved as resolve;
    use crate::model;
    use occlude_checkpoint::{meta, save_safetensors};
    use occlude_preprocess::Preprocess;
    use std::path::Path;

    /// An untrained ResNet-18 that wants pixels of another mean.
    fn checkpoint(path: &Path) {
        let contract = Preprocess { mean: [0.5, 0.25, 0.75], ..Preprocess::imagenet(64) };
        checkpoint_with(path, &contract);
    }

    fn checkpoint_with(path: &Path, contract: &Preprocess) {
        let encoder = model::Encoder::new(occlude_encoder::Arch::ResNet18, 0, tch::Device::Cpu);
        let named = encoder.named("");
        let out: Result<Vec<_>> = named.iter().map(crate::engine::snapshot::to_out).collect();
        let about = [(meta::PREPROCESS.to_owned(), contract.to_json())].into();
        save_safetensors(path, &out.expect("tensors"), &about).expect("written");
    }

    #[test]
    fn the_encoder_says_its_architecture_and_normalisation() {
        let _alone = crate::rng::alone();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("start.safetensors");
        checkpoint(&path);
        let init = format!("--recipe moco-v2 --init {}", path.display());
        let begun = |flags: &str| resolve(&format!("{init} {flags}")).expect("valid");
        let config = begun("--epochs 40");
        assert_eq!((config.arch.as_str(), config.preprocess().mean), ("resnet18", [0.5, 0.25, 0.75]));
        let beginning = config.beginning.expect("it begins with one");
        assert_eq!((beginning.head_warmup, beginning.layer_decay), (1.0, LAYER_DECAY));
        assert_eq!(beginning.checkpoint, path);
        let beginning = begun("--epochs 4 --layer-decay 0.5").beginning.expect("one");
        assert_eq!((beginning.head_warmup, beginning.layer_decay), (0.4, 0.5));
        assert_eq!(begun("--epochs 40 --head-warmup 0").beginning.map(|b| b.head_warmup), Some(0.0));
    }

    /// What counts is how the run filters in the end, not how its recipe would.
    #[test]
    fn a_filtered_encoder_goes_on_with_the_same_filter_only() {
        let _alone = crate::rng::alone();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("start.safetensors");
        let filtered = resolve("--recipe saliency-moco-small --strategy hp").expect("valid").preprocess();
        checkpoint_with(&path, &filtered);
        let init = |flags: &str| resolve(&format!("{flags} --init {}", path.display()));
        init("--recipe saliency-moco-small --strategy hp").expect("the same");
        for other in [
            "--recipe saliency-moco-small",
            "--recipe saliency-moco-small --strategy hp --fills published",
            "--recipe saliency-moco-small --masks false",
            "--recipe moco-v2",
        ] {
            let error = format!("{:#}", init(other).expect_err(other));
            assert!(error.contains("--strategy hp"), "{other}: {error}");
        }
        // the recipe's own filter, which the flags take away
        let published = resolve("--recipe saliency-moco --arch resnet18").expect("valid").preprocess();
        checkpoint_with(&path, &published);
        init("--recipe saliency-moco").expect("the same");
        init("--recipe saliency-moco --strategy blur").expect_err("unfiltered");
    }

    #[test]
    fn what_cannot_begin_a_run_is_refused() {
        let _alone = crate::rng::alone();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("start.safetensors");
        checkpoint(&path);
        let bad = dir.path().join("bad.pth");
        std::fs::write(&bad, b"nothing").expect("written");
        let refused = |flags: &str| resolve(&format!("--recipe moco-v2 {flags}")).expect_err("refused");
        let wrong = refused(&format!("--arch resnet50 --init {}", path.display()));
        assert!(format!("{wrong:#}").contains("holds resnet18, and `--arch` says resnet50"), "{wrong:#}");
        assert!(!wrong.is::<Unusable>(), "the flags contradict each other");
        let wrong = refused(&format!("--init {}", bad.display()));
        assert!(wrong.is::<Unusable>() && format!("{wrong:#}").contains("bad.pth"), "{wrong:#}");
        assert!(format!("{:#}", refused("--layer-decay 0.5")).contains("--init"));
    }
}
