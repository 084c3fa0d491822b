//! How a model makes its saliency map of a feature map: what trainer, exporter and server have to agree on.
//!
//! The rules themselves are computed where the features are: by libtorch in the trainer, by ONNX operators in a model,
//! by plain loops where both are held against.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::DEVIATIONS;
use crate::map::Tap;

/// Linear colours on which distances are taken: brightness, red against green, yellow against blue; of R, G, B in 0..1,
/// weighted as they differ to the eye.
pub const OPPONENT: [[f64; 3]; 3] = [[0.8 / 3.0, 0.8 / 3.0, 0.8 / 3.0], [1.6, -1.6, 0.0], [0.6, 0.6, -1.2]];

/// Fine cells along a side of a cell of features: colours have edges that features are too coarse for.
pub const FINE: usize = 4;

/// Fine cells of the border whose mean colour is one of the border's colours.
pub const SEGMENT: usize = 8;

/// Standard deviation of the Gaussian by which two colours of the border are alike, in units of [`OPPONENT`].
pub const ALIKE: f64 = 0.05;

/// Added to what a map or a feature's length is divided by, so that constant ones give zeros.
pub const TINY: f32 = 1e-6;

/// How a map is made of the feature map F `(C, h, w)` of one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapRule {
    /// The sum over channels (SCDA, arXiv 1604.04994): where most of them are excited, which is the background where a
    /// network has not learnt to name objects.
    Sum,
    /// One less the cosine between each cell's feature and the mean feature of the border's cells (first and last row
    /// and column; a corner counts twice): what differs from the border.
    Border,
    /// What resembles the middle of the picture and not its surroundings, has not the colours of the border, and lies
    /// near the middle; the product of three maps in 0..1, on fine cells ([`fine`]):
    ///
    /// - features, each channel less its mean over the picture and divided by its deviation, each cell scaled to length
    ///   one; their mean weighted by a centred Gaussian g less their mean weighted by 1 - g is a direction, and the map
    ///   f the features along it, scaled to 0..1 and interpolated; f + u (1 - f), where u is how uniform the border is:
    ///   the mean over all pairs of its colours of a Gaussian of their distance ([`ALIKE`]). On a ground of one colour
    ///   colours alone decide;
    /// - the mean colours of the fine cells ([`OPPONENT`]), the distance to the nearest colour of the border, scaled to
    ///   0..1; the border's colours are the means of [`SEGMENT`] outermost fine cells in a row;
    /// - g, of standard deviation [`crate::prior::SIGMA`].
    #[default]
    Object,
    /// The mean of LEWEL's alignment maps (arXiv 2203.14898): where the projections of single positions are high. Not made
    /// of features alone: a model has it from the projection head of a method that aligns.
    Alignment,
    /// What the class token of a vision transformer looks at: the mean over heads of its attention to each patch (DINO,
    /// arXiv 2104.14294).
    Attention,
}

impl MapRule {
    /// Those that are made of an encoder's values and pictures, whatever the method; what command lines choose from.
    pub const ALL: [Self; 4] = [Self::Sum, Self::Border, Self::Object, Self::Attention];

    /// Its name in files and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Border => "border",
            Self::Object => "object",
            Self::Alignment => "alignment",
            Self::Attention => "attention",
        }
    }

    /// The stage (2 to 5) of a ResNet whose features it works best with; in a vision transformer a block is in its place.
    pub fn stage(self) -> usize {
        match self {
            Self::Sum | Self::Alignment | Self::Attention => 5,
            Self::Border => 4,
            Self::Object => 3,
        }
    }

    /// Cells along a side of the map of `side` pixels, of features whose cells have `stride` pixels a side.
    pub fn cells(self, side: usize, stride: usize) -> usize {
        match self {
            Self::Sum | Self::Border | Self::Alignment | Self::Attention => side.div_ceil(stride),
            Self::Object => side.div_ceil(fine(stride)),
        }
    }

    /// Where the foreground begins, in standard deviations from the mean of the map.
    pub fn deviations(self) -> f64 {
        match self {
            Self::Sum => DEVIATIONS,
            Self::Border => 0.2,
            Self::Object | Self::Alignment | Self::Attention => 0.0,
        }
    }
}

impl fmt::Display for MapRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MapRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|rule| rule.name() == text)
            .ok_or_else(|| format!("unknown map rule `{text}`: expected one of {}", known()))
    }
}

/// Pixels along a side of the fine cells, for features whose cells have `stride` pixels a side.
pub fn fine(stride: usize) -> usize {
    (stride / FINE).max(1)
}

/// Pixels along a side of a cell of features, of which `cells` cover `side` pixels: a power of two, where one does that,
/// as strides of convolutional networks are.
pub fn stride(side: usize, cells: usize) -> usize {
    let least = side.div_ceil(cells.max(1)).max(1);
    let power = least.next_power_of_two();
    if side.div_ceil(power) == cells { power } else { least }
}

