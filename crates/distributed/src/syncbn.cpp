// Batch normalisation over the batches of all ranks, as one autograd function, in tensor operations that the CPU and
// CUDA both have.

#include "shim.hpp"

#include <torch/csrc/autograd/custom_function.h>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Arguments {
  at::Tensor running_mean, running_var;
  double momentum, eps;
  GroupPointer group;
};

// The mean and biased variance of this rank's `x`, (C) each in double.
std::pair<at::Tensor, at::Tensor> own_statistics(const at::Tensor &x, const at::TensorOptions &wide) {
  at::Tensor mean, var;
  if (x.scalar_type() == at::kFloat) {
    std::tie(mean, var) = at::batch_norm_update_stats(x, {}, {}, 0.0);
  } else {
    // statistics have the type of the running ones, and with a momentum of zero these stay
    auto zeros = at::zeros({x.size(1)}, wide.dtype(at::kFloat));
    std::tie(mean, var) = at::batch_norm_update_stats(x, zeros, zeros.clone(), 0.0);
  }
  return {mean.to(at::kDouble), var.to(at::kDouble)};
}

struct SyncBatchNorm : torch::autograd::Function<SyncBatchNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &weight,
                            const at::Tensor &bias, const Arguments &a) {
    const int64_t channels = x.size(1);
    const double own = static_cast<double>(x.numel()) / static_cast<double>(channels);
    auto wide = x.options().dtype(at::kDouble).memory_format(c10::nullopt);
    auto [mean, var] = own_statistics(x, wide);
    // sums, which add up over ranks of any sizes
    auto sums = at::cat({mean * own, (var + mean * mean) * own, at::full({1}, own, wide)});
    occlude_sum(*a.group, sums);
    auto count = sums.narrow(0, 2 * channels, 1);
    auto joint_mean = sums.narrow(0, 0, channels) / count;
    auto joint_var = (sums.narrow(0, channels, channels) / count - joint_mean * joint_mean).clamp_min(0);
    if (a.running_mean.defined()) {
      auto unbiased = joint_var * (count / (count - 1).clamp_min(1));
      a.running_mean.mul_(1 - a.momentum).add_(joint_mean.to(a.running_mean.scalar_type()), a.momentum);
      a.running_var.mul_(1 - a.momentum).add_(unbiased.to(a.running_var.scalar_type()), a.momentum);
    }
    auto m = joint_mean.to(at::kFloat), v = joint_var.to(at::kFloat);
    auto scale = (joint_var + a.eps).rsqrt().to(at::kFloat);
    // with the joint statistics as running ones: one fused pass
    auto y = std::get<0>(at::native_batch_norm(x, weight, bias, m, v, false, 0.0, a.eps));
    ctx->save_for_backward({x, weight, m, v, scale, count});
    ctx->saved_data["eps"] = a.eps;
    ctx->saved_data["group"] = c10::IValue::make_capsule(a.group);
    return y;
  }

  static variable_list backward(AutogradContext *ctx, variable_list gradients) {
    auto saved = ctx->get_saved_variables();
    auto &x = saved[0], &w = saved[1], &m = saved[2], &v = saved[3], &scale = saved[4], &count = saved[5];
    const double eps = ctx->saved_data["eps"].toDouble();
    auto group = c10::static_intrusive_pointer_cast<c10d::ProcessGroup>(ctx->saved_data["group"].toCapsule());
    auto dy = gradients[0].to(x.scalar_type()).contiguous(x.suggest_memory_format());
    const int64_t channels = x.size(1);
    // of this rank: sum(dy * normalised x) and sum(dy); the reducer averages them as it does all gradients
    auto own = at::native_batch_norm_backward(dy, x, w, m, v, {}, {}, false, eps, {false, true, true});
    auto dw = std::get<1>(own), db = std::get<2>(own);
    auto sums = at::cat({dw.to(at::kFloat), db.to(at::kFloat)});
    occlude_sum(*group, sums);
    auto of_weight = sums.narrow(0, 0, channels), of_bias = sums.narrow(0, channels, channels);
    auto n = count.to(at::kFloat);
    auto by_dy = w * scale;
    auto by_x = -(by_dy * scale) * of_weight / n;
    auto constant = -by_dy * of_bias / n - by_x * m;
    std::vector<int64_t> shape(x.dim(), 1);
    shape[1] = channels;
    auto dx = at::addcmul(constant.view(shape), x.to(at::kFloat), by_x.view(shape));
    dx = dx.addcmul_(dy.to(at::kFloat), by_dy.view(shape)).to(x.scalar_type());
    return {dx, dw, db, {}};
  }
};

at::Tensor optional(at::Tensor *tensor) { return tensor == nullptr ? at::Tensor() : *tensor; }

}  // namespace

extern "C" char *occlude_dist_batch_norm(OccludeGroup *group, at::Tensor **out, at::Tensor *x, at::Tensor *weight,
                                         at::Tensor *bias, at::Tensor *running_mean, at::Tensor *running_var,
                                         double momentum, double eps) {
  return occlude_message_of([&] {
    // autograd wants tensors; without parameters there is nothing that could get a gradient
    auto single = x->options().dtype(at::kFloat).memory_format(c10::nullopt);
    auto w = weight == nullptr ? at::ones({x->size(1)}, single) : *weight;
    auto b = bias == nullptr ? at::zeros({x->size(1)}, single) : *bias;
    Arguments arguments{optional(running_mean), optional(running_var), momentum, eps, group->group};
    *out = new at::Tensor(SyncBatchNorm::apply(*x, w, b, arguments));
  });
}
