//! How networks follow others.

/// The course of a moving average's momentum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// At the first step.
    pub start: f64,
    /// From `epochs` on.
    pub end: f64,
    /// Epochs over which it goes from start to end along a half cosine.
    pub epochs: f64,
}

impl Momentum {
    /// The momentum at a time in epochs.
    pub fn at(self, epoch: f64) -> f64 {
        if epoch >= self.epochs {
            return self.end;
        }
        let t = epoch / self.epochs;
        self.start + (self.end - self.start) * (1.0 - (std::f64::consts::PI * t).cos()) / 2.0
    }
}

/// The fields of a [`Momentum`] inside a method's settings.
#[derive(Debug)]
pub struct MomentumFields<'a> {
    /// [`Momentum::start`].
    pub start: &'a mut f64,
    /// [`Momentum::end`].
    pub end: &'a mut f64,
    /// [`Momentum::epochs`].
    pub epochs: &'a mut f64,
}
