//! The encoder: an interpreter of [`Graph`] with libtorch.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};
use occlude_encoder::{Arch, Graph, Node, Op, ParamKind, TapId};
use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::named::{Named, find};
use crate::rng::{Domain, stream};

/// How batch normalisation behaves in a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics.
    Eval,
    /// Statistics of the batch, in that many groups normalised apart as that many GPUs would;
    /// running statistics are updated with the mean over the groups.
    Train {
        /// Number of groups; divides the batch.
        splits: i64,
    },
    /// As `Train`, but the running statistics stay.
    Peek {
        /// Number of groups; divides the batch.
        splits: i64,
    },
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// The taps that were asked for, in that order, in the type of the computation; a feature map is `(N, C, h, w)`.
    pub taps: Vec<Tensor>,
    /// `(N, D)`, float32: global average pool of the last feature map.
    pub embedding: Tensor,
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
    statistics: Statistics,
    /// The last node that reads each node, for freeing feature maps early.
    last_use: Vec<usize>,
    /// One counter for every `num_batches_tracked`: all layers see the same batches.
    batches: Cell<i64>,
    device: Device,
}

impl Encoder {
    /// Random weights as torchvision's: convolutions He-normal by fan-out, normalisations one and zero.
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
        let statistics = Statistics::gather(&graph, &mut nodes);
        Self { graph, nodes, statistics, last_use, batches: Cell::new(0), device }
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
            statistics: Statistics::gather(&other.graph, &mut nodes),
            nodes,
            last_use: other.last_use.clone(),
            batches: Cell::new(other.batches.get()),
            device: other.device,
        }
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.graph.arch
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

    /// Runs the network on `(N, 3, H, W)`; `want` says which values [`Output::taps`] are.
    pub fn forward(&self, image: &Tensor, mode: Mode, want: &[TapId]) -> Output {
        // every group updates its own copy of the running statistics, as every GPU would
        let copies = match mode {
            Mode::Train { splits } if splits > 1 => Some(self.statistics.copies(splits)),
            _ => None,
        };
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(self.graph.nodes.len());
        let mut taps: Vec<Option<Tensor>> = want.iter().map(|_| None).collect();
        for (id, node) in self.graph.nodes.iter().enumerate() {
            let input = |i: usize| {
                values[node.inputs[i]]
                    .as_ref()
                    .unwrap_or_else(|| unreachable!("inputs precede and are kept until read"))
            };
            let params = &self.nodes[id];
            let value = match node.op {
                Op::Input => channels_last(image),
                Op::BatchNorm { .. } => {
                    let copies = copies.as_ref().map(|c| self.statistics.of(c, id));
                    batch_norm(input(0), params, mode, copies.as_ref())
                }
                Op::Add => input(0) + input(1),
                Op::Conv { .. } | Op::Relu | Op::MaxPool { .. } | Op::GlobalAvgPool => {
                    unary(node.op, input(0), params)
                }
            };
            for (tap, _) in taps.iter_mut().zip(want).filter(|(_, want)| self.graph[**want].node == id) {
                *tap = Some(value.shallow_clone());
            }
            values.push(Some(value));
            for &read in &node.inputs {
                if self.last_use[read] == id {
                    values[read] = None;
                }
            }
        }
        if let Some(copies) = &copies {
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
}

/// An operation on one value that is the same in every mode.
fn unary(op: Op, x: &Tensor, params: &[Tensor]) -> Tensor {
    let both = |n: usize| [n as i64; 2];
    match op {
        Op::Conv { stride, padding, groups, .. } => {
            let (stride, padding) = (both(stride), both(padding));
            x.conv2d::<Tensor>(&params[0], None, stride, padding, [1, 1], groups as i64)
        }
        // nothing else reads what a rectifier reads, and no backward pass needs it
        Op::Relu => x.shallow_clone().relu_(),
        Op::MaxPool { kernel, stride, padding } => {
            x.max_pool2d(both(kernel), both(stride), both(padding), [1, 1], false)
        }
        // float32 from here on, whatever the convolutions computed in
        Op::GlobalAvgPool => x.to_kind(Kind::Float).mean_dim([2i64, 3].as_slice(), false, Kind::Float),
        Op::Input | Op::BatchNorm { .. } | Op::Add => unreachable!("`forward` computes these"),
    }
}

/// The running statistics of all normalisations in one tensor: many copies and means of them are one operator each.
struct Statistics {
    /// All means and variances, one after another.
    all: Tensor,
    /// Of every node, where its mean begins and how long it is; the variance follows. Zeros where it has none.
    places: Vec<(i64, i64)>,
}

impl Statistics {
    /// Puts the statistics of `nodes` into one tensor, and in their place parts of it.
    fn gather(graph: &Graph, nodes: &mut [Vec<Tensor>]) -> Self {
        let is_norm: Vec<bool> = graph.nodes.iter().map(|n| matches!(n.op, Op::BatchNorm { .. })).collect();
        let (mut end, mut parts) = (0, Vec::new());
        let places = nodes.iter().zip(&is_norm).map(|(node, is_norm)| {
            if !is_norm {
                return (0, 0);
            }
            parts.extend(node[2..].iter().map(Tensor::shallow_clone));
            let (from, n) = (end, node[2].size()[0]);
            end += 2 * n;
            (from, n)
        });
        let places: Vec<(i64, i64)> = places.collect();
        let all = Tensor::cat(&parts, 0);
        for (node, &(from, n)) in nodes.iter_mut().zip(&places).filter(|(_, (_, n))| *n > 0) {
            for (i, part) in (0i64..).zip(&mut node[2..]) {
                *part = all.narrow(0, from + i * n, n);
            }
        }
        Self { all, places }
    }

    /// A row for each group, `(splits, all)`.
    fn copies(&self, splits: i64) -> Tensor {
        tch::no_grad(|| self.all.unsqueeze(0).repeat([splits, 1]))
    }

    /// The means and variances of a node in each of the copies.
    fn of(&self, copies: &Tensor, node: usize) -> [Vec<Tensor>; 2] {
        let (from, n) = self.places[node];
        [from, from + n].map(|from| copies.narrow(1, from, n).unbind(0))
    }

    fn average(&self, copies: &Tensor) {
        tch::no_grad(|| {
            self.all.shallow_clone().copy_(&copies.mean_dim([0i64].as_slice(), false, Kind::Float));
        });
    }
}

fn initial(shape: &[usize], kind: ParamKind, device: Device) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let options = (Kind::Float, Device::Cpu);
    let tensor = match kind {
        ParamKind::ConvWeight => {
            let fan_out = (shape[0] * shape[2] * shape[3]) as f64;
            let weight = Tensor::randn(shape.as_slice(), options) * (2.0 / fan_out).sqrt();
            channels_last(&weight)
        }
        ParamKind::BnWeight | ParamKind::BnVar => Tensor::ones(shape.as_slice(), options),
        ParamKind::BnBias | ParamKind::BnMean | ParamKind::BnCount => {
            Tensor::zeros(shape.as_slice(), options)
        }
    };
    tensor.to(device).set_requires_grad(kind.trainable())
}

