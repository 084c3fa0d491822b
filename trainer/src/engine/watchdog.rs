//! Notices a run that has gone wrong, while there is still something to go back to.
//!
//! Contrastive learning collapses when the projections of different pictures become one point: then a query is as near
//! to any other picture's key as to its own, and no loss can tell them apart. Neither the loss nor the accuracy among the
//! queue shows it at once (docs/recipes.md): a queue full of older keys is told apart by its age. What shows it is the
//! batch itself, whose keys are all of one age.

/// What a run does when it has collapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnCollapse {
    /// Say so and go on
    Warn,
    /// Go back to the last good checkpoint and go on with half the learning rate; stop when that has not helped
    Rollback,
    /// Stop, exit code 4; the last good checkpoint stays
    Stop,
}

/// Numbers of one reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) finite: bool,
    pub(super) batch_acc1: f64,
    pub(super) positive: f64,
    pub(super) negative: f64,
    pub(super) feature_std: f64,
}

/// What a reading says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Something that may pass.
    Warn(String),
    /// Something that will not.
    Collapsed(String),
}

/// Looks at every reading of a run.
#[derive(Clone, Debug)]
pub(super) struct Watchdog {
    chance: f64,
    /// Steps that a symptom must last to be a collapse: a large run may be blind for its first hundreds.
    patience: u64,
    /// Readings in a row with a symptom.
    bad: usize,
    /// Step of the first of them.
    since: u64,
}

/// Readings in a row that a collapse takes at least.
const READINGS: usize = 3;
/// Share of an epoch that a symptom must last.
const LASTING: f64 = 0.5;
/// Accuracy among the batch's own keys, as a multiple of chance, under which they are not told apart.
const CHANCE: f64 = 2.5;
/// Difference of the mean cosines of pairs and of different pictures, as a share of the room above the latter,
/// under which they are not told apart. Measured on Caltech-101: 0.000 to 0.002 in a collapsed run, 0.007 at the worst
/// moment of a run that recovered, 0.06 and more in a good one (docs/recipes.md).
const GAP: f64 = 0.005;
/// Least spread of the features; an untrained encoder has ten times as much.
const FEATURE_STD: f64 = 0.03;

impl Watchdog {
    /// For batches of that many pictures and epochs of that many steps.
    pub(super) fn new(batch: usize, steps_per_epoch: u64) -> Self {
        let patience = (LASTING * steps_per_epoch as f64) as u64;
        Self { chance: 1.0 / batch as f64, patience, bad: 0, since: 0 }
    }

    /// Whether the last reading was good, so that a checkpoint may be trusted.
    pub(super) fn calm(&self) -> bool {
        self.bad == 0
    }

    /// Forgets what it saw.
    pub(super) fn reset(&mut self) {
        self.bad = 0;
    }

    /// Takes in the reading after `step`.
    pub(super) fn look(&mut self, step: u64, r: Reading) -> Verdict {
        if !r.finite {
            return Verdict::Collapsed("the loss is not a finite number".into());
        }
        let Some(symptom) = self.symptom(r) else {
            self.bad = 0;
            return Verdict::Fine;
        };
        if self.bad == 0 {
            self.since = step;
        }
        self.bad += 1;
        let lasting = self.bad >= READINGS && step - self.since >= self.patience;
        if lasting { Verdict::Collapsed(symptom) } else { Verdict::Warn(symptom) }
    }

    fn symptom(&self, r: Reading) -> Option<String> {
        if r.feature_std < FEATURE_STD {
            return Some(format!("all features are nearly one point (feature std {:.3})", r.feature_std));
        }
        let gap = (r.positive - r.negative) / (1.0 - r.negative).max(1e-6);
        let blind = r.batch_acc1 < (CHANCE * self.chance).min(0.5) && gap < GAP;
        blind.then(|| {
            format!(
                "the pictures of a batch are not told apart: accuracy {:.1} % (chance {:.1} %), mean cosine {:.4} with their own keys and {:.4} with the others'",
                100.0 * r.batch_acc1,
                100.0 * self.chance,
                r.positive,
                r.negative
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(batch_acc1: f64, positive: f64, negative: f64) -> Reading {
        Reading { finite: true, batch_acc1, positive, negative, feature_std: 0.45 }
    }

    /// The readings of docs/recipes.md's collapse, every tenth step of epochs of 45.
    #[test]
    fn a_measured_collapse_is_caught_within_its_epoch() {
        let mut dog = Watchdog::new(128, 45);
        let seen = [(10, 0.9476, 0.9475), (20, 0.9437, 0.9436), (30, 0.8794, 0.8793), (40, 0.8019, 0.8018)];
        let verdicts = seen.map(|(step, p, n)| dog.look(step, reading(1.0 / 128.0, p, n)));
        assert!(verdicts[..3].iter().all(|v| matches!(v, Verdict::Warn(_))), "{verdicts:?}");
        assert!(matches!(&verdicts[3], Verdict::Collapsed(why) if why.contains("0.8019")), "{verdicts:?}");
        assert!(!dog.calm());
    }

    #[test]
    fn runs_that_learn_or_recover_are_left_alone() {
        let mut dog = Watchdog::new(128, 45);
        for (step, acc, p, n) in [(5, 0.0234, 0.3463, 0.3075), (10, 0.0078, 0.8808, 0.8792)] {
            assert_eq!(dog.look(step, reading(acc, p, n)), Verdict::Fine);
        }
        // the worst moments of a run with a slow momentum encoder, then a better one
        for step in [15, 20] {
            dog.look(step, reading(0.0, 0.9, 0.8999));
        }
        assert_eq!(dog.look(25, reading(0.0, 0.8072, 0.7996)), Verdict::Fine);
        assert!(dog.calm());
        // a long epoch has more patience
        let mut dog = Watchdog::new(256, 5000);
        for step in (10..2000).step_by(10) {
            assert!(matches!(dog.look(step, reading(0.0, 0.9, 0.9)), Verdict::Warn(_)));
        }
    }

    #[test]
    fn infinity_is_acted_on_at_once_and_one_point_of_features_is_a_symptom() {
        let mut dog = Watchdog::new(8, 100);
        let bad = Reading { finite: false, ..reading(0.9, 0.9, 0.0) };
        assert!(matches!(dog.look(1, bad), Verdict::Collapsed(_)));
        let point = Reading { feature_std: 0.001, ..reading(0.9, 0.9, 0.0) };
        assert!(matches!(dog.look(2, point), Verdict::Warn(why) if why.contains("0.001")));
        dog.reset();
        assert!(dog.calm());
    }
}
