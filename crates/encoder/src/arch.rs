//! The table of architectures.

use std::fmt;
use std::str::FromStr;

/// An encoder architecture. Names, parameter paths and shapes are torchvision's.
///
/// ResNet: <https://arxiv.org/abs/1512.03385>, in torchvision's variant: the stride of a
/// bottleneck sits in its 3x3 convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// ResNet-18: basic blocks, 512 features.
    ResNet18,
    /// ResNet-34: basic blocks, 512 features.
    ResNet34,
    /// ResNet-50: bottleneck blocks, 2048 features.
    ResNet50,
    /// ResNet-101: bottleneck blocks, 2048 features.
    ResNet101,
}

/// The kind of residual block, and by how much it widens its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Two 3x3 convolutions, expansion 1.
    Basic,
    /// 1x1, 3x3, 1x1 convolutions, expansion 4.
    Bottleneck,
}

impl Block {
    pub(crate) fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// One row of the table.
pub(crate) struct Row {
    arch: Arch,
    name: &'static str,
    pub(crate) block: Block,
    /// Residual blocks of `layer1` .. `layer4`.
    pub(crate) depths: [usize; 4],
}

const ROWS: [Row; 4] = [
    Row { arch: Arch::ResNet18, name: "resnet18", block: Block::Basic, depths: [2, 2, 2, 2] },
    Row { arch: Arch::ResNet34, name: "resnet34", block: Block::Basic, depths: [3, 4, 6, 3] },
    Row { arch: Arch::ResNet50, name: "resnet50", block: Block::Bottleneck, depths: [3, 4, 6, 3] },
    Row { arch: Arch::ResNet101, name: "resnet101", block: Block::Bottleneck, depths: [3, 4, 23, 3] },
];

impl Arch {
    /// Every architecture, smallest first.
    pub const ALL: [Self; 4] = [Self::ResNet18, Self::ResNet34, Self::ResNet50, Self::ResNet101];

    pub(crate) fn row(self) -> &'static Row {
        // One row per variant, in the order of the variants; `rows_match_variants` holds it.
        &ROWS[self as usize]
    }

    /// The name that flags, checkpoints and ONNX metadata use: `resnet50`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Length of the embedding: the channels of the last feature map.
    pub fn feature_dim(self) -> usize {
        512 * self.row().block.expansion()
    }

    /// How many input pixels one cell of the feature map of `stage` (2..=5) covers along each side.
    ///
    /// # Panics
    /// When `stage` is not in 2..=5.
    pub fn stride(self, stage: usize) -> usize {
        assert!((2..=5).contains(&stage), "a ResNet has stages 2 to 5, not {stage}");
        1 << stage
    }

    /// Side of the feature map of `stage` (2..=5) for an input side in pixels: every strided
    /// operation of a ResNet halves, rounding up.
    pub fn feature_side(self, stage: usize, input: usize) -> usize {
        input.div_ceil(self.stride(stage))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not in the table; the message lists those that are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownArch(pub String);

impl fmt::Display for UnknownArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = Arch::ALL.iter().map(|a| a.name()).collect();
        write!(f, "unknown architecture `{}`: expected one of {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownArch {}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        ROWS.iter().find(|r| r.name == s).map(|r| r.arch).ok_or_else(|| UnknownArch(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_match_variants() {
        for arch in Arch::ALL {
            assert_eq!(arch.row().arch, arch);
            assert_eq!(arch.name().parse(), Ok(arch));
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let err = "resnet51".parse::<Arch>().unwrap_err().to_string();
        assert!(err.contains("`resnet51`") && err.contains("resnet50"), "{err}");
    }

    #[test]
    fn feature_sides_round_up() {
        assert_eq!(Arch::ResNet50.feature_side(5, 224), 7);
        assert_eq!(Arch::ResNet50.feature_side(5, 225), 8);
        assert_eq!(Arch::ResNet18.feature_side(3, 64), 8);
    }
}