/// The same tensor with channels innermost in memory, which convolutions keep and are faster with.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// `copies`: the running statistics of each group, where there are several and they are updated.
fn batch_norm(x: &Tensor, params: &[Tensor], mode: Mode, copies: Option<&[Vec<Tensor>; 2]>) -> Tensor {
    let [weight, bias, mean, var] = params else { unreachable!("a normalisation has four tensors") };
    let (momentum, eps) = (Graph::BN_MOMENTUM, Graph::BN_EPS);
    let norm = |x: &Tensor, [w, b]: [&Tensor; 2], running: Option<[&Tensor; 2]>, training: bool| {
        let [mean, var] = [0, 1].map(|i| running.map(|r| r[i]));
        x.batch_norm(Some(w), Some(b), mean, var, training, momentum, eps, true)
    };
    match mode {
        Mode::Eval => norm(x, [weight, bias], Some([mean, var]), false),
        Mode::Train { splits: 1 } => norm(x, [weight, bias], Some([mean, var]), true),
        Mode::Peek { splits: 1 } => norm(x, [weight, bias], None, true),
        Mode::Train { splits } | Mode::Peek { splits } => {
            // the gradients of the groups are summed in one operator, not one by one
            let [ws, bs] = [weight, bias].map(|p| p.unsqueeze(0).expand([splits, -1], false).unbind(0));
            let part = |(i, part): (usize, &Tensor)| {
                norm(part, [&ws[i], &bs[i]], copies.map(|[m, v]| [&m[i], &v[i]]), true)
            };
            Tensor::cat(&x.chunk(splits, 0).iter().enumerate().map(part).collect::<Vec<_>>(), 0)
        }
    }
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
