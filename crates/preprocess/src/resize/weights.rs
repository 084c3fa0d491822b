//! Weights of an antialiased resize along one axis, in the fixed point that Pillow computes with.

use super::Interpolation;

/// Fractional bits of a weight: 8 bits of a sample, and 2 so that sums with negative weights fit into 32.
pub(super) const PRECISION: u32 = 32 - 8 - 2;

/// One axis of a resize: the pixels from `start` on over `length`, to `outputs`, of which `count` from `first` on are
/// wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    /// Where the pixels that may be read begin, and how many they are; the others have no influence.
    pub(super) low: usize,
    pub(super) size: usize,
    /// In pixels from `low` on.
    pub(super) start: f64,
    pub(super) length: f64,
    pub(super) outputs: usize,
    pub(super) first: usize,
    pub(super) count: usize,
}

/// For each wanted output: where its inputs begin, and `taps` weights, the last of which may be 0.
#[derive(Debug, Default)]
pub(super) struct Weights {
    pub(super) taps: usize,
    pub(super) starts: Vec<usize>,
    /// `(count, taps)`
    pub(super) values: Vec<i32>,
    /// The weights of one output, while they are computed.
    exact: Vec<f64>,
}

impl Interpolation {
    /// Pixels that the kernel reaches to either side.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The kernel at a distance. Cubic convolution with a = -0.5: Keys, IEEE Transactions on Acoustics, Speech, and
    /// Signal Processing 29 (1981).
    fn kernel(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

impl Weights {
    /// Computes those of `axis`; the order of operations is part of the result.
    pub(super) fn set(&mut self, axis: &Axis, how: Interpolation) {
        let scale = axis.length / axis.outputs as f64;
        // reducing widens the kernel
        let widened = scale.max(1.0);
        let support = how.support() * widened;
        let narrow = 1.0 / widened;
        self.starts.clear();
        self.values.clear();
        // as many as any output can need, less where there are fewer pixels
        self.taps = (support.ceil() as usize * 2 + 1).min(axis.size.max(1));
        for output in axis.first..axis.first + axis.count {
            let centre = axis.start + (output as f64 + 0.5) * scale;
            let from = ((centre - support + 0.5) as i64).max(0) as usize;
            let to = ((centre + support + 0.5) as i64).clamp(0, axis.size as i64) as usize;
            let from = from.min(to);
            self.exact.clear();
            let weight = |pixel: usize| how.kernel((pixel as f64 - centre + 0.5) * narrow);
            self.exact.extend((from..to).map(weight));
            let sum = self.exact.iter().fold(0.0, |sum, w| sum + w);
            if sum != 0.0 {
                self.exact.iter_mut().for_each(|w| *w /= sum);
            }
            // near the end all taps lie inside, the first of them with weight 0
            let start = from.min(axis.size.saturating_sub(self.taps));
            self.starts.push(axis.low + start);
            let before = from - start;
            let fixed = |w: &f64| (w * f64::from(1 << PRECISION) + if *w < 0.0 { -0.5 } else { 0.5 }) as i32;
            self.values.extend(std::iter::repeat_n(0, before));
            self.values.extend(self.exact.iter().map(fixed));
            self.values.resize(self.starts.len() * self.taps, 0);
        }
    }

    /// The first input and the weights of output `i`.
    #[inline(always)]
    pub(super) fn output(&self, i: usize) -> (usize, &[i32]) {
        (self.starts[i], &self.values[i * self.taps..][..self.taps])
    }

    /// Where each output is one input as it is: the first of them.
    pub(super) fn identity(&self) -> Option<usize> {
        let (first, weights) = (!self.starts.is_empty()).then(|| self.output(0))?;
        let at = weights.iter().position(|&w| w == 1 << PRECISION)?;
        let one = |(i, start): (usize, &usize)| {
            let (_, weights) = self.output(i);
            let alone = weights.iter().filter(|&&w| w != 0).count() == 1;
            let place = weights.iter().position(|&w| w == 1 << PRECISION);
            alone && place.is_some_and(|place| start + place == first + at + i)
        };
        self.starts.iter().enumerate().all(one).then_some(first + at)
    }

    /// The inputs that any output reads.
    pub(super) fn reach(&self) -> std::ops::Range<usize> {
        let low = self.starts.iter().min().copied().unwrap_or(0);
        low..self.starts.iter().max().map_or(low, |start| start + self.taps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(size: usize, outputs: usize) -> Axis {
        Axis { low: 0, size, start: 0.0, length: size as f64, outputs, first: 0, count: outputs }
    }

    #[test]
    fn weights_sum_to_one_and_lie_inside() {
        for how in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (size, outputs) in [(41, 16), (5, 33), (1, 4), (2, 7), (300, 1), (7, 7), (1000, 999)] {
                let mut weights = Weights::default();
                weights.set(&axis(size, outputs), how);
                assert!(weights.reach().end <= size, "{size} {outputs}");
                for i in 0..outputs {
                    let sum: i32 = weights.output(i).1.iter().sum();
                    assert!((sum - (1 << PRECISION)).abs() <= weights.taps as i32, "{size} {outputs}: {sum}");
                }
            }
        }
    }

    #[test]
    fn a_part_has_the_weights_of_the_whole() {
        let (mut whole, mut part) = (Weights::default(), Weights::default());
        whole.set(&axis(100, 37), Interpolation::Bicubic);
        part.set(&Axis { first: 9, count: 20, ..axis(100, 37) }, Interpolation::Bicubic);
        for i in 0..20 {
            assert_eq!(whole.output(9 + i), part.output(i));
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        for how in [Interpolation::Bilinear, Interpolation::Bicubic] {
            let mut weights = Weights::default();
            weights.set(&axis(9, 9), how);
            assert_eq!(weights.identity(), Some(0));
            weights.set(&Axis { first: 3, count: 4, ..axis(9, 9) }, how);
            assert_eq!(weights.identity(), Some(3));
            weights.set(&axis(9, 8), how);
            assert_eq!(weights.identity(), None);
        }
    }
}
