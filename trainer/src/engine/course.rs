//! What a resumed run goes on with: the pictures it was on and the epochs it was to last, or others where that is allowed.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use occlude_dataset::Identity;

use super::Schedule;
use super::metrics::Meter;
use super::position::{Course, Loaded, Position};
use super::snapshot::same_config;
use crate::config::{Beginning, Config};

/// What a resumed run may find changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Other pictures: the next epoch is on them.
    pub changed_data: bool,
    /// More epochs: the rest follows the longer schedule.
    pub more_epochs: bool,
}

/// How much of an epoch lies behind a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing.
    Between,
    /// All of its steps.
    Ended,
    /// Some of them; how many, where that is known.
    Within(Option<u64>),
}

/// What a run is resumed with.
pub(super) struct Now<'a> {
    pub(super) config: &'a Config,
    pub(super) data: &'a Path,
    pub(super) identity: &'a Identity,
    pub(super) steps_per_epoch: u64,
    pub(super) allow: Allow,
}

/// Where to go on, and what is to be said about it.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) at: Position,
    /// What changed; the checkpoint must be written anew before anything goes back to it.
    pub(super) changes: Vec<String>,
}

impl Now<'_> {
    /// Holds a checkpoint against what the run is resumed with.
    ///
    /// # Errors
    /// Where something differs that was not allowed to, with both values; where nothing would be left to do.
    pub(super) fn resume(&self, path: &Path, loaded: Loaded) -> Result<Resumed> {
        let mut changes = Vec::new();
        changes.extend(self.epochs(path, &loaded)?);
        let Loaded { mut at, course, .. } = loaded;
        changes.extend(match course {
            Some(course) => self.data(path, &mut at, &course)?,
            None => self.unknown_data(path, &mut at)?,
        });
        Ok(Resumed { at, changes })
    }

    /// Compares the configurations; what a longer run changes.
    fn epochs(&self, path: &Path, loaded: &Loaded) -> Result<Option<String>> {
        let (was, now) = (loaded.config.epochs, self.config.epochs);
        let name = path.display();
        let at = loaded.at.epoch;
        ensure!(
            now >= was,
            "`{name}` is from a run of {was} epochs, {at} of them done; `--epochs` says {now}, and a schedule cannot be shortened; hint: `--epochs {was}`"
        );
        ensure!(
            now == was || self.allow.more_epochs,
            "`{name}` is from a run of {was} epochs, {at} of them done; `--epochs` says {now}, which changes the learning-rate schedule; hint: `--allow-more-epochs` continues on that of {now} epochs, `--epochs {was}` on the old one"
        );
        same_config(&lengthened(&loaded.config, self.config, at), self.config, path)?;
        if now == was {
            return Ok(None);
        }
        Ok(Some(self.longer(loaded)))
    }

    /// The learning rate before and after, and how it goes on.
    fn longer(&self, loaded: &Loaded) -> String {
        let Loaded { config: saved, at, course } = loaded;
        let steps = course.as_ref().map_or(self.steps_per_epoch, |c| c.steps_per_epoch);
        let from = course.as_ref().map_or(at.step, |c| at.epoch * steps + at.step.saturating_sub(c.began));
        let schedule = |c: &Config| Schedule::new(&c.optimizer, steps as usize, c.epochs);
        let (old, new) = (schedule(saved), schedule(self.config));
        let scale = at.run.lr_scale;
        // the old schedule has ended where its run was finished
        let before = scale * old.lr(from.min(old.total().saturating_sub(1)));
        let left = new.total().saturating_sub(1).saturating_sub(from);
        let rate = |i: u64| {
            let step = from + left * i / 4;
            format!("{:.3e} in epoch {:.2}", scale * new.lr(step), new.epoch(step))
        };
        format!(
            "{} epochs instead of {}; the learning rate was {before:.3e} and is now {}",
            self.config.epochs,
            saved.epochs,
            (0..=4).map(rate).collect::<Vec<_>>().join(", ")
        )
    }

    /// Where the checkpoint says what the data were.
    fn data(&self, path: &Path, at: &mut Position, was: &Course) -> Result<Option<String>> {
        let (name, now) = (path.display(), self.identity);
        let done = at.step.checked_sub(was.began).filter(|&done| done <= was.steps_per_epoch);
        let Some(done) = done else {
            bail!(
                "`{name}` is damaged: step {} is not in an epoch of {} steps that began at step {}",
                at.step,
                was.steps_per_epoch,
                was.began
            )
        };
        if was.data.is_same(now) && was.steps_per_epoch == self.steps_per_epoch {
            at.course = was.clone();
            at.course.data = now.clone();
            return Ok(None);
        }
        let what = format!(
            "`{}` had {} pictures and {} steps per epoch when `{name}` was written, and now has {} and {}{}",
            self.data.display(),
            was.data.pictures,
            was.steps_per_epoch,
            now.pictures,
            self.steps_per_epoch,
            if was.data.pictures == now.pictures {
                format!(
                    ", but different ones or in another order (hash {} then, {} now)",
                    was.data.hash(),
                    now.hash()
                )
            } else {
                String::new()
            }
        );
        let left = match done {
            0 => Left::Between,
            done if done == was.steps_per_epoch => Left::Ended,
            done => Left::Within(Some(done)),
        };
        self.next_epoch(at, &what, left)
    }

    /// Where it does not: written by an earlier version, which knew one data set only.
    fn unknown_data(&self, path: &Path, at: &mut Position) -> Result<Option<String>> {
        let began = at.epoch.checked_mul(self.steps_per_epoch);
        let fits = |&began: &u64| at.step.checked_sub(began).is_some_and(|done| done <= self.steps_per_epoch);
        let what = format!("`{}` does not record what it was trained on", path.display());
        if let Some(began) = began.filter(fits) {
            at.course = self.course(began);
            return Ok(Some(format!("{what}: assuming `{}` as it is now", self.data.display())));
        }
        let what = format!(
            "{what}, and `{}` has changed since: with {} pictures and {} steps per epoch, step {} is not in epoch {}",
            self.data.display(),
            self.identity.pictures,
            self.steps_per_epoch,
            at.step,
            at.epoch
        );
        self.next_epoch(at, &what, Left::Within(None))
    }

    /// Leaves the epoch under way, whose order was one of other pictures, and begins the next one.
    fn next_epoch(&self, at: &mut Position, what: &str, left: Left) -> Result<Option<String>> {
        ensure!(
            self.allow.changed_data,
            "{what}; hint: restore the data, or `--allow-changed-data` continues with the next epoch on what is there now"
        );
        let epochs = self.config.epochs as u64;
        if at.epoch >= epochs {
            at.course = self.course(at.step);
            return Ok(None);
        }
        let over = match left {
            Left::Between => String::new(),
            Left::Ended => format!(" after epoch {}", at.epoch),
            Left::Within(Some(done)) => format!("; epoch {} is abandoned after {done} steps", at.epoch),
            Left::Within(None) => format!("; epoch {} is abandoned", at.epoch),
        };
        if left != Left::Between {
            at.epoch += 1;
            at.run.meter = Meter::default();
        }
        ensure!(
            at.epoch < epochs,
            "{what}{over}, and it was the last one: no epoch is left for other data; hint: `--epochs {} --allow-more-epochs`",
            epochs + 1
        );
        at.course = self.course(at.step);
        Ok(Some(format!("{what}{over}; continuing with epoch {} (from 0) of {epochs}", at.epoch)))
    }

    fn course(&self, began: u64) -> Course {
        Course { data: self.identity.clone(), steps_per_epoch: self.steps_per_epoch, began }
    }
}

