//! The mixture of masks that the `hp` strategy has (arXiv 2309.12757): squares, cells, cells of single channels.

use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::{Purpose, enlarge, to_float};
use crate::config::focal_sides;
use crate::device::upload;
use crate::share::Share;

/// Share of images that are masked around one square instead of by cells.
const FOCAL_P: f64 = 0.2;
/// Share of the others in which all channels lose the same cells.
const SPATIAL_P: f64 = 0.3;
/// Makes the masks of views of one size.
#[derive(Debug)]
pub(super) struct Mixture {
    size: i64,
    /// 0, 1, ... of pixels along a side.
    places: Tensor,
    /// Draws are for the batches of all ranks.
    share: Share,
}

impl Mixture {
    pub(super) fn new(size: usize, device: Device) -> Self {
        let places = Tensor::arange(size as i64, (Kind::Int64, Device::Cpu)).to(device);
        Self { size: size as i64, places, share: Share::ALL }
    }

    /// The same for views that are part of a batch.
    pub(super) fn set_share(&mut self, share: Share) {
        self.share = share;
    }

    /// For each sample focal, spatial or channel-wise, of the `cells` `(B, 3, h, w)` that every channel chose.
    /// `(B, 3, S, S)`. `focal`: factor on how many are focal.
    pub(super) fn mask(&self, cells: &Tensor, purpose: Purpose, focal: f64, rng: &mut impl Rng) -> Tensor {
        let b = self.share.all(cells.size()[0]) as usize;
        let shared = cells.narrow(1, 0, 1).expand_as(cells);
        let flags = |p: f64, rng: &mut _| (0..b).map(|_| i64::from(Rng::random_bool(rng, p))).collect();
        let (spatial, focal): (Vec<i64>, Vec<i64>) = (flags(SPATIAL_P, rng), flags(FOCAL_P * focal, rng));
        let side = self.focal_side(purpose);
        let starts = |rng: &mut _| (0..b).map(|_| Rng::random_range(rng, 0..=self.size - side)).collect();
        let (rows, columns): (Vec<i64>, Vec<i64>) = (starts(rng), starts(rng));
        // one copy to the device for all of them
        let drawn = [spatial, focal, rows, columns].map(|all| self.share.part(all));
        let drawn = Tensor::from_slice(&drawn.concat()).view([4, -1, 1, 1, 1]);
        let drawn = upload(&drawn, cells.device());
        let [spatial, focal, rows, columns] = [0, 1, 2, 3].map(|i| drawn.select(0, i)); // (B, 1, 1, 1) each
        let grid = enlarge(&shared.where_self(&spatial.gt(0), cells), self.size);
        self.focal_mask(&rows, &columns, purpose).where_self(&focal.gt(0), &grid)
    }

    fn focal_side(&self, purpose: Purpose) -> i64 {
        let [query, negative] = focal_sides(self.size as usize);
        if purpose == Purpose::Positive { query } else { negative }
    }

    /// All but one square (positive), or one square (hard negative), with the corners `(B, 1, 1, 1)`. `(B, 1, S, S)`.
    fn focal_mask(&self, rows: &Tensor, columns: &Tensor, purpose: Purpose) -> Tensor {
        let side = self.focal_side(purpose);
        let within = |start: &Tensor, shape: [i64; 4]| {
            let from = self.places.view(shape) - start;
            from.ge(0).logical_and_(&from.lt(side))
        };
        let (rows, columns) = (within(rows, [1, 1, -1, 1]), within(columns, [1, 1, 1, -1]));
        let square = rows.logical_and(&columns);
        to_float(&if purpose == Purpose::Positive { square.logical_not() } else { square })
    }
}
