//! The table of architectures.

use std::fmt;
use std::str::FromStr;

use crate::vit::Vit;

/// An encoder architecture. Names, parameter paths and shapes are torchvision's; those of vision transformers timm's.
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
    /// A vision transformer.
    Vit(Vit),
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

/// The shape of a ResNet: one row of the table.
#[derive(Debug)]
pub struct ResNet {
    arch: Arch,
    name: &'static str,
    pub(crate) block: Block,
    /// What comes before the residual blocks.
    pub stem: Stem,
    /// Residual blocks of `layer1` .. `layer4`.
    pub depths: [usize; 4],
    /// Groups of the 3x3 convolutions of bottleneck blocks: 1 but for ResNeXt.
    pub groups: usize,
    /// Channels of each of these groups in `layer1`; they double from layer to layer. 64 for plain ones.
    pub width: usize,
}

impl ResNet {
    /// The same for small pictures.
    const fn small(self) -> Self {
        Self { stem: Stem::Small, ..self }
    }

    /// Convolutions and classifier, by which ResNets are numbered: 50.
    pub fn depth(&self) -> usize {
        let each = match self.block {
            Block::Basic => 2,
            Block::Bottleneck => 3,
        };
        each * self.depths.iter().sum::<usize>() + 2
    }

    /// Whether residual blocks widen their input by four.
    pub fn is_bottleneck(&self) -> bool {
        self.block == Block::Bottleneck
    }

    /// How many input pixels one cell of the feature map of `stage` (2 to 5) covers along each side.
    pub fn stride(&self, stage: usize) -> usize {
        self.stem.stride() << stage.saturating_sub(2)
    }
}

/// A row of basic blocks.
const fn basic(arch: Arch, name: &'static str, depths: [usize; 4]) -> ResNet {
    ResNet { arch, name, block: Block::Basic, stem: Stem::Usual, depths, groups: 1, width: 64 }
}

/// A row of bottleneck blocks: `groups` of `width` channels.
const fn bottleneck(
    arch: Arch,
    name: &'static str,
    depths: [usize; 4],
    (groups, width): (usize, usize),
) -> ResNet {
    ResNet { arch, name, block: Block::Bottleneck, stem: Stem::Usual, depths, groups, width }
}

const ROWS: [ResNet; 12] = [
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
    /// Every ResNet, plain ones first, smaller ones before larger ones.
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

    /// The shape of a ResNet; `None` for a vision transformer.
    pub fn resnet(self) -> Option<&'static ResNet> {
        ROWS.iter().find(|row| row.arch == self)
    }

    /// The shape of a vision transformer; `None` for a ResNet.
    pub fn vit(self) -> Option<Vit> {
        match self {
            Self::Vit(vit) => Some(vit),
            _ => None,
        }
    }

    /// The name that flags, checkpoints and ONNX metadata use: `resnet50`, `wide_resnet50_2`, `vit_small_patch16_224`.
    pub fn name(self) -> String {
        self.to_string()
    }

    /// Length of the embedding: the channels of the last feature map, or of the class token.
    pub fn feature_dim(self) -> usize {
        match self {
            Self::Vit(vit) => vit.width,
            _ => 512 * self.resnet().map_or(1, |row| row.block.expansion()),
        }
    }

    /// Side of the feature map of `stage` (2 to 5) for an input side in pixels: every strided operation of a ResNet
    /// halves, rounding up. A vision transformer has one grid of patches throughout.
    pub fn feature_side(self, stage: usize, input: usize) -> usize {
        match self.resnet() {
            Some(row) => input.div_ceil(row.stride(stage)),
            None => input / self.vit().map_or(1, |vit| vit.patch),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vit(vit) => vit.fmt(f),
            _ => f.write_str(self.resnet().map_or("", |row| row.name)),
        }
    }
}

/// A name that no architecture has; the message lists those that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownArch {
    name: String,
    /// What is wrong with the name of a vision transformer.
    reason: Option<String>,
}

impl fmt::Display for UnknownArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown architecture `{}`: ", self.name)?;
        if let Some(reason) = &self.reason {
            return f.write_str(reason);
        }
        let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        write!(f, "expected one of {}, or a vision transformer like vit_small_patch16_224", known.join(", "))
    }
}

impl std::error::Error for UnknownArch {}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some(row) = ROWS.iter().find(|row| row.name == s) {
            return Ok(row.arch);
        }
        let unknown = |reason| UnknownArch { name: s.to_owned(), reason };
        match s.starts_with("vit") || s.starts_with("deit") {
            true => s.parse().map(Self::Vit).map_err(|reason| unknown(Some(reason))),
            false => Err(unknown(None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_match_variants() {
        for arch in Arch::ALL {
            assert_eq!(arch.resnet().map(|row| row.arch), Some(arch));
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
            assert_eq!(digits.parse().ok(), arch.resnet().map(ResNet::depth), "{arch}");
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let err = "resnet51".parse::<Arch>().unwrap_err().to_string();
        assert!(err.contains("`resnet51`") && err.contains("resnet50") && err.contains("vit_small"), "{err}");
        let err = "vit_small_patch16_100".parse::<Arch>().unwrap_err().to_string();
        assert!(err.contains("`vit_small_patch16_100`: patches of 16 pixels do not fill 100"), "{err}");
    }

    #[test]
    fn vision_transformers_are_named_by_their_shape() {
        let arch: Arch = "vit_small_patch14_reg4_ls_518".parse().expect("a network");
        assert_eq!((arch.name().as_str(), arch.feature_dim()), ("vit_small_patch14_reg4_ls_518", 384));
        assert_eq!([2, 5].map(|stage| arch.feature_side(stage, 224)), [16, 16]);
        assert!(arch.resnet().is_none() && arch.vit().is_some_and(|vit| vit.registers == 4));
    }

    #[test]
    fn feature_sides_round_up() {
        assert_eq!(Arch::ResNet50.feature_side(5, 224), 7);
        assert_eq!(Arch::ResNet50.feature_side(5, 225), 8);
        assert_eq!(Arch::ResNet18.feature_side(3, 64), 8);
        assert_eq!([2, 3, 4, 5].map(|stage| Arch::ResNet18Small.feature_side(stage, 32)), [32, 16, 8, 4]);
    }
}
