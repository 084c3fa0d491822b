//! The graph of operations, the parameters that each of them owns, and the places where values are tapped.

mod params;
mod resnet;
mod vit;

use std::ops::Index;

use crate::arch::Arch;
use crate::vit::Vit;

/// Index of a node in [`Graph::nodes`]. Inputs of a node always have smaller indices.
pub type NodeId = usize;

/// What a node computes. Feature maps are `(N, C, H, W)`, tokens `(N, T, D)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The image, `(N, 3, H, W)`, already normalised.
    Input,
    /// 2-D convolution without bias, square kernel; parameter `weight` `(out, in / groups, kernel, kernel)`.
    Conv {
        /// Input channels.
        in_channels: usize,
        /// Output channels.
        out_channels: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Stride along both sides.
        stride: usize,
        /// Zero padding on each side.
        padding: usize,
        /// Groups of channels that see only each other.
        groups: usize,
    },
    /// Batch normalisation over `channels` with [`Graph::BN_EPS`] and [`Graph::BN_MOMENTUM`].
    BatchNorm {
        /// Channels.
        channels: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// Max pooling, square window, padded with minus infinity.
    MaxPool {
        /// Side of the window.
        kernel: usize,
        /// Stride along both sides.
        stride: usize,
        /// Padding on each side.
        padding: usize,
    },
    /// Sum of two values of one shape.
    Add,
    /// Mean over height and width: `(N, C, H, W)` -> `(N, C)`.
    GlobalAvgPool,
    /// The picture's patches as tokens, row by row: `(N, 3, H, W)` -> `(N, h w, channels)`; a convolution whose stride is
    /// its kernel's side, with a bias.
    Patches {
        /// Length of a token.
        channels: usize,
        /// Side of a patch.
        side: usize,
    },
    /// Puts the class token before all others.
    ClassToken {
        /// Length of a token.
        channels: usize,
    },
    /// Adds the positions; for another number of patches they are resized bicubically, with antialiasing.
    Position {
        /// Length of a token.
        channels: usize,
        /// Patches along a side that there are positions for.
        grid: usize,
        /// Whether the first of them is the class token's.
        class: bool,
    },
    /// Puts more tokens behind the class token.
    Registers {
        /// Length of a token.
        channels: usize,
        /// How many.
        count: usize,
    },
    /// Normalises each token.
    LayerNorm {
        /// Length of a token.
        channels: usize,
        /// The negative power of ten that is added to variances.
        eps: u8,
    },
    /// Each token by a matrix and a bias.
    Linear {
        /// Length before.
        inputs: usize,
        /// Length behind.
        outputs: usize,
    },
    /// `x` times the normal distribution's function of it, exactly.
    Gelu,
    /// SwiGLU: the second half of each token times `x sigmoid(x)` of the first.
    Gate,
    /// Each channel by a factor.
    LayerScale {
        /// Length of a token.
        channels: usize,
    },
    /// In training drops the value of some pictures, the more of them the later the block; otherwise nothing.
    DropPath {
        /// Which block, from 0.
        block: usize,
        /// How many there are.
        blocks: usize,
    },
    /// How much each token looks at each: queries, keys and values `(N, T, 3 D)` -> `(N, heads, T, T)`, rows of which add
    /// up to one.
    Scores {
        /// Heads.
        heads: usize,
    },
    /// What they see: scores, and queries, keys and values -> `(N, T, D)`.
    Mix {
        /// Heads.
        heads: usize,
    },
    /// The first token: `(N, T, D)` -> `(N, D)`.
    First,
}

/// One operation of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Module path in torchvision's naming, unique in the graph: `layer1.0.conv1`.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The nodes it reads, in order.
    pub inputs: Vec<NodeId>,
    /// What it computes with, in the order of torchvision's state dict.
    pub params: Vec<Param>,
}

impl Node {
    /// Its parameter of that role.
    pub fn param(&self, kind: ParamKind) -> Option<&Param> {
        self.params.iter().find(|p| p.kind == kind)
    }
}

/// What a value is that can be tapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapKind {
    /// A feature map, `(N, channels, h, w)`.
    Map,
    /// Tokens, `(N, T, channels)`: the class token, registers, and patches row by row.
    Tokens,
    /// How much each token looks at each, `(N, channels, T, T)`, where channels are heads.
    Attention,
}

/// A value inside the network that others may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Unique in the graph: `res2` .. `res5`, as Detectron2 calls the outputs of `layer1` .. `layer4`, or `block0` ..,
    /// `attention0` .. and `tokens`, the normalised ones of the end.
    pub name: String,
    /// The node whose value it is.
    pub node: NodeId,
    /// What that value is.
    pub kind: TapKind,
    /// Channels of a map, length of a token, or heads.
    pub channels: usize,
    /// Input pixels along a side of one cell or patch.
    pub stride: usize,
}

