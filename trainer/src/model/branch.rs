//! An encoder with the heads behind it, and one that follows another.

use anyhow::Result;
use occlude_distributed::World;
use occlude_encoder::{Arch, Mlp as Description, TapId};
use tch::{Device, Kind, Tensor};

use super::encoder::{Encoder, Hidden, Output};
use super::mlp::{Init, Mlp};
use super::mode::Mode;
use super::named::{Named, ema, load};
use super::ops::single;
use super::prototypes::Prototypes;
use crate::config::{self, Align, Momentum};
use crate::loss::normalize;

/// A head and what its names begin with in a checkpoint.
pub struct Head {
    /// With its final dot.
    pub prefix: String,
    /// The head.
    pub mlp: Mlp,
}

/// An encoder with its projection head; with one more for aligned embeddings where there are such.
pub struct Branch {
    /// What the encoder's names begin with in a checkpoint.
    prefix: String,
    encoder: Encoder,
    /// The projector, and that of aligned embeddings where `align` is there.
    heads: Vec<Head>,
    /// How maps are made, and of what.
    align: Option<(Align, TapId)>,
    /// What is behind the projector, where it distils.
    last: Option<(String, Prototypes)>,
}

/// What a branch makes of a batch; not normalised.
pub struct Projected {
    /// Features and the taps that were asked for.
    pub output: Output,
    /// `(B, d)`.
    pub global: Tensor,
    /// Where the method aligns.
    pub aligned: Option<Aligned>,
}

/// Embeddings of parts of a picture (arXiv 2203.14898).
pub struct Aligned {
    /// `(B, n, d)`.
    pub vectors: Tensor,
    /// Where each number of a projection is high, `(B, h, w, d)`; each sums to one over a picture.
    pub maps: Tensor,
}

/// The prefixes of what is learnt in a checkpoint; those of a follower have `_k` in place of `_q`.
const ENCODER: &str = "encoder_q.";
/// The prefixes of encoders in a state: of what learns, and of what follows it.
pub const ENCODERS: [&str; 2] = [ENCODER, "encoder_k."];
const PROJECTOR: &str = "head_q.";
const ALIGNED: &str = "head_obj_q.";
/// A projector and what is behind it where it distils; `head_q.` away they have DINO's names.
const DISTILLING: [&str; 2] = ["head_q.mlp.", "head_q.last_layer."];
/// The stage whose map alignment reads.
const LAST: usize = 5;

impl Branch {
    /// Random weights: first the encoder's, then the heads'.
    ///
    /// # Errors
    /// Where embeddings are to be aligned and the architecture has no feature map for it.
    pub fn new(
        arch: Arch,
        seed: u64,
        (head, align): (&config::Head, Option<&Align>),
        device: Device,
    ) -> Result<Self> {
        let encoder = Encoder::new(arch, seed, device);
        let last = align.map(|_| encoder.stage(LAST)).transpose()?;
        let inputs = arch.feature_dim();
        let widths = [inputs, head.hidden.unwrap_or(inputs), head.dim];
        let of = |prefix: &str, description: Description, init| {
            let description = if head.output_bn { description.normalised() } else { description };
            Head { prefix: prefix.into(), mlp: Mlp::new(description, init, device) }
        };
        let heads = match align {
            None => vec![of(PROJECTOR, Description::two_layers(widths, head.bn, true), Init::Uniform)],
            Some(_) => [PROJECTOR, ALIGNED]
                .map(|prefix| of(prefix, Description::two_layers(widths, head.bn, false), Init::HeNormal))
                .into(),
        };
        Ok(Self { prefix: ENCODER.into(), encoder, heads, align: align.cloned().zip(last), last: None })
    }

    /// Random weights of a branch that distils (arXiv 2104.14294): a projector of three layers, and prototypes behind it.
    pub fn distilling(arch: Arch, seed: u64, settings: &config::Dino, device: Device) -> Self {
        let encoder = Encoder::new(arch, seed, device);
        let (inputs, head) = (arch.feature_dim(), &settings.head);
        let hidden = head.hidden.unwrap_or(inputs);
        let description = Description::with_gelu(&[inputs, hidden, hidden, head.dim]);
        let [projector, last] = DISTILLING.map(String::from);
        let heads = vec![Head { prefix: projector, mlp: Mlp::new(description, Init::Small, device) }];
        let prototypes = Prototypes::new([head.dim, settings.prototypes], settings.norm_last_layer, device);
        Self { prefix: ENCODER.into(), encoder, heads, align: None, last: Some((last, prototypes)) }
    }

