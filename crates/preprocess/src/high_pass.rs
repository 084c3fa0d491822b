//! The high-pass filter of saliency masking: `x - GaussianBlur(x)`.

use serde::{Deserialize, Serialize};

/// `x - GaussianBlur(x)` on normalised planes, with reflected borders: torchvision's
/// `gaussian_blur`. Saliency-guided masking (<https://arxiv.org/abs/2309.12757>) trains with
/// kernel 11 and sigma 5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HighPass {
    /// Side of the kernel in pixels, odd.
    pub kernel: u32,
    /// Standard deviation in pixels.
    pub sigma: f32,
}

impl HighPass {
    /// The one-dimensional kernel: `kernel` weights that sum to one. The blur is its outer product.
    pub fn weights(&self) -> Vec<f32> {
        let half = f64::from(self.kernel.saturating_sub(1)) / 2.0;
        let density = |i: u32| (-0.5 * ((f64::from(i) - half) / f64::from(self.sigma)).powi(2)).exp();
        let weights: Vec<f64> = (0..self.kernel).map(density).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|w| (w / sum) as f32).collect()
    }

    /// Filters planes in place. `planes`: `(C, height, width)`, any number of channels.
    pub fn apply(&self, planes: &mut [f32], height: usize, width: usize) {
        if height == 0 || width == 0 {
            return;
        }
        let weights = self.weights();
        let mut rows = vec![0.0; height * width];
        let mut padded = vec![0.0; width + weights.len()];
        let mut blurred = vec![0.0; width];
        for plane in planes.chunks_exact_mut(height * width) {
            for (row, out) in plane.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
                blur_row(row, &weights, &mut padded, out);
            }
            for (y, row) in plane.chunks_exact_mut(width).enumerate() {
                blur_column(&rows, y, &weights, &mut blurred);
                row.iter_mut().zip(&blurred).for_each(|(x, b)| *x -= b);
            }
        }
    }
}

/// Index `i - pad` folded back into `0..n` at both borders, the border pixel not repeated.
fn reflect(i: usize, pad: usize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n - 1);
    let at = (i + period * pad.div_ceil(period) - pad) % period;
    at.min(period - at)
}

/// One row blurred along itself; `padded` is scratch space of the row's length plus the kernel's.
fn blur_row(row: &[f32], weights: &[f32], padded: &mut [f32], out: &mut [f32]) {
    let pad = weights.len() / 2;
    for (i, p) in padded.iter_mut().enumerate() {
        *p = row[reflect(i, pad, row.len())];
    }
    out.fill(0.0);
    // Weights outside, pixels inside: the inner loop runs over vectors.
    for (k, &w) in weights.iter().enumerate() {
        out.iter_mut().zip(&padded[k..]).for_each(|(o, p)| *o += w * p);
    }
}

/// Row `y` of the column-wise blur of `rows`.
fn blur_column(rows: &[f32], y: usize, weights: &[f32], out: &mut [f32]) {
    let width = out.len();
    let height = rows.len() / width;
    out.fill(0.0);
    for (k, &w) in weights.iter().enumerate() {
        let from = reflect(y + k, weights.len() / 2, height) * width;
        out.iter_mut().zip(&rows[from..from + width]).for_each(|(o, r)| *o += w * r);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_folds_at_both_ends() {
        let seen: Vec<usize> = (0..9).map(|i| reflect(i, 3, 4)).collect();
        assert_eq!(seen, [3, 2, 1, 0, 1, 2, 3, 2, 1]);
        // A kernel wider than the picture folds more than once.
        let seen: Vec<usize> = (0..7).map(|i| reflect(i, 3, 2)).collect();
        assert_eq!(seen, [1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(reflect(5, 3, 1), 0);
    }

    #[test]
    fn weights_are_symmetric_and_sum_to_one() {
        let w = HighPass { kernel: 11, sigma: 5.0 }.weights();
        assert_eq!(w.len(), 11);
        assert!((w.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((0..11).all(|i| w[i] == w[10 - i]));
    }

    /// Against the definition: a two-dimensional sum over the kernel.
    #[test]
    fn separable_equals_two_dimensional() {
        let (h, w) = (9, 7);
        let filter = HighPass { kernel: 5, sigma: 1.3 };
        let plane: Vec<f32> = (0..h * w).map(|i| ((i * 37) % 23) as f32 / 11.0 - 1.0).collect();
        let k = filter.weights();
        let mut out = plane.clone();
        filter.apply(&mut out, h, w);
        for y in 0..h {
            for x in 0..w {
                let mut blur = 0.0;
                for i in 0..5 {
                    for j in 0..5 {
                        blur += k[i] * k[j] * plane[reflect(y + i, 2, h) * w + reflect(x + j, 2, w)];
                    }
                }
                assert!((out[y * w + x] - (plane[y * w + x] - blur)).abs() < 1e-5);
            }
        }
    }
}
