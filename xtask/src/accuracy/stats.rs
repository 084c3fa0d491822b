//! Means over seeds, differences between arms, and how sure one can be of them.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// What an interval holds with.
const CONFIDENCE: f64 = 0.95;
/// Replicates of the bootstrap.
const REPLICATES: usize = 10_000;

/// A figure over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// The mean.
    pub(super) mean: f64,
    /// The standard deviation of the sample (n - 1); none of a single value.
    pub(super) deviation: Option<f64>,
    /// How many.
    pub(super) count: usize,
}

/// The summary of what is there; none of nothing.
pub(super) fn summary(values: &[f64]) -> Option<Summary> {
    let count = values.len();
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
    Some(Summary { mean, deviation, count })
}

/// Student's interval of the mean of `values`, independent draws of one normal distribution, such as the differences of
/// two arms seed by seed; none of fewer than two.
pub(super) fn t_interval(values: &[f64]) -> Option<[f64; 2]> {
    let Summary { mean, deviation, count } = summary(values)?;
    let student = StudentsT::new(0.0, 1.0, (count - 1) as f64).ok()?;
    let half = student.inverse_cdf(0.5 + CONFIDENCE / 2.0) * deviation? / (count as f64).sqrt();
    Some([mean - half, mean + half])
}

/// The percentile interval of the mean of `values`, drawn anew with replacement: of test pictures, when there are too few
/// seeds to say anything of another one. Equal values have equal intervals.
pub(super) fn bootstrap(values: &[f64]) -> Option<[f64; 2]> {
    if values.is_empty() {
        return None;
    }
    let mut dice = Dice(0);
    let mut drawn = || (0..values.len()).map(|_| values[dice.below(values.len())]).sum::<f64>();
    let mut means: Vec<f64> = (0..REPLICATES).map(|_| drawn() / values.len() as f64).collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some([tail, 1.0 - tail].map(|q| means[(q * (REPLICATES - 1) as f64).round() as usize]))
}

/// The mean; none of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// SplitMix64 (Steele, Lea, Flood 2014, <https://doi.org/10.1145/2714064.2660195>).
struct Dice(u64);

impl Dice {
    /// A number below `end`, which is above 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // the bias of the remainder does not matter for numbers this small
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The quantile is found by iteration; scipy's has its own last digits.
    const QUANTILE: f64 = 1e-7;
    /// The ends of a percentile interval of 10,000 draws are known to about 2 % of its width; scipy has other draws.
    const DRAWS: f64 = 0.05;

    /// `golden/stats.json`, which `golden/stats.py` computes with scipy.
    fn golden() -> Value {
        serde_json::from_str(include_str!("golden/stats.json")).expect("JSON")
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    }

    #[test]
    fn summaries_and_intervals_over_seeds_equal_those_of_scipy() {
        let golden = golden();
        let cases = golden["seeds"].as_array().expect("cases");
        assert!(cases.len() >= 6);
        for case in cases {
            let values = numbers(&case["values"]);
            let found = summary(&values).expect("values");
            let near = |a: f64, b: &Value| (a - b.as_f64().expect("a number")).abs() < QUANTILE;
            assert!(near(found.mean, &case["mean"]) && found.count == values.len(), "{case}");
            match found.deviation {
                Some(deviation) => assert!(near(deviation, &case["deviation"]), "{case}: {deviation}"),
                None => assert!(case["deviation"].is_null() && values.len() == 1),
            }
            match t_interval(&values) {
                Some([low, high]) => {
                    assert!(
                        near(low, &case["interval"][0]) && near(high, &case["interval"][1]),
                        "{case}: {low} {high}"
                    );
                }
                None => assert!(case["interval"].is_null()),
            }
        }
        assert_eq!((summary(&[]), t_interval(&[])), (None, None));
    }

    #[test]
    fn the_bootstrap_over_pictures_equals_that_of_scipy_but_for_the_draws() {
        for case in golden()["pictures"].as_array().expect("cases") {
            let counted = numbers(&case["counts"]);
            let values: Vec<f64> = [-1.0, 0.0, 1.0]
                .iter()
                .zip(counted)
                .flat_map(|(&value, count)| std::iter::repeat_n(value, count as usize))
                .collect();
            let [low, high] = bootstrap(&values).expect("values");
            let expected = numbers(&case["interval"]);
            let tolerance = DRAWS * (expected[1] - expected[0]);
            assert!(
                (low - expected[0]).abs() <= tolerance && (high - expected[1]).abs() <= tolerance,
                "{case}: {low} {high}"
            );
            assert_eq!(bootstrap(&values), Some([low, high]), "it repeats");
        }
        assert_eq!((bootstrap(&[]), bootstrap(&[0.5; 9])), (None, Some([0.5, 0.5])));
    }

    #[test]
    fn a_seed_gives_the_published_numbers() {
        let mut dice = Dice(1_234_567);
        // 6,457,827,717,110,365,317 and 3,203,168,211,198,807,973
        assert_eq!(
            [dice.below(1 << 40), dice.below(1 << 40)],
            [6_457_827_717_110_365_317 % (1 << 40), 3_203_168_211_198_807_973 % (1 << 40)]
        );
    }
}
