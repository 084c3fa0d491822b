//! What is compared with what: the part of a configuration that belongs to one method.

use occlude_encoder::Arch;
use serde::{Deserialize, Serialize};

use super::{Dino, Distill, Head, Invalid, Momentum, MomentumFields, Teacher, check, positive, unit};

/// The method and its hyper-parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Against keys of a momentum encoder (arXiv 1911.05722).
    Moco(Moco),
    /// Against the other views of the batch (arXiv 2002.05709).
    Simclr(Simclr),
    /// Towards what a moving average of the network says of another view (arXiv 2006.07733).
    Byol(Byol),
    /// Towards what a moving average of the network says of other views, over many prototypes (arXiv 2104.14294).
    Dino(Dino),
    /// Towards the embeddings of a network that is not trained.
    Distill(Distill),
}

/// Alignment maps (LEWEL, arXiv 2203.14898): the projection head applied to every position says where in the picture each
/// of several further embeddings is taken from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Align {
    /// Groups of channels with maps of their own; an aligned embedding has one map of each.
    pub heads: usize,
    /// What the values of a map are divided by before the softmax over positions.
    pub scale: f64,
    /// Share of the global embedding's loss; the rest is the aligned embeddings'.
    pub weight: f64,
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
    /// Aligned embeddings beside the global one, each with a queue of its own; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align: Option<Align>,
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

/// BYOL, and LEWEL on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Byol {
    /// Projection head.
    pub head: Head,
    /// Width of the predictor's hidden layer.
    pub predictor: usize,
    /// Momentum of the target at the end of its warm-up.
    pub momentum: f64,
    /// Momentum of the target at the first step.
    pub momentum_start: f64,
    /// Epochs over which it goes from start to end along a half cosine.
    pub momentum_warmup_epochs: f64,
    /// How the target normalises.
    pub target: TargetNorm,
    /// Groups of the batch that are normalised apart, as that many GPUs would; 1: no splitting.
    pub bn_splits: usize,
    /// Aligned embeddings beside the global one; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align: Option<Align>,
}

/// How the target of BYOL normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TargetNorm {
    /// By the statistics of its batch, as published
    Batch,
    /// By moving averages of the network's running statistics (EMAN, arXiv 2101.08482)
    Eman,
}

