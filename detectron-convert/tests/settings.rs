//! The YAMLs against the published settings.
//!
//! C4: <https://github.com/facebookresearch/moco/tree/main/detection/configs>. FPN: Detectron2's
//! `Base-RCNN-FPN.yaml` with the changes of `Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml` (normalisation everywhere,
//! 4conv1fc), which later papers took over for self-supervised encoders.

use std::collections::BTreeMap;
use std::path::Path;

use occlude_detectron::{Norm, Normalisation, Recipe, settings};
use occlude_encoder::Arch;

fn values(arch: Arch, recipe: Recipe, norm: Norm) -> BTreeMap<&'static str, String> {
    let settings = settings(arch, recipe, norm, &Normalisation::imagenet(), Path::new("x.pkl"));
    let count = settings.values.len();
    let values: BTreeMap<_, _> = settings.values.into_iter().collect();
    assert_eq!(values.len(), count, "a key is set twice");
    values
}

fn holds(recipe: Recipe, expected: &[(&str, &str)]) {
    let values = values(Arch::ResNet50, recipe, Norm::SyncBn);
    for (key, value) in expected {
        assert_eq!(values.get(key).map(String::as_str), Some(*value), "{}: {key}", recipe.name());
    }
}

#[test]
fn every_recipe_fits_an_encoder_of_torchvisions_kind() {
    for recipe in Recipe::ALL {
        holds(
            recipe,
            &[
                ("INPUT.FORMAT", "\"RGB\""),
                ("INPUT.MIN_SIZE_TEST", "800"),
                ("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"),
                ("MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
                ("MODEL.BACKBONE.FREEZE_AT", "0"),
                ("MODEL.RESNETS.DEPTH", "50"),
                ("MODEL.RESNETS.NORM", "\"SyncBN\""),
                ("MODEL.RESNETS.STRIDE_IN_1X1", "False"),
                ("SOLVER.BASE_LR", "0.02"),
                ("SOLVER.IMS_PER_BATCH", "16"),
                ("TEST.PRECISE_BN.ENABLED", "True"),
            ],
        );
    }
}

#[test]
fn c4_has_the_extra_normalisation() {
    for recipe in [Recipe::CocoC4_1x, Recipe::CocoC4_2x, Recipe::VocC4_24k] {
        holds(
            recipe,
            &[
                ("MODEL.ROI_HEADS.NAME", "\"Res5ROIHeadsExtraNorm\""),
                ("MODEL.RPN.PRE_NMS_TOPK_TEST", "6000"),
                ("MODEL.RPN.POST_NMS_TOPK_TEST", "1000"),
            ],
        );
    }
}

#[test]
fn fpn_normalises_everywhere_and_has_a_4conv1fc_head() {
    for recipe in [Recipe::CocoFpn1x, Recipe::CocoFpn2x] {
        holds(
            recipe,
            &[
                ("MODEL.BACKBONE.NAME", "\"build_resnet_fpn_backbone\""),
                ("MODEL.RESNETS.OUT_FEATURES", "[\"res2\", \"res3\", \"res4\", \"res5\"]"),
                ("MODEL.FPN.NORM", "\"SyncBN\""),
                ("MODEL.ROI_HEADS.NAME", "\"StandardROIHeads\""),
                ("MODEL.ROI_BOX_HEAD.NAME", "\"FastRCNNConvFCHead\""),
                ("MODEL.ROI_BOX_HEAD.NUM_CONV", "4"),
                ("MODEL.ROI_BOX_HEAD.NUM_FC", "1"),
                ("MODEL.ROI_BOX_HEAD.NORM", "\"SyncBN\""),
                ("MODEL.ROI_MASK_HEAD.NUM_CONV", "4"),
                ("MODEL.ROI_MASK_HEAD.NORM", "\"SyncBN\""),
                ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "2000"),
            ],
        );
    }
}

