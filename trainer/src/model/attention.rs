//! Attention between tokens: whole, or in two steps where somebody wants to see it.

use tch::{Kind, Tensor};

/// Queries, keys and values of each head. Shape: `(N, T, 3 D)` to three of `(N, heads, T, d)`.
fn parts(qkv: &Tensor, heads: usize) -> [Tensor; 3] {
    let (n, t, all) = qkv.size3().unwrap_or_else(|e| panic!("tokens are (N, T, 3 D): {e}"));
    let heads = heads as i64;
    let parts = qkv.view([n, t, 3, heads, all / (3 * heads)]).permute([2, 0, 3, 1, 4]); // (3, N, heads, T, d)
    [0, 1, 2].map(|i| parts.select(0, i))
}

/// The heads' answers side by side. Shape: `(N, heads, T, d)` to `(N, T, D)`.
fn joined(x: &Tensor) -> Tensor {
    x.transpose(1, 2).flatten(2, 3)
}

/// How much every token looks at every other one. Shape: `(N, T, 3 D)` to `(N, heads, T, T)`; rows add up to one.
pub(super) fn scores(qkv: &Tensor, heads: usize) -> Tensor {
    let [q, k, _] = parts(qkv, heads);
    let scale = (q.size()[3] as f64).powf(-0.5);
    (q * scale).matmul(&k.transpose(-2, -1)).softmax(-1, None::<Kind>)
}

/// What tokens gather by known scores. Shapes: `(N, heads, T, T)` and `(N, T, 3 D)` to `(N, T, D)`.
pub(super) fn mix(scores: &Tensor, qkv: &Tensor, heads: usize) -> Tensor {
    let [_, _, v] = parts(qkv, heads);
    joined(&scores.to_kind(v.kind()).matmul(&v))
}

/// [`mix`] of [`scores`] in one operator, which keeps no scores.
pub(super) fn whole(qkv: &Tensor, heads: usize) -> Tensor {
    let [q, k, v] = parts(qkv, heads);
    joined(&Tensor::scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, false, None, false))
}

/// Positions for another number of patches along each side, as timm resizes them (bicubic, with antialiasing). `pos` is
/// `(1, T, D)`, `before` of its tokens are no patches. Shape: `(1, before + h w, D)`.
pub(super) fn resized(pos: &Tensor, before: i64, grid: usize, [h, w]: [i64; 2]) -> Tensor {
    let grid = grid as i64;
    if [h, w] == [grid, grid] {
        return pos.shallow_clone();
    }
    let width = pos.size()[2];
    let patches = pos.narrow(1, before, grid * grid).view([1, grid, grid, width]).permute([0, 3, 1, 2]);
    let patches = patches.to_kind(Kind::Float).internal_upsample_bicubic2d_aa([h, w], false, None, None);
    let patches = patches.permute([0, 2, 3, 1]).reshape([1, h * w, width]).to_kind(pos.kind());
    match before {
        0 => patches,
        _ => Tensor::cat(&[pos.narrow(1, 0, before), patches], 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn both_ways_are_one() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let qkv = Tensor::randn([2, 5, 24], (Kind::Float, Device::Cpu));
        let seen = scores(&qkv, 4);
        assert_eq!(seen.size(), [2, 4, 5, 5]);
        let sums = seen.sum_dim_intlist([3i64].as_slice(), false, Kind::Float);
        assert!((sums - 1.0).abs().max().double_value(&[]) < crate::tolerance::SAME_MATH);
        let apart = (mix(&seen, &qkv, 4) - whole(&qkv, 4)).abs().max().double_value(&[]);
        assert!(apart < crate::tolerance::SAME_MATH, "{apart}");
    }

    #[test]
    fn positions_of_the_same_grid_stay() {
        let _alone = crate::rng::alone();
        let pos = Tensor::randn([1, 10, 4], (Kind::Float, Device::Cpu));
        assert_eq!(resized(&pos, 1, 3, [3, 3]), pos);
        let other = resized(&pos, 1, 3, [6, 2]);
        assert_eq!(other.size(), [1, 13, 4]);
        assert_eq!(other.narrow(1, 0, 1), pos.narrow(1, 0, 1), "the class token's is no patch");
        let flat = resized(&Tensor::ones([1, 9, 4], (Kind::Float, Device::Cpu)), 0, 3, [5, 7]);
        assert!((flat - 1.0).abs().max().double_value(&[]) < crate::tolerance::SAME_MATH);
    }
}
