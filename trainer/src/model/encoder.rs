//! The encoder: an interpreter of [`Graph`] with libtorch.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};
use occlude_distributed::World;
use occlude_encoder::{Arch, Graph, Node, Op, ParamKind, TapId, TapKind};
use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::attention;
use super::mode::Mode;
use super::named::{Named, find};
use super::ops::{batch_norm, channels_last, drop_path, initial, joint_batch_norm, training_conv, unary};
use super::running::Running;
use crate::rng::{Domain, stream};
use crate::share::Share;

/// What a forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// The taps that were asked for, in that order, in the type of the computation; a feature map is `(N, C, h, w)`.
    pub taps: Vec<Tensor>,
    /// `(N, D)`, float32: global average pool of the last feature map.
    pub embedding: Tensor,
}

/// Patches that a vision transformer is not shown.
#[derive(Clone, Copy, Debug)]
pub struct Hidden<'a> {
    /// `(N, T)`, true where a patch is hidden, row by row of the picture.
    pub mask: &'a Tensor,
    /// What it sees in their place, `(1, D)`.
    pub token: &'a Tensor,
}

impl Output {
    /// The only tap that was asked for.
    ///
    /// # Panics
    /// Where none was.
    pub fn tap(mut self) -> Tensor {
        self.taps.swap_remove(0)
    }
}

/// An encoder with weights.
pub struct Encoder {
    graph: Graph,
    /// Of every node, its parameters but for counters, in the order of [`Node::params`].
    nodes: Vec<Vec<Tensor>>,
    /// Of all normalisations the running statistics, which those of `nodes` are parts of.
    statistics: Running,
    /// The last node that reads each node, for freeing feature maps early.
    last_use: Vec<usize>,
    /// One counter for every `num_batches_tracked`: all layers see the same batches.
    batches: Cell<i64>,
    /// See [`Self::set_drop_path`].
    drop_path: Cell<f64>,
    /// With whom it normalises.
    world: World,
    /// Pictures of this rank's batch, where draws are for those of all ranks.
    pictures: Cell<Option<i64>>,
    device: Device,
}

impl Encoder {
    /// Random weights as torchvision's: convolutions He-normal by fan-out, normalisations one and zero. Those of vision
    /// transformers as DINO's: N(0, 0.02) for matrices, tokens and positions.
    pub fn new(arch: Arch, seed: u64, device: Device) -> Self {
        let graph = Graph::new(arch);
        let mut rng = stream(seed, Domain::Init, 0, 0);
        tch::manual_seed((rng.random::<u64>() >> 1) as i64);
        let fresh = |node: &Node| {
            // `num_batches_tracked` is `batches`
            let stored = node.params.iter().filter(|p| p.kind != ParamKind::BnCount);
            stored.map(|p| initial(&p.shape, p.kind, device)).collect()
        };
        let mut nodes: Vec<Vec<Tensor>> = graph.nodes.iter().map(fresh).collect();
        let mut last_use: Vec<usize> = (0..graph.nodes.len()).collect();
        for (id, node) in graph.nodes.iter().enumerate() {
            for &input in &node.inputs {
                last_use[input] = id;
            }
        }
        let statistics = Running::gather(&graph, &mut nodes);
        let (batches, drop_path) = (Cell::new(0), Cell::new(0.0));
        let (world, pictures) = (World::single(), Cell::new(None));
        Self { graph, nodes, statistics, last_use, batches, drop_path, world, pictures, device }
    }

    /// The weights of a checkpoint's encoder.
    ///
    /// # Errors
    /// Where a tensor of the architecture is missing or has another shape.
    pub fn from_checkpoint(weights: &occlude_checkpoint::Encoder<'_>, device: Device) -> Result<Self> {
        let encoder = Self::new(weights.arch, 0, device);
        for named in encoder.named("") {
            if named.name.ends_with("num_batches_tracked") {
                continue;
            }
            let data = weights.f32(&named.name);
            let data = data.ok_or_else(|| anyhow::anyhow!("missing tensor `{}`", named.name))?;
            let source = Tensor::from_slice(&data);
            ensure!(source.numel() == named.tensor.numel(), "tensor `{}` has the wrong size", named.name);
            let source = source.view(named.tensor.size().as_slice());
            tch::no_grad(|| named.tensor.shallow_clone().copy_(&source));
        }
        Ok(encoder)
    }

