//! The settings, and their YAML.
//!
//! The keys are Detectron2's: <https://detectron2.readthedocs.io/en/latest/modules/config.html>.
//! Whatever equals its defaults for every recipe is left out.

use std::path::Path;

use occlude_encoder::Arch;

use crate::contract::Normalisation;
use crate::recipe::{Data, Head, Norm, Recipe, is_bottleneck};

/// Settings as (dotted key, YAML value), those of one section next to each other; and what the reader
/// of the file should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Lines at the head of the file.
    pub comments: Vec<String>,
    /// (`MODEL.RESNETS.DEPTH`, `50`).
    pub values: Vec<(&'static str, String)>,
}

/// Everything that the weights and the recipe ask for.
///
/// `weights` is written as it is given: Detectron2 takes it relative to the folder that training
/// starts in.
pub fn settings(
    arch: Arch,
    recipe: Recipe,
    norm: Norm,
    normalisation: &Normalisation,
    weights: &Path,
) -> Settings {
    let mut s = Settings::default();
    s.comments(arch, recipe, norm, normalisation);
    s.set("MODEL.META_ARCHITECTURE", quoted("GeneralizedRCNN"));
    s.set("MODEL.WEIGHTS", quoted(&weights.to_string_lossy()));
    s.set("MODEL.MASK_ON", python_bool(recipe.row().data == Data::Coco));
    s.set("MODEL.PIXEL_MEAN", list(&normalisation.mean));
    s.set("MODEL.PIXEL_STD", list(&normalisation.std));
    s.encoder(arch, norm, recipe.row().head);
    match recipe.row().head {
        Head::C4 => s.c4(recipe.row().data),
        Head::Fpn => s.fpn(recipe.row().data, norm),
    }
    s.schedule(recipe);
    s
}

