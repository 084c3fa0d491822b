//! Step two: which cells are masked, by what is foreground.

use tch::{Kind, Tensor};

use super::{Purpose, to_float};
use crate::config::{Choice, Guidance, Masking};
use crate::share::Share;

/// The `hp` strategy's cap: a masked share that reaches the first counts as the second.
const HP_CAP: (f64, f64) = (0.56, 0.55);

/// The choice that a configuration makes.
#[derive(Clone, Debug)]
pub struct Chooser {
    choice: Choice,
    /// Of a cell of the foreground, and of one of the background.
    probability: [f64; 2],
    /// As many cells, anywhere.
    uniform: bool,
    /// Draws are for the batches of all ranks.
    share: Share,
}

impl Chooser {
    /// Of a configuration.
    pub fn new(masking: &Masking) -> Self {
        Self {
            choice: masking.choice,
            probability: masking.cell_probability,
            uniform: masking.guidance == Guidance::Random,
            share: Share::ALL,
        }
    }

    /// The same for pictures that are part of a batch.
    pub(super) fn set_share(&mut self, share: Share) {
        self.share = share;
    }

    /// A mask of ones (masked) and zeros, `(B, G, h, w)`, where the G groups (1, or one a channel) draw their own cells.
    ///
    /// `foreground` is `(B, h, w)`; `ratio` `(B)`, which independent cells do not heed; `capped` says whether the masked
    /// share is, as the `hp` strategy has it. Hard negatives lose their foreground whatever the choice is.
    pub fn cells(
        &self,
        foreground: &Tensor,
        ratio: &Tensor,
        groups: i64,
        purpose: Purpose,
        capped: bool,
    ) -> Tensor {
        match (self.choice, purpose) {
            (Choice::Background, Purpose::Positive) => {
                independent_of(self.share, foreground, self.probability, groups, self.uniform)
            }
            // here the foreground was needed for its size, which says nothing of where
            (Choice::Background, Purpose::HardNegative) if self.uniform => {
                cells_of(self.share, &foreground.ones_like(), ratio, groups, purpose, capped)
            }
            _ => cells_of(self.share, foreground, ratio, groups, purpose, capped),
        }
    }
}

/// Masks each cell by itself, with one probability in the foreground and another in the background: masks that lie mostly in
/// the background, after the background augmentations of Ryali et al. (arXiv 2103.12719). `(B, h, w)` to `(B, G, h, w)`.
///
/// `uniform`: with the probability everywhere that gives each picture as many cells on average as its foreground would.
pub fn independent(foreground: &Tensor, probability: [f64; 2], groups: i64, uniform: bool) -> Tensor {
    independent_of(Share::ALL, foreground, probability, groups, uniform)
}

/// The same of a part of a batch.
fn independent_of(
    share: Share,
    foreground: &Tensor,
    [inside, outside]: [f64; 2],
    groups: i64,
    uniform: bool,
) -> Tensor {
    let (b, h, w) = size(foreground);
    let mut probability = foreground * (inside - outside) + outside; // (B, h, w)
    if uniform {
        probability = probability.mean_dim([1i64, 2].as_slice(), true, Kind::Float); // (B, 1, 1)
    }
    let draw = share.rows(Tensor::rand([share.all(b), groups, h, w], (Kind::Float, foreground.device())));
    to_float(&draw.lt_tensor(&probability.unsqueeze(1)))
}

fn size(foreground: &Tensor) -> (i64, i64, i64) {
    foreground.size3().unwrap_or_else(|e| panic!("a foreground is (B, h, w): {e}"))
}

/// A masked share `(B, 1)` as it counts.
fn counted(masked: &Tensor, capped: bool) -> Tensor {
    let (from, to) = HP_CAP;
    if capped { masked.masked_fill(&masked.ge(from), to) } else { masked.shallow_clone() }
}

/// How many cells each image of a batch loses in the foreground and in the background, `(B, 1)` both.
///
/// `foreground` `(B, cells)`, `ratio` `(B, 1)`. Foreground: round(ratio * FG share * cells), the masked share ratio * FG
/// share capped. Together with the background: round(ratio * cells), the ratio capped, whatever the foreground is, so
/// that saliency and random masks of one ratio hide equally much; the published floor hides half a cell less on
/// average. A hard negative loses its foreground alone.
pub(super) fn counts(
    foreground: &Tensor,
    ratio: &Tensor,
    purpose: Purpose,
    capped: bool,
) -> (Tensor, Tensor) {
    let cells = foreground.size()[1] as f64;
    let there = foreground.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    let fg = (counted(&(ratio * &there / cells), capped) * cells).round().minimum(&there);
    if purpose == Purpose::HardNegative {
        let none = fg.zeros_like();
        return (fg, none);
    }
    let total = (counted(ratio, capped) * cells).round();
    // rounding may ask for a cell more of one kind than there is
    let least = (&total - (cells - &there)).clamp_min(0.0);
    let fg = fg.minimum(&total).maximum(&least);
    let bg = total - &fg;
    (fg, bg)
}

/// Chooses cells spread over foreground and background in proportion (arXiv 2309.12757): a mask of ones (masked) and zeros,
/// `(B, G, h, w)`, where the G groups (1, or one a channel) draw their own cells.
///
/// `foreground` is `(B, h, w)`; `ratio` `(B)`; `capped` says whether the masked share is, as the `hp` strategy has it.
/// With a foreground of ones the choice is uniform: that is random guidance.
pub fn cells(foreground: &Tensor, ratio: &Tensor, groups: i64, purpose: Purpose, capped: bool) -> Tensor {
    cells_of(Share::ALL, foreground, ratio, groups, purpose, capped)
}

/// The same of a part of a batch.
fn cells_of(
    share: Share,
    foreground: &Tensor,
    ratio: &Tensor,
    groups: i64,
    purpose: Purpose,
    capped: bool,
) -> Tensor {
    let (b, h, w) = size(foreground);
    let fg = foreground.view([b, 1, h * w]);
    let ratio = ratio.view([b, 1]);
    let drawn = [share.all(b), groups, h * w];
    let score = || share.rows(Tensor::rand(drawn, (Kind::Float, foreground.device())));
    let (fg_count, bg_count) = counts(&fg.squeeze_dim(1), &ratio, purpose, capped);
    let (fg_count, bg_count) = (fg_count.unsqueeze(1), bg_count.unsqueeze(1)); // (B, 1, 1)
    let is_fg = fg.gt(0.5);
    // scores are in 0..1, so the foreground's come first, in their own order, which taking one away does not change
    let of_fg = score().g_sub_scalar_(1.0);
    let of_bg = if purpose == Purpose::Positive { score() } else { of_fg.ones_like() };
    let ranked = of_fg.where_self(&is_fg, &of_bg).argsort(-1, false).argsort(-1, false);
    let limit = match purpose {
        Purpose::Positive => {
            let behind = fg.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
            fg_count.where_self(&is_fg, &(behind + bg_count))
        }
        Purpose::HardNegative => fg_count * &fg,
    };
    to_float(&ranked.lt_tensor(&limit)).view([b, groups, h, w])
}

#[cfg(test)]
mod tests;
