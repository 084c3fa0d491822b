//! What calibration finds: between which values activations lie.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::Error;

/// What each channel of a normalisation's value is divided by, and the matrix behind it multiplied with; by the name of the
/// normalisation's node. Only vision transformers have any.
pub type Smoothing = BTreeMap<String, Vec<f32>>;

/// How a range follows from the values that were seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// From the least to the largest value.
    MinMax,
    /// All but this share of the values at each end, as a percentage.
    Percentile(f64),
    /// The range that keeps most of the distribution's information.
    Entropy,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::Percentile(percent) => write!(f, "percentile:{percent}"),
            Self::Entropy => f.write_str("entropy"),
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected = || format!("expected `min-max`, `entropy` or `percentile:99.99`, got `{s}`");
        match s.split_once(':') {
            None if s == "min-max" => Ok(Self::MinMax),
            None if s == "entropy" => Ok(Self::Entropy),
            None if s == "percentile" => Ok(Self::Percentile(99.99)),
            Some(("percentile", percent)) => match percent.parse() {
                Ok(percent) if percent > 50.0 && percent <= 100.0 => Ok(Self::Percentile(percent)),
                _ => Err(format!("{}; the percentage is above 50 and at most 100", expected())),
            },
            _ => Err(expected()),
        }
    }
}

/// Values between which an activation lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// At most zero.
    pub low: f32,
    /// At least zero.
    pub high: f32,
}

/// The ranges of all activations.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// By the name of the graph's node.
    pub ranges: BTreeMap<String, Range>,
    /// The ranges are those behind this.
    pub smoothing: Smoothing,
    /// Products of vision transformers that 8 bits are too few for, and the share of their values' length that rounding
    /// would change.
    pub coarse: BTreeMap<String, f64>,
    /// How they came about.
    pub method: Method,
    /// On how many pictures.
    pub pictures: usize,
    /// How many could not be used.
    pub skipped: usize,
    /// Lines for people about the pictures: what was left out, what is broken.
    pub notes: Vec<String>,
}

impl Calibration {
    /// Whether a product has to stay in floating point.
    pub(crate) fn is_coarse(&self, product: &str) -> bool {
        self.coarse.contains_key(product)
    }

    /// The range of a node's value.
    pub(crate) fn range(&self, node: &str) -> Result<Range, Error> {
        self.ranges.get(node).copied().ok_or_else(|| Error::NotCalibrated { node: node.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_parsed_and_shown() {
        for text in ["min-max", "entropy", "percentile:99.9"] {
            assert_eq!(text.parse::<Method>().expect("known").to_string(), text);
        }
        assert_eq!("percentile".parse(), Ok(Method::Percentile(99.99)));
        for text in ["max", "percentile:0", "percentile:x", "entropy:3"] {
            assert!(text.parse::<Method>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_that_was_not_calibrated_is_an_error() {
        let empty = Calibration {
            ranges: BTreeMap::new(),
            smoothing: Smoothing::new(),
            coarse: BTreeMap::new(),
            method: Method::MinMax,
            pictures: 0,
            skipped: 0,
            notes: Vec::new(),
        };
        let error = empty.range("layer1.0.relu").expect_err("nothing there");
        assert!(matches!(&error, Error::NotCalibrated { node } if node == "layer1.0.relu"), "{error}");
    }
}
