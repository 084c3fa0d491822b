//! The operations of the graph, but for attention, and what their parameters begin as.

use occlude_distributed::{BatchNorm, World};
use occlude_encoder::{Graph, Op, ParamKind};
use occlude_torch_ext::conv2d;
use tch::{Device, Kind, Tensor};

use super::attention;
use super::mode::Mode;
use crate::share::Share;
use crate::terminal::leave;

/// Deviation of a vision transformer's matrices, tokens and positions at first, as DINO has it (arXiv 2104.14294).
pub(super) const VIT_STD: f64 = 0.02;
/// Layer scales at first, as DINOv2 has them (arXiv 2304.07193).
const LAYER_SCALE: f64 = 1e-5;

/// A parameter as training begins.
pub(super) fn initial(shape: &[usize], kind: ParamKind, device: Device) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let options = (Kind::Float, Device::Cpu);
    let tensor = match kind {
        ParamKind::ConvWeight => {
            let fan_out = (shape[0] * shape[2] * shape[3]) as f64;
            let weight = Tensor::randn(shape.as_slice(), options) * (2.0 / fan_out).sqrt();
            channels_last(&weight)
        }
        ParamKind::BnWeight | ParamKind::BnVar | ParamKind::NormWeight => {
            Tensor::ones(shape.as_slice(), options)
        }
        ParamKind::BnBias
        | ParamKind::BnMean
        | ParamKind::BnCount
        | ParamKind::Bias
        | ParamKind::NormBias => Tensor::zeros(shape.as_slice(), options),
        // PyTorch's convolution: uniform by fan-in
        ParamKind::PatchWeight => {
            let bound = ((shape[1] * shape[2] * shape[3]) as f64).powf(-0.5);
            Tensor::rand(shape.as_slice(), options) * (2.0 * bound) - bound
        }
        ParamKind::Weight | ParamKind::Token | ParamKind::Position => {
            Tensor::randn(shape.as_slice(), options) * VIT_STD
        }
        ParamKind::Scale => Tensor::full(shape.as_slice(), LAYER_SCALE, options),
    };
    tensor.to(device).set_requires_grad(kind.trainable())
}

