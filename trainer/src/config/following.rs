//! The recipes in which a network learns what its own moving average says: BYOL and LEWEL.

use super::recipes::{SMALL_HEAD, moco_v2, moco_views, saliency_moco_small, small_views};
use super::*;

/// Two views drawn apart: the first always blurred, the second rarely, and sometimes solarised (arXiv 2006.07733,
/// appendix B). `rest`: what both have in common.
pub(super) fn apart(rest: &Augment) -> Vec<ViewGroup> {
    let first = Augment { blur_p: 1.0, solarize_p: 0.0, ..rest.clone() };
    let second = Augment { blur_p: 0.1, solarize_p: 0.2, ..rest.clone() };
    vec![ViewGroup::of(1, first), ViewGroup::of(1, second)]
}

fn lars(lr: f64, weight_decay: f64) -> Optimizer {
    Optimizer {
        rule: Rule::Lars,
        lr,
        weight_decay,
        warmup_epochs: 10.0,
        decay: Decay::Weights,
        ..moco_v2().optimizer
    }
}

/// BYOL on ImageNet: LARS, lr 0.2 for every 256 pictures at batch 4096.
pub(super) fn byol() -> Config {
    let views = Augment { crop_min: 0.08, jitter: [0.4, 0.4, 0.2, 0.1], ..moco_views() };
    Config {
        recipe: Recipe::Byol,
        epochs: 1000,
        batch_size: 4096,
        optimizer: lars(3.2, 1.5e-6),
        method: Method::Byol(Byol {
            head: Head { dim: 256, hidden: Some(4096), bn: true, output_bn: false },
            predictor: 4096,
            momentum: 1.0,
            momentum_start: 0.996,
            momentum_warmup_epochs: 1000.0,
            target: TargetNorm::Batch,
            bn_splits: 1,
            align: None,
        }),
        views: apart(&views),
        ..moco_v2()
    }
}

/// The published scripts' values.
const ALIGN: Align = Align { heads: 4, scale: 1.0, weight: 0.5 };

/// LEWEL on BYOL; the published runs have SyncBN, which in one process is plain normalisation.
pub(super) fn lewel_b() -> Config {
    let views = Augment { jitter: [0.4, 0.4, 0.2, 0.1], ..moco_views() };
    let base = byol();
    let Method::Byol(byol) = base.method else { unreachable!("BYOL's own recipe") };
    Config {
        recipe: Recipe::LewelB,
        epochs: 400,
        batch_size: 4096,
        optimizer: lars(7.2, 1e-6),
        method: Method::Byol(Byol { momentum_warmup_epochs: 400.0, align: Some(ALIGN), ..byol }),
        views: apart(&views),
        ..moco_v2()
    }
}

/// LEWEL on BYOL whose target normalises by averaged statistics.
pub(super) fn lewel_b_eman() -> Config {
    let base = lewel_b();
    let Method::Byol(byol) = base.method else { unreachable!("BYOL's own recipe") };
    Config {
        recipe: Recipe::LewelBEman,
        epochs: 200,
        batch_size: 1024,
        optimizer: lars(3.6, 1.5e-6),
        method: Method::Byol(Byol {
            momentum_start: 0.98,
            momentum_warmup_epochs: 200.0,
            target: TargetNorm::Eman,
            ..byol
        }),
        ..base
    }
}

/// LEWEL on MoCo v2. The paper does not give its head: dimension and width are MoCo's, the rest as on BYOL.
pub(super) fn lewel_m() -> Config {
    let base = moco_v2();
    let Method::Moco(moco) = base.method else { unreachable!("MoCo's own recipe") };
    let head = Head { bn: true, ..moco.head };
    Config { recipe: Recipe::LewelM, method: Method::Moco(Moco { head, align: Some(ALIGN), ..moco }), ..base }
}

/// For tens of passes over thousands of small pictures; docs/recipes.md says why each value is what it is.
pub(super) fn byol_small() -> Config {
    let base = saliency_moco_small();
    let views = Augment { jitter: [0.4, 0.4, 0.2, 0.1], ..small_views() };
    Config {
        recipe: Recipe::ByolSmall,
        method: Method::Byol(Byol {
            head: SMALL_HEAD,
            predictor: 1024,
            momentum: 1.0,
            momentum_start: 0.99,
            momentum_warmup_epochs: base.epochs as f64,
            target: TargetNorm::Batch,
            bn_splits: 1,
            align: None,
        }),
        views: apart(&views),
        masking: None,
        ..base
    }
}

/// The same with aligned embeddings and averaged normalisation.
pub(super) fn lewel_small() -> Config {
    let base = byol_small();
    let Method::Byol(byol) = base.method else { unreachable!("BYOL's own recipe") };
    Config {
        recipe: Recipe::LewelSmall,
        method: Method::Byol(Byol {
            target: TargetNorm::Eman,
            momentum_start: 0.98,
            align: Some(ALIGN),
            ..byol
        }),
        ..base
    }
}
