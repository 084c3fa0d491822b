//! Axes: which range to show, where the ticks lie, and which points are enough.

/// Steps between the ticks of an axis at most.
const TICKS: f64 = 6.0;
/// Points of a curve, about: what a page's width can show.
const POINTS: usize = 400;

/// A range of values, of some extent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
}

/// How an axis takes its range from values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fit {
    /// Begins at 0 unless there are negative values.
    pub(super) from_zero: bool,
    /// Extent that is shown at least.
    pub(super) at_least: f64,
}

impl Range {
    /// Exactly the range of `values`, widened where it is a point.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let all = values.fold(None, |range: Option<Self>, v| {
            Some(range.map_or(Self { low: v, high: v }, |r| Self { low: r.low.min(v), high: r.high.max(v) }))
        })?;
        Some(if all.high > all.low {
            all
        } else {
            all.around(if all.low == 0.0 { 1.0 } else { all.low.abs() / 5.0 })
        })
    }

    /// Wider by `extent`.
    fn around(self, extent: f64) -> Self {
        Self { low: self.low - extent / 2.0, high: self.high + extent / 2.0 }
    }

    /// A range that shows `values`. Where a few of them lie far outside the rest, they go off the chart: one spike
    /// would flatten everything else to a line.
    pub(super) fn fit(values: &[f64], fit: Fit) -> Option<Self> {
        let mut range = Self::of(values.iter().copied())?;
        if let Some(most) = most(values).filter(|most| range.extent() > 4.0 * most.extent()) {
            range = most.padded(0.25);
        }
        let missing = fit.at_least - range.extent();
        if fit.from_zero && values.iter().all(|&v| v >= 0.0) {
            return Some(Self { low: 0.0, high: (range.high * 1.05).max(fit.at_least) });
        }
        if missing > 0.0 {
            range = range.around(missing);
        }
        Some(range.padded(0.05))
    }

    pub(super) fn extent(self) -> f64 {
        self.high - self.low
    }

    /// 0 at the low end, 1 at the high one; what lies far outside is brought nearer.
    pub(super) fn place(self, value: f64) -> f64 {
        ((value - self.low) / self.extent()).clamp(-9.0, 10.0)
    }

    pub(super) fn contains(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// A little more at both ends.
    pub(super) fn padded(self, share: f64) -> Self {
        self.around(2.0 * share * self.extent())
    }

    /// Round values inside, and the decimals that tell them apart.
    pub(super) fn ticks(self) -> (Vec<f64>, usize) {
        self.ticks_of(self.extent() / TICKS, |_| true)
    }

    /// Round whole values inside.
    pub(super) fn whole_ticks(self) -> Vec<f64> {
        self.ticks_of((self.extent() / TICKS).max(1.0), |step| step.fract() == 0.0).0
    }

    /// Ticks at least `rough` apart, in steps that `fit`.
    fn ticks_of(self, rough: f64, fit: impl Fn(f64) -> bool) -> (Vec<f64>, usize) {
        let power = 10f64.powf(rough.log10().floor());
        let round = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .find(|m| m * power >= rough && fit(m * power))
            .unwrap_or(10.0);
        let step = round * power;
        let first = (self.low / step).ceil();
        let ticks =
            (0..10).map(|i| (first + f64::from(i)) * step).take_while(|&t| t <= self.high + step * 1e-9);
        let further = if round == 2.5 { 1.0 } else { 0.0 };
        let decimals = (further - step.log10().floor()).clamp(0.0, 12.0) as usize;
        (ticks.map(|t| if t.abs() < step / 2.0 { 0.0 } else { t }).collect(), decimals)
    }
}

/// The range without the hundredth of the values at either end.
fn most(values: &[f64]) -> Option<Range> {
    if values.len() < 50 {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.len() / 100;
    let (low, high) = (*sorted.get(at)?, *sorted.get(sorted.len() - 1 - at)?);
    (high > low).then_some(Range { low, high })
}

/// A few hundred of `points` that look like all of them: the lowest and the highest of each stretch, and the ends.
pub(super) fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS / 2);
    if size <= 2 {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(POINTS + 4);
    out.extend(points.first());
    for stretch in points.chunks(size) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let both = [stretch.iter().min_by(by_value), stretch.iter().max_by(by_value)];
        let mut both: Vec<_> = both.into_iter().flatten().copied().collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        out.extend(both);
    }
    out.extend(points.last());
    out.dedup_by(|a, b| a.0 == b.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let range = Range { low: 1.68, high: 4.86 };
        assert_eq!(range.ticks(), (vec![2.0, 3.0, 4.0], 0));
        let (ticks, decimals) = Range { low: 0.0, high: 0.001 }.ticks();
        assert_eq!((ticks.len(), decimals), (6, 4));
        assert_eq!(Range { low: -1.0, high: 1.0 }.ticks().0, [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(Range { low: 0.0, high: 14.0 }.ticks(), (vec![0.0, 2.5, 5.0, 7.5, 10.0, 12.5], 1));
        assert_eq!(Range { low: 0.9, high: 15.1 }.whole_ticks(), [5.0, 10.0, 15.0]);
        assert_eq!(Range { low: 0.9, high: 2.1 }.whole_ticks(), [1.0, 2.0]);
    }

    #[test]
    fn ranges_have_an_extent() {
        assert_eq!(Range::fit(&[], Fit::default()), None);
        for values in [&[0.0][..], &[3.0, 3.0], &[-2.0]] {
            let range = Range::fit(values, Fit::default()).expect("values");
            assert!(range.extent() > 0.0 && range.contains(values[0]));
        }
        let zero = Fit { from_zero: true, at_least: 5.0 };
        assert_eq!(Range::fit(&[0.001], zero), Some(Range { low: 0.0, high: 5.0 }));
    }

    #[test]
    fn a_spike_goes_off_the_chart() {
        let mut values: Vec<f64> = (0..200).map(|i| 2.0 + 0.01 * f64::from(i)).collect();
        values.push(1e6);
        let range = Range::fit(&values, Fit::default()).expect("values");
        assert!(range.high < 10.0 && range.contains(2.0) && range.contains(3.99), "{range:?}");
    }

    #[test]
    fn thinning_keeps_ends_and_extremes() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[5_003].1 = 99.0;
        points[70_001].1 = -99.0;
        let thinned = thin(&points);
        assert!(thinned.len() <= POINTS + 4, "{}", thinned.len());
        for kept in [0, 5_003, 70_001, 99_999] {
            assert!(thinned.contains(&points[kept]), "{kept}");
        }
        assert!(thinned.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(thin(&points[..300]), points[..300]);
    }
}
