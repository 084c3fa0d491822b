//! The running statistics of batch normalisations.

use occlude_encoder::{Graph, Op};
use tch::{Device, Kind, Tensor};

/// The running statistics of all normalisations in one tensor: many copies and means of them are one operator each.
pub(super) struct Running {
    /// All means and variances, one after another.
    all: Tensor,
    /// Of every node, where its mean begins and how long it is; the variance follows. Zeros where it has none.
    places: Vec<(i64, i64)>,
}

impl Running {
    /// Puts the statistics of `nodes` into one tensor, and in their place parts of it.
    pub(super) fn gather(graph: &Graph, nodes: &mut [Vec<Tensor>]) -> Self {
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
        // vision transformers have none
        let all = if parts.is_empty() {
            Tensor::zeros([0], (Kind::Float, Device::Cpu))
        } else {
            Tensor::cat(&parts, 0)
        };
        for (node, &(from, n)) in nodes.iter_mut().zip(&places).filter(|(_, (_, n))| *n > 0) {
            for (i, part) in (0i64..).zip(&mut node[2..]) {
                *part = all.narrow(0, from + i * n, n);
            }
        }
        Self { all, places }
    }

    /// A row for each group, `(splits, all)`.
    pub(super) fn copies(&self, splits: i64) -> Tensor {
        tch::no_grad(|| self.all.unsqueeze(0).repeat([splits, 1]))
    }

    /// The means and variances of a node in each of the copies.
    pub(super) fn of(&self, copies: &Tensor, node: usize) -> [Vec<Tensor>; 2] {
        let (from, n) = self.places[node];
        [from, from + n].map(|from| copies.narrow(1, from, n).unbind(0))
    }

    pub(super) fn average(&self, copies: &Tensor) {
        tch::no_grad(|| {
            self.all.shallow_clone().copy_(&copies.mean_dim([0i64].as_slice(), false, Kind::Float));
        });
    }
}
