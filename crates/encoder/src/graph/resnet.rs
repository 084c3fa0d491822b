//! ResNets as graphs.

use super::{Builder, Graph, NodeId, Op, Tap, TapKind};
use crate::arch::{Arch, Block, ResNet, Stem};

/// Channels behind the first convolution.
const STEM_CHANNELS: usize = 64;

/// Builds the graph of a ResNet.
pub(super) fn graph(arch: Arch, row: &ResNet) -> Graph {
    Builder::default().resnet(arch, row)
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
    /// Convolution and its batch normalisation; padding keeps the size at stride 1.
    fn conv_bn(&mut self, conv: &str, bn: &str, x: NodeId, how: Conv) -> NodeId {
        let Conv { channels: (in_channels, out_channels), kernel, stride, groups } = how;
        let padding = kernel / 2;
        let op = Op::Conv { in_channels, out_channels, kernel, stride, padding, groups };
        let y = self.push(conv, op, &[x]);
        self.push(bn, Op::BatchNorm { channels: out_channels }, &[y])
    }

    fn resnet(mut self, arch: Arch, row: &ResNet) -> Graph {
        let mut x = self.stem(row.stem);
        let mut in_channels = STEM_CHANNELS;
        let mut taps = Vec::new();
        for (i, &depth) in row.depths.iter().enumerate() {
            let out = (STEM_CHANNELS << i) * row.block.expansion();
            for j in 0..depth {
                let stride = if i > 0 && j == 0 { 2 } else { 1 };
                let shape = BlockShape {
                    block: row.block,
                    channels: in_channels,
                    inner: (row.groups * row.width) << i,
                    out,
                    groups: row.groups,
                    stride,
                };
                x = self.block(&format!("layer{}.{j}", i + 1), x, shape);
                in_channels = out;
            }
            let (name, stride) = (format!("res{}", i + 2), row.stride(i + 2));
            taps.push(Tap { name, node: x, kind: TapKind::Map, channels: out, stride });
        }
        self.push("avgpool", Op::GlobalAvgPool, &[x]);
        Graph { arch, nodes: self.nodes, taps }
    }

    /// The image and what comes before the blocks.
    fn stem(&mut self, stem: Stem) -> NodeId {
        let image = self.push("input", Op::Input, &[]);
        let stride = if stem == Stem::Usual { 2 } else { 1 };
        let conv = Conv { channels: (3, STEM_CHANNELS), kernel: stem.kernel(), stride, groups: 1 };
        let x = self.conv_bn("conv1", "bn1", image, conv);
        let x = self.push("relu", Op::Relu, &[x]);
        match stem {
            Stem::Usual => self.push("maxpool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[x]),
            Stem::Small => x,
        }
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