#[test]
fn schedules() {
    let coco = "[640, 672, 704, 736, 768, 800]";
    let voc = "[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]";
    for (recipe, steps, iterations, warmup, sizes) in [
        (Recipe::CocoC4_1x, "[60000, 80000]", "90000", "1000", coco),
        (Recipe::CocoC4_2x, "[120000, 160000]", "180000", "1000", coco),
        (Recipe::CocoFpn1x, "[60000, 80000]", "90000", "1000", coco),
        (Recipe::CocoFpn2x, "[120000, 160000]", "180000", "1000", coco),
        (Recipe::VocC4_24k, "[18000, 22000]", "24000", "100", voc),
    ] {
        holds(
            recipe,
            &[
                ("SOLVER.STEPS", steps),
                ("SOLVER.MAX_ITER", iterations),
                ("SOLVER.WARMUP_ITERS", warmup),
                ("INPUT.MIN_SIZE_TRAIN", sizes),
            ],
        );
    }
}

#[test]
fn data_sets_and_masks() {
    holds(
        Recipe::CocoC4_1x,
        &[
            ("DATASETS.TRAIN", "[\"coco_2017_train\"]"),
            ("DATASETS.TEST", "[\"coco_2017_val\"]"),
            ("MODEL.MASK_ON", "True"),
            ("MODEL.ROI_HEADS.NUM_CLASSES", "80"),
        ],
    );
    holds(
        Recipe::VocC4_24k,
        &[
            ("DATASETS.TRAIN", "[\"voc_2007_trainval\", \"voc_2012_trainval\"]"),
            ("DATASETS.TEST", "[\"voc_2007_test\"]"),
            ("MODEL.MASK_ON", "False"),
            ("MODEL.ROI_HEADS.NUM_CLASSES", "20"),
        ],
    );
}

#[test]
fn small_encoders_have_narrow_stages() {
    let values = values(Arch::ResNet18, Recipe::CocoFpn1x, Norm::Bn);
    assert_eq!(values["MODEL.RESNETS.RES2_OUT_CHANNELS"], "64");
    assert_eq!(values["MODEL.RESNETS.DEPTH"], "18");
}

#[test]
fn the_norm_is_everywhere_the_same() {
    for (norm, name) in [(Norm::Bn, "\"BN\""), (Norm::NaiveSyncBn, "\"naiveSyncBN\"")] {
        let values = values(Arch::ResNet50, Recipe::CocoFpn1x, norm);
        let norms: Vec<_> = values.iter().filter(|(key, _)| key.ends_with(".NORM")).collect();
        assert_eq!(norms.len(), 4);
        assert!(norms.iter().all(|(_, value)| *value == name), "{norms:?}");
    }
}

/// A base file would have to be found on the user's machine.
#[test]
fn the_yaml_stands_alone() {
    for recipe in Recipe::ALL {
        let settings =
            settings(Arch::ResNet50, recipe, Norm::SyncBn, &Normalisation::imagenet(), Path::new("x.pkl"));
        let yaml = settings.yaml();
        assert!(!yaml.contains("_BASE_") && yaml.contains("\n  WEIGHTS: \"x.pkl\"\n"), "{yaml}");
    }
}

/// The inner channels of Detectron2's blocks are groups times width.
#[test]
fn groups_and_widths_are_said_where_they_are_not_the_usual_ones() {
    let of = |arch: Arch| {
        let values = values(arch, Recipe::CocoC4_1x, Norm::SyncBn);
        let get = |key: &str| values.get(key).cloned();
        let [groups, width, depth] = ["NUM_GROUPS", "WIDTH_PER_GROUP", "DEPTH"];
        let key = |leaf: &str| get(&format!("MODEL.RESNETS.{leaf}"));
        (key(depth), key(groups), key(width))
    };
    let said = |depth: &str, groups: &str, width: &str| {
        (Some(depth.to_owned()), Some(groups.to_owned()), Some(width.to_owned()))
    };
    assert_eq!(of(Arch::ResNet152), (Some("152".to_owned()), None, None));
    assert_eq!(of(Arch::WideResNet50x2), said("50", "1", "128"));
    assert_eq!(of(Arch::ResNeXt101x32x8d), said("101", "32", "8"));
}
