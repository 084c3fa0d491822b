//! The flags of how large a run is.

use clap::Args;

use super::set;
use crate::config::Config;

/// Flags of how large a run is.
#[derive(Args, Debug, Default)]
pub(super) struct ScaleArgs {
    /// Architecture: resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    /// resnext101_64x4d, wide_resnet50_2, wide_resnet101_2, or for small pictures resnet18-small, resnet50-small;
    /// vision transformers by timm's names, like vit_small_patch16_224
    #[arg(long)]
    pub(super) arch: Option<String>,
    /// Side of the training crops, pixels
    #[arg(long)]
    image_size: Option<usize>,
    /// Passes over the data
    #[arg(long)]
    epochs: Option<usize>,
    /// Pictures per step; without `--lr` the learning rate of SGD and LARS is scaled with it
    #[arg(long)]
    batch_size: Option<usize>,
    /// Batches whose gradients are accumulated for one step of the optimiser; without `--lr` the learning rate of SGD
    /// and LARS is scaled with it
    #[arg(long)]
    accumulate: Option<usize>,
    /// Seed of weights, order, views and masks
    #[arg(long)]
    seed: Option<u64>,
}

impl ScaleArgs {
    /// The pictures of a step, and with them the recipe's learning rate.
    pub(super) fn batch(&self, c: &mut Config) {
        let before = c.batch_size * c.accumulate;
        set(&mut c.batch_size, self.batch_size);
        set(&mut c.accumulate, self.accumulate);
        if c.optimizer.scales_with_batch() {
            c.optimizer.lr *= (c.batch_size * c.accumulate) as f64 / before as f64;
        }
    }

    /// Overrides what else is given.
    pub(super) fn apply(&self, c: &mut Config) {
        set(&mut c.arch, self.arch.clone());
        set(&mut c.image_size, self.image_size);
        if let (Some(epochs), Some(m)) = (self.epochs, c.method.momentum_mut())
            && *m.epochs == c.epochs as f64
        {
            // a warm-up over the whole run stays one
            *m.epochs = epochs as f64;
        }
        set(&mut c.epochs, self.epochs);
        set(&mut c.seed, self.seed);
    }
}