/// The same tensor with channels innermost in memory, which convolutions keep and are faster with.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// `copies`: the running statistics of each group, where there are several and they are updated.
pub(super) fn batch_norm(
    x: &Tensor,
    params: &[Tensor],
    mode: Mode,
    copies: Option<&[Vec<Tensor>; 2]>,
) -> Tensor {
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

/// The same by the batches of all ranks; not for evaluation.
pub(super) fn joint_batch_norm(world: &World, x: &Tensor, params: &[Tensor], mode: Mode) -> Tensor {
    let [weight, bias, mean, var] = params else { unreachable!("a normalisation has four tensors") };
    let running = matches!(mode, Mode::Train { .. }).then_some([mean, var]);
    joint_norm(world, x, Some([weight, bias]), running)
}

/// The same of other tensors. Ends the process where the ranks cannot be reached: nothing can go on then.
pub(super) fn joint_norm(
    world: &World,
    x: &Tensor,
    affine: Option<[&Tensor; 2]>,
    running: Option<[&Tensor; 2]>,
) -> Tensor {
    let norm = BatchNorm { affine, running, momentum: Graph::BN_MOMENTUM, eps: Graph::BN_EPS };
    world.batch_norm(x, norm).unwrap_or_else(|error| leave(&error))
}

/// A convolution while training, when what it computes may depend on the size of the batch in the last bit.
pub(super) fn training_conv(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Tensor {
    conv2d(x, weight, stride as i64, padding as i64).unwrap_or_else(|e| panic!("{e}"))
}

/// In single precision at least: what was computed in half precision is widened, doubles stay doubles.
pub(super) fn single(x: &Tensor) -> Tensor {
    if x.kind() == Kind::Double { x.shallow_clone() } else { x.to_kind(Kind::Float) }
}

/// An operation on one value that is the same in every mode.
pub(super) fn unary(op: Op, x: &Tensor, params: &[Tensor]) -> Tensor {
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
        // not in half precision from here on, whatever the convolutions computed in
        Op::GlobalAvgPool => {
            let x = single(x);
            x.mean_dim([2i64, 3].as_slice(), false, x.kind())
        }
        Op::Patches { side, .. } => {
            let maps = x.conv2d(&params[0], Some(&params[1]), both(side), [0, 0], [1, 1], 1);
            maps.flatten(2, 3).transpose(1, 2) // (N, T, D)
        }
        Op::ClassToken { .. } => {
            let class = params[0].expand([x.size()[0], -1, -1], false).to_kind(x.kind());
            Tensor::cat(&[&class, x], 1)
        }
        Op::Registers { .. } => {
            let registers = params[0].expand([x.size()[0], -1, -1], false).to_kind(x.kind());
            Tensor::cat(&[x.narrow(1, 0, 1), registers, x.narrow(1, 1, x.size()[1] - 1)], 1)
        }
        Op::LayerNorm { channels, eps } => {
            let eps = 10f64.powi(-i32::from(eps));
            x.layer_norm([channels as i64], Some(&params[0]), Some(&params[1]), eps, true)
        }
        Op::Linear { .. } => x.linear(&params[0], Some(&params[1])),
        Op::Gelu => x.gelu("none"),
        Op::Gate => {
            let half = x.size()[2] / 2;
            x.narrow(2, 0, half).silu() * x.narrow(2, half, half)
        }
        Op::LayerScale { .. } => x * &params[0],
        Op::Scores { heads } => attention::scores(x, heads),
        // as behind a pooling
        Op::First => single(&x.select(1, 0)),
        Op::Input
        | Op::BatchNorm { .. }
        | Op::Add
        | Op::Position { .. }
        | Op::DropPath { .. }
        | Op::Mix { .. } => unreachable!("`forward` computes these"),
    }
}

/// Zeros in place of a share of the pictures, and the others enlarged by as much (stochastic depth, arXiv 1603.09382).
///
/// `part`: the pictures of a batch, of each of which `x` has as many views, those of all first ones first, and which part of a
/// larger batch they are.
pub(super) fn drop_path(x: &Tensor, share: f64, part: Option<(i64, Share)>) -> Tensor {
    if share <= 0.0 {
        return x.shallow_clone();
    }
    let kept = 1.0 - share;
    let mut shape = vec![1; x.dim()];
    let rows = x.size()[0];
    let draw = |shape: &[i64]| Tensor::empty(shape, (x.kind(), x.device())).bernoulli_float_(kept);
    shape[0] = rows;
    let keep = match part {
        None => draw(&shape),
        Some((pictures, share)) => {
            let all = draw(&[rows / pictures, share.all(pictures)]).transpose(0, 1); // (all pictures, views)
            share.rows(all).transpose(0, 1).reshape(shape.as_slice())
        }
    };
    if kept > 0.0 { x * (keep / kept) } else { x * keep }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output and both gradients, for a gradient of the output that is the same whatever computed it.
    fn all(x: &Tensor, w: &Tensor, conv: impl Fn(&Tensor, &Tensor) -> Tensor) -> [Tensor; 3] {
        let [x, w] = [x, w].map(|t| t.copy().set_requires_grad(true));
        let y = conv(&x, &w);
        let cells = Tensor::arange(y.numel() as i64, (Kind::Double, Device::Cpu)).sin().view_(y.size());
        (&y * cells.to_kind(y.kind())).sum(Kind::Double).backward();
        [y.detach(), x.grad(), w.grad()]
    }

    /// Every way through: few cells, few for the weight's gradient only, and many; layouts, sides that differ, padding
    /// wider than the map, cells that no output reads.
    #[test]
    fn convolutions_of_small_maps_are_libtorchs() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let options = (Kind::Double, Device::Cpu);
        for kernel in 1..=4 {
            for stride in 1..=3 {
                for padding in 0..kernel {
                    for [h, w] in [[1, 1], [2, 2], [1, 3], [4, 4], [5, 2], [7, 8]] {
                        if h + 2 * padding < kernel || w + 2 * padding < kernel {
                            continue;
                        }
                        let x = Tensor::randn([32, 5, h, w], options);
                        let weight = Tensor::randn([7, 5, kernel, kernel], options);
                        let theirs = all(&x, &weight, |x, w| {
                            x.conv2d::<Tensor>(w, None, [stride; 2], [padding; 2], [1, 1], 1)
                        });
                        for x in [x.shallow_clone(), channels_last(&x)] {
                            let ours =
                                all(&x, &weight, |x, w| conv2d(x, w, stride, padding).expect("computed"));
                            for (ours, theirs) in ours.iter().zip(&theirs) {
                                assert_eq!(ours.size(), theirs.size());
                                let error = (ours - theirs).abs().max().double_value(&[]);
                                assert!(error < 1e-10, "{kernel} {stride} {padding} {h}x{w}: {error}");
                            }
                        }
                    }
                }
            }
        }
    }
}