    /// A copy of another encoder without gradients: the start of a momentum encoder.
    pub fn frozen_copy(other: &Self) -> Self {
        let mut nodes: Vec<Vec<Tensor>> = tch::no_grad(|| {
            other.nodes.iter().map(|ts| ts.iter().map(|t| t.detach().copy()).collect()).collect()
        });
        Self {
            graph: other.graph.clone(),
            statistics: Running::gather(&other.graph, &mut nodes),
            nodes,
            last_use: other.last_use.clone(),
            batches: Cell::new(other.batches.get()),
            drop_path: Cell::new(0.0),
            world: other.world.clone(),
            pictures: Cell::new(None),
            device: other.device,
        }
    }

    /// From now on batches are parts of those of all ranks, which normalise together.
    pub fn join(&mut self, world: &World) {
        self.world = world.clone();
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.graph.arch
    }

    /// The graph that it computes.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Sets the share of pictures whose last block is dropped in training; of earlier blocks it is less. 0 at first.
    pub fn set_drop_path(&self, share: f64) {
        self.drop_path.set(share);
    }

    /// From now on batches have views of that many pictures each, those of all first views first, and are a part of those of all
    /// ranks: as what is dropped is drawn for all of these.
    pub fn set_pictures(&self, pictures: i64) {
        self.pictures.set(Some(pictures));
    }

    /// The share that a block drops in this pass.
    fn dropped(&self, mode: Mode, block: usize, blocks: usize) -> f64 {
        match mode {
            Mode::Train { .. } => {
                self.drop_path.get() * block as f64 / blocks.saturating_sub(1).max(1) as f64
            }
            Mode::Eval | Mode::Peek { .. } => 0.0,
        }
    }

    /// Patches of a picture along its sides.
    fn cells(&self, image: &Tensor) -> [i64; 2] {
        let patch = self.arch().vit().map_or(1, |vit| vit.patch) as i64;
        let size = image.size();
        [size[2] / patch, size[3] / patch]
    }

    /// A tapped value of pictures of `size` (height, width) as feature map `(N, C, h, w)`. Of tokens it has the patches; of
    /// attention the class token's to them, mean over heads, in one channel.
    pub fn map(&self, tap: TapId, value: &Tensor, size: [i64; 2]) -> Tensor {
        map_of(&self.graph, tap, value, size)
    }