/// A configuration as it would be with the epochs of another, `done` of which are behind it: a momentum that warms up over the
/// whole run goes on doing so, and heads that learnt alone for the usual share have done so, in the first epoch.
fn lengthened(saved: &Config, now: &Config, done: u64) -> Config {
    let (mut config, epochs) = (saved.clone(), now.epochs);
    if let Some(m) = config.method.momentum_mut()
        && *m.epochs == saved.epochs as f64
    {
        *m.epochs = epochs as f64;
    }
    let usual = |c: &Config| {
        let usual = Beginning::usual_warmup(c.epochs);
        c.beginning.as_ref().is_some_and(|b| b.head_warmup == usual)
    };
    if let Some(beginning) = &mut config.beginning
        && done >= 1
        && usual(saved)
        && usual(now)
    {
        beginning.head_warmup = Beginning::usual_warmup(epochs);
    }
    config.epochs = epochs;
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recipe;

    /// Where nobody says for how long heads learn alone, it depends on the number of epochs.
    #[test]
    fn a_longer_run_is_one_whose_heads_have_learnt_alone() {
        let of = |epochs: usize, head_warmup| {
            let mut c = Config::new(Recipe::MocoV2);
            c.epochs = epochs;
            c.beginning = Some(Beginning {
                checkpoint: "b.safetensors".into(),
                fingerprint: String::new(),
                mean: [0.5; 3],
                std: [0.25; 3],
                head_warmup,
                layer_decay: 0.75,
            });
            c
        };
        let usual = |epochs| of(epochs, Beginning::usual_warmup(epochs));
        let same = of(8, Beginning::usual_warmup(4));
        assert_eq!(lengthened(&usual(4), &usual(8), 2), usual(8));
        assert_eq!(lengthened(&usual(4), &same, 2), same, "somebody says it now");
        assert_eq!(lengthened(&of(4, 0.7), &of(8, 0.7), 2), of(8, 0.7), "somebody has said it");
        assert_eq!(lengthened(&usual(4), &usual(8), 0), same, "they have not yet");
    }
}
