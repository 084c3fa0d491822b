//! The encoder's graph with each normalisation and rectifier joined to the operation before it.

use occlude_encoder::{Graph, Node, NodeId, Op};

/// What a unit begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Conv,
    MaxPool,
    Add,
}

/// A convolution, an addition or a pooling, and what follows it directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The operation itself.
    pub(super) node: NodeId,
    /// Which one that is.
    pub(super) begin: Begin,
    /// The batch normalisation behind a convolution.
    pub(super) bn: Option<NodeId>,
    /// The rectifier at the end.
    pub(super) relu: Option<NodeId>,
    /// What it reads: other units' `out`, or the graph's input.
    pub(super) inputs: Vec<NodeId>,
    /// Its last node, which others read.
    pub(super) out: NodeId,
}

/// All units up to the last feature map, in an order in which they can be computed.
pub(super) fn units(graph: &Graph) -> Vec<Unit> {
    let begin = |node: &Node| match node.op {
        Op::Conv { .. } => Some(Begin::Conv),
        Op::MaxPool { .. } => Some(Begin::MaxPool),
        Op::Add => Some(Begin::Add),
        Op::Input | Op::BatchNorm { .. } | Op::Relu | Op::GlobalAvgPool => None,
        // `vit` adds the nodes of transformers one by one
        Op::Patches { .. }
        | Op::ClassToken { .. }
        | Op::Position { .. }
        | Op::Registers { .. }
        | Op::LayerNorm { .. }
        | Op::Linear { .. }
        | Op::Gelu
        | Op::Gate
        | Op::LayerScale { .. }
        | Op::DropPath { .. }
        | Op::Scores { .. }
        | Op::Mix { .. }
        | Op::First => None,
    };
    let nodes = graph.nodes.iter().enumerate().take(graph.features() + 1);
    nodes.filter_map(|(id, node)| begin(node).map(|begin| unit(graph, id, node, begin))).collect()
}

fn unit(graph: &Graph, id: NodeId, node: &Node, begin: Begin) -> Unit {
    let bn = only_reader(graph, id).filter(|&r| matches!(graph.nodes[r].op, Op::BatchNorm { .. }));
    let last = bn.unwrap_or(id);
    let relu = only_reader(graph, last).filter(|&r| graph.nodes[r].op == Op::Relu);
    Unit { node: id, begin, bn, relu, inputs: node.inputs.clone(), out: relu.unwrap_or(last) }
}

/// The node that reads `id`, if there is exactly one.
fn only_reader(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let mut readers = graph.nodes.iter().enumerate().filter(|(_, n)| n.inputs.contains(&id)).map(|(r, _)| r);
    let first = readers.next()?;
    readers.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_encoder::Arch;
    use std::collections::HashSet;

    #[test]
    fn units_cover_the_graph_and_read_only_each_other() {
        for arch in Arch::ALL {
            let graph = Graph::new(arch);
            let units = units(&graph);
            let covered: usize = units.iter().map(|u| 1 + u.bn.iter().count() + u.relu.iter().count()).sum();
            assert_eq!(covered, graph.features(), "{arch}");
            let mut known = HashSet::from([0]);
            for unit in &units {
                assert!(unit.inputs.iter().all(|i| known.contains(i)), "{arch}: {unit:?}");
                known.insert(unit.out);
            }
            assert!(graph.taps.iter().all(|tap| known.contains(&tap.node)), "{arch}");
        }
    }
}