    /// The place of a stage's feature map among the taps: 2 to 5 of a ResNet.
    ///
    /// # Errors
    /// Where the architecture has no such stage.
    pub fn stage(&self, stage: usize) -> Result<TapId> {
        self.graph.stage(stage).with_context(|| format!("{} has no stage {stage}", self.arch()))
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// All tensors with torchvision's names behind `prefix`, `num_batches_tracked` included (as copies).
    pub fn named(&self, prefix: &str) -> Vec<Named> {
        let mut tensors = self.nodes.iter().flatten();
        self.graph
            .params()
            .into_iter()
            .filter_map(|p| {
                let name = format!("{prefix}{}", p.name);
                if p.kind == ParamKind::BnCount {
                    return Some(Named { name, tensor: Tensor::from(self.batches.get()) });
                }
                tensors.next().map(|t| Named::new(name, t))
            })
            .collect()
    }

    /// Tells the encoder how many batches its statistics have seen, after loading.
    pub fn set_batches(&self, batches: i64) {
        self.batches.set(batches);
    }

    /// How many batches its statistics have seen.
    pub fn batches(&self) -> i64 {
        self.batches.get()
    }

    /// The same from a state with names behind `prefix`; networks without batch statistics have none in it.
    ///
    /// # Errors
    /// Where the count is missing.
    pub fn load_batches(&self, state: &[Named], prefix: &str) -> Result<()> {
        let params = self.graph.params();
        let Some(count) = params.iter().find(|p| p.kind == ParamKind::BnCount) else { return Ok(()) };
        self.set_batches(find(state, &format!("{prefix}{}", count.name))?.int64_value(&[]));
        Ok(())
    }

    /// The trainable tensors, in the graph's order.
    pub fn trainable(&self) -> Vec<Tensor> {
        self.trainable_named("").into_iter().map(|n| n.tensor).collect()
    }

    /// The trainable tensors with their names.
    pub fn trainable_named(&self, prefix: &str) -> Vec<Named> {
        let kinds = self.graph.params().into_iter().map(|p| p.kind);
        self.named(prefix).into_iter().zip(kinds).filter(|(_, k)| k.trainable()).map(|(n, _)| n).collect()
    }

    /// What embeddings are made of and has a place for every part of a picture: a ResNet's last feature map, or the tokens of
    /// the end.
    ///
    /// # Errors
    /// Where the architecture has neither.
    pub fn last_map(&self) -> Result<TapId> {
        let found = self.graph.stage(5).or_else(|| self.graph.tap("tokens"));
        found.with_context(|| format!("{} has no feature map and no tokens", self.arch()))
    }

    /// Runs the network on `(N, 3, H, W)`; `want` says which values [`Output::taps`] are.
    pub fn forward(&self, image: &Tensor, mode: Mode, want: &[TapId]) -> Output {
        self.forward_hidden(image, mode, want, None)
    }

    /// The same with a token in place of some patches, before positions are added (arXiv 2111.07832). ResNets have no patches:
    /// nothing of theirs is hidden.
    pub fn forward_hidden(
        &self,
        image: &Tensor,
        mode: Mode,
        want: &[TapId],
        hidden: Option<&Hidden<'_>>,
    ) -> Output {
        let (mode, joint) = mode.of_rank(&self.world);
        // every group updates its own copy of the running statistics, as every GPU would
        let copies = match mode {
            Mode::Train { splits } if splits > 1 => Some(self.statistics.copies(splits)),
            _ => None,
        };
        let pass = Pass { image, mode, joint, want, copies, hidden };
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(self.graph.nodes.len());
        let mut taps: Vec<Option<Tensor>> = want.iter().map(|_| None).collect();
        for (id, node) in self.graph.nodes.iter().enumerate() {
            let value = self.value(id, &values, &pass);
            for (tap, _) in taps.iter_mut().zip(want).filter(|(_, want)| self.graph[**want].node == id) {
                *tap = value.as_ref().map(Tensor::shallow_clone);
            }
            values.push(value);
            for &read in &node.inputs {
                if self.last_use[read] == id {
                    values[read] = None;
                }
            }
        }
        if let Some(copies) = &pass.copies {
            self.statistics.average(copies);
        }
        if let Mode::Train { .. } = mode {
            self.batches.set(self.batches.get() + 1);
        }
        let embedding = values.pop().flatten();
        let taps = taps.into_iter().collect();
        match (taps, embedding) {
            (Some(taps), Some(embedding)) => Output { taps, embedding },
            _ => unreachable!("a graph has its taps and ends with its embedding"),
        }
    }

    /// The value of a node of which the inputs are known; `None` where it is computed with what reads it.
    fn value(&self, id: usize, values: &[Option<Tensor>], pass: &Pass<'_>) -> Option<Tensor> {
        let (node, params) = (&self.graph.nodes[id], &self.nodes[id]);
        let known = |i: usize| values[node.inputs[i]].as_ref();
        let input = |i| known(i).unwrap_or_else(|| unreachable!("inputs precede and are kept until read"));
        Some(match node.op {
            Op::Input => channels_last(pass.image),
            Op::BatchNorm { .. } => {
                if pass.joint {
                    return Some(joint_batch_norm(&self.world, input(0), params, pass.mode));
                }
                let copies = pass.copies.as_ref().map(|c| self.statistics.of(c, id));
                batch_norm(input(0), params, pass.mode, copies.as_ref())
            }
            // an evaluation gives a picture the same bits in any batch
            Op::Conv { stride, padding, groups: 1, .. } if !matches!(pass.mode, Mode::Eval) => {
                training_conv(input(0), &params[0], stride, padding)
            }
            Op::Add => input(0) + input(1),
            op @ Op::Patches { .. } => {
                let patches = unary(op, input(0), params);
                let Some(Hidden { mask, token }) = pass.hidden else { return Some(patches) };
                token.to_kind(patches.kind()).where_self(&mask.unsqueeze(-1), &patches)
            }
            Op::Position { grid, class, .. } => {
                let cells = self.cells(pass.image);
                input(0) + attention::resized(&params[0], i64::from(class), grid, cells)
            }
            Op::DropPath { block, blocks } => {
                let part = self.pictures.get().map(|pictures| (pictures, Share::of(&self.world)));
                drop_path(input(0), self.dropped(pass.mode, block, blocks), part)
            }
            Op::Scores { .. } if !pass.want.iter().any(|want| self.graph[*want].node == id) => return None,
            Op::Mix { heads } => match known(0) {
                Some(scores) => attention::mix(scores, input(1), heads),
                None => attention::whole(input(1), heads),
            },
            op => unary(op, input(0), params),
        })
    }
}

/// See [`Encoder::map`]; for those who have the value, but not the encoder.
pub fn map_of(graph: &Graph, tap: TapId, value: &Tensor, [height, width]: [i64; 2]) -> Tensor {
    let tap = &graph[tap];
    let (before, stride) = (graph.prefix() as i64, tap.stride as i64);
    let (h, w) = (height / stride, width / stride);
    match tap.kind {
        TapKind::Map => value.shallow_clone(),
        TapKind::Tokens => value.narrow(1, before, h * w).transpose(1, 2).unflatten(2, [h, w]),
        TapKind::Attention => {
            let of_class = value.select(2, 0).narrow(2, before, h * w); // (N, heads, h w)
            of_class.mean_dim([1i64].as_slice(), true, Kind::Float).unflatten(2, [h, w])
        }
    }
}

/// What all nodes of a forward pass share.
struct Pass<'a> {
    image: &'a Tensor,
    mode: Mode,
    /// Whether all ranks normalise together.
    joint: bool,
    want: &'a [TapId],
    /// Of the running statistics, one for each group.
    copies: Option<Tensor>,
    /// Patches that are not shown.
    hidden: Option<&'a Hidden<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tolerance;

