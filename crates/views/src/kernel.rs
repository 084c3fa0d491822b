//! Weights of an antialiased resize along one axis, as Pillow computes them, in 16-bit fractions.

use std::ops::Range;

/// For each of `n` outputs: where its inputs begin, and `taps` weights that sum to (about) 2^15.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) taps: usize,
    pub(super) starts: Vec<usize>,
    /// `(n, taps)`
    pub(super) weights: Vec<i16>,
    /// Inputs that any output reads.
    pub(super) reach: Range<usize>,
    /// The weights of one output, while they are computed.
    exact: Vec<f64>,
}

/// One axis of a crop: what is to be resampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    /// First pixel, and fraction, of the crop.
    pub(super) start: f64,
    /// Its length, above 0.
    pub(super) length: f64,
    /// Outputs.
    pub(super) n: usize,
    /// Whether the outputs are in reverse order.
    pub(super) reverse: bool,
}

impl Kernel {
    /// The triangle filter of `axis` over samples of which there are `size`. With `half` there are as many pixels as
    /// `axis` says, but only every second one was sampled: the weights then are those of the samples from which the
    /// missing pixels are interpolated (3/4 of the nearer and 1/4 of the farther, as JPEG decoders do).
    pub(super) fn set(&mut self, axis: &Axis, size: usize, half: bool) {
        #[cfg(target_arch = "x86_64")]
        if crate::wide() {
            // SAFETY: `wide` found the instructions.
            return unsafe { self.set_avx2(axis, size, half) };
        }
        self.body(axis, size, half);
    }

    /// Rounding is one instruction there, and a call elsewhere.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn set_avx2(&mut self, axis: &Axis, size: usize, half: bool) {
        self.body(axis, size, half);
    }

    #[inline(always)]
    fn body(&mut self, axis: &Axis, size: usize, half: bool) {
        let scale = axis.length / axis.n as f64;
        let support = scale.max(1.0);
        let narrow = 1.0 / support;
        // pixels outside the crop have no influence
        let (low, high) = super::touched(axis);
        let first = |pixel: usize| if half { (pixel.max(1) - 1) / 2 } else { pixel };
        let last = |pixel: usize| if half { pixel.div_ceil(2).min(size - 1) } else { pixel.min(size - 1) };
        // as many as the widest output needs
        let span = (2.0 * support).ceil() as usize;
        let taps = if half { span / 2 + 2 } else { span }.min(last(high - 1) + 1 - first(low));
        (self.taps, self.reach) = (taps, first(low)..last(high - 1) + 1);
        self.starts.clear();
        self.weights.clear();
        for i in 0..axis.n {
            let i = if axis.reverse { axis.n - 1 - i } else { i };
            let centre = axis.start + (i as f64 + 0.5) * scale;
            let from = ((centre - support + 0.5).floor().max(low as f64) as usize).min(high - 1);
            let to = ((centre + support + 0.5).floor() as usize).clamp(from + 1, high);
            let start = first(from).min(self.reach.end - taps);
            self.exact.clear();
            self.exact.resize(taps, 0.0);
            let mut sum = 0.0;
            for pixel in from..to {
                let weight = (1.0 - ((pixel as f64 + 0.5 - centre) * narrow).abs()).max(0.0);
                sum += weight;
                let mut add = |sample: usize, weight: f64| {
                    if let Some(slot) = self.exact.get_mut(sample - start) {
                        *slot += weight;
                    }
                };
                if half {
                    let nearer = (pixel / 2).min(size - 1);
                    let farther = if pixel % 2 == 1 { nearer + 1 } else { nearer.saturating_sub(1) };
                    add(nearer, 0.75 * weight);
                    add(farther.min(size - 1), 0.25 * weight);
                } else {
                    add(pixel, weight);
                }
            }
            self.starts.push(start);
            let unit = 32_768.0 / if sum > 0.0 { sum } else { 1.0 };
            self.weights.extend(self.exact.iter().map(|w| (w * unit + 0.5).min(32_767.0) as i16));
        }
    }

    /// The first input and the weights of output `i`.
    #[inline(always)]
    pub(super) fn output(&self, i: usize) -> (usize, &[i16]) {
        (self.starts[i], &self.weights[i * self.taps..][..self.taps])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights of every output over all `size` samples.
    fn dense(kernel: &Kernel, n: usize, size: usize) -> Vec<Vec<f64>> {
        let mut out = vec![vec![0.0; size]; n];
        for (i, row) in out.iter_mut().enumerate() {
            let (start, weights) = kernel.output(i);
            for (k, &w) in weights.iter().enumerate() {
                row[start + k] += f64::from(w) / 32_768.0;
            }
        }
        out
    }

    const AXES: [(f64, f64, usize); 7] = [
        (0.0, 41.0, 16),
        (3.0, 20.0, 20),
        (7.0, 5.0, 33),
        (2.5, 30.25, 9),
        (40.0, 1.0, 4),
        (0.0, 41.0, 1),
        (38.0, 3.0, 2),
    ];

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (start, length, n) in AXES {
            for (size, half) in [(41, false), (21, true)] {
                let mut kernel = Kernel::default();
                kernel.set(&Axis { start, length, n, reverse: false }, size, half);
                assert!(kernel.reach.end <= size);
                for row in dense(&kernel, n, size) {
                    let sum: f64 = row.iter().sum();
                    assert!((sum - 1.0).abs() < 3e-4, "{start} {length} {n} {half}: {sum}");
                }
            }
        }
    }

    /// The weights of half as many samples are those of interpolating first.
    #[test]
    fn halved_samples_are_interpolated_first() {
        for (start, length, n) in AXES {
            let axis = Axis { start, length, n, reverse: false };
            let (mut full, mut half) = (Kernel::default(), Kernel::default());
            full.set(&axis, 41, false);
            half.set(&axis, 21, true);
            for (full, half) in dense(&full, n, 41).iter().zip(dense(&half, n, 21)) {
                let mut expected = [0.0; 21];
                for (pixel, w) in full.iter().enumerate() {
                    let (near, step) = (pixel as i64 / 2, if pixel % 2 == 1 { 1 } else { -1 });
                    expected[near as usize] += 0.75 * w;
                    expected[(near + step).clamp(0, 20) as usize] += 0.25 * w;
                }
                assert!(expected.iter().zip(&half).all(|(a, b)| (a - b).abs() < 3e-4), "{axis:?}");
            }
        }
    }

    #[test]
    fn the_reverse_is_in_reverse_order() {
        let axis = Axis { start: 3.0, length: 20.0, n: 11, reverse: false };
        let (mut forth, mut back) = (Kernel::default(), Kernel::default());
        forth.set(&axis, 41, true);
        back.set(&Axis { reverse: true, ..axis }, 41, true);
        let mut turned = dense(&back, 11, 41);
        turned.reverse();
        assert_eq!(dense(&forth, 11, 41), turned);
    }
}
