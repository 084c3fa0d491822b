//! The named recipes.

use occlude_saliency::MapRule;

use super::*;

/// MoCo v2 on ImageNet: lr 0.03 at batch 256, 8 GPUs (so batches of 32 in the normalisation).
pub(super) fn moco_v2() -> Config {
    Config {
        recipe: Recipe::MocoV2,
        arch: "resnet50".into(),
        image_size: 224,
        trim: true,
        test_size: None,
        epochs: 200,
        batch_size: 256,
        accumulate: 1,
        seed: 0,
        optimizer: Optimizer {
            rule: Rule::Sgd,
            lr: 0.03,
            momentum: 0.9,
            beta2: 0.99,
            weight_decay: 1e-4,
            weight_decay_end: None,
            warmup_epochs: 0.0,
            lr_per: Per::Step,
            schedule: Shape::Cosine,
            lr_end: 0.0,
            milestones: Vec::new(),
            gamma: 0.1,
            decay: Decay::All,
            clip: None,
            clip_by: ClipBy::All,
        },
        method: Method::Moco(Moco {
            head: Head { dim: 128, hidden: None, bn: false, output_bn: false },
            queue: 65536,
            queue_start: QueueStart::Random,
            in_batch: false,
            symmetric: false,
            momentum: 0.999,
            momentum_start: 0.999,
            momentum_warmup_epochs: 0.0,
            temperature: 0.2,
            bn_splits: 8,
            align: None,
        }),
        views: vec![ViewGroup::of(2, moco_views())],
        masking: None,
        beginning: None,
        mixing: None,
    }
}

/// The views of MoCo v2.
pub(super) fn moco_views() -> Augment {
    Augment {
        crop_min: 0.2,
        crop_max: 1.0,
        jitter_p: 0.8,
        jitter: [0.4, 0.4, 0.4, 0.1],
        gray_p: 0.2,
        blur_p: 0.5,
        blur_sigma: [0.1, 2.0],
        solarize_p: 0.0,
        flip_p: 0.5,
        crop_foreground: 0.0,
    }
}

/// The published ImageNet-100 recipe: lr 0.015 at batch 128, hp strategy, one hard negative.
pub(super) fn saliency_moco() -> Config {
    let base = moco_v2();
    Config {
        recipe: Recipe::SaliencyMoco,
        batch_size: 128,
        optimizer: Optimizer { lr: 0.015, ..base.optimizer },
        masking: Some(published_masking()),
        ..base
    }
}

pub(super) fn published_masking() -> Masking {
    Masking {
        saliency: Saliency::Momentum,
        stage: 5,
        block: None,
        rule: MapRule::Sum,
        strategy: Strategy::Hp,
        fills: FillScale::View,
        guidance: Guidance::Saliency,
        choice: Choice::Spread,
        cell_probability: BACKGROUND_BIASED,
        share: 1.0,
        grid: None,
        course: None,
        prior_until: 0.0,
        branch: Branch::Query,
        ratio: [0.05, 0.25],
        negative_ratio: [0.4, 0.7],
        num_nonsem: 1,
        alpha: 2.0,
    }
}

/// The same filter, masks and budget with cells chosen uniformly and no hard negatives.
pub(super) fn mscn_moco() -> Config {
    let masking = Masking { guidance: Guidance::Random, num_nonsem: 0, ..published_masking() };
    Config { recipe: Recipe::MscnMoco, masking: Some(masking), ..saliency_moco() }
}

/// SimCLR on ImageNet: LARS, lr 0.3 for every 256 pictures at batch 4096, colours jittered at strength 1.
pub(super) fn simclr() -> Config {
    let base = moco_v2();
    Config {
        recipe: Recipe::Simclr,
        epochs: 100,
        batch_size: 4096,
        optimizer: Optimizer {
            rule: Rule::Lars,
            lr: 4.8,
            weight_decay: 1e-6,
            warmup_epochs: 10.0,
            decay: Decay::Weights,
            ..base.optimizer
        },
        method: Method::Simclr(Simclr {
            // of the authors' code; without it the common direction of an untrained head stays in all projections
            head: Head { dim: 128, hidden: None, bn: true, output_bn: true },
            temperature: 0.1,
            bn_splits: 1,
        }),
        views: vec![ViewGroup::of(
            2,
            Augment { crop_min: 0.08, jitter: [0.8, 0.8, 0.8, 0.2], ..moco_views() },
        )],
        ..base
    }
}