    fn images(n: i64) -> Tensor {
        tch::manual_seed(1);
        Tensor::randn([n, 3, 64, 64], (Kind::Float, Device::Cpu))
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    /// Split-BN is what that many separate machines would compute: outputs and running statistics.
    #[test]
    fn split_normalisation_equals_separate_batches() {
        let _alone = crate::rng::alone();
        let x = images(12);
        let make = || Encoder::new(Arch::ResNet18, 0, Device::Cpu);
        let split = make();
        let out = split.forward(&x, Mode::Train { splits: 3 }, &[]).embedding;
        let machines: Vec<_> = (0..3).map(|_| make()).collect();
        let parts: Vec<_> = machines
            .iter()
            .zip(x.chunk(3, 0))
            .map(|(m, part)| m.forward(&part, Mode::Train { splits: 1 }, &[]).embedding)
            .collect();
        let expected = Tensor::cat(&parts, 0);
        let scale = |t: &Tensor| t.abs().max().double_value(&[]).max(1.0);
        let error = distance(&out, &expected) / scale(&expected);
        assert!(error < tolerance::SAME_MATH, "{error}");
        for (i, named) in split.named("").iter().enumerate().filter(|(_, n)| n.name.contains("running")) {
            let all: Vec<_> = machines.iter().map(|m| m.named("").swap_remove(i).tensor).collect();
            let mean = Tensor::stack(&all, 0).mean_dim([0i64].as_slice(), false, Kind::Float);
            assert!(
                distance(&named.tensor, &mean) < tolerance::SAME_MATH * scale(&mean),
                "{}: {}",
                named.name,
                distance(&named.tensor, &mean)
            );
        }
        assert!(distance(&out, &make().forward(&x, Mode::Train { splits: 1 }, &[]).embedding) > 1e-3);
    }

    #[test]
    fn peeking_changes_nothing_and_sees_the_same() {
        let _alone = crate::rng::alone();
        let x = images(4);
        let encoder = Encoder::new(Arch::ResNet18, 0, Device::Cpu);
        let before: Vec<_> = encoder.named("").iter().map(|n| n.tensor.copy()).collect();
        let want = [4, 5].map(|stage| encoder.stage(stage).expect("a stage"));
        let peeked = encoder.forward(&x, Mode::Peek { splits: 2 }, &want);
        for (b, n) in before.iter().zip(encoder.named("")) {
            assert_eq!(b, &n.tensor, "{}", n.name);
        }
        let trained = encoder.forward(&x, Mode::Train { splits: 2 }, &want);
        for (peeked, trained) in peeked.taps.iter().zip(&trained.taps) {
            assert!(distance(peeked, trained) < tolerance::SAME_MATH);
        }
        assert_eq!([0, 1].map(|i| peeked.taps[i].size()), [vec![4, 256, 4, 4], vec![4, 512, 2, 2]]);
        let pooled = peeked.taps[1].mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        assert!(distance(&pooled, &peeked.embedding) < tolerance::SAME_MATH);
        let swapped = encoder.forward(&x, Mode::Peek { splits: 2 }, &[want[1], want[0]]);
        assert_eq!(swapped.taps[1].size(), [4, 256, 4, 4]);
        let count =
            encoder.named("").into_iter().find(|n| n.name == "bn1.num_batches_tracked").expect("there");
        assert_eq!(count.tensor.int64_value(&[]), 1);
    }

    #[test]
    fn weights_start_as_torchvisions_do() {
        let _alone = crate::rng::alone();
        let encoder = Encoder::new(Arch::ResNet18, 0, Device::Cpu);
        let named = encoder.named("");
        let get = |n: &str| super::super::named::find(&named, n).expect("there");
        let std = get("layer4.1.conv2.weight").std(false).double_value(&[]);
        assert!((std - (2.0f64 / (512.0 * 9.0)).sqrt()).abs() < 1e-3, "{std}");
        assert_eq!(get("bn1.weight").min().double_value(&[]), 1.0);
        assert_eq!(get("bn1.running_var").min().double_value(&[]), 1.0);
        assert_eq!(encoder.trainable().len(), 60, "20 convolutions, 20 normalisations of two");
    }
}
