//! Vision transformers as graphs.

use super::{Builder, Graph, NodeId, Op, Tap, TapKind};
use crate::arch::Arch;
use crate::vit::Vit;

/// Builds the graph of a vision transformer.
pub(super) fn graph(vit: Vit) -> Graph {
    let mut b = Builder::default();
    let mut x = embedded(&mut b, vit);
    let mut taps = Vec::new();
    let mut tap = |name: String, node, kind, channels| {
        taps.push(Tap { name, node, kind, channels, stride: vit.patch });
    };
    for i in 0..vit.depth {
        let (scores, out) = block(&mut b, vit, i, x);
        tap(format!("attention{i}"), scores, TapKind::Attention, vit.heads);
        tap(format!("block{i}"), out, TapKind::Tokens, vit.width);
        x = out;
    }
    let tokens = norm(&mut b, vit, "norm", x);
    tap("tokens".to_owned(), tokens, TapKind::Tokens, vit.width);
    b.push("class", Op::First, &[tokens]);
    Graph { arch: Arch::Vit(vit), nodes: b.nodes, taps }
}

/// The image as tokens that know their positions, `(N, T, D)`.
fn embedded(b: &mut Builder, vit: Vit) -> NodeId {
    let (channels, grid) = (vit.width, vit.grid);
    let image = b.push("input", Op::Input, &[]);
    let mut x = b.push("patch_embed.proj", Op::Patches { channels, side: vit.patch }, &[image]);
    let (class, position) =
        (Op::ClassToken { channels }, Op::Position { channels, grid, class: vit.class_position });
    let (class, position) = (("cls_token", class), ("pos_embed", position));
    for (name, op) in if vit.class_position { [class, position] } else { [position, class] } {
        x = b.push(name, op, &[x]);
    }
    match vit.registers {
        0 => x,
        count => b.push("reg_token", Op::Registers { channels, count }, &[x]),
    }
}

fn norm(b: &mut Builder, vit: Vit, name: &str, x: NodeId) -> NodeId {
    b.push(name, Op::LayerNorm { channels: vit.width, eps: vit.eps }, &[x])
}

/// A pre-normalised block: its attention, and what comes out of it.
fn block(b: &mut Builder, vit: Vit, i: usize, x: NodeId) -> (NodeId, NodeId) {
    let name = |leaf: &str| format!("blocks.{i}.{leaf}");
    let (width, heads) = (vit.width, vit.heads);
    let normed = norm(b, vit, &name("norm1"), x);
    let qkv = b.push(name("attn.qkv"), Op::Linear { inputs: width, outputs: 3 * width }, &[normed]);
    let scores = b.push(name("attn.scores"), Op::Scores { heads }, &[qkv]);
    let mixed = b.push(name("attn.mix"), Op::Mix { heads }, &[scores, qkv]);
    let out = b.push(name("attn.proj"), Op::Linear { inputs: width, outputs: width }, &[mixed]);
    let x = added(b, vit, (i, 1), [x, out]);
    let normed = norm(b, vit, &name("norm2"), x);
    let hidden = vit.hidden();
    let (wide, act) = if vit.gated { (2 * hidden, Op::Gate) } else { (hidden, Op::Gelu) };
    let y = b.push(name("mlp.fc1"), Op::Linear { inputs: width, outputs: wide }, &[normed]);
    let y = b.push(name("mlp.act"), act, &[y]);
    let y = b.push(name("mlp.fc2"), Op::Linear { inputs: hidden, outputs: width }, &[y]);
    (scores, added(b, vit, (i, 2), [x, y]))
}

/// The sum of a block's input and what one of its two branches makes of it.
fn added(b: &mut Builder, vit: Vit, (block, branch): (usize, usize), [x, mut y]: [NodeId; 2]) -> NodeId {
    let name = |leaf: &str| format!("blocks.{block}.{leaf}{branch}");
    if vit.layer_scale {
        y = b.push(name("ls"), Op::LayerScale { channels: vit.width }, &[y]);
    }
    y = b.push(name("drop_path"), Op::DropPath { block, blocks: vit.depth }, &[y]);
    b.push(name("add"), Op::Add, &[x, y])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Param, ParamKind};

    fn named(vit: Vit) -> Vec<Param> {
        graph(vit).params()
    }

    /// timm's counts with `num_classes=0`.
    #[test]
    fn parameter_counts_are_timms() {
        for (name, count) in [
            ("vit_tiny_patch16_224", 5_524_416),
            ("vit_small_patch16_224", 21_665_664),
            ("vit_base_patch16_224", 85_798_656),
            ("vit_base_patch8_224", 85_807_872),
            ("vit_large_patch16_224", 303_301_632),
            ("vit_small_patch14_dinov2", 22_056_192),
            ("vit_small_patch14_reg4_dinov2", 22_057_344),
            ("vit_giant_patch14_dinov2", 1_136_479_232),
        ] {
            let vit = name.parse().expect("a network");
            let found: usize = named(vit).iter().map(|p| p.shape.iter().product::<usize>()).sum();
            assert_eq!(found, count, "{name}");
        }
    }

    #[test]
    fn names_are_timms() {
        let params = named("vit_small_patch14_reg4_dinov2".parse().expect("a network"));
        let find = |n: &str| params.iter().find(|p| p.name == n).map(|p| p.shape.clone());
        for (name, shape) in [
            ("cls_token", vec![1, 1, 384]),
            ("reg_token", vec![1, 4, 384]),
            ("pos_embed", vec![1, 1369, 384]),
            ("patch_embed.proj.weight", vec![384, 3, 14, 14]),
            ("patch_embed.proj.bias", vec![384]),
            ("blocks.11.norm1.weight", vec![384]),
            ("blocks.0.attn.qkv.weight", vec![1152, 384]),
            ("blocks.0.attn.proj.bias", vec![384]),
            ("blocks.0.ls2.gamma", vec![384]),
            ("blocks.0.mlp.fc1.weight", vec![1536, 384]),
            ("blocks.0.mlp.fc2.weight", vec![384, 1536]),
            ("norm.bias", vec![384]),
        ] {
            assert_eq!(find(name), Some(shape), "{name}");
        }
        assert!(params.iter().all(|p| p.kind.trainable() && p.kind != ParamKind::BnCount));
    }

    #[test]
    fn every_block_and_its_attention_can_be_tapped() {
        let vit = "vit_32x2x4_patch8_32".parse().expect("a network");
        let graph = graph(vit);
        let names: Vec<&str> = graph.taps.iter().map(|tap| tap.name.as_str()).collect();
        assert_eq!(names, ["attention0", "block0", "attention1", "block1", "tokens"]);
        let tap = |name: &str| &graph[graph.tap(name).expect("a tap")];
        assert_eq!((tap("attention1").kind, tap("attention1").channels), (TapKind::Attention, 4));
        assert_eq!((tap("block1").kind, tap("block1").channels), (TapKind::Tokens, 32));
        assert_eq!(tap("tokens").node, graph.features());
        assert_eq!((tap("tokens").side(64), graph.stage(5)), (8, None));
    }
}
