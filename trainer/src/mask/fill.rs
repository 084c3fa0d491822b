//! Step three: what replaces masked cells.

use tch::{Device, Kind, Tensor};

use super::Purpose;
use crate::augment::FixedBlur;
use crate::config::{Fills, Kernel, Strategy};
use crate::share::Share;

/// Standard deviation of the noise in a query, and in a hard negative.
const NOISE: (f64, f64) = (0.18, 0.14);

/// Makes what views show where they are masked.
#[derive(Debug)]
pub(super) struct Fill {
    strategy: Strategy,
    blur: Option<FixedBlur>,
    /// Draws are for the batches of all ranks.
    share: Share,
}

impl Fill {
    /// For views of side `size` pixels on `device`, with kernels as `fills` says.
    pub(super) fn new(strategy: Strategy, fills: &Fills, size: usize, device: Device) -> Self {
        let Kernel { side, sigma } = fills.blur;
        let blur = (strategy == Strategy::Blur).then(|| FixedBlur::new(size, side, sigma, device));
        Self { strategy, blur, share: Share::ALL }
    }

    /// The same for views that are part of a batch.
    pub(super) fn set_share(&mut self, share: Share) {
        self.share = share;
    }

    /// Of a whole batch `(B, 3, S, S)`; of its shape.
    pub(super) fn of(&self, view: &Tensor, purpose: Purpose) -> Tensor {
        let strength = if purpose == Purpose::Positive { NOISE.0 } else { NOISE.1 };
        let noise = || {
            let mut shape = view.size();
            shape[0] = self.share.all(shape[0]);
            // with the layout of the view where that is all there is
            let all = if self.share == Share::ALL {
                view.randn_like()
            } else {
                Tensor::randn(shape.as_slice(), (view.kind(), view.device()))
            };
            self.share.rows(all).g_mul_scalar_(strength)
        };
        match (self.strategy, &self.blur) {
            (Strategy::Blur, Some(blur)) => blur.apply(view),
            (Strategy::Mean, _) => view.mean_dim([2i64, 3].as_slice(), true, Kind::Float).expand_as(view),
            (Strategy::Zero, _) => view.zeros_like(),
            (Strategy::OtherPicture, _) => of_another_picture(view),
            _ => noise(),
        }
    }
}

/// For each view the one before it in the batch, `(B, 3, S, S)`. Not the one whose map [`super::of_another`] gives it, in
/// batches of more than three: or a view would be guided by what it is filled with.
pub fn of_another_picture(view: &Tensor) -> Tensor {
    view.roll([1i64], [0i64])
}
