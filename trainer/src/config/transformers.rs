//! The recipes in which a vision transformer distils itself: DINO, iBOT and AttMask.

use super::following::apart;
use super::masking::BACKGROUND_BIASED;
use super::recipes::{moco_v2, moco_views};
use super::*;

/// Two large views drawn as BYOL's, and `count` small ones of which half are blurred (arXiv 2104.14294). `areas`: shares of
/// the picture that crops take, large and small.
fn multi_crop(count: usize, size: usize, areas: [[f64; 2]; 2], blur_sigma: [f64; 2]) -> Vec<ViewGroup> {
    let [large, small] = areas.map(|[crop_min, crop_max]| Augment {
        crop_min,
        crop_max,
        jitter: [0.4, 0.4, 0.2, 0.1],
        blur_sigma,
        ..moco_views()
    });
    let mut views = apart(&large);
    views.push(ViewGroup { count, size: Some(size), augment: small });
    views
}

/// AdamW with the published rate for 256 pictures, and a decay that grows.
fn adamw(batch_size: usize) -> Optimizer {
    Optimizer {
        rule: Rule::Adamw,
        lr: 5e-4 * batch_size as f64 / 256.0,
        beta2: 0.999,
        weight_decay: 0.04,
        weight_decay_end: Some(0.4),
        warmup_epochs: 10.0,
        lr_end: 1e-6,
        decay: Decay::Weights,
        clip: Some(3.0),
        clip_by: ClipBy::Tensor,
        ..moco_v2().optimizer
    }
}

/// DINO on ImageNet, ViT-S/16: the published code's defaults, whose last layer is normalised for larger networks only.
pub(super) fn dino() -> Config {
    let (batch_size, epochs) = (1024, 100);
    Config {
        recipe: Recipe::Dino,
        arch: "vit_small_patch16_224".into(),
        epochs,
        batch_size,
        optimizer: adamw(batch_size),
        method: Method::Dino(Dino {
            head: Head { dim: 256, hidden: Some(2048), bn: false, output_bn: false },
            prototypes: 65_536,
            norm_last_layer: false,
            frozen_epochs: 1.0,
            momentum: 1.0,
            momentum_start: 0.996,
            momentum_warmup_epochs: epochs as f64,
            temperature: 0.1,
            teacher_temperature: [0.04, 0.07],
            teacher_warmup_epochs: 30,
            center_momentum: 0.9,
            drop_path: 0.1,
            patches: None,
            dense: None,
        }),
        views: multi_crop(8, 96, [[0.4, 1.0], [0.05, 0.4]], [0.1, 2.0]),
        ..moco_v2()
    }
}

/// iBOT on ImageNet, ViT-S/16: half of the large views lose 10 to 50 % of their patches, in rectangles.
pub(super) fn ibot() -> Config {
    let base = dino();
    let Method::Dino(dino) = base.method else { unreachable!("DINO's own recipe") };
    let epochs = 800;
    Config {
        recipe: Recipe::Ibot,
        epochs,
        method: Method::Dino(Dino {
            prototypes: 8192,
            momentum_warmup_epochs: epochs as f64,
            patches: Some(Patches {
                weight: 1.0,
                choice: PatchChoice::Block,
                score: vec![PatchScore::Raw],
                layer: Vec::new(),
                power: 0.5,
                ratio: vec![[0.0, 0.0], [0.1, 0.5]],
                share: 1.0,
                per: PatchPer::Picture,
                hint: 0.1,
                probability: BACKGROUND_BIASED,
            }),
            ..dino
        }),
        views: multi_crop(10, 96, [[0.25, 1.0], [0.05, 0.25]], [0.1, 2.0]),
        ..base
    }
}

/// iBOT with the patches hidden that the teacher looks at, but for a few; a hundred epochs, as its authors ran it on a fifth of
/// ImageNet.
pub(super) fn ibot_attmask() -> Config {
    let base = ibot();
    let Method::Dino(dino) = base.method else { unreachable!("iBOT's own recipe") };
    let epochs = 100;
    let patches = dino.patches.clone().map(|p| Patches {
        choice: PatchChoice::Hint,
        ratio: vec![[0.1, 0.5]],
        share: 0.5,
        per: PatchPer::Batch,
        ..p
    });
    Config {
        recipe: Recipe::IbotAttmask,
        epochs,
        method: Method::Dino(Dino {
            // of small data
            momentum_start: 0.99,
            momentum_warmup_epochs: epochs as f64,
            patches,
            ..dino
        }),
        ..base
    }
}

/// iBOT with a third loss, of patches that the teacher looks at in both large views ("Mask Image Modeling on Self-Supervision"):
/// three of each, weight 1, temperature 0.2.
pub(super) fn ibot_dense() -> Config {
    let base = ibot();
    let Method::Dino(dino) = base.method else { unreachable!("iBOT's own recipe") };
    let dense = Dense { weight: 1.0, temperature: 0.2, positives: 3, negatives: 3 };
    Config { recipe: Recipe::IbotDense, method: Method::Dino(Dino { dense: Some(dense), ..dino }), ..base }
}

/// For minutes of time on thousands of small pictures; docs/recipes.md says why each value is what it is.
pub(super) fn ibot_small() -> Config {
    let base = ibot();
    let Method::Dino(dino) = base.method else { unreachable!("iBOT's own recipe") };
    let epochs = 3;
    Config {
        recipe: Recipe::IbotSmall,
        arch: "vit_tiny_patch8_64".into(),
        image_size: 64,
        epochs,
        batch_size: 32,
        optimizer: Optimizer {
            lr: 5e-4,
            beta2: 0.99,
            weight_decay: 0.04,
            weight_decay_end: None,
            warmup_epochs: 0.3,
            ..base.optimizer
        },
        method: Method::Dino(Dino {
            head: Head { dim: 128, hidden: Some(512), bn: false, output_bn: false },
            prototypes: 1024,
            norm_last_layer: true,
            frozen_epochs: 0.1,
            momentum_start: 0.99,
            momentum_warmup_epochs: epochs as f64,
            teacher_temperature: [0.04, 0.04],
            teacher_warmup_epochs: 0,
            drop_path: 0.0,
            ..dino
        }),
        views: multi_crop(4, 32, [[0.25, 1.0], [0.05, 0.25]], [0.1, 1.0]),
        ..base
    }
}
