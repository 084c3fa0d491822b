//! The table of training recipes: the published protocols for self-supervised encoders
//! (<https://arxiv.org/abs/1911.05722>, section 4.2).

use clap::ValueEnum;
use occlude_encoder::{Arch, ResNet, Stem};

use crate::error::Error;

/// A training recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Recipe {
    /// Mask R-CNN on COCO, C4, 90k iterations.
    #[value(name = "coco-c4-1x")]
    CocoC4_1x,
    /// Mask R-CNN on COCO, C4, 180k iterations.
    #[value(name = "coco-c4-2x")]
    CocoC4_2x,
    /// Mask R-CNN on COCO, FPN, 90k iterations.
    #[value(name = "coco-fpn-1x")]
    CocoFpn1x,
    /// Mask R-CNN on COCO, FPN, 180k iterations.
    #[value(name = "coco-fpn-2x")]
    CocoFpn2x,
    /// Faster R-CNN on VOC 2007+2012, C4, 24k iterations.
    #[value(name = "voc-c4-24k")]
    VocC4_24k,
}

/// What the detector puts on the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The detector runs on `res4`; `res5` and an extra normalisation are its head.
    C4,
    /// A feature pyramid on `res2` to `res5`.
    Fpn,
}

/// Batch normalisation of the detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Norm {
    /// Statistics over all GPUs.
    #[value(name = "syncbn")]
    SyncBn,
    /// The same in Detectron2's older implementation, which MoCo's published settings name.
    #[value(name = "naive-syncbn")]
    NaiveSyncBn,
    /// Statistics of each GPU: for training on a single one.
    #[value(name = "bn")]
    Bn,
}

impl Norm {
    /// Detectron2's name.
    pub fn detectron2(self) -> &'static str {
        match self {
            Self::SyncBn => "SyncBN",
            Self::NaiveSyncBn => "naiveSyncBN",
            Self::Bn => "BN",
        }
    }
}

/// Data sets of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// COCO 2017, 80 classes, with masks.
    Coco,
    /// VOC 2007 and 2012 `trainval`, tested on VOC 2007, 20 classes.
    Voc,
}

/// One row of the table.
pub(crate) struct Row {
    name: &'static str,
    pub(crate) head: Head,
    pub(crate) data: Data,
    /// Iterations after which the learning rate falls, and all of them.
    pub(crate) steps: (u32, u32),
    pub(crate) iterations: u32,
    /// Iterations of the warm-up; Detectron2's default is 1000.
    pub(crate) warmup: u32,
    /// Smallest short side of a training image in pixels; the others follow in steps of 32 up to 800.
    pub(crate) min_size: u32,
}

#[rustfmt::skip]
const ROWS: [Row; 5] = [
    Row { name: "coco-c4-1x", head: Head::C4, data: Data::Coco, steps: (60_000, 80_000), iterations: 90_000, warmup: 1000, min_size: 640 },
    Row { name: "coco-c4-2x", head: Head::C4, data: Data::Coco, steps: (120_000, 160_000), iterations: 180_000, warmup: 1000, min_size: 640 },
    Row { name: "coco-fpn-1x", head: Head::Fpn, data: Data::Coco, steps: (60_000, 80_000), iterations: 90_000, warmup: 1000, min_size: 640 },
    Row { name: "coco-fpn-2x", head: Head::Fpn, data: Data::Coco, steps: (120_000, 160_000), iterations: 180_000, warmup: 1000, min_size: 640 },
    Row { name: "voc-c4-24k", head: Head::C4, data: Data::Voc, steps: (18_000, 22_000), iterations: 24_000, warmup: 100, min_size: 480 },
];

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 5] =
        [Self::CocoC4_1x, Self::CocoC4_2x, Self::CocoFpn1x, Self::CocoFpn2x, Self::VocC4_24k];

    pub(crate) fn row(self) -> &'static Row {
        // One row per variant, in their order; `rows_match_variants` holds it.
        &ROWS[self as usize]
    }

    /// The name that `--recipe` takes.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What is used when none is named.
    pub fn default_for(arch: Arch) -> Self {
        if is_bottleneck(arch) { Self::CocoC4_1x } else { Self::CocoFpn1x }
    }

    /// Whether Detectron2 can build it: its C4 head has bottleneck blocks, which the `res5` of a
    /// smaller encoder does not fit.
    pub fn fits(self, arch: Arch) -> bool {
        self.row().head == Head::Fpn || is_bottleneck(arch)
    }
}

/// The shape of a network that Detectron2 can build.
///
/// # Errors
/// [`Error::NotDetectron`] and [`Error::Transformer`] for others.
pub(crate) fn detectrons(arch: Arch) -> Result<&'static ResNet, Error> {
    match arch.resnet() {
        None => Err(Error::Transformer { arch }),
        Some(row) if row.stem == Stem::Small => Err(Error::NotDetectron { arch }),
        Some(row) => Ok(row),
    }
}

/// Whether the residual blocks widen their input by four.
pub(crate) fn is_bottleneck(arch: Arch) -> bool {
    arch.resnet().is_some_and(ResNet::is_bottleneck)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_match_variants() {
        for recipe in Recipe::ALL {
            let value = recipe.to_possible_value().expect("a value");
            assert_eq!(value.get_name(), recipe.name());
        }
    }

    #[test]
    fn defaults_fit() {
        for arch in Arch::ALL {
            assert!(Recipe::default_for(arch).fits(arch));
        }
        assert!(!Recipe::VocC4_24k.fits(Arch::ResNet18));
    }
}