impl Method {
    /// The projection head's settings.
    pub fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::Moco(m) => &mut m.head,
            Self::Simclr(s) => &mut s.head,
            Self::Byol(b) => &mut b.head,
            Self::Dino(d) => &mut d.head,
            Self::Distill(d) => &mut d.head,
        }
    }

    /// The temperature of the softmax, where there is one.
    pub fn temperature_mut(&mut self) -> Option<&mut f64> {
        match self {
            Self::Moco(m) => Some(&mut m.temperature),
            Self::Simclr(s) => Some(&mut s.temperature),
            Self::Dino(d) => Some(&mut d.temperature),
            Self::Byol(_) | Self::Distill(_) => None,
        }
    }

    /// The groups of the batch that are normalised apart, where there may be several.
    pub fn bn_splits(&self) -> Option<usize> {
        match self {
            Self::Moco(m) => Some(m.bn_splits),
            Self::Simclr(s) => Some(s.bn_splits),
            Self::Byol(b) => Some(b.bn_splits),
            Self::Dino(_) | Self::Distill(_) => None,
        }
    }

    /// The same, to change it.
    pub fn bn_splits_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::Moco(m) => Some(&mut m.bn_splits),
            Self::Simclr(s) => Some(&mut s.bn_splits),
            Self::Byol(b) => Some(&mut b.bn_splits),
            Self::Dino(_) | Self::Distill(_) => None,
        }
    }

    /// MoCo's settings, where it is MoCo.
    pub fn moco_mut(&mut self) -> Option<&mut Moco> {
        if let Self::Moco(m) = self { Some(m) } else { None }
    }

    /// BYOL's settings, where it is BYOL.
    pub fn byol_mut(&mut self) -> Option<&mut Byol> {
        if let Self::Byol(b) = self { Some(b) } else { None }
    }

    /// DINO's settings, where it is DINO.
    pub fn dino_mut(&mut self) -> Option<&mut Dino> {
        if let Self::Dino(d) = self { Some(d) } else { None }
    }

    /// Distillation's settings, where it is that.
    pub fn distill_mut(&mut self) -> Option<&mut Distill> {
        if let Self::Distill(d) = self { Some(d) } else { None }
    }

    /// Who is learnt from, where somebody else is.
    pub fn teacher(&self) -> Option<&Teacher> {
        if let Self::Distill(d) = self { d.teacher.as_ref() } else { None }
    }

    /// Whether somebody else is to be learnt from, and nobody is named.
    pub fn lacks_teacher(&self) -> bool {
        matches!(self, Self::Distill(Distill { teacher: None, .. }))
    }

    /// The alignment's settings, where the method aligns.
    pub fn align_mut(&mut self) -> Option<&mut Align> {
        match self {
            Self::Moco(m) => m.align.as_mut(),
            Self::Byol(b) => b.align.as_mut(),
            Self::Simclr(_) | Self::Dino(_) | Self::Distill(_) => None,
        }
    }

    /// The momentum of the network that follows, where one does.
    pub fn momentum_mut(&mut self) -> Option<MomentumFields<'_>> {
        let (start, end, epochs) = match self {
            Self::Moco(m) => (&mut m.momentum_start, &mut m.momentum, &mut m.momentum_warmup_epochs),
            Self::Byol(b) => (&mut b.momentum_start, &mut b.momentum, &mut b.momentum_warmup_epochs),
            Self::Dino(d) => (&mut d.momentum_start, &mut d.momentum, &mut d.momentum_warmup_epochs),
            Self::Simclr(_) | Self::Distill(_) => return None,
        };
        Some(MomentumFields { start, end, epochs })
    }

    /// The alignment, where the method aligns.
    pub fn align(&self) -> Option<&Align> {
        match self {
            Self::Moco(m) => m.align.as_ref(),
            Self::Byol(b) => b.align.as_ref(),
            Self::Simclr(_) | Self::Dino(_) | Self::Distill(_) => None,
        }
    }

    /// Whether more views of a picture than it compares have a meaning.
    pub(super) fn takes_more_views(&self) -> bool {
        matches!(self, Self::Byol(_) | Self::Dino(_) | Self::Distill(_))
    }

    /// Views of a picture that there have to be, all of the run's size.
    pub(super) fn compared_views(&self) -> usize {
        if matches!(self, Self::Distill(_)) { 1 } else { 2 }
    }

    pub(super) fn validate(&self, arch: Arch, batch: usize, nonsem: usize) -> Result<(), Invalid> {
        let (head, splits) = match self {
            Self::Moco(m) => (&m.head, m.bn_splits),
            Self::Simclr(s) => (&s.head, s.bn_splits),
            Self::Byol(b) => (&b.head, b.bn_splits),
            Self::Dino(d) => (&d.head, 1),
            Self::Distill(d) => (&d.head, 1),
        };
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
        self.align().map_or(Ok(()), |align| align.validate(head.dim, arch))?;
        match self {
            Self::Moco(m) => m.validate(nonsem),
            Self::Simclr(s) => positive("--temperature", s.temperature),
            Self::Byol(b) => b.validate(nonsem),
            Self::Dino(d) => d.validate(arch),
            Self::Distill(d) => d.validate(nonsem),
        }
    }
}

impl Align {
    fn validate(&self, dim: usize, arch: Arch) -> Result<(), Invalid> {
        let channels = arch.feature_dim();
        check(
            self.heads >= 1 && dim.is_multiple_of(self.heads) && channels.is_multiple_of(self.heads),
            || {
                format!(
                    "`--align-heads {}` does not divide both the {dim} numbers of a projection and the {channels} channels of {arch}; hint: 4 or another common divisor",
                    self.heads
                )
            },
        )?;
        positive("--align-scale", self.scale)?;
        unit("--align-weight", self.weight)
    }
}

impl Moco {
    /// How the key encoder follows.
    pub fn follow(&self) -> Momentum {
        Momentum { start: self.momentum_start, end: self.momentum, epochs: self.momentum_warmup_epochs }
    }

    fn validate(&self, nonsem: usize) -> Result<(), Invalid> {
        positive("--temperature", self.temperature)?;
        unit("--momentum", self.momentum)?;
        unit("--momentum-start", self.momentum_start)?;
        check(self.queue > 0 || self.in_batch || nonsem > 0, || {
            "`--queue 0` without `--in-batch` leaves no negatives".into()
        })?;
        check(self.align.is_none() || nonsem == 0, || {
            format!(
                "`--num-nonsem {nonsem}`: a hard negative lacks the object as a whole, and has no aligned embedding that would be the negative of another; hint: `--num-nonsem 0`"
            )
        })
    }
}

impl Byol {
    /// How the target follows.
    pub fn follow(&self) -> Momentum {
        Momentum { start: self.momentum_start, end: self.momentum, epochs: self.momentum_warmup_epochs }
    }

    fn validate(&self, nonsem: usize) -> Result<(), Invalid> {
        unit("--momentum", self.momentum)?;
        unit("--momentum-start", self.momentum_start)?;
        check(self.predictor >= 1, || "`--predictor-hidden 0`: expected at least 1".into())?;
        check(nonsem == 0, || {
            format!(
                "`--num-nonsem {nonsem}`: hard negatives are negatives, and BYOL has none; hint: `--num-nonsem 0`"
            )
        })
    }
}
