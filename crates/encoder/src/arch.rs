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
    /// ResNet-152: bottleneck blocks, 2048 features.
    ResNet152,
    /// ResNeXt-50 (32x4d): grouped 3x3 convolutions, 2048 features. <https://arxiv.org/abs/1611.05431>
    ResNeXt50x32x4d,
    /// ResNeXt-101 (32x8d).
    ResNeXt101x32x8d,
    /// ResNeXt-101 (64x4d).
    ResNeXt101x64x4d,
    /// Wide ResNet-50-2: 3x3 convolutions of twice the width, 2048 features. <https://arxiv.org/abs/1605.07146>
    WideResNet50x2,
    /// Wide ResNet-101-2.
    WideResNet101x2,
    /// ResNet-18 for small pictures: its first convolution is 3x3 with stride 1, and no pooling follows it, as in
    /// SimCLR's networks for CIFAR (<https://arxiv.org/abs/2002.05709>, appendix B.9).
    ResNet18Small,
    /// ResNet-50 for small pictures.
    ResNet50Small,
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

/// What comes before the residual blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// A 7x7 convolution with stride 2, then 3x3 max pooling with stride 2.
    Usual,
    /// A 3x3 convolution with stride 1 alone.
    Small,
}

impl Stem {
    /// Side of its convolution.
    pub(crate) fn kernel(self) -> usize {
        match self {
            Self::Usual => 7,
            Self::Small => 3,
        }
    }

    /// Input pixels along a side of one cell behind it.
    fn stride(self) -> usize {
        match self {
            Self::Usual => 4,
            Self::Small => 1,
        }
    }
}

/// One row of the table.
pub(crate) struct Row {
    arch: Arch,
    name: &'static str,
    pub(crate) block: Block,
    pub(crate) stem: Stem,
    /// Residual blocks of `layer1` .. `layer4`.
    pub(crate) depths: [usize; 4],
    /// Groups of the 3x3 convolutions of bottleneck blocks.
    pub(crate) groups: usize,
    /// Channels of each of these groups in `layer1`; they double from layer to layer.
    pub(crate) width: usize,
}

impl Row {
    /// The same for small pictures.
    const fn small(self) -> Self {
        Self { stem: Stem::Small, ..self }
    }
}

/// A row of basic blocks.
const fn basic(arch: Arch, name: &'static str, depths: [usize; 4]) -> Row {
    Row { arch, name, block: Block::Basic, stem: Stem::Usual, depths, groups: 1, width: 64 }
}

/// A row of bottleneck blocks: `groups` of `width` channels.
const fn bottleneck(
    arch: Arch,
    name: &'static str,
    depths: [usize; 4],
    (groups, width): (usize, usize),
) -> Row {
    Row { arch, name, block: Block::Bottleneck, stem: Stem::Usual, depths, groups, width }
}

const ROWS: [Row; 12] = [
    basic(Arch::ResNet18, "resnet18", [2, 2, 2, 2]),
    basic(Arch::ResNet34, "resnet34", [3, 4, 6, 3]),
    bottleneck(Arch::ResNet50, "resnet50", [3, 4, 6, 3], (1, 64)),
    bottleneck(Arch::ResNet101, "resnet101", [3, 4, 23, 3], (1, 64)),
    bottleneck(Arch::ResNet152, "resnet152", [3, 8, 36, 3], (1, 64)),
    bottleneck(Arch::ResNeXt50x32x4d, "resnext50_32x4d", [3, 4, 6, 3], (32, 4)),
    bottleneck(Arch::ResNeXt101x32x8d, "resnext101_32x8d", [3, 4, 23, 3], (32, 8)),
    bottleneck(Arch::ResNeXt101x64x4d, "resnext101_64x4d", [3, 4, 23, 3], (64, 4)),
    bottleneck(Arch::WideResNet50x2, "wide_resnet50_2", [3, 4, 6, 3], (1, 128)),
    bottleneck(Arch::WideResNet101x2, "wide_resnet101_2", [3, 4, 23, 3], (1, 128)),
    basic(Arch::ResNet18Small, "resnet18-small", [2, 2, 2, 2]).small(),
    bottleneck(Arch::ResNet50Small, "resnet50-small", [3, 4, 6, 3], (1, 64)).small(),
];

impl Arch {
    /// Every architecture, plain ones first, smaller ones before larger ones.
    pub const ALL: [Self; 12] = [
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::ResNet101,
        Self::ResNet152,
        Self::ResNeXt50x32x4d,
        Self::ResNeXt101x32x8d,
        Self::ResNeXt101x64x4d,
        Self::WideResNet50x2,
        Self::WideResNet101x2,
        Self::ResNet18Small,
        Self::ResNet50Small,
    ];

    pub(crate) fn row(self) -> &'static Row {
        // One row per variant, in the order of the variants; `rows_match_variants` holds it.
        &ROWS[self as usize]
    }

    /// The name that flags, checkpoints and ONNX metadata use: `resnet50`, `wide_resnet50_2`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Residual blocks of `layer1` .. `layer4`.
    pub fn blocks(self) -> [usize; 4] {
        self.row().depths
    }

    /// Convolutions and classifier, by which ResNets are numbered: 50.
    pub fn depth(self) -> usize {
        let row = self.row();
        let each = match row.block {
            Block::Basic => 2,
            Block::Bottleneck => 3,
        };
        each * row.depths.iter().sum::<usize>() + 2
    }

    /// What comes before the residual blocks.
    pub fn stem(self) -> Stem {
        self.row().stem
    }

    /// Groups of the 3x3 convolutions: 1 but for ResNeXt.
    pub fn groups(self) -> usize {
        self.row().groups
    }

    /// Channels of one group of the 3x3 convolutions of stage 2 (`layer1`): 64 for plain ResNets.
    pub fn group_width(self) -> usize {
        self.row().width
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
        self.stem().stride() << (stage - 2)
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
    fn depths_are_the_ones_in_the_names() {
        for arch in Arch::ALL {
            let digits: String = arch
                .name()
                .chars()
                .skip_while(|c| !c.is_ascii_digit())
                .take_while(char::is_ascii_digit)
                .collect();
            assert_eq!(digits.parse(), Ok(arch.depth()), "{arch}");
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
        assert_eq!([2, 3, 4, 5].map(|stage| Arch::ResNet18Small.feature_side(stage, 32)), [32, 16, 8, 4]);
    }
}
