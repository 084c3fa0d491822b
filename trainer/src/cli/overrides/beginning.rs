//! The flags of a run that goes on from another encoder.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};

use crate::cli::contract::contract_of;
use crate::config::{Beginning, Config};

/// Layers nearer to the pixels know what every picture has.
const LAYER_DECAY: f64 = 0.75;
/// Share of the epochs in which the heads learn alone.
const HEAD_WARMUP: f64 = 0.1;

/// Flags of a run that goes on from another encoder.
#[derive(Args, Debug, Default)]
pub(super) struct BeginningArgs {
    /// Begin with the encoder of this checkpoint, of Occlude or another project, with its architecture and normalisation;
    /// heads are fresh
    #[arg(long, value_name = "CHECKPOINT")]
    init: Option<PathBuf>,
    /// Epochs in which the heads learn and the encoder stays as it is; default: a tenth of all, at most one
    #[arg(long, value_name = "EPOCHS", requires = "init")]
    head_warmup: Option<f64>,
    /// Learning rate of a layer (block or stage) as a share of that of the layer behind it; default: 0.75
    #[arg(long, value_name = "SHARE", requires = "init")]
    layer_decay: Option<f64>,
}

impl BeginningArgs {
    /// `arch`: the architecture that was asked for. The epochs of `c` are final.
    pub(super) fn apply(self, c: &mut Config, arch: Option<&str>) -> Result<()> {
        let Some(path) = self.init else { return Ok(()) };
        let checkpoint = Checkpoint::open(&path)?;
        let weights = load_encoder(&checkpoint, &LoadOptions::default())?;
        let found = weights.arch.to_string();
        ensure!(
            arch.is_none_or(|arch| arch == found),
            "`--init {}` holds {found}, and `--arch` says {}; hint: leave out `--arch`",
            path.display(),
            arch.unwrap_or_default()
        );
        let contract = contract_of(&checkpoint, None, None)?;
        ensure!(
            contract.high_pass.is_none() || c.preprocess().high_pass == contract.high_pass,
            "`--init {}` was trained on high-pass filtered pictures, and this run does not filter as it did; hint: `--strategy hp` at its size",
            path.display()
        );
        c.arch = found;
        c.beginning = Some(Beginning {
            fingerprint: weights.fingerprint(&contract.to_json()),
            checkpoint: path,
            mean: contract.mean,
            std: contract.std,
            head_warmup: self.head_warmup.unwrap_or((HEAD_WARMUP * c.epochs as f64).min(1.0)),
            layer_decay: self.layer_decay.unwrap_or(LAYER_DECAY),
        });
        Ok(())
    }
}