impl Settings {
    fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.values.push((key, value.into()));
    }

    fn comments(&mut self, arch: Arch, recipe: Recipe, norm: Norm, normalisation: &Normalisation) {
        let mut say = |line: String| self.comments.push(line);
        say(format!(
            "Detectron2 settings for {arch}, recipe {}, written by occlude-detectron {}.",
            recipe.name(),
            env!("CARGO_PKG_VERSION")
        ));
        if let Some((kernel, sigma)) = normalisation.high_pass {
            say(format!(
                "WARNING: this encoder was trained on high-pass filtered images (x - blur(x), kernel {kernel}, sigma {sigma},"
            ));
            say("after normalisation). Detectron2 has no such filter and will feed it unfiltered images: expect worse".into());
            say("results than the encoder can give, unless the data loader is changed to apply the filter."
                .into());
        }
        say("WEIGHTS is relative to the folder that training starts in.".into());
        if recipe.row().head == Head::C4 {
            say("Res5ROIHeadsExtraNorm is Res5ROIHeads with one more normalisation after res5; the training script has".into());
            say("to register it, as that of `occlude-detectron driver` does.".into());
        }
        if norm != Norm::Bn {
            say(format!(
                "{} needs several processes; on one GPU, set the NORMs to BN (`--norm bn`; the driver does it).",
                norm.detectron2()
            ));
        }
        say("BASE_LR goes with 16 images per batch: scale both together, and the steps the other way.".into());
    }

    fn encoder(&mut self, arch: Arch, norm: Norm, head: Head) {
        if head == Head::Fpn {
            self.set("MODEL.BACKBONE.NAME", quoted("build_resnet_fpn_backbone"));
        }
        self.set("MODEL.BACKBONE.FREEZE_AT", "0");
        // Other networks have been refused.
        let Some(row) = arch.resnet() else { return };
        self.set("MODEL.RESNETS.DEPTH", row.depth().to_string());
        let res2 = if is_bottleneck(arch) { 256 } else { 64 };
        self.set("MODEL.RESNETS.RES2_OUT_CHANNELS", res2.to_string());
        // Detectron2's defaults are 1 and 64.
        if (row.groups, row.width) != (1, 64) {
            self.set("MODEL.RESNETS.NUM_GROUPS", row.groups.to_string());
            self.set("MODEL.RESNETS.WIDTH_PER_GROUP", row.width.to_string());
        }
        // torchvision strides in the 3x3 convolution, MSRA's original in the 1x1.
        self.set("MODEL.RESNETS.STRIDE_IN_1X1", "False");
        self.set("MODEL.RESNETS.NORM", quoted(norm.detectron2()));
        if head == Head::Fpn {
            self.set("MODEL.RESNETS.OUT_FEATURES", names(&["res2", "res3", "res4", "res5"]));
        }
    }

    fn c4(&mut self, data: Data) {
        self.set("MODEL.RPN.PRE_NMS_TOPK_TEST", "6000");
        self.set("MODEL.RPN.POST_NMS_TOPK_TEST", "1000");
        self.set("MODEL.ROI_HEADS.NAME", quoted("Res5ROIHeadsExtraNorm"));
        self.set("MODEL.ROI_HEADS.NUM_CLASSES", classes(data));
    }

    fn fpn(&mut self, data: Data, norm: Norm) {
        let norm = quoted(norm.detectron2());
        let pyramid = ["p2", "p3", "p4", "p5", "p6"];
        self.set("MODEL.FPN.IN_FEATURES", names(&["res2", "res3", "res4", "res5"]));
        self.set("MODEL.FPN.NORM", norm.clone());
        self.set("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]");
        self.set("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5, 1.0, 2.0]]");
        self.set("MODEL.RPN.IN_FEATURES", names(&pyramid));
        self.set("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "2000");
        self.set("MODEL.RPN.PRE_NMS_TOPK_TEST", "1000");
        self.set("MODEL.RPN.POST_NMS_TOPK_TRAIN", "1000");
        self.set("MODEL.RPN.POST_NMS_TOPK_TEST", "1000");
        self.set("MODEL.ROI_HEADS.NAME", quoted("StandardROIHeads"));
        self.set("MODEL.ROI_HEADS.NUM_CLASSES", classes(data));
        self.set("MODEL.ROI_HEADS.IN_FEATURES", names(&["p2", "p3", "p4", "p5"]));
        self.set("MODEL.ROI_BOX_HEAD.NAME", quoted("FastRCNNConvFCHead"));
        self.set("MODEL.ROI_BOX_HEAD.NUM_CONV", "4");
        self.set("MODEL.ROI_BOX_HEAD.NUM_FC", "1");
        self.set("MODEL.ROI_BOX_HEAD.NORM", norm.clone());
        self.set("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7");
        self.set("MODEL.ROI_MASK_HEAD.NAME", quoted("MaskRCNNConvUpsampleHead"));
        self.set("MODEL.ROI_MASK_HEAD.NUM_CONV", "4");
        self.set("MODEL.ROI_MASK_HEAD.NORM", norm);
        self.set("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "14");
    }

    fn schedule(&mut self, recipe: Recipe) {
        let row = recipe.row();
        let (train, test): (&[&str], &[&str]) = match row.data {
            Data::Coco => (&["coco_2017_train"], &["coco_2017_val"]),
            Data::Voc => (&["voc_2007_trainval", "voc_2012_trainval"], &["voc_2007_test"]),
        };
        // Detectron2 reads BGR unless told otherwise.
        self.set("INPUT.FORMAT", quoted("RGB"));
        let sizes: Vec<f64> = (row.min_size..=800).step_by(32).map(f64::from).collect();
        self.set("INPUT.MIN_SIZE_TRAIN", list(&sizes));
        self.set("INPUT.MIN_SIZE_TEST", "800");
        self.set("DATASETS.TRAIN", names(train));
        self.set("DATASETS.TEST", names(test));
        self.set("SOLVER.IMS_PER_BATCH", "16");
        self.set("SOLVER.BASE_LR", "0.02");
        self.set("SOLVER.STEPS", list(&[row.steps.0.into(), row.steps.1.into()]));
        self.set("SOLVER.MAX_ITER", row.iterations.to_string());
        self.set("SOLVER.WARMUP_ITERS", row.warmup.to_string());
        // Running statistics of small detection batches are too noisy to test with.
        self.set("TEST.PRECISE_BN.ENABLED", "True");
        self.set("VERSION", "2");
    }

    /// The YAML, sections nested by the dots of the keys.
    pub fn yaml(&self) -> String {
        let mut text: String = self.comments.iter().map(|line| format!("# {line}\n")).collect();
        let mut open: Vec<&str> = Vec::new();
        for (key, value) in &self.values {
            let mut sections: Vec<&str> = key.split('.').collect();
            let leaf = sections.pop().unwrap_or_default();
            let common = open.iter().zip(&sections).take_while(|(a, b)| a == b).count();
            for (depth, section) in sections.iter().enumerate().skip(common) {
                text.push_str(&format!("{}{section}:\n", "  ".repeat(depth)));
            }
            text.push_str(&format!("{}{leaf}: {value}\n", "  ".repeat(sections.len())));
            open = sections;
        }
        text
    }
}

fn classes(data: Data) -> &'static str {
    match data {
        Data::Coco => "80",
        Data::Voc => "20",
    }
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn names(items: &[&str]) -> String {
    format!("[{}]", items.iter().map(|i| quoted(i)).collect::<Vec<_>>().join(", "))
}

fn list(numbers: &[f64]) -> String {
    format!("[{}]", numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(", "))
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}
