//! Pretraining methods behind one trait: the engine knows nothing else of them.

mod localise;
mod moco;

use anyhow::Result;
use tch::Tensor;

pub use moco::{Keys, Moco};

use crate::model::{Encoder, Named};

/// What a method is told about the step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Steps done before this one, over all epochs.
    pub number: u64,
    /// The same in epochs, with a fraction.
    pub epoch: f64,
    /// Whether to keep the pictures that the step worked on.
    pub preview: bool,
}

/// What a step gives.
#[derive(Debug)]
pub struct StepOutput {
    /// Scalar, with its graph.
    pub loss: Tensor,
    /// Named scalars; on the device, so that reading them is the engine's choice.
    pub metrics: Vec<(&'static str, Tensor)>,
    /// Where asked for.
    pub preview: Option<Preview>,
}

/// The pictures of a step, for the first batch's picture file. All normalised as network input.
#[derive(Debug, Default)]
pub struct Preview {
    /// Column title and `(B, 3, S, S)`.
    pub columns: Vec<(&'static str, Tensor)>,
    /// Column title and foreground `(B, h, w)` of the view in the column of that index.
    pub foreground: Vec<(usize, Tensor)>,
}

/// A pretraining method: owns its networks, turns two views into a loss, is told when a step ended.
pub trait Method {
    /// The loss of a batch; `views` are normalised, `(B, 3, S, S)` each.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn step(&mut self, views: &[Tensor; 2], step: Step) -> Result<StepOutput>;

    /// Called when the optimiser has moved: moving averages.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn after_step(&mut self, step: Step) -> Result<()>;

    /// What the optimiser moves.
    fn trainable(&self) -> Vec<Named>;

    /// Everything that a resumed run needs besides the optimiser.
    fn state(&self) -> Vec<Named>;

    /// Takes back a [`Self::state`].
    ///
    /// # Errors
    /// Where names or shapes differ.
    fn load_state(&mut self, state: &[Named]) -> Result<()>;

    /// The encoder that is evaluated and exported.
    fn encoder(&self) -> &Encoder;
}