/// SimCLR with one view masked and one hard negative a pair, made from the other view. The published factor on hard
/// negatives would push pairs apart from a cosine of 0.45 on at this temperature and batch ([`Config::warnings`]).
pub(super) fn saliency_simclr() -> Config {
    let masking = Masking { alpha: 1.0, ..published_masking() };
    Config { recipe: Recipe::SaliencySimclr, masking: Some(masking), ..simclr() }
}

/// The head of small recipes.
pub(super) const SMALL_HEAD: Head = Head { dim: 128, hidden: Some(1024), bn: true, output_bn: false };

/// MoCo's views with a blur for small pictures.
pub(super) fn small_views() -> Augment {
    Augment { blur_sigma: [0.1, 1.0], ..moco_views() }
}

/// For tens of passes over thousands of small pictures; docs/recipes.md says why each value is what it is.
pub(super) fn saliency_moco_small() -> Config {
    let base = saliency_moco();
    Config {
        recipe: Recipe::SaliencyMocoSmall,
        arch: "resnet18".into(),
        image_size: 64,
        epochs: 15,
        batch_size: 128,
        optimizer: Optimizer {
            rule: Rule::Adamw,
            lr: 1e-3,
            weight_decay: 0.05,
            warmup_epochs: 0.5,
            decay: Decay::Weights,
            ..base.optimizer
        },
        method: Method::Moco(Moco {
            head: SMALL_HEAD,
            queue: 0,
            queue_start: QueueStart::Empty,
            in_batch: true,
            symmetric: false,
            momentum: 0.99,
            momentum_start: 0.95,
            momentum_warmup_epochs: 15.0,
            temperature: 0.1,
            bn_splits: 1,
            align: None,
        }),
        views: vec![ViewGroup::of(2, small_views())],
        masking: base.masking.map(|m| Masking {
            strategy: Strategy::Blur,
            stage: 4,
            num_nonsem: 0,
            alpha: 1.0,
            ..m
        }),
        ..base
    }
}

/// For tens of passes over thousands of small pictures; docs/recipes.md says why each value is what it is.
pub(super) fn simclr_small() -> Config {
    let base = saliency_moco_small();
    Config {
        recipe: Recipe::SimclrSmall,
        method: Method::Simclr(Simclr {
            head: Head { output_bn: true, ..SMALL_HEAD },
            temperature: 0.1,
            bn_splits: 1,
        }),
        views: vec![ViewGroup::of(2, Augment { crop_min: 0.08, ..small_views() })],
        masking: None,
        ..base
    }
}

/// The published ImageNet recipes of MixMask and Un-Mix: MoCo v2's, with mixtures. Blocks on a grid of 8, one mask
/// a batch.
pub(super) fn mixed(recipe: Recipe, mix: Mix) -> Config {
    Config { recipe, mixing: Some(Mixing { mix, mask: mix_mask() }), ..moco_v2() }
}

pub(super) fn mix_mask() -> MixMask {
    MixMask { pattern: Pattern::Block, grid: 8, share: 0.5, per: MixPer::Batch }
}

/// For tens of passes over thousands of small pictures. A target is of the whole picture, so that views show most of it.
pub(super) fn distill() -> Config {
    let base = saliency_moco_small();
    let views =
        Augment { crop_min: 0.4, jitter: [0.2, 0.2, 0.2, 0.05], gray_p: 0.1, blur_p: 0.0, ..moco_views() };
    Config {
        recipe: Recipe::Distill,
        epochs: 20,
        optimizer: Optimizer { warmup_epochs: 1.0, ..base.optimizer },
        method: Method::Distill(Distill {
            head: Head { dim: 256, hidden: Some(1024), bn: true, output_bn: false },
            relation_weight: 1.0,
            cells: None,
            teacher: None,
        }),
        views: vec![ViewGroup::of(1, views)],
        masking: None,
        ..base
    }
}
