//! The operations of vision transformers, as their papers have them. Tokens `(T, D)` are one channel of T rows, attention
//! `(heads, T, T)` a channel for each head.

use ndarray::{ArrayView2, linalg::general_mat_mul};
use occlude_checkpoint::Encoder;
use occlude_encoder::{Node, Op, ParamKind, Vit};

use super::{Map, Window, conv, exact_gelu, parameter};
use crate::{Error, positions};

/// The value of a node; `None` where it is no operation of a transformer.
pub(super) fn compute(encoder: &Encoder<'_>, node: &Node, inputs: &[&Map]) -> Result<Option<Map>, Error> {
    let Some(vit) = encoder.arch.vit() else { return Ok(None) };
    let read = |kind| parameter(encoder, node, kind);
    let x = inputs[0];
    Ok(Some(match node.op {
        Op::Patches { channels, side } => {
            let window = Window { kernel: side, stride: side, padding: 0 };
            let maps = conv(x, &read(ParamKind::PatchWeight)?, channels, &window);
            patches(&maps, &read(ParamKind::Bias)?)
        }
        Op::ClassToken { .. } => with_tokens(x, 0, &read(ParamKind::Token)?),
        Op::Registers { .. } => with_tokens(x, 1, &read(ParamKind::Token)?),
        Op::Position { .. } => positioned(vit, x, &read(ParamKind::Position)?),
        Op::LayerNorm { eps, .. } => {
            let (weight, bias) = (read(ParamKind::NormWeight)?, read(ParamKind::NormBias)?);
            layer_norm(x, &weight, &bias, 10f64.powi(-i32::from(eps)))
        }
        Op::Linear { .. } => linear(x, &read(ParamKind::Weight)?, &read(ParamKind::Bias)?),
        Op::Gelu => each(x, exact_gelu),
        Op::Gate => gate(x),
        Op::LayerScale { .. } => {
            let gamma = read(ParamKind::Scale)?;
            let data = x.data.iter().zip(gamma.iter().cycle()).map(|(v, g)| v * g).collect();
            Map { data, ..*x }
        }
        Op::Scores { heads } => scores(x, heads),
        Op::Mix { heads } => mix(x, inputs[1], heads),
        Op::First => Map { channels: 1, height: 1, width: x.width, data: x.data[..x.width].to_vec() },
        Op::DropPath { .. } => x.clone(),
        Op::Input
        | Op::Conv { .. }
        | Op::BatchNorm { .. }
        | Op::Relu
        | Op::MaxPool { .. }
        | Op::Add
        | Op::GlobalAvgPool => return Ok(None),
    }))
}

fn tokens(data: Vec<f32>, width: usize) -> Map {
    Map { channels: 1, height: data.len() / width.max(1), width, data }
}

fn each(x: &Map, f: impl Fn(f64) -> f32) -> Map {
    Map { data: x.data.iter().map(|&v| f(f64::from(v))).collect(), ..*x }
}

/// (D, h, w) -> (h w, D), and the bias.
fn patches(maps: &Map, bias: &[f32]) -> Map {
    let (width, count) = (maps.channels, maps.height * maps.width);
    let value = |i: usize| maps.data[i % width * count + i / width] + bias[i % width];
    tokens((0..width * count).map(value).collect(), width)
}

/// More tokens, from row `at` on.
fn with_tokens(x: &Map, at: usize, more: &[f32]) -> Map {
    let (before, after) = x.data.split_at(at * x.width);
    tokens([before, more, after].concat(), x.width)
}

fn positioned(vit: Vit, x: &Map, learnt: &[f32]) -> Map {
    let patches = x.height - usize::from(vit.class_position);
    let all = positions::resized(vit, learnt, patches.isqrt());
    Map { data: x.data.iter().zip(&all).map(|(v, p)| v + p).collect(), ..*x }
}

fn layer_norm(x: &Map, weight: &[f32], bias: &[f32], eps: f64) -> Map {
    let n = x.width as f64;
    let row = |row: &[f32]| -> Vec<f32> {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let by = (variance + eps).sqrt();
        let normal =
            |(i, &v): (usize, &f32)| (f64::from(v) - mean) / by * f64::from(weight[i]) + f64::from(bias[i]);
        row.iter().enumerate().map(|v| normal(v) as f32).collect()
    };
    Map { data: x.data.chunks_exact(x.width.max(1)).flat_map(row).collect(), ..*x }
}

/// `a` (rows, inner) times the transpose of `b` (columns, inner).
fn times_transposed(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
    let (rows, columns) = (a.len() / inner.max(1), b.len() / inner.max(1));
    let matrix = |rows, data| ArrayView2::from_shape((rows, inner), data).expect("whole rows");
    let mut out = vec![0.0; rows * columns];
    let mut product =
        ndarray::ArrayViewMut2::from_shape((rows, columns), &mut out).expect("made for this shape");
    general_mat_mul(1.0, &matrix(rows, a), &matrix(columns, b).t(), 0.0, &mut product);
    out
}