impl Tap {
    /// Cells or patches along a side for an input of that many pixels: every strided operation of a ResNet halves,
    /// rounding up.
    pub fn side(&self, input: usize) -> usize {
        match self.kind {
            TapKind::Map => input.div_ceil(self.stride),
            TapKind::Tokens | TapKind::Attention => input / self.stride,
        }
    }
}

/// A place in [`Graph::taps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TapId(usize);

/// The role of a parameter or buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// Weight of a convolution, `(out, in / groups, kh, kw)`.
    ConvWeight,
    /// Scale of a batch normalisation, initialised to one.
    BnWeight,
    /// Shift of a batch normalisation, initialised to zero.
    BnBias,
    /// Running mean (buffer), initialised to zero.
    BnMean,
    /// Running variance, unbiased (buffer), initialised to one.
    BnVar,
    /// `num_batches_tracked` (buffer, int64 scalar).
    BnCount,
    /// Weight of the patches' convolution, `(out, 3, side, side)`.
    PatchWeight,
    /// Weight of a linear layer, `(out, in)`.
    Weight,
    /// Bias of one of these two.
    Bias,
    /// Scale of a layer normalisation, initialised to one.
    NormWeight,
    /// Shift of a layer normalisation, initialised to zero.
    NormBias,
    /// Factor of each channel.
    Scale,
    /// A token that is no patch, `(1, count, D)`.
    Token,
    /// Positions, `(1, count, D)`.
    Position,
}

impl ParamKind {
    /// Whether the optimiser changes it; the rest are buffers.
    pub fn trainable(self) -> bool {
        !matches!(self, Self::BnMean | Self::BnVar | Self::BnCount)
    }
}

/// A named parameter or buffer of the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// torchvision's name: `layer1.0.bn1.running_mean`.
    pub name: String,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Role.
    pub kind: ParamKind,
}

/// An encoder: operations in an order in which they can be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The architecture it describes.
    pub arch: Arch,
    /// Operations; `nodes[0]` is [`Op::Input`], the last one the embedding.
    pub nodes: Vec<Node>,
    /// Values that can be asked for, from the input to the output.
    pub taps: Vec<Tap>,
}

impl Index<TapId> for Graph {
    type Output = Tap;

    fn index(&self, id: TapId) -> &Tap {
        &self.taps[id.0]
    }
}

impl Graph {
    /// Epsilon of every batch normalisation.
    pub const BN_EPS: f64 = 1e-5;
    /// Momentum of the running statistics, in PyTorch's sense (share of the new value).
    pub const BN_MOMENTUM: f64 = 0.1;

    /// Builds the graph of `arch`.
    pub fn new(arch: Arch) -> Self {
        match (arch, arch.resnet()) {
            (Arch::Vit(vit), _) => vit::graph(vit),
            (_, Some(row)) => resnet::graph(arch, row),
            (_, None) => unreachable!("every ResNet has a row"),
        }
    }

    /// Tokens before those of patches; none of a ResNet.
    pub fn prefix(&self) -> usize {
        self.arch.vit().map_or(0, Vit::prefix)
    }

    /// The tap of that name.
    pub fn tap(&self, name: &str) -> Option<TapId> {
        self.taps.iter().position(|tap| tap.name == name).map(TapId)
    }

    /// The tap of a stage of a ResNet: 2 is `res2`, the output of `layer1`.
    pub fn stage(&self, stage: usize) -> Option<TapId> {
        self.tap(&format!("res{stage}"))
    }

    /// The value that the embedding is made of: the last feature map, `(N, C, h, w)`, or the tokens of the end.
    pub fn features(&self) -> NodeId {
        self.nodes[self.embedding()].inputs[0]
    }

    /// The embedding, `(N, C)`: global average pool of [`Self::features`], or their class token.
    pub fn embedding(&self) -> NodeId {
        self.nodes.len() - 1
    }

    /// All parameters and buffers, in the order of the nodes, which is that of torchvision's state dict.
    pub fn params(&self) -> Vec<Param> {
        self.nodes.iter().flat_map(|node| node.params.iter().cloned()).collect()
    }
}

/// A graph on the way.
#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
}