/// Weights that make `fine` values, [`fine`]`(stride)` pixels apart, of `cells` that are `stride` apart: linear between
/// the middles of cells. Shape: `(fine, cells)`, row-major.
pub fn between(cells: usize, stride: usize, fine: usize) -> Vec<f32> {
    let scale = self::fine(stride) as f64 / stride as f64;
    let mut weights = vec![0.0; fine * cells];
    for (i, row) in weights.chunks_exact_mut(cells).enumerate() {
        let tap = Tap::new((i as f64 + 0.5) * scale, cells);
        row[tap.low] += 1.0 - tap.weight;
        row[tap.high] += tap.weight;
    }
    weights
}

/// How the map of a model is made and read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Making {
    /// Of what it consists.
    pub rule: MapRule,
    /// Stage whose feature map it is made of, 2 to 5; 5 of a vision transformer.
    pub stage: usize,
    /// Where the foreground begins, in standard deviations from the mean of the map.
    pub deviations: f64,
    /// Block of a vision transformer whose patches or attention it is made of, from 0; a ResNet has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
}

impl Making {
    /// What models are that say nothing: the published sum.
    pub const SUM: Self = Self { rule: MapRule::Sum, stage: 5, deviations: DEVIATIONS, block: None };

    /// A rule on its usual stage.
    pub fn of(rule: MapRule) -> Self {
        Self { rule, stage: rule.stage(), deviations: rule.deviations(), block: None }
    }

    /// A rule on a block of a vision transformer.
    pub fn of_block(rule: MapRule, block: usize) -> Self {
        Self { stage: 5, block: Some(block), ..Self::of(rule) }
    }

    /// The name of the encoder's value that it is made of: `res3`, `block11`, `attention11`.
    pub fn tap(self) -> String {
        match (self.block, self.rule) {
            (None, _) => format!("res{}", self.stage),
            (Some(block), MapRule::Attention) => format!("attention{block}"),
            (Some(block), MapRule::Sum | MapRule::Border | MapRule::Object | MapRule::Alignment) => {
                format!("block{block}")
            }
        }
    }
}

impl Default for Making {
    fn default() -> Self {
        Self::of(MapRule::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for rule in MapRule::ALL {
            assert_eq!(rule.to_string().parse(), Ok(rule));
            assert_eq!(serde_json::to_value(rule).ok(), Some(rule.name().into()));
        }
        let error = "Sum".parse::<MapRule>().unwrap_err();
        assert_eq!(error, "unknown map rule `Sum`: expected one of sum, border, object, attention");
    }

    #[test]
    fn what_a_model_says_is_a_line_of_json() {
        let text = serde_json::to_string(&Making::default()).unwrap();
        assert_eq!(text, r#"{"rule":"object","stage":3,"deviations":0.0}"#);
        assert_eq!(serde_json::from_str::<Making>(&text).unwrap(), Making::default());
        assert_eq!(Making::of(MapRule::Sum), Making::SUM);
        let attention = Making::of_block(MapRule::Attention, 11);
        let text = serde_json::to_string(&attention).unwrap();
        assert_eq!(text, r#"{"rule":"attention","stage":5,"deviations":0.0,"block":11}"#);
        assert_eq!(serde_json::from_str::<Making>(&text).unwrap(), attention);
        let taps = [Making::default(), attention, Making::of_block(MapRule::Object, 3)].map(Making::tap);
        assert_eq!(taps, ["res3", "attention11", "block3"]);
    }

    #[test]
    fn strides_are_those_of_networks() {
        for (side, cells, expected) in
            [(224, 28, 8), (35, 5, 8), (33, 5, 8), (61, 8, 8), (224, 16, 14), (3, 3, 1), (7, 1, 8)]
        {
            assert_eq!(stride(side, cells), expected, "{side} in {cells}");
        }
        assert_eq!([8, 4, 2, 14].map(fine), [2, 1, 1, 3]);
        assert_eq!(MapRule::Object.cells(61, 8), 31);
        assert_eq!(MapRule::Border.cells(61, 8), 8);
    }

    /// Cells of 8 pixels, values of 2: an eighth of a cell before the middle, three eighths behind it.
    #[test]
    fn values_between_cells_are_linear() {
        let weights = between(3, 8, 12);
        let row = |i: usize| &weights[3 * i..3 * i + 3];
        assert_eq!(row(0), [1.0, 0.0, 0.0]);
        assert_eq!(row(1), [1.0, 0.0, 0.0]);
        assert_eq!(row(2), [0.875, 0.125, 0.0]);
        assert_eq!(row(5), [0.125, 0.875, 0.0]);
        assert_eq!(row(6), [0.0, 0.875, 0.125]);
        assert_eq!(row(11), [0.0, 0.0, 1.0]);
        assert!(weights.chunks(3).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6));
    }

    /// Grey has no colour, and white is as bright as the weights say.
    #[test]
    fn opponent_colours_of_greys_differ_in_brightness_alone() {
        let sums = OPPONENT.map(|row| row.iter().sum::<f64>());
        assert!((sums[0] - 0.8).abs() < 1e-12 && sums[1].abs() < 1e-12 && sums[2].abs() < 1e-12, "{sums:?}");
    }
}
