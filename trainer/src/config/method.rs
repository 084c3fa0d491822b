//! What is contrasted with what: the part of a configuration that belongs to one method.

use serde::{Deserialize, Serialize};

use super::{Invalid, check, positive, unit};

/// The method and its hyper-parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Against keys of a momentum encoder (arXiv 1911.05722).
    Moco(Moco),
    /// Against the other views of the batch (arXiv 2002.05709).
    Simclr(Simclr),
}

/// The projection head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Length of a projection.
    pub dim: usize,
    /// Width of the hidden layer; absent: the encoder's feature length.
    pub hidden: Option<usize>,
    /// Batch normalisation after the hidden layer.
    pub bn: bool,
}

/// Momentum contrast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moco {
    /// Projection head.
    pub head: Head,
    /// Negatives kept from earlier batches; 0: none.
    pub queue: usize,
    /// Whether the queue starts with random directions that count as negatives (the published way)
    /// or empty, where only keys that were really computed count.
    pub queue_start: QueueStart,
    /// Whether the other keys of the batch are negatives too.
    pub in_batch: bool,
    /// Whether each view is query once and key once.
    pub symmetric: bool,
    /// Momentum of the key encoder at the end of its warm-up.
    pub momentum: f64,
    /// Momentum of the key encoder at the first step.
    pub momentum_start: f64,
    /// Epochs over which it goes from start to end along a half cosine.
    pub momentum_warmup_epochs: f64,
    /// Temperature of the softmax.
    pub temperature: f64,
    /// Groups of the batch that are normalised apart, as that many GPUs would (shuffling BN);
    /// 1: no splitting.
    pub bn_splits: usize,
}

/// How the queue starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum QueueStart {
    /// Random unit vectors
    Random,
    /// Empty
    Empty,
}

/// SimCLR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simclr {
    /// Projection head.
    pub head: Head,
    /// Temperature of the softmax.
    pub temperature: f64,
    /// Groups of the batch that are normalised apart, as that many GPUs would; 1: no splitting. The
    /// two views of a picture are in one group.
    pub bn_splits: usize,
}

impl Method {
    /// The projection head's settings.
    pub fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::Moco(m) => &mut m.head,
            Self::Simclr(s) => &mut s.head,
        }
    }

    /// The temperature of the softmax.
    pub fn temperature_mut(&mut self) -> &mut f64 {
        match self {
            Self::Moco(m) => &mut m.temperature,
            Self::Simclr(s) => &mut s.temperature,
        }
    }

    /// The groups of the batch that are normalised apart.
    pub fn bn_splits_mut(&mut self) -> &mut usize {
        match self {
            Self::Moco(m) => &mut m.bn_splits,
            Self::Simclr(s) => &mut s.bn_splits,
        }
    }

    /// MoCo's settings, where it is MoCo.
    pub fn moco_mut(&mut self) -> Option<&mut Moco> {
        match self {
            Self::Moco(m) => Some(m),
            Self::Simclr(_) => None,
        }
    }

    pub(super) fn validate(&self, batch: usize, nonsem: usize) -> Result<(), Invalid> {
        let (head, temperature, splits) = match self {
            Self::Moco(m) => (&m.head, m.temperature, m.bn_splits),
            Self::Simclr(s) => (&s.head, s.temperature, s.bn_splits),
        };
        positive("--temperature", temperature)?;
        check(head.dim >= 2, || format!("`--dim {}`: expected at least 2", head.dim))?;
        check(head.hidden.is_none_or(|n| n >= 1), || "`--hidden 0`: expected at least 1".into())?;
        check(splits >= 1 && batch.is_multiple_of(splits), || {
            format!(
                "`--bn-splits {splits}` does not divide `--batch-size {batch}`; hint: choose a divisor, or 1 for no splitting"
            )
        })?;
        check(batch / splits >= 2, || {
            format!("`--bn-splits {splits}` leaves groups of one image, which have no variance")
        })?;
        match self {
            Self::Moco(m) => m.validate(nonsem),
            Self::Simclr(_) => Ok(()),
        }
    }
}

impl Moco {
    fn validate(&self, nonsem: usize) -> Result<(), Invalid> {
        unit("--momentum", self.momentum)?;
        unit("--momentum-start", self.momentum_start)?;
        check(self.queue > 0 || self.in_batch || nonsem > 0, || {
            "`--queue 0` without `--in-batch` leaves no negatives".into()
        })
    }
}