impl Builder {
    fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        let name = name.into();
        let params = params::params(&name, op);
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), params });
        self.nodes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// torchvision's parameter counts (weights and biases without `fc`).
    #[test]
    fn parameter_counts_are_torchvisions() {
        let expected = [
            (Arch::ResNet18, 11_689_512 - 513_000),
            (Arch::ResNet34, 21_797_672 - 513_000),
            (Arch::ResNet50, 25_557_032 - 2_049_000),
            (Arch::ResNet101, 44_549_160 - 2_049_000),
            (Arch::ResNet152, 60_192_808 - 2_049_000),
            (Arch::ResNeXt50x32x4d, 25_028_904 - 2_049_000),
            (Arch::ResNeXt101x32x8d, 88_791_336 - 2_049_000),
            (Arch::ResNeXt101x64x4d, 83_455_272 - 2_049_000),
            (Arch::WideResNet50x2, 68_883_240 - 2_049_000),
            (Arch::WideResNet101x2, 126_886_696 - 2_049_000),
            // 3x3 instead of 7x7 pixels of 3 channels into 64.
            (Arch::ResNet18Small, 11_689_512 - 513_000 - 40 * 3 * 64),
            (Arch::ResNet50Small, 25_557_032 - 2_049_000 - 40 * 3 * 64),
        ];
        assert_eq!(expected.len(), Arch::ALL.len());
        for (arch, count) in expected {
            let params = Graph::new(arch).params();
            let sum: usize =
                params.iter().filter(|p| p.kind.trainable()).map(|p| p.shape.iter().product::<usize>()).sum();
            assert_eq!(sum, count, "{arch}");
        }
    }

    #[test]
    fn names_are_unique_and_inputs_precede() {
        for arch in Arch::ALL {
            let graph = Graph::new(arch);
            let names: HashSet<_> = graph.nodes.iter().map(|n| &n.name).collect();
            assert_eq!(names.len(), graph.nodes.len());
            for (id, node) in graph.nodes.iter().enumerate() {
                assert!(node.inputs.iter().all(|&i| i < id), "{}", node.name);
            }
            let last = graph.nodes.last().map(|n| n.op);
            assert_eq!(last, Some(Op::GlobalAvgPool));
            assert_eq!(graph.nodes[graph.embedding()].inputs, [graph.features()]);
        }
    }

    #[test]
    fn every_stage_is_a_tap() {
        for arch in Arch::ALL {
            let graph = Graph::new(arch);
            let names: Vec<&str> = graph.taps.iter().map(|tap| tap.name.as_str()).collect();
            assert_eq!(names, ["res2", "res3", "res4", "res5"], "{arch}");
            for stage in 2..=5 {
                let tap = &graph[graph.stage(stage).expect("a stage")];
                let name = &graph.nodes[tap.node].name;
                assert!(
                    name.starts_with(&format!("layer{}.", stage - 1)) && name.ends_with(".relu"),
                    "{name}"
                );
                assert_eq!(tap.side(225), arch.feature_side(stage, 225), "{arch}");
                assert_eq!(tap.channels << (5 - stage), arch.feature_dim(), "{arch}");
            }
            assert_eq!(graph[graph.stage(5).expect("a stage")].node, graph.features());
            assert_eq!((graph.stage(1), graph.stage(6), graph.tap("layer4")), (None, None, None));
        }
    }

    #[test]
    fn small_pictures_are_not_pooled() {
        let graph = Graph::new(Arch::ResNet18Small);
        assert!(!graph.nodes.iter().any(|node| matches!(node.op, Op::MaxPool { .. })));
        let stem = &graph.nodes[1];
        assert!(matches!(stem.op, Op::Conv { kernel: 3, stride: 1, padding: 1, .. }), "{stem:?}");
        assert_eq!(
            stem.param(ParamKind::ConvWeight).map(|p| p.shape.as_slice()),
            Some([64, 3, 3, 3].as_slice())
        );
        assert_eq!(stem.param(ParamKind::BnBias), None);
    }

    /// What fingerprints and files depend on: names, shapes and order of all parameters, by the CRC-32 of their list.
    #[test]
    fn parameters_are_what_files_have() {
        let list = |arch: Arch| -> String {
            Graph::new(arch)
                .params()
                .iter()
                .map(|p| format!("{} {:?} {:?}\n", p.name, p.shape, p.kind))
                .collect()
        };
        for (arch, sum) in [
            (Arch::ResNet18, 0x0f40_d24e),
            (Arch::ResNet50, 0xdb6a_e860),
            (Arch::ResNeXt50x32x4d, 0x3a01_cc3e),
        ] {
            assert_eq!(crc32(list(arch).as_bytes()), sum, "{arch}: {:#010x}", crc32(list(arch).as_bytes()));
        }
    }

    /// CRC-32 as of IEEE 802.3; nothing in here depends on another crate.
    fn crc32(bytes: &[u8]) -> u32 {
        let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), bit))
    }

    #[test]
    fn resnet50_has_torchvisions_names() {
        let graph = Graph::new(Arch::ResNet50);
        let params = graph.params();
        let find = |n: &str| params.iter().find(|p| p.name == n).map(|p| p.shape.clone());
        assert_eq!(find("conv1.weight"), Some(vec![64, 3, 7, 7]));
        assert_eq!(find("layer3.5.bn3.running_var"), Some(vec![1024]));
        assert_eq!(find("layer4.0.downsample.0.weight"), Some(vec![2048, 1024, 1, 1]));
        assert_eq!(find("layer1.0.bn1.num_batches_tracked"), Some(vec![]));
        assert_eq!(params.len(), 318);
    }
}
