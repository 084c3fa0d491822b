//! Mixing pictures: what a recipe says about it.

use serde::{Deserialize, Serialize};

use super::{Invalid, check};

/// Mixing each query picture with another one of the batch (arXiv 2210.11456, 2003.05438).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixing {
    /// How.
    pub mix: Mix,
    /// The masks of MixMask.
    pub mask: MixMask,
}

/// How pictures are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mix {
    /// Cells of one and of the other.
    Mixmask,
    /// Blended, or a box swapped, in equal parts.
    Unmix,
    /// A mixture of each kind.
    Both,
}

/// The masks of MixMask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixMask {
    /// Shape.
    pub pattern: Pattern,
    /// Cells along a side.
    pub grid: usize,
    /// Share of the cells that come from the other picture.
    pub share: f64,
    /// Whether the pictures of a batch have one mask or each its own.
    pub per: MixPer,
}

/// Which cells come from the other picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Rectangles of at least four cells
    Block,
    /// Each cell by itself
    Discrete,
}

/// Whose mask it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MixPer {
    /// One mask for all pictures of a batch, as published
    Batch,
    /// One for each picture
    Image,
}

impl Mixing {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let MixMask { grid, share, .. } = self.mask;
        check((2..=64).contains(&grid), || format!("`--mix-grid {grid}`: expected 2 to 64 cells"))?;
        check(share > 0.0 && share < 1.0, || {
            format!("`--mix-share {share}`: expected more than 0 and less than 1")
        })
    }
}