fn linear(x: &Map, weight: &[f32], bias: &[f32]) -> Map {
    let mut data = times_transposed(&x.data, weight, x.width);
    data.iter_mut().zip(bias.iter().cycle()).for_each(|(v, b)| *v += b);
    tokens(data, bias.len())
}

fn gate(x: &Map) -> Map {
    let half = x.width / 2;
    let row = |row: &[f32]| -> Vec<f32> {
        let silu = |v: f64| v / (1.0 + (-v).exp());
        (0..half).map(|i| (silu(f64::from(row[i])) * f64::from(row[half + i])) as f32).collect()
    };
    tokens(x.data.chunks_exact(x.width.max(1)).flat_map(row).collect(), half)
}

/// Of (T, 3 D): queries, keys or values of a head, (T, d).
fn part(qkv: &Map, heads: usize, head: usize, which: usize) -> Vec<f32> {
    let width = qkv.width / 3;
    let each = width / heads;
    let from = which * width + head * each;
    qkv.data.chunks_exact(qkv.width).flat_map(|row| row[from..from + each].iter().copied()).collect()
}

fn scores(qkv: &Map, heads: usize) -> Map {
    let (count, each) = (qkv.height, qkv.width / 3 / heads);
    let scale = (each as f64).powf(-0.5);
    let softmax = |row: &[f32]| -> Vec<f32> {
        let scaled: Vec<f64> = row.iter().map(|&v| f64::from(v) * scale).collect();
        let most = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let all: Vec<f64> = scaled.iter().map(|v| (v - most).exp()).collect();
        let sum: f64 = all.iter().sum();
        all.iter().map(|v| (v / sum) as f32).collect()
    };
    let head = |head: usize| {
        let products = times_transposed(&part(qkv, heads, head, 0), &part(qkv, heads, head, 1), each);
        products.chunks_exact(count).flat_map(softmax).collect::<Vec<f32>>()
    };
    Map { channels: heads, height: count, width: count, data: (0..heads).flat_map(head).collect() }
}

fn mix(scores: &Map, qkv: &Map, heads: usize) -> Map {
    let (count, width) = (qkv.height, qkv.width / 3);
    let each = width / heads;
    let mut out = vec![0.0; count * width];
    for (head, scores) in scores.planes().enumerate() {
        let values = part(qkv, heads, head, 2);
        // (d, T)
        let turned: Vec<f32> = (0..values.len()).map(|i| values[i % count * each + i / count]).collect();
        let seen = times_transposed(scores, &turned, count);
        for (row, seen) in out.chunks_exact_mut(width).zip(seen.chunks_exact(each)) {
            row[head * each..(head + 1) * each].copy_from_slice(seen);
        }
    }
    tokens(out, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_put_where_they_belong() {
        let x = tokens(vec![1.0, 2.0, 3.0, 4.0], 2);
        assert_eq!(with_tokens(&x, 0, &[0.0, 0.0]).data, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        let registers = with_tokens(&x, 1, &[9.0, 8.0]);
        assert_eq!((registers.height, registers.data), (3, vec![1.0, 2.0, 9.0, 8.0, 3.0, 4.0]));
    }

    #[test]
    fn normalised_rows_have_no_mean_and_a_deviation_of_one() {
        let x = layer_norm(&tokens(vec![1.0, 3.0, -5.0, 5.0], 2), &[1.0, 2.0], &[0.0, 1.0], 0.0);
        assert_eq!(x.data, [-1.0, 3.0, -1.0, 3.0]);
    }

    /// Two heads of one channel and two tokens: each looks at what its query resembles.
    #[test]
    fn attention_by_hand() {
        let large = 1e3;
        let qkv = tokens(vec![large, -large, 1.0, 1.0, 10.0, 30.0, large, large, -1.0, -1.0, 20.0, 40.0], 6);
        let seen = scores(&qkv, 2);
        assert_eq!((seen.channels, seen.height, seen.width), (2, 2, 2));
        assert_eq!(seen.data, [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        assert_eq!(mix(&seen, &qkv, 2).data, [10.0, 40.0, 10.0, 30.0]);
    }

    #[test]
    fn a_gate_and_a_matrix_by_hand() {
        let x = gate(&tokens(vec![0.0, 1.0, 5.0, 2.0], 4));
        assert!((x.data[0], x.width) == (0.0, 2) && (x.data[1] - 2.0 / (1.0 + (-1f32).exp())).abs() < 1e-6);
        let y = linear(&tokens(vec![1.0, 2.0], 2), &[1.0, 0.0, 3.0, 4.0], &[0.5, -1.0]);
        assert_eq!(y.data, [1.5, 10.0]);
    }

    #[test]
    fn patches_become_rows() {
        let maps = Map { channels: 2, height: 1, width: 2, data: vec![1.0, 2.0, 3.0, 4.0] };
        assert_eq!(patches(&maps, &[0.0, 10.0]).data, [1.0, 13.0, 2.0, 14.0]);
    }
}
