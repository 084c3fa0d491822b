//! The learning rate and the weight decay as functions of time.

use crate::config::{Optimizer, Per, Shape};

/// Linear warm-up from zero, then half a cosine to the end of training, steps down, or nothing. The weight decay moves along
/// half a cosine over the whole run, where it moves.
#[derive(Clone, Debug)]
pub struct Schedule {
    optimizer: Optimizer,
    steps_per_epoch: u64,
    epochs: u64,
}

impl Schedule {
    /// Over `epochs` epochs of `steps_per_epoch` steps.
    pub fn new(optimizer: &Optimizer, steps_per_epoch: usize, epochs: usize) -> Self {
        Self { optimizer: optimizer.clone(), steps_per_epoch: steps_per_epoch as u64, epochs: epochs as u64 }
    }

    /// Steps over the whole run.
    pub fn total(&self) -> u64 {
        self.steps_per_epoch * self.epochs
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Time in epochs at the start of `step`.
    pub fn epoch(&self, step: u64) -> f64 {
        step as f64 / self.steps_per_epoch as f64
    }

    /// The learning rate of `step` (from 0).
    pub fn lr(&self, step: u64) -> f64 {
        let o = &self.optimizer;
        let warmup = o.warmup_epochs;
        let now = self.epoch(step);
        if now < warmup {
            // the first step already moves
            return o.lr * (self.epoch(step + 1) / warmup).min(1.0);
        }
        let now = match o.lr_per {
            Per::Step => now,
            Per::Epoch => now.floor().max(warmup),
        };
        match o.schedule {
            Shape::Cosine => {
                let t = (now - warmup) / (self.epochs as f64 - warmup);
                o.lr_end + (o.lr - o.lr_end) * (1.0 + (std::f64::consts::PI * t).cos()) / 2.0
            }
            Shape::Step => {
                let passed = o.milestones.iter().filter(|&&at| now >= at).count();
                o.lr * o.gamma.powi(passed as i32)
            }
            Shape::Constant => o.lr,
        }
    }

    /// The weight decay of `step` (from 0).
    pub fn weight_decay(&self, step: u64) -> f64 {
        let Some(end) = self.optimizer.weight_decay_end else { return self.optimizer.weight_decay };
        let done = step as f64 / self.total() as f64;
        end + (self.optimizer.weight_decay - end) * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup_epochs: f64, lr_per: Per) -> Schedule {
        let base = crate::config::Config::new(crate::config::Recipe::MocoV2).optimizer;
        let o = Optimizer { lr: 0.4, warmup_epochs, lr_per, ..base };
        Schedule::new(&o, 10, 8)
    }

    #[test]
    fn cosine_per_step_and_per_epoch() {
        let s = schedule(0.0, Per::Step);
        assert_eq!((s.lr(0), s.total()), (0.4, 80));
        assert!((s.lr(40) - 0.2).abs() < 1e-12);
        assert!((1..80).all(|i| s.lr(i) < s.lr(i - 1) && s.lr(i) > 0.0));
        let e = schedule(0.0, Per::Epoch);
        // the published code: 0.5 (1 + cos(pi epoch / epochs))
        assert_eq!(e.lr(19), e.lr(10));
        assert!((e.lr(10) - 0.2 * (1.0 + (std::f64::consts::PI / 8.0).cos())).abs() < 1e-12);
    }

    #[test]
    fn warm_up_is_linear_and_meets_the_cosine() {
        let s = schedule(2.0, Per::Step);
        assert!((s.lr(0) - 0.02).abs() < 1e-12);
        assert!((s.lr(9) - 0.2).abs() < 1e-12);
        assert!((s.lr(20) - 0.4).abs() < 1e-12);
    }

    #[test]
    fn a_cosine_may_end_above_zero_and_the_decay_along_one() {
        let mut s = schedule(2.0, Per::Step);
        assert_eq!((s.weight_decay(0), s.weight_decay(79)), (1e-4, 1e-4));
        (s.optimizer.lr_end, s.optimizer.weight_decay, s.optimizer.weight_decay_end) = (0.1, 0.04, Some(0.4));
        assert!((s.lr(50) - 0.25).abs() < 1e-12, "in the middle");
        assert!((s.lr(20) - 0.4).abs() < 1e-12 && s.lr(79) > 0.1 && s.lr(79) < 0.101);
        assert!((s.weight_decay(0) - 0.04).abs() < 1e-12);
        assert!((s.weight_decay(40) - 0.22).abs() < 1e-12, "the warm-up does not count");
        let known = 0.4 - 0.36 * (1.0 + (std::f64::consts::PI * 79.0 / 80.0).cos()) / 2.0;
        assert!((s.weight_decay(79) - known).abs() < 1e-12);
    }

    #[test]
    fn steps_fall_at_their_epochs_and_a_constant_stays() {
        let mut s = schedule(1.0, Per::Step);
        (s.optimizer.schedule, s.optimizer.milestones) = (Shape::Step, vec![3.0, 5.5]);
        for (step, lr) in [(5, 0.24), (10, 0.4), (29, 0.4), (30, 0.04), (54, 0.04), (55, 0.004), (79, 0.004)]
        {
            assert!((s.lr(step) - lr).abs() < 1e-12, "step {step}: {}", s.lr(step));
        }
        s.optimizer.schedule = Shape::Constant;
        assert_eq!((s.lr(10), s.lr(79)), (0.4, 0.4));
    }
}
