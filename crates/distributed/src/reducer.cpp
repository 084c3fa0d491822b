// The reducer of PyTorch's DistributedDataParallel: gradients are averaged in buckets while the backward pass goes on.

#include "shim.hpp"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>

struct OccludeReducer {
  std::shared_ptr<c10d::Reducer> reducer;
  // the reducer looks for it where parameters may be unused, and crashes without it
  std::shared_ptr<c10d::Logger> logger;
  std::vector<at::Tensor> params;
  // whether buckets are still those that were guessed before the first backward pass
  bool guessed;
};

namespace {

// Drops what the reducer warns of and nobody can act on: the strides of 1x1 convolutions' gradients, and that no parameter
// was unused in the first step.
struct Handler : c10::WarningHandler {
  void process(const c10::Warning &warning) override {
    const std::string &text = warning.msg();
    for (const char *known : {"do not match bucket view strides", "find_unused_parameters=True"}) {
      if (text.find(known) != std::string::npos) return;
    }
    c10::WarningHandler::process(warning);
  }
};

// Sums gradients rounded to bfloat16. They are divided by the number of ranks before, in float32, so that the sum is the mean.
struct Bfloat16Hook : c10d::CppCommHookInterface<GroupPointer> {
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket &bucket) override {
    at::Tensor &whole = bucket.getBufferRef();
    std::vector<at::Tensor> rounded{whole.div_(state_->getSize()).to(at::kBFloat16)};
    auto copy_back = [whole](c10::ivalue::Future &done) {
      const auto summed = done.value().toTensorVector();
      at::Tensor out = whole;
      return c10::IValue(out.copy_(summed.at(0)));
    };
    return state_->allreduce(rounded)->getFuture()->then(copy_back, c10::TensorType::get());
  }
};

constexpr int64_t FIRST_BUCKET = c10d::kDefaultFirstBucketBytes;
constexpr int64_t BUCKET = c10d::kDefaultBucketBytesCap;

std::shared_ptr<c10d::Reducer> make(const GroupPointer &group, std::vector<at::Tensor> params, int hook, bool unused) {
  const std::vector<bool> dense(params.size(), false);
  const std::vector<size_t> limits{static_cast<size_t>(FIRST_BUCKET), static_cast<size_t>(BUCKET)};
  auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(params, limits, dense));
  // gradients arrive from the last parameter to the first
  std::reverse(buckets.begin(), buckets.end());
  auto reducer = std::make_shared<c10d::Reducer>(
      std::move(params), std::move(buckets), group, dense, BUCKET, /*find_unused_parameters=*/unused,
      /*gradient_as_bucket_view=*/false, std::unordered_map<size_t, std::string>{}, FIRST_BUCKET,
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
  if (hook == 1) reducer->register_builtin_comm_hook(c10d::BuiltinCommHookType::FP16_COMPRESS);
  // libtorch's built-in hooks know float16 alone
  if (hook == 2) reducer->register_comm_hook(std::make_unique<Bfloat16Hook>(group));
  return reducer;
}

// Puts parameters into the buckets of later steps before the first gradients count. The reducer orders them anew, once, as
// gradients arrived in its first pass; where a number lies in a bucket decides in which order Gloo adds those of three ranks
// and more, and a resumed run, whose first pass is another one, would round otherwise.
void arrange(OccludeReducer &self, const at::Tensor &loss) {
  std::vector<at::Tensor> before;
  for (const auto &p : self.params) before.push_back(p.grad().defined() ? p.grad().clone() : at::Tensor());
  self.reducer->prepare_for_backward({loss});
  loss.backward({}, /*retain_graph=*/true);
  at::NoGradGuard guard;
  for (size_t i = 0; i < before.size(); i++) {
    if (before[i].defined()) {
      self.params[i].mutable_grad().copy_(before[i]);
    } else {
      self.params[i].mutable_grad() = at::Tensor();
    }
  }
  self.reducer->rebuild_buckets();
  self.reducer->prepare_for_forward();
}

}  // namespace

extern "C" {

char *occlude_dist_reducer_new(OccludeReducer **out, OccludeGroup *group, at::Tensor *const *params, size_t n,
                               int hook, int unused) {
  return occlude_message_of([&] {
    static Handler handler;
    // of this thread, which is the one that runs backward passes on the CPU
    c10::WarningUtils::set_warning_handler(&handler);
    auto list = occlude_list(params, n);
    auto reducer = make(group->group, list, hook, unused != 0);
    auto logger = std::make_shared<c10d::Logger>(reducer);
    reducer->set_logger(logger);
    // two numbers have one sum; where parameters may be unused, buckets stay; CUDA's sums have no fixed order anyway
    const bool guessed = unused == 0 && group->group->getSize() > 2 && n > 0 && list[0].is_cpu();
    *out = new OccludeReducer{std::move(reducer), std::move(logger), std::move(list), guessed};
  });
}

char *occlude_dist_reducer_forward(OccludeReducer *reducer) {
  return occlude_message_of([&] {
    // also what notices parameters without a gradient
    reducer->reducer->rebuild_buckets();
    reducer->reducer->prepare_for_forward();
  });
}

char *occlude_dist_reducer_backward(OccludeReducer *reducer, at::Tensor *loss) {
  return occlude_message_of([&] {
    if (reducer->guessed) {
      reducer->guessed = false;
      arrange(*reducer, *loss);
    }
    reducer->reducer->prepare_for_backward({*loss});
  });
}

char *occlude_dist_reducer_free(OccludeReducer *reducer) {
  return occlude_message_of([&] {
    // the hooks hold on to the parameters otherwise
    reducer->reducer->remove_autograd_hooks();
    delete reducer;
  });
}

}  // extern "C"
