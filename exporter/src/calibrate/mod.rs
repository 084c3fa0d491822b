//! The ranges of an encoder's activations on real pictures, which static quantisation needs.

mod histogram;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Error;
use crate::onnx::{self, InputKind, Network};
use crate::pictures::Pictures;
use crate::runtime::Session;
use histogram::Histogram;

/// Pictures that are run at once; all activations of these are in memory together.
const BATCH: usize = 4;

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
    /// The range of a node's value.
    pub(crate) fn range(&self, node: &str) -> Result<Range, Error> {
        self.ranges.get(node).copied().ok_or_else(|| Error::NotCalibrated { node: node.to_owned() })
    }
}

/// Where ranges come from.
#[derive(Clone, Debug)]
pub struct CalibrationOptions {
    /// Pictures, or folders of them, as the encoder will see later.
    pub pictures: Vec<PathBuf>,
    /// Most pictures of each folder, spread evenly; `None` takes all.
    pub limit: Option<usize>,
    /// How a range follows from values.
    pub method: Method,
}

/// Runs the encoder in single precision in ONNX Runtime and watches its activations. `progress` gets
/// the pictures done and all of them.
///
/// # Errors
/// [`Error`] where not one picture can be used, and where ONNX Runtime is missing or fails.
pub fn calibrate(
    network: Network<'_>,
    input: InputKind,
    options: &CalibrationOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, Error> {
    let mut pictures = Pictures::expand(&options.pictures, options.limit)?;
    let all = pictures.paths.len();
    let (nodes, values, model) = onnx::observed(network, input)?;
    let mut bytes = Vec::new();
    model.write_to(&mut bytes).map_err(|reason| Error::Write { path: "memory".into(), reason })?;
    let mut session = Session::from_bytes(&bytes)?;
    drop(bytes);
    let mut histograms = vec![Histogram::default(); nodes.len()];
    for start in (0..all).step_by(BATCH) {
        let end = all.min(start + BATCH);
        let (inputs, _) = pictures.load(start..end, network.contract, input);
        if inputs.len() > 0 {
            let batch = inputs.batch(0..inputs.len());
            session.run(&batch, &values, &mut |at, values| histograms[at].add(values))?;
        }
        progress(end, all);
    }
    pictures.not_all_broken()?;
    let range = |histogram: &Histogram| match options.method {
        Method::MinMax => histogram.extremes(),
        Method::Percentile(percent) => histogram.percentile(percent / 100.0),
        Method::Entropy => histogram.entropy(),
    };
    let ranges = nodes.into_iter().zip(histograms.iter().map(range)).collect();
    let skipped = pictures.skipped();
    let notes = pictures.notes;
    Ok(Calibration { ranges, method: options.method, pictures: all - skipped, skipped, notes })
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
        let (ranges, notes) = (BTreeMap::new(), Vec::new());
        let empty = Calibration { ranges, method: Method::MinMax, pictures: 0, skipped: 0, notes };
        let error = empty.range("layer1.0.relu").expect_err("nothing there");
        assert!(matches!(&error, Error::NotCalibrated { node } if node == "layer1.0.relu"), "{error}");
    }
}
