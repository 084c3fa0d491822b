//! How often an activation has which size, without knowing the largest beforehand.

use crate::ranges::Range;

/// Bins of each sign.
pub(super) const BINS: usize = 2048;

/// Counts of values by size. The width of the bins doubles when a larger value comes.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    /// Upper end of the last bin; 0 while nothing but zeros was seen.
    end: f32,
    positive: Vec<u64>,
    negative: Vec<u64>,
    zeros: u64,
    least: f32,
    most: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        let empty = || vec![0; BINS];
        Self { end: 0.0, positive: empty(), negative: empty(), zeros: 0, least: 0.0, most: 0.0 }
    }
}

impl Histogram {
    /// Counts values; what is not finite is left out.
    pub(super) fn add(&mut self, values: &[f32]) {
        let finite = |v: f32| if v.is_finite() { v } else { 0.0 };
        let (least, most) = values.iter().fold((self.least, self.most), |(lo, hi), &v| {
            let v = finite(v);
            (lo.min(v), hi.max(v))
        });
        (self.least, self.most) = (least, most);
        self.make_room(most.max(-least));
        if self.end == 0.0 {
            self.zeros += values.len() as u64;
            return;
        }
        let bins_per_unit = BINS as f32 / self.end;
        for &value in values {
            let bin = ((value.abs() * bins_per_unit) as usize).min(BINS - 1);
            if value > 0.0 && value.is_finite() {
                self.positive[bin] += 1;
            } else if value < 0.0 && value.is_finite() {
                self.negative[bin] += 1;
            } else {
                self.zeros += 1;
            }
        }
    }

    fn make_room(&mut self, largest: f32) {
        if self.end == 0.0 && largest > 0.0 {
            self.end = largest;
        }
        while self.end > 0.0 && self.end < largest {
            self.end *= 2.0;
            for counts in [&mut self.positive, &mut self.negative] {
                let halved: Vec<u64> = counts.chunks(2).map(|pair| pair.iter().sum()).collect();
                counts.fill(0);
                counts[..BINS / 2].copy_from_slice(&halved);
            }
        }
    }

    /// From the least to the largest value that was seen, zero included.
    pub(super) fn extremes(&self) -> Range {
        Range { low: self.least, high: self.most }
    }

    /// The range that leaves out the share `1 - share` of all values at each end.
    pub(super) fn percentile(&self, share: f64) -> Range {
        let total = self.zeros + self.positive.iter().chain(&self.negative).sum::<u64>();
        let outside = ((1.0 - share) * total as f64) as u64;
        let extremes = self.extremes();
        Range {
            low: -self.cut(&self.negative, outside).min(-extremes.low),
            high: self.cut(&self.positive, outside).min(extremes.high),
        }
    }

    /// The upper end of the last bin that is kept when `outside` values may be lost.
    fn cut(&self, counts: &[u64], outside: u64) -> f32 {
        let mut lost = 0;
        let kept = counts.iter().rposition(|&n| {
            lost += n;
            lost > outside
        });
        kept.map_or(0.0, |bin| self.upper(bin))
    }

    fn upper(&self, bin: usize) -> f32 {
        self.end * (bin + 1) as f32 / BINS as f32
    }

    /// The range whose quantised distribution is nearest to the real one, by Kullback and Leibler's
    /// divergence: <https://on-demand.gputechconf.com/gtc/2017/presentation/s7310-8-bit-inference-with-tensorrt.pdf>.
    pub(super) fn entropy(&self) -> Range {
        let extremes = self.extremes();
        // A rectified value has all codes for one sign.
        let levels = if extremes.low < 0.0 { 128 } else { 255 };
        let counts: Vec<u64> = self.positive.iter().zip(&self.negative).map(|(p, n)| p + n).collect();
        let used = counts.iter().rposition(|&n| n > 0).map_or(0, |last| last + 1);
        let candidates = (levels..=used).step_by(8).chain([used]);
        let best = candidates
            .map(|kept| (divergence(&counts[..used], kept.min(used), levels), kept.min(used)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, kept)) = best.filter(|&(_, kept)| kept > 0) else { return extremes };
        let end = self.upper(kept - 1);
        Range { low: (-end).max(extremes.low), high: end.min(extremes.high) }
    }
}

/// Divergence of the first `kept` bins in `levels` steps from the bins themselves, where the last of
/// them takes everything beyond.
fn divergence(counts: &[u64], kept: usize, levels: usize) -> f64 {
    let inside = &counts[..kept];
    let beyond: u64 = counts[kept..].iter().sum();
    let total = counts.iter().sum::<u64>() as f64;
    let mut quantized = vec![0.0; kept];
    for level in 0..levels {
        let bins = level * kept / levels..(level + 1) * kept / levels;
        let mass: u64 = inside[bins.clone()].iter().sum();
        let filled = inside[bins.clone()].iter().filter(|&&n| n > 0).count().max(1);
        for bin in bins {
            if inside[bin] > 0 {
                quantized[bin] = mass as f64 / filled as f64;
            }
        }
    }
    let represented: f64 = quantized.iter().sum();
    let terms = inside.iter().zip(&quantized).enumerate().map(|(bin, (&count, &q))| {
        let p = (count + if bin + 1 == kept { beyond } else { 0 }) as f64 / total;
        let q = (q / represented.max(1.0)).max(1e-12);
        if p > 0.0 { p * (p / q).ln() } else { 0.0 }
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        // One by one, so that the range grows on the way.
        values.iter().for_each(|&v| histogram.add(&[v]));
        histogram
    }

    /// Values of a normal distribution, by the sum of twelve uniform ones.
    fn normal(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn extremes_are_exact_whatever_the_order() {
        for values in [[1.0, -3.0, 100.0, 0.0], [100.0, 1.0, 0.0, -3.0]] {
            let range = of(&values).extremes();
            assert_eq!((range.low, range.high), (-3.0, 100.0));
        }
        let nothing = of(&[0.0, f32::NAN, f32::INFINITY]);
        assert_eq!((nothing.extremes().low, nothing.extremes().high), (0.0, 0.0));
        assert_eq!(nothing.percentile(0.99).high, 0.0);
        assert_eq!(nothing.entropy().high, 0.0);
    }

    #[test]
    fn growing_loses_no_value() {
        let histogram = of(&[0.001, 0.5, -0.7, 8.0, -9.0, 1000.0]);
        assert_eq!(histogram.positive.iter().sum::<u64>(), 4);
        assert_eq!(histogram.negative.iter().sum::<u64>(), 2);
    }

    #[test]
    fn a_percentile_leaves_outliers_out() {
        let mut values: Vec<f32> = (1..=9_999).map(|i| i as f32 / 10_000.0).collect();
        values.push(50.0);
        let range = of(&values).percentile(0.999);
        assert!((range.high - 0.999).abs() < 0.05, "{range:?}");
        assert_eq!(range.low, 0.0);
        assert_eq!(of(&values).percentile(1.0).high, 50.0);
    }

    #[test]
    fn entropy_cuts_a_thin_tail_and_keeps_a_box() {
        let mut tailed = normal(100_000);
        tailed.push(60.0);
        let range = of(&tailed).entropy();
        assert!((3.0..20.0).contains(&range.high) && range.low < -3.0, "{range:?}");
        let boxed: Vec<f32> = (0..100_000).map(|i| i as f32 / 100_000.0).collect();
        assert!(of(&boxed).entropy().high > 0.95);
    }
}