    /// A copy without gradients and with a follower's names.
    pub fn frozen_copy(other: &Self) -> Self {
        let follows = |prefix: &str| prefix.replace("_q.", "_k.");
        let head = |h: &Head| Head { prefix: follows(&h.prefix), mlp: Mlp::frozen_copy(&h.mlp) };
        Self {
            prefix: follows(&other.prefix),
            encoder: Encoder::frozen_copy(&other.encoder),
            heads: other.heads.iter().map(head).collect(),
            align: other.align.clone(),
            last: other.last.as_ref().map(|(prefix, p)| (follows(prefix), Prototypes::frozen_copy(p))),
        }
    }

    /// From now on batches are parts of those of all ranks, which normalise together.
    pub fn join(&mut self, world: &World) {
        self.encoder.join(world);
        self.heads.iter_mut().for_each(|head| head.mlp.join(world));
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// What the encoder's names begin with in a checkpoint.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The projector.
    pub fn projector(&self) -> &Head {
        &self.heads[0]
    }

    /// How alignment maps are made of what the projector gives, where they are.
    pub fn align(&self) -> Option<&Align> {
        self.align.as_ref().map(|(align, _)| align)
    }

    /// The encoder alone; `want` says which taps the output has.
    pub fn encode(&self, x: &Tensor, mode: Mode, want: &[TapId]) -> Output {
        self.encoder.forward(x, mode, want)
    }

    /// The encoder of a vision transformer, which does not see some of the patches.
    pub fn encode_hidden(
        &self,
        x: &Tensor,
        mode: Mode,
        want: &[TapId],
        hidden: Option<&Hidden<'_>>,
    ) -> Output {
        self.encoder.forward_hidden(x, mode, want, hidden)
    }

    /// What is behind the projector, where the branch distils.
    pub fn prototypes(&self) -> Option<&Prototypes> {
        self.last.as_ref().map(|(_, prototypes)| prototypes)
    }

    /// The projector alone, on features `(N, C)`.
    pub fn head(&self, features: &Tensor, mode: Mode) -> Tensor {
        self.heads[0].mlp.forward(features, mode)
    }

    /// The whole branch; `want` says which taps the output has.
    pub fn project(&self, x: &Tensor, mode: Mode, want: &[TapId]) -> Projected {
        let Some((align, last)) = &self.align else {
            let output = self.encode(x, mode, want);
            return Projected { global: self.head(&output.embedding, mode), aligned: None, output };
        };
        // what alignment reads comes behind what was asked for
        let mut output = self.encode(x, mode, &[want, &[*last]].concat());
        let map = output.taps.split_off(want.len()).swap_remove(0);
        let heads = [&self.heads[0].mlp, &self.heads[1].mlp];
        let (global, aligned) = aligned(&map, &output.embedding, (heads, align), mode);
        Projected { output, global, aligned: Some(aligned) }
    }

    /// All tensors; those of the encoder first.
    pub fn named(&self) -> Vec<Named> {
        let heads = self.heads.iter().flat_map(|h| h.mlp.named(&h.prefix));
        let last = self.last.iter().flat_map(|(prefix, p)| p.named(prefix));
        self.encoder.named(&self.prefix).into_iter().chain(heads).chain(last).collect()
    }

    /// What the optimiser moves.
    pub fn trainable(&self) -> Vec<Named> {
        let heads = self.heads.iter().flat_map(|h| h.mlp.trainable_named(&h.prefix));
        let last = self.last.iter().flat_map(|(prefix, p)| p.named(prefix));
        let last = last.filter(|n| n.tensor.requires_grad());
        self.encoder.trainable_named(&self.prefix).into_iter().chain(heads).chain(last).collect()
    }

    /// Takes the counter of batches from a state that was loaded.
    ///
    /// # Errors
    /// Where the state has none.
    pub fn count_batches(&self, state: &[Named]) -> Result<()> {
        self.encoder.load_batches(state, &self.prefix)
    }
}

/// Section 3.2 of arXiv 2203.14898: the projector `g` reads the pooled features, for the global embedding, and every
/// position, for maps of where each number of a projection is high; `g_obj` reads what the maps pool. Shape: features
/// `(B, C, h, w)` to `(B, d)` and `(B, d / heads, d)`.
fn aligned(
    map: &Tensor,
    pooled: &Tensor,
    ([g, g_obj], align): ([&Mlp; 2], &Align),
    mode: Mode,
) -> (Tensor, Aligned) {
    let features = single(map);
    let (b, c, h, w) = features.size4().unwrap_or_else(|e| panic!("features are (B, C, h, w): {e}"));
    let cells = features.flatten(2, 3).transpose(1, 2); // (B, hw, C)
    let tokens = Tensor::cat(&[pooled.unsqueeze(1), cells.shallow_clone()], 1); // (B, 1 + hw, C)
    let projected = g.forward(&tokens.flatten(0, 1), mode).view([b, 1 + h * w, -1]); // (B, 1 + hw, d)
    let global = projected.select(1, 0);
    let scores = normalize(&projected.narrow(1, 1, h * w)) / align.scale;
    let maps = scores.softmax(1, scores.kind()); // (B, hw, d)
    let heads = align.heads as i64;
    let of_heads = |x: &Tensor| x.reshape([b, h * w, heads, -1]).permute([0, 2, 1, 3]); // (B, heads, hw, ..)
    let pooled = of_heads(&cells).transpose(2, 3).matmul(&of_heads(&maps)); // (B, heads, C / heads, n)
    let pooled = pooled.reshape([b, c, -1]).transpose(1, 2); // (B, n, C)
    let n = pooled.size()[1];
    let vectors = g_obj.forward(&pooled.reshape([b * n, c]), mode).view([b, n, -1]);
    (global, Aligned { vectors, maps: maps.reshape([b, h, w, -1]) })
}

impl Aligned {
    /// The mean of the maps, `(B, h, w)`.
    pub fn mean_map(&self) -> Tensor {
        self.maps.mean_dim([-1i64].as_slice(), false, Kind::Float)
    }
}

/// A branch that is a moving average of another, tensor by tensor.
pub struct Follower {
    branch: Branch,
    momentum: Momentum,
    buffers: bool,
    /// (own, leader's) tensors in one order.
    averaged: (Vec<Tensor>, Vec<Tensor>),
}

impl Follower {
    /// Begins as a copy. `buffers`: running statistics are averaged too and used in place of the batch's (EMAN, arXiv
    /// 2101.08482); otherwise they are its own.
    pub fn new(leader: &Branch, momentum: Momentum, buffers: bool) -> Self {
        let branch = Branch::frozen_copy(leader);
        let tensors = |branch: &Branch| -> Vec<Tensor> {
            // the same places in both: whether a tensor is learnt is the leader's to say
            let all = branch.named().into_iter().zip(leader.named());
            let taken = all.filter(|(n, l)| {
                let counter = n.name.ends_with("num_batches_tracked");
                !counter && (buffers || l.tensor.requires_grad())
            });
            taken.map(|(n, _)| n.tensor).collect()
        };
        let averaged = (tensors(&branch), tensors(leader));
        Self { branch, momentum, buffers, averaged }
    }

    /// The branch.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// As [`Branch::join`].
    pub fn join(&mut self, world: &World) {
        self.branch.join(world);
    }

    /// How it normalises.
    pub fn mode(&self, splits: i64) -> Mode {
        if self.buffers { Mode::Eval } else { Mode::Train { splits } }
    }

    /// The same, where statistics must stay as they are.
    pub fn peek(&self, splits: i64) -> Mode {
        if self.buffers { Mode::Eval } else { Mode::Peek { splits } }
    }

    /// Takes a step towards `leader`, at a time in epochs.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn follow(&self, leader: &Branch, epoch: f64) -> Result<()> {
        ema(&self.averaged.0, &self.averaged.1, self.momentum.at(epoch))?;
        if self.buffers {
            self.branch.encoder.set_batches(leader.encoder.batches());
        }
        Ok(())
    }
}

/// Loads `state` into what `tensors` shares its storage with, and the counters of `branches`.
///
/// # Errors
/// Where names or shapes differ.
pub fn load_branches(tensors: &[Named], branches: &[&Branch], state: &[Named]) -> Result<()> {
    load(tensors, state)?;
    branches.iter().try_for_each(|branch| branch.count_batches(state))
}
