//! Masking is three steps: a score for each cell of a view (`score`), a choice of cells by their scores (`choice`), and
//! what becomes of the chosen ones (`fill`).
//!
//! Pure functions over batches; nothing here knows a network. A *cell* is one position of a grid `(h, w)`, that of the
//! saliency map or a finer one, and covers `(H / h, W / w)` pixels of the view.

mod choice;
mod fill;
mod high_pass;
pub mod patches;
mod score;

use occlude_torch_ext::Autocast;
use rand::Rng;
use tch::{Device, Kind, Tensor};

pub use choice::{Chooser, cells, independent};
pub use fill::of_another_picture;
pub use score::{aggregate, foreground, of_another, on_grid, scaled};

pub use crate::config::focal_sides;
use crate::config::{Fills, Masking, Strategy};
use crate::device::upload;
use crate::share::Share;
use fill::Fill;
use high_pass::Mixture;

/// What a masked view is for; it decides where cells are taken and how strong the noise is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Still the same picture: masks as the choice says.
    Positive,
    /// No longer the picture: its foreground masked.
    HardNegative,
}

/// How much is masked at some time of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Range of the share of a picture's cells.
    pub ratio: [f64; 2],
    /// Share of the views.
    pub views: f64,
    /// What becomes of the share of the views that `hp` masks around a square, which no ratio reaches.
    pub focal: f64,
}

/// Nearest-neighbour enlargement of `(B, G, h, w)` to `(B, G, size, size)`, for any h and w.
pub fn enlarge(mask: &Tensor, size: i64) -> Tensor {
    mask.upsample_nearest2d([size, size], None, None)
}

/// Masks views of one size as a configuration says.
#[derive(Debug)]
pub struct Masker {
    chooser: Chooser,
    fill: Fill,
    size: i64,
    /// Where the strategy is a mixture of squares and cells.
    mixture: Option<Mixture>,
    /// Draws are for the batches of all ranks.
    share: Share,
}

impl Masker {
    /// For views of side `size` pixels on `device`.
    pub fn new(masking: &Masking, size: usize, device: Device) -> Self {
        let fills = Fills::new(masking.fills, size);
        Self {
            chooser: Chooser::new(masking),
            fill: Fill::new(masking.strategy, &fills, size, device),
            size: size as i64,
            mixture: (masking.strategy == Strategy::Hp).then(|| Mixture::new(size, device)),
            share: Share::ALL,
        }
    }

    /// The same for views that are part of a batch.
    pub fn set_share(&mut self, share: Share) {
        self.share = share;
        self.chooser.set_share(share);
        self.fill.set_share(share);
        self.mixture.iter_mut().for_each(|mixture| mixture.set_share(share));
    }

    /// A masked copy of `view` `(B, 3, S, S)`, and the mask, `(B, 1 or 3, S, S)` of ones and zeros.
    ///
    /// `foreground` is `(B, h, w)`; the share of cells is uniform in the range of `extent`, drawn from `rng`.
    /// What is drawn on the device comes from libtorch's generator, which the engine seeds a step.
    pub fn apply(
        &self,
        view: &Tensor,
        foreground: &Tensor,
        extent: Extent,
        purpose: Purpose,
        rng: &mut impl Rng,
    ) -> (Tensor, Tensor) {
        // pixels are filled alike whatever networks compute in, and what is blurred keeps the view's type
        let _exact = Autocast::bf16(view.device(), false);
        let b = self.share.all(view.size()[0]);
        let own = |all: Tensor| upload(&self.share.rows(all), view.device());
        let ratio = own(uniform(b, extent.ratio, rng));
        let mut mask = match &self.mixture {
            Some(mixture) => {
                let cells = self.chooser.cells(foreground, &ratio, 3, purpose, true); // (B, 3, h, w)
                mixture.mask(&cells, purpose, extent.focal, rng)
            }
            None => enlarge(&self.chooser.cells(foreground, &ratio, 1, purpose, false), self.size),
        };
        if extent.views < 1.0 {
            // drawn last, so that masks are the same whether or not some views go without
            mask *= own(coins(b, extent.views, rng));
        }
        // exactly one of the two, as the mask is of ones and zeros
        (view.lerp_tensor(&self.fill.of(view, purpose), &mask), mask)
    }
}

/// `b` numbers, uniform in the range.
fn uniform(b: i64, [low, high]: [f64; 2], rng: &mut impl Rng) -> Tensor {
    let draw: Vec<f32> = (0..b).map(|_| (low + (high - low) * rng.random::<f64>()) as f32).collect();
    Tensor::from_slice(&draw)
}

/// `b` ones and zeros, ones with probability `p`, `(B, 1, 1, 1)`.
fn coins(b: i64, p: f64, rng: &mut impl Rng) -> Tensor {
    let draw: Vec<f32> = (0..b).map(|_| f32::from(u8::from(rng.random::<f64>() < p))).collect();
    Tensor::from_slice(&draw).view([b, 1, 1, 1])
}

/// Zeros and ones as numbers.
fn to_float(mask: &Tensor) -> Tensor {
    mask.to_kind(Kind::Float)
}

#[cfg(test)]
mod tests;
