//! Notices a run that has gone wrong, while there is still something to go back to.
//!
//! Contrastive learning collapses when the projections of different pictures become one point: then a query is as near
//! to any other picture's key as to its own, and no loss can tell them apart. Neither the loss nor the accuracy among the
//! queue shows it at once (docs/recipes.md): a queue full of older keys is told apart by its age. What shows it is the
//! batch itself, whose keys are all of one age.

use serde::{Deserialize, Serialize};

use crate::method::{Contrast, Health};

/// What a run does when it has collapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnCollapse {
    /// Report it and continue
    Warn,
    /// Return to the last good checkpoint and continue with half the learning rate; stop if that does not help
    Rollback,
    /// Stop, exit code 4; the last good checkpoint stays
    Stop,
}

/// Numbers of one reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) finite: bool,
    /// Where the method told it.
    pub(super) health: Option<Health<f64>>,
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
}

/// How long a symptom has lasted; a part of a run's position, so that a resumed run acts when the whole one would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symptom {
    /// Readings in a row with a symptom.
    readings: usize,
    /// Step of the first of them.
    since: u64,
}

impl Symptom {
    /// Whether there is none, so that a checkpoint may be trusted.
    pub(super) fn none(self) -> bool {
        self.readings == 0
    }
}

/// Readings in a row that a collapse takes at least.
const READINGS: usize = 3;
/// Share of an epoch that a symptom must last.
const LASTING: f64 = 0.5;
/// Steps that it must last besides: half an epoch of little data is over before a run has recovered from its start.
const LEAST_STEPS: u64 = 200;
/// Accuracy among the batch's own keys, as a multiple of chance, under which they are not told apart.
const CHANCE: f64 = 2.5;
/// Difference of the mean cosines of pairs and of different pictures, as a share of the room above the latter,
/// under which they are not told apart. Measured on Caltech-101: 0.000 to 0.002 in a collapsed run, 0.007 at the worst
/// moment of a run that recovered, 0.06 and more in a good one (docs/recipes.md).
const GAP: f64 = 0.005;
/// Mean cosine of different pictures above which they are crowded; where they are not, a batch that is not told apart has
/// only not been learnt yet.
const CROWDED: f64 = 0.3;
/// Least spread of the features; an untrained encoder has ten times as much.
const FEATURE_STD: f64 = 0.03;

impl Watchdog {
    /// For batches of that many pictures and epochs of that many steps.
    pub(super) fn new(batch: usize, steps_per_epoch: u64) -> Self {
        let patience = ((LASTING * steps_per_epoch as f64) as u64).max(LEAST_STEPS);
        Self { chance: 1.0 / batch as f64, patience }
    }

    /// Takes in the reading after `step`.
    pub(super) fn look(&self, seen: &mut Symptom, step: u64, r: Reading) -> Verdict {
        if !r.finite {
            return Verdict::Collapsed("the loss is not a finite number".into());
        }
        let Some(symptom) = self.symptom(r) else {
            *seen = Symptom::default();
            return Verdict::Fine;
        };
        if seen.none() {
            seen.since = step;
        }
        seen.readings += 1;
        let lasting = seen.readings >= READINGS && step - seen.since >= self.patience;
        if lasting { Verdict::Collapsed(symptom) } else { Verdict::Warn(symptom) }
    }

