//! The graph of operations and the parameters it implies.

use crate::arch::{Arch, Block};

/// Index of a node in [`Graph::nodes`]. Inputs of a node always have smaller indices.
pub type NodeId = usize;

/// What a node computes. Feature maps are `(N, C, H, W)`.
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
    /// Sum of two feature maps of one shape.
    Add,
    /// Mean over height and width: `(N, C, H, W)` -> `(N, C)`.
    GlobalAvgPool,
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
}

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
}

impl ParamKind {
    /// Whether the optimiser changes it; the rest are buffers.
    pub fn trainable(self) -> bool {
        matches!(self, Self::ConvWeight | Self::BnWeight | Self::BnBias)
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
    stages: [NodeId; 4],
}

impl Graph {
    /// Epsilon of every batch normalisation.
    pub const BN_EPS: f64 = 1e-5;
    /// Momentum of the running statistics, in PyTorch's sense (share of the new value).
    pub const BN_MOMENTUM: f64 = 0.1;

    /// Builds the graph of `arch`.
    pub fn new(arch: Arch) -> Self {
        Builder::resnet(arch)
    }

    /// The node with the output of stage 2, 3, 4 or 5 (`layer1` .. `layer4`; Detectron2's `res2` .. `res5`).
    ///
    /// # Panics
    /// When `stage` is not in 2..=5.
    pub fn stage(&self, stage: usize) -> NodeId {
        assert!((2..=5).contains(&stage), "a ResNet has stages 2 to 5, not {stage}");
        self.stages[stage - 2]
    }

    /// The last feature map, `(N, C, h, w)`: what saliency is read from.
    pub fn features(&self) -> NodeId {
        self.stages[3]
    }

    /// The embedding, `(N, C)`: global average pool of [`Self::features`].
    pub fn embedding(&self) -> NodeId {
        self.nodes.len() - 1
    }

    /// All parameters and buffers, in the order of torchvision's state dict.
    pub fn params(&self) -> Vec<Param> {
        self.nodes.iter().flat_map(node_params).collect()
    }
}

/// The parameters of one node; empty for operations without any.
fn node_params(node: &Node) -> Vec<Param> {
    let param = |suffix: &str, shape: Vec<usize>, kind| Param {
        name: format!("{}.{suffix}", node.name),
        shape,
        kind,
    };
    match node.op {
        Op::Conv { in_channels, out_channels, kernel, groups, .. } => {
            let shape = vec![out_channels, in_channels / groups, kernel, kernel];
            vec![param("weight", shape, ParamKind::ConvWeight)]
        }
        Op::BatchNorm { channels } => vec![
            param("weight", vec![channels], ParamKind::BnWeight),
            param("bias", vec![channels], ParamKind::BnBias),
            param("running_mean", vec![channels], ParamKind::BnMean),
            param("running_var", vec![channels], ParamKind::BnVar),
            param("num_batches_tracked", vec![], ParamKind::BnCount),
        ],
        Op::Input | Op::Relu | Op::MaxPool { .. } | Op::Add | Op::GlobalAvgPool => vec![],
    }
}

struct Builder {
    nodes: Vec<Node>,
}

/// What a convolution does to its input.
#[derive(Clone, Copy)]
struct Conv {
    /// (in, out)
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    groups: usize,
}

impl Builder {
    fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        self.nodes.len() - 1
    }

    /// Convolution and its batch normalisation; padding keeps the size at stride 1.
    fn conv_bn(&mut self, conv: &str, bn: &str, x: NodeId, how: Conv) -> NodeId {
        let Conv { channels: (in_channels, out_channels), kernel, stride, groups } = how;
        let padding = kernel / 2;
        let op = Op::Conv { in_channels, out_channels, kernel, stride, padding, groups };
        let y = self.push(conv, op, &[x]);
        self.push(bn, Op::BatchNorm { channels: out_channels }, &[y])
    }

    fn resnet(arch: Arch) -> Graph {
        let row = arch.row();
        let mut b = Self { nodes: Vec::new() };
        let image = b.push("input", Op::Input, &[]);
        let stem = Conv { channels: (3, 64), kernel: 7, stride: 2, groups: 1 };
        let x = b.conv_bn("conv1", "bn1", image, stem);
        let x = b.push("relu", Op::Relu, &[x]);
        let mut x = b.push("maxpool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[x]);
        let mut in_channels = 64;
        let mut stages = [0; 4];
        for (i, &depth) in row.depths.iter().enumerate() {
            let width = 64 << i;
            for j in 0..depth {
                let stride = if i > 0 && j == 0 { 2 } else { 1 };
                let shape = BlockShape {
                    block: row.block,
                    channels: in_channels,
                    inner: (row.groups * row.width) << i,
                    out: width * row.block.expansion(),
                    groups: row.groups,
                    stride,
                };
                x = b.block(&format!("layer{}.{j}", i + 1), x, shape);
                in_channels = width * row.block.expansion();
            }
            stages[i] = x;
        }
        b.push("avgpool", Op::GlobalAvgPool, &[x]);
        Graph { arch, nodes: b.nodes, stages }
    }

    /// One residual block; the shortcut is projected where the shape changes.
    fn block(&mut self, name: &str, x: NodeId, shape: BlockShape) -> NodeId {
        let BlockShape { channels, out, stride, .. } = shape;
        let convs = shape.convs();
        let last = convs.len();
        let mut y = x;
        for (i, conv) in convs.into_iter().enumerate() {
            let i = i + 1;
            y = self.conv_bn(&format!("{name}.conv{i}"), &format!("{name}.bn{i}"), y, conv);
            if i < last {
                y = self.push(format!("{name}.relu{i}"), Op::Relu, &[y]);
            }
        }
        let shortcut = if stride != 1 || channels != out {
            let (conv, bn) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
            self.conv_bn(&conv, &bn, x, Conv { channels: (channels, out), kernel: 1, stride, groups: 1 })
        } else {
            x
        };
        let sum = self.push(format!("{name}.add"), Op::Add, &[y, shortcut]);
        self.push(format!("{name}.relu"), Op::Relu, &[sum])
    }
}

/// The shape of a residual block.
#[derive(Clone, Copy)]
struct BlockShape {
    block: Block,
    /// Of its input.
    channels: usize,
    /// Channels of its 3x3 convolutions.
    inner: usize,
    /// Channels of its output.
    out: usize,
    groups: usize,
    stride: usize,
}

impl BlockShape {
    fn convs(self) -> Vec<Conv> {
        let Self { block, channels, inner, out, groups, stride } = self;
        let conv = |channels, kernel, stride, groups| Conv { channels, kernel, stride, groups };
        match block {
            Block::Basic => vec![conv((channels, inner), 3, stride, 1), conv((inner, out), 3, 1, 1)],
            Block::Bottleneck => vec![
                conv((channels, inner), 1, 1, 1),
                conv((inner, inner), 3, stride, groups),
                conv((inner, out), 1, 1, 1),
            ],
        }
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
