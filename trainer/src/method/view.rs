//! Views on their way through a step.

use tch::Tensor;

/// A view on its way through a step.
pub(super) struct View {
    /// Normalised, `(B, 3, S, S)`.
    pub(super) plain: Tensor,
    /// What encoders see: filtered where the strategy says so.
    pub(super) input: Tensor,
    /// `(B, h, w)`, once it is known.
    pub(super) foreground: Option<Tensor>,
    /// How much of the epochs is done, 0 to 1.
    pub(super) done: f64,
}
