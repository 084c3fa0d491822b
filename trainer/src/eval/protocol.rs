//! How classifiers are trained: the published settings, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{Augment, Config, Invalid, Optimizer as Settings, Recipe, Rule};

/// Everything that decides how a classifier, and with it an encoder, is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// The named settings it started from.
    pub name: String,
    /// Passes over the data.
    pub epochs: usize,
    /// Pictures a step.
    pub batch_size: usize,
    /// Learning rate of the classifier.
    pub lr: Lr,
    /// Learning rate of the encoder; absent where it is frozen.
    pub lr_backbone: Option<f64>,
    /// What becomes of the learning rates.
    pub decay: Decay,
    /// L2 penalty on everything that is trained.
    pub weight_decay: f64,
    /// Seed of the first weights, the order and the crops.
    pub seed: u64,
}

/// What becomes of a learning rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// A tenth after each of these epochs.
    Steps(Vec<usize>),
    /// Half a cosine to zero, step by step.
    Cosine,
}

/// A learning rate, or that it is to be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Lr {
    /// This one.
    Value(f64),
    /// The best of a grid on a part of the training pictures that is held back.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auto {
    /// `auto`
    Auto,
}

impl FromStr for Lr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s == "auto" {
            return Ok(Self::Auto(Auto::Auto));
        }
        match s.parse::<f64>() {
            Ok(lr) if lr.is_finite() && lr > 0.0 => Ok(Self::Value(lr)),
            _ => Err("expected a number above 0, or `auto`".into()),
        }
    }
}

impl fmt::Display for Lr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(lr) => lr.fmt(f),
            Self::Auto(_) => f.write_str("auto"),
        }
    }
}

/// Settings of linear evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LinearPreset {
    /// lr 30, 100 epochs, steps 60 and 80 (arXiv 1911.05722)
    Moco,
    /// lr 0.4, 50 epochs, steps 30 and 40 (arXiv 2203.14898)
    Lewel,
}

/// Settings of fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FinetunePreset {
    /// For 1 % of the labels: lr 1e-4, classifier 1.0, 50 epochs, steps 30 and 40 (arXiv 2203.14898)
    #[value(name = "semi-1")]
    Semi1,
    /// For 10 % of the labels: lr 0.01, classifier 0.1, 50 epochs, steps 30 and 40 (arXiv 2203.14898)
    #[value(name = "semi-10")]
    Semi10,
    /// For another data set: lr 0.01 for both, 100 epochs, cosine, batch 64, weight decay 1e-4
    Transfer,
}

/// Flags over a preset; `None` leaves what the preset says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Of [`Protocol::epochs`].
    pub epochs: Option<usize>,
    /// Of [`Protocol::batch_size`].
    pub batch_size: Option<usize>,
    /// Of [`Protocol::lr`].
    pub lr: Option<Lr>,
    /// Of [`Protocol::lr_backbone`].
    pub lr_backbone: Option<f64>,
    /// Of [`Protocol::decay`].
    pub steps: Option<Vec<usize>>,
    /// Of [`Protocol::weight_decay`].
    pub weight_decay: Option<f64>,
    /// Of [`Protocol::seed`].
    pub seed: u64,
}

impl LinearPreset {
    fn protocol(self) -> Protocol {
        match self {
            Self::Moco => steps("moco", 100, &[60, 80], (30.0, None)),
            Self::Lewel => steps("lewel", 50, &[30, 40], (0.4, None)),
        }
    }

    /// With flags over it; epochs of decay move with `--epochs` where they are not given.
    ///
    /// # Errors
    /// [`Invalid`] for what cannot work.
    pub fn resolve(self, flags: &Overrides) -> Result<Protocol, Invalid> {
        self.protocol().with(flags)
    }
}

impl FinetunePreset {
    fn protocol(self) -> Protocol {
        match self {
            Self::Semi1 => steps("semi-1", 50, &[30, 40], (1.0, Some(1e-4))),
            Self::Semi10 => steps("semi-10", 50, &[30, 40], (0.1, Some(0.01))),
            Self::Transfer => Protocol {
                decay: Decay::Cosine,
                batch_size: 64,
                weight_decay: 1e-4,
                ..steps("transfer", 100, &[], (0.01, Some(0.01)))
            },
        }
    }

    /// With flags over it; epochs of decay move with `--epochs` where they are not given.
    ///
    /// # Errors
    /// [`Invalid`] for what cannot work.
    pub fn resolve(self, flags: &Overrides) -> Result<Protocol, Invalid> {
        self.protocol().with(flags)
    }
}

fn steps(name: &str, epochs: usize, steps: &[usize], (lr, lr_backbone): (f64, Option<f64>)) -> Protocol {
    Protocol {
        name: name.into(),
        epochs,
        batch_size: 256,
        lr: Lr::Value(lr),
        lr_backbone,
        decay: Decay::Steps(steps.into()),
        weight_decay: 0.0,
        seed: 0,
    }
}

impl Protocol {
    fn with(mut self, flags: &Overrides) -> Result<Self, Invalid> {
        let published = self.epochs;
        self.epochs = flags.epochs.unwrap_or(published);
        if let Decay::Steps(steps) = &mut self.decay {
            for step in steps {
                *step = (*step * self.epochs + published / 2) / published;
            }
        }
        if let Some(steps) = &flags.steps {
            self.decay = Decay::Steps(steps.clone());
        }
        self.batch_size = flags.batch_size.unwrap_or(self.batch_size);
        self.lr = flags.lr.unwrap_or(self.lr);
        self.lr_backbone = self.lr_backbone.map(|lr| flags.lr_backbone.unwrap_or(lr));
        self.weight_decay = flags.weight_decay.unwrap_or(self.weight_decay);
        self.seed = flags.seed;
        self.validate(flags.steps.is_some())?;
        Ok(self)
    }

