//! Which tokens of each value are needed. The class token alone is what most outputs read of the last block, and attention mixes
//! each token's new value from the keys and values of all, so that behind the last mixing the others need not be computed:
//! their projection and their perceptron, three quarters of a block.

use occlude_encoder::{Graph, NodeId, Op};
use occlude_saliency::{Making, MapRule};

use super::options::{OnnxOptions, OutputKind, Pool};
use super::{source, sum};
use crate::Error;

/// Tokens of a value that something reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// None: the value is not computed.
    Nothing,
    /// The first one; of attention its row.
    Class,
    /// All.
    All,
}

/// What the outputs of a vision transformer need of each node up to the features.
///
/// # Errors
/// [`Error::Options`] for a map of a value that the network lacks.
pub(super) fn of_outputs(graph: &Graph, options: &OnnxOptions) -> Result<Vec<Need>, Error> {
    let map = |making: Making| {
        let need = if making.rule == MapRule::Attention { Need::Class } else { Need::All };
        Ok::<_, Error>((source(graph, making)?.node, need))
    };
    let mut read = Vec::new();
    for &output in &options.outputs {
        read.push(match output {
            OutputKind::Embedding | OutputKind::Projection if options.pool == Pool::Class => {
                (graph.features(), Need::Class)
            }
            OutputKind::Saliency => map(options.saliency)?,
            OutputKind::SaliencySum => map(sum(graph))?,
            OutputKind::Embedding
            | OutputKind::Projection
            | OutputKind::Stage(_)
            | OutputKind::Tokens
            | OutputKind::Alignment => (graph.features(), Need::All),
        });
    }
    Ok(spread(graph, &read))
}

/// What some nodes, read whole, need of each node up to the features.
pub(super) fn of_nodes(graph: &Graph, nodes: &[NodeId]) -> Vec<Need> {
    spread(graph, &nodes.iter().map(|&id| (id, Need::All)).collect::<Vec<_>>())
}

/// From what is read back to the picture.
fn spread(graph: &Graph, read: &[(NodeId, Need)]) -> Vec<Need> {
    let mut needs = vec![Need::Nothing; graph.nodes.len()];
    read.iter().for_each(|&(id, need)| needs[id] = needs[id].max(need));
    for (id, node) in graph.nodes.iter().enumerate().skip(1).rev() {
        let need = needs[id];
        if need == Need::Nothing {
            continue;
        }
        for (i, &input) in node.inputs.iter().enumerate() {
            let of_input = match node.op {
                // a row of attention for each token that comes out; each of them mixes the values of all
                Op::Mix { .. } if i == 0 => need,
                Op::LayerNorm { .. }
                | Op::Linear { .. }
                | Op::Gelu
                | Op::Gate
                | Op::LayerScale { .. }
                | Op::DropPath { .. }
                | Op::Add => need,
                Op::Mix { .. }
                | Op::Scores { .. }
                | Op::First
                | Op::Input
                | Op::Patches { .. }
                | Op::ClassToken { .. }
                | Op::Registers { .. }
                | Op::Position { .. }
                | Op::Conv { .. }
                | Op::BatchNorm { .. }
                | Op::Relu
                | Op::MaxPool { .. }
                | Op::GlobalAvgPool => Need::All,
            };
            needs[input] = needs[input].max(of_input);
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(outputs: &[OutputKind], change: impl FnOnce(&mut OnnxOptions)) -> impl Fn(&str) -> Need {
        let graph = Graph::new("vit_16x2x2_patch4_16".parse().expect("a network"));
        let mut options = OnnxOptions {
            outputs: outputs.to_vec(),
            saliency: Making::of_block(MapRule::Attention, 1),
            ..OnnxOptions::default()
        };
        change(&mut options);
        let needs = of_outputs(&graph, &options).expect("blocks");
        move |name| needs[graph.nodes.iter().position(|node| node.name == name).expect("a node")]
    }

    #[test]
    fn behind_the_last_mixing_the_class_token_goes_alone() {
        let of = needs(&[OutputKind::Embedding, OutputKind::Saliency], |_| ());
        for name in ["blocks.1.attn.scores", "blocks.1.attn.mix", "blocks.1.add1", "blocks.1.mlp.fc2", "norm"]
        {
            assert_eq!(of(name), Need::Class, "{name}");
        }
        for name in ["blocks.1.attn.qkv", "blocks.1.norm1", "blocks.0.add2", "blocks.0.attn.scores"] {
            assert_eq!(of(name), Need::All, "{name}");
        }
    }

    #[test]
    fn outputs_of_patches_need_all() {
        let both = [OutputKind::Embedding, OutputKind::Saliency];
        assert_eq!(needs(&[OutputKind::Tokens], |_| ())("norm"), Need::All);
        assert_eq!(needs(&both, |options| options.pool = Pool::Both)("norm"), Need::All);
        let border = |options: &mut OnnxOptions| options.saliency = Making::of_block(MapRule::Border, 1);
        let of = needs(&both, border);
        assert_eq!((of("blocks.1.add2"), of("norm")), (Need::All, Need::Class));
    }

    #[test]
    fn what_nothing_reads_is_not_computed() {
        let early = |options: &mut OnnxOptions| options.saliency = Making::of_block(MapRule::Attention, 0);
        let of = needs(&[OutputKind::Saliency], early);
        assert_eq!((of("blocks.0.attn.scores"), of("blocks.0.attn.mix")), (Need::Class, Need::Nothing));
        assert_eq!((of("blocks.1.norm1"), of("norm")), (Need::Nothing, Need::Nothing));
    }
}
