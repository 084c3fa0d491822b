//! What operations compute with.

use super::{Op, Param, ParamKind};

/// The parameters of an operation; none for those without any. Tokens and positions are no module's: they have the
/// node's own name.
pub(super) fn params(node: &str, op: Op) -> Vec<Param> {
    let param = |leaf: &str, shape: Vec<usize>, kind| Param { name: format!("{node}.{leaf}"), shape, kind };
    let alone = |shape, kind| vec![Param { name: node.to_owned(), shape, kind }];
    match op {
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
        Op::Patches { channels, side } => vec![
            param("weight", vec![channels, 3, side, side], ParamKind::PatchWeight),
            param("bias", vec![channels], ParamKind::Bias),
        ],
        Op::Linear { inputs, outputs } => vec![
            param("weight", vec![outputs, inputs], ParamKind::Weight),
            param("bias", vec![outputs], ParamKind::Bias),
        ],
        Op::LayerNorm { channels, .. } => vec![
            param("weight", vec![channels], ParamKind::NormWeight),
            param("bias", vec![channels], ParamKind::NormBias),
        ],
        Op::LayerScale { channels } => vec![param("gamma", vec![channels], ParamKind::Scale)],
        Op::ClassToken { channels } => alone(vec![1, 1, channels], ParamKind::Token),
        Op::Registers { channels, count } => alone(vec![1, count, channels], ParamKind::Token),
        Op::Position { channels, grid, class } => {
            alone(vec![1, grid * grid + usize::from(class), channels], ParamKind::Position)
        }
        Op::Input
        | Op::Relu
        | Op::MaxPool { .. }
        | Op::Add
        | Op::GlobalAvgPool
        | Op::Gelu
        | Op::Gate
        | Op::DropPath { .. }
        | Op::Scores { .. }
        | Op::Mix { .. }
        | Op::First => vec![],
    }
}