    fn symptom(&self, r: Reading) -> Option<String> {
        let Health { contrast, spread } = r.health?;
        if spread < FEATURE_STD {
            return Some(format!("all features are nearly one point (feature std {spread:.3})"));
        }
        let Contrast { accuracy, positive, negative } = contrast?;
        let gap = (positive - negative) / (1.0 - negative).max(1e-6);
        let blind = accuracy < (CHANCE * self.chance).min(0.5) && gap < GAP && negative > CROWDED;
        blind.then(|| {
            format!(
                "the pictures of a batch are not told apart: accuracy {:.1} % (chance {:.1} %), mean cosine {positive:.4} with their own keys and {negative:.4} with the others'",
                100.0 * accuracy,
                100.0 * self.chance,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(accuracy: f64, positive: f64, negative: f64) -> Reading {
        let contrast = Some(Contrast { accuracy, positive, negative });
        Reading { finite: true, health: Some(Health { contrast, spread: 0.45 }) }
    }

    /// A method that does not tell pictures apart is not blamed for it, and its features are looked at nevertheless.
    #[test]
    fn what_a_method_does_not_tell_is_no_symptom() {
        let (dog, mut symptom) = (Watchdog::new(8, 100), Symptom::default());
        let of = |spread| Reading { finite: true, health: Some(Health { contrast: None, spread }) };
        assert_eq!(dog.look(&mut symptom, 1, of(0.4)), Verdict::Fine);
        assert!(matches!(dog.look(&mut symptom, 2, of(0.001)), Verdict::Warn(_)));
        assert_eq!(dog.look(&mut symptom, 3, Reading { finite: true, health: None }), Verdict::Fine);
    }

    /// The readings of docs/recipes.md's collapse, every tenth step of epochs of 45, and then more of the same.
    #[test]
    fn a_measured_collapse_is_warned_of_at_once_and_acted_on_when_it_lasts() {
        let (dog, mut symptom) = (Watchdog::new(128, 45), Symptom::default());
        let seen = [(10, 0.9476, 0.9475), (20, 0.9437, 0.9436), (30, 0.8794, 0.8793), (40, 0.8019, 0.8018)];
        let verdicts = seen.map(|(step, p, n)| dog.look(&mut symptom, step, reading(1.0 / 128.0, p, n)));
        assert!(verdicts.iter().all(|v| matches!(v, Verdict::Warn(_))), "{verdicts:?}");
        let later: Vec<_> = (50..=210)
            .step_by(10)
            .map(|step| dog.look(&mut symptom, step, reading(0.0, 0.7658, 0.7658)))
            .collect();
        let (last, before) = later.split_last().expect("some");
        assert!(before.iter().all(|v| matches!(v, Verdict::Warn(_))), "{before:?}");
        assert!(matches!(last, Verdict::Collapsed(why) if why.contains("0.7658")), "{last:?}");
        assert!(!symptom.none());
    }

    #[test]
    fn patience_is_the_larger_of_half_an_epoch_and_200_steps() {
        for (steps_per_epoch, patience) in [(1, 200), (45, 200), (400, 200), (402, 201), (5000, 2500)] {
            assert_eq!(Watchdog::new(128, steps_per_epoch).patience, patience);
        }
    }

    #[test]
    fn runs_that_learn_or_recover_are_left_alone() {
        let (dog, mut symptom) = (Watchdog::new(128, 45), Symptom::default());
        // the last one has learnt nothing yet, and nothing is lost
        let seen = [(5, 0.0234, 0.3463, 0.3075), (10, 0.0078, 0.8808, 0.8792), (12, 0.0, -0.0323, -0.017)];
        for (step, acc, p, n) in seen {
            assert_eq!(dog.look(&mut symptom, step, reading(acc, p, n)), Verdict::Fine);
        }
        // the worst moments of a run with a slow momentum encoder, then a better one
        for step in [15, 20] {
            dog.look(&mut symptom, step, reading(0.0, 0.9, 0.8999));
        }
        assert_eq!(dog.look(&mut symptom, 25, reading(0.0, 0.8072, 0.7996)), Verdict::Fine);
        assert!(symptom.none());
        // a long epoch has more patience
        let dog = Watchdog::new(256, 5000);
        for step in (10..2000).step_by(10) {
            assert!(matches!(dog.look(&mut symptom, step, reading(0.0, 0.9, 0.9)), Verdict::Warn(_)));
        }
    }

    #[test]
    fn infinity_is_acted_on_at_once_and_one_point_of_features_is_a_symptom() {
        let (dog, mut symptom) = (Watchdog::new(8, 100), Symptom::default());
        let bad = Reading { finite: false, ..reading(0.9, 0.9, 0.0) };
        assert!(matches!(dog.look(&mut symptom, 1, bad), Verdict::Collapsed(_)));
        let point = Reading { health: Some(Health { contrast: None, spread: 0.001 }), finite: true };
        assert!(matches!(dog.look(&mut symptom, 2, point), Verdict::Warn(why) if why.contains("0.001")));
    }
}
