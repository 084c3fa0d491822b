//! Rules that make a saliency map of a feature map: which cells of a picture are the object.
//!
//! Pure functions over batches; nothing here knows a network. They are few operators each, because the exported model
//! computes the same.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::mask::aggregate;

/// Shortest vector that a cosine divides by; a cell whose feature is zero is like nothing.
const MIN_LENGTH: f64 = 1e-12;

/// How a saliency map is made of the feature map of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MapRule {
    /// Sum over channels (SCDA): where most of them are excited
    Sum,
    /// One less the cosine with the mean feature of the border's cells: what differs from the border
    #[default]
    Border,
}

impl MapRule {
    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Border => "border",
        }
    }

    /// The maps of feature maps. Shape: `(B, C, h, w)` to `(B, h, w)`, float32.
    pub fn apply(self, features: &Tensor) -> Tensor {
        match self {
            Self::Sum => aggregate(features),
            Self::Border => border(features),
        }
    }
}

/// One less the cosine of each cell's feature with the mean over the first and last row and column, as four strips laid
/// end to end: a corner counts twice. Values lie in 0..2, and in 0..1 for features that are not negative. Shape:
/// `(B, C, h, w)` to `(B, h, w)`, float32.
///
/// After the background prior of Wei et al., ECCV 2012, doi 10.1007/978-3-642-33712-3_3, with features for colours.
pub fn border(features: &Tensor) -> Tensor {
    let features = features.to_kind(Kind::Float);
    let strips =
        [features.select(2, 0), features.select(2, -1), features.select(3, 0), features.select(3, -1)];
    let mean = Tensor::cat(&strips, 2).mean_dim([2i64].as_slice(), true, Kind::Float); // (B, C, 1)
    let length = |x: &Tensor| {
        x.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt().clamp_min(MIN_LENGTH)
    };
    let mean = (&mean / length(&mean)).unsqueeze(3); // (B, C, 1, 1)
    let along = (&features * mean).sum_dim_intlist([1i64].as_slice(), true, Kind::Float); // (B, 1, h, w)
    let unlike: Tensor = 1.0 - along / length(&features);
    unlike.squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use tch::Device;

    fn features() -> Tensor {
        tch::manual_seed(9);
        Tensor::randn([3, 5, 4, 6], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn rules_equal_naive_loops() {
        let _alone = crate::rng::alone();
        let features = features();
        let (sum, border) = (MapRule::Sum.apply(&features), MapRule::Border.apply(&features));
        assert_eq!((sum.size(), border.size()), (vec![3, 4, 6], vec![3, 4, 6]));
        for b in 0..3 {
            let cell = |y: i64, x: i64| -> Vec<f64> {
                (0..5).map(|c| features.double_value(&[b, c, y, x])).collect()
            };
            let mut strip: Vec<Vec<f64>> = (0..6).flat_map(|x| [cell(0, x), cell(3, x)]).collect();
            strip.extend((0..4).flat_map(|y| [cell(y, 0), cell(y, 5)]));
            let mean: Vec<f64> = (0..5).map(|c| strip.iter().map(|f| f[c]).sum::<f64>() / 20.0).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            for (y, x) in (0..4).flat_map(|y| (0..6).map(move |x| (y, x))) {
                let f = cell(y, x);
                let cosine = dot(&f, &mean) / (dot(&f, &f) * dot(&mean, &mean)).sqrt();
                assert!(
                    (border.double_value(&[b, y, x]) - (1.0 - cosine)).abs() < crate::tolerance::SAME_MATH
                );
                let total: f64 = f.iter().sum();
                assert!((sum.double_value(&[b, y, x]) - total).abs() < crate::tolerance::SAME_MATH);
            }
        }
    }

    /// The length of features plays no part, and neither does that of the border's mean.
    #[test]
    fn the_border_rule_knows_directions_only() {
        let _alone = crate::rng::alone();
        let features = features();
        let scaled = border(&(&features * 1e4));
        assert!((border(&features) - scaled).abs().max().double_value(&[]) < crate::tolerance::SAME_MATH);
        let dead = border(&features.zeros_like());
        assert_eq!(dead.min().double_value(&[]), 1.0, "zero is like nothing, and is no NaN");
        let half = border(&features.to_kind(Kind::BFloat16));
        assert_eq!(half.kind(), Kind::Float, "whatever the network computes in");
    }

    #[test]
    fn an_object_among_the_same_stands_out_whatever_excites_more() {
        let _alone = crate::rng::alone();
        // the background excites ten channels, the object one
        let features = Tensor::ones([1, 11, 6, 6], (Kind::Float, Device::Cpu));
        let _ = features.narrow(1, 10, 1).fill_(0.0);
        let object = features.narrow(2, 2, 2).narrow(3, 2, 2);
        let _ = object.narrow(1, 0, 10).fill_(0.0);
        let _ = object.narrow(1, 10, 1).fill_(3.0);
        let inside = |map: Tensor| map.double_value(&[0, 2, 3]) - map.double_value(&[0, 1, 1]);
        assert_eq!(inside(MapRule::Sum.apply(&features)), -7.0, "inverted");
        assert!((inside(MapRule::Border.apply(&features)) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn names_are_those_of_the_flags_and_of_files() {
        for rule in MapRule::value_variants() {
            let flag = rule.to_possible_value().map(|v| v.get_name().to_owned());
            assert_eq!(flag.as_deref(), Some(rule.name()));
            assert_eq!(serde_json::to_value(rule).ok(), Some(rule.name().into()));
        }
    }
}