    fn validate(&self, own_steps: bool) -> Result<(), Invalid> {
        let invalid = |message: String| Err(Invalid(message));
        if self.epochs == 0 || self.batch_size == 0 {
            return invalid("`--epochs` and `--batch-size` must be at least 1".into());
        }
        for (flag, lr) in [("--lr-classifier", self.fixed_lr()), ("--lr", self.lr_backbone)] {
            if lr.is_some_and(|lr| !(lr.is_finite() && lr > 0.0)) {
                return invalid(format!("`{flag}`: expected a number above 0"));
            }
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return invalid(format!("`--weight-decay {}`: expected 0 or more", self.weight_decay));
        }
        match &self.decay {
            Decay::Steps(steps)
                if own_steps && (!steps.is_sorted() || steps.iter().any(|&s| s == 0 || s >= self.epochs)) =>
            {
                invalid(format!(
                    "`--steps`: expected ascending epochs from 1 to {}, got {steps:?}",
                    self.epochs.saturating_sub(1)
                ))
            }
            _ => Ok(()),
        }
    }

    fn fixed_lr(&self) -> Option<f64> {
        match self.lr {
            Lr::Value(lr) => Some(lr),
            Lr::Auto(_) => None,
        }
    }

    /// The factor on every learning rate at `step` (from 0) of epochs of `steps` steps.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        match &self.decay {
            Decay::Steps(at) => {
                let epoch = (step / steps) as usize;
                // one division for each step gives the decimals that the papers print
                at.iter().filter(|&&e| epoch >= e).fold(1.0, |factor, _| factor / 10.0)
            }
            Decay::Cosine => {
                let t = step as f64 / (steps * self.epochs as u64) as f64;
                (1.0 + (std::f64::consts::PI * t).cos()) / 2.0
            }
        }
    }

    /// Settings of the optimiser; the learning rate is given with each step.
    pub(super) fn optimizer(&self) -> Settings {
        let weight_decay = self.weight_decay;
        Settings { rule: Rule::Sgd, momentum: 0.9, weight_decay, ..Config::new(Recipe::MocoV2).optimizer }
    }
}

/// Views that classifiers are trained on: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`, nothing else.
pub(super) fn augment() -> Augment {
    Augment {
        crop_min: 0.08,
        crop_max: 1.0,
        jitter_p: 0.0,
        gray_p: 0.0,
        blur_p: 0.0,
        flip_p: 0.5,
        ..Config::new(Recipe::MocoV2).views.remove(0).augment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(p: &Protocol, epochs: &[u64]) -> Vec<f64> {
        epochs.iter().map(|e| p.factor(e * 7, 7)).collect()
    }

    #[test]
    fn published_settings_and_their_steps() {
        let moco = LinearPreset::Moco.resolve(&Overrides::default()).expect("valid");
        assert_eq!(
            (moco.lr, moco.epochs, moco.batch_size, moco.weight_decay),
            (Lr::Value(30.0), 100, 256, 0.0)
        );
        assert_eq!(factors(&moco, &[0, 59, 60, 79, 80, 99]), [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
        let lewel = LinearPreset::Lewel.resolve(&Overrides::default()).expect("valid");
        assert_eq!((lewel.lr, lewel.epochs), (Lr::Value(0.4), 50));
        assert_eq!(factors(&lewel, &[29, 30, 40]), [1.0, 0.1, 0.01]);
        for (preset, fc, backbone) in
            [(FinetunePreset::Semi1, 1.0, 1e-4), (FinetunePreset::Semi10, 0.1, 0.01)]
        {
            let p = preset.resolve(&Overrides::default()).expect("valid");
            assert_eq!((p.lr, p.lr_backbone, p.epochs), (Lr::Value(fc), Some(backbone), 50));
        }
        let transfer = FinetunePreset::Transfer.resolve(&Overrides::default()).expect("valid");
        assert!((transfer.factor(350, 7) - 0.5).abs() < 1e-12 && transfer.factor(0, 7) == 1.0);
    }

    #[test]
    fn steps_move_with_the_epochs_unless_given() {
        let with = |epochs, steps: Option<Vec<usize>>| {
            let flags = Overrides { epochs: Some(epochs), steps, ..Overrides::default() };
            LinearPreset::Moco.resolve(&flags)
        };
        assert_eq!(with(20, None).expect("valid").decay, Decay::Steps(vec![12, 16]));
        assert_eq!(with(20, Some(vec![5])).expect("valid").decay, Decay::Steps(vec![5]));
        assert!(with(1, None).is_ok());
        for steps in [vec![20], vec![0], vec![9, 3]] {
            assert!(with(20, Some(steps)).expect_err("refused").to_string().contains("--steps"));
        }
        assert!(with(0, None).expect_err("refused").to_string().contains("--epochs"));
    }

    #[test]
    fn learning_rates_are_numbers_or_auto() {
        assert_eq!("0.4".parse(), Ok(Lr::Value(0.4)));
        assert!("-1".parse::<Lr>().is_err() && "inf".parse::<Lr>().is_err() && "fast".parse::<Lr>().is_err());
        for lr in [Lr::Value(30.0), "auto".parse().expect("known")] {
            let json = serde_json::to_string(&lr).expect("json");
            assert_eq!(serde_json::from_str::<Lr>(&json).expect("read back"), lr);
            assert_eq!(lr.to_string().parse(), Ok(lr));
        }
    }
}
