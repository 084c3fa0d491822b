// Joining the other processes, and the collectives.

#include "shim.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <optional>
#include <string>

namespace {

// Bytes that a broadcast of many tensors sends at once.
constexpr size_t BROADCAST_BYTES = 25 << 20;

GroupPointer open_group(
    const char *host, uint16_t port, bool agent, const char *prefix, int rank, int size, Milliseconds timeout, int cuda) {
  c10d::TCPStoreOptions options;
  options.port = port;
  // torchrun's agent serves the store itself where it says so, and counts its own workers
  options.isServer = !agent && rank == 0;
  options.waitWorkers = !agent;
  if (!agent) options.numWorkers = size;
  options.timeout = timeout;
  StorePointer tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
  StorePointer store = c10::make_intrusive<c10d::PrefixStore>(prefix, tcp);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
  auto gloo = occlude_make_gloo(c10::make_intrusive<c10d::PrefixStore>("gloo/", store), rank, size, timeout);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo);
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
  if (cuda >= 0) {
    // NCCL takes the device of its first tensor; other calls of this process go to the same one
    c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(c10::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda)));
    auto nccl = occlude_make_nccl(c10::make_intrusive<c10d::PrefixStore>("nccl/", store), rank, size, timeout);
    group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
  }
  group->setGroupName("default");
  return group;
}

// Gloo takes a strided tensor and works on the wrong memory without an error.
void require_dense(const at::Tensor &tensor) {
  TORCH_CHECK(tensor.is_contiguous(), "expected a contiguous tensor, got strides ", tensor.strides());
}

}  // namespace

void occlude_sum(c10d::ProcessGroup &group, at::Tensor tensor) {
  require_dense(tensor);
  std::vector<at::Tensor> tensors{std::move(tensor)};
  group.allreduce(tensors)->wait();
}

extern "C" {

void occlude_dist_free(char *s) { std::free(s); }

char *occlude_dist_open(OccludeGroup **out, const char *host, uint16_t port, int agent, const char *prefix, int rank,
                        int size, int64_t timeout_ms, int cuda) {
  return occlude_message_of([&] {
    *out = new OccludeGroup{
        open_group(host, port, agent != 0, prefix, rank, size, Milliseconds(timeout_ms), cuda)};
  });
}

void occlude_dist_close(OccludeGroup *group) { delete group; }

char *occlude_dist_reduce(OccludeGroup *group, at::Tensor *tensor, int maximum) {
  return occlude_message_of([&] {
    at::NoGradGuard guard;
    require_dense(*tensor);
    c10d::AllreduceOptions options;
    options.reduceOp = maximum ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
    std::vector<at::Tensor> tensors{*tensor};
    group->group->allreduce(tensors, options)->wait();
  });
}

// `out` has room for the `in` of every rank, one after another along the first axis.
char *occlude_dist_gather(OccludeGroup *group, at::Tensor *in, at::Tensor *out) {
  return occlude_message_of([&] {
    at::NoGradGuard guard;
    require_dense(*in);
    require_dense(*out);
    group->group->_allgather_base(*out, *in)->wait();
  });
}

// Copies rank 0's tensors over those of all; of any types and strides.
char *occlude_dist_broadcast(OccludeGroup *group, at::Tensor *const *tensors, size_t n) {
  return occlude_message_of([&] {
    at::NoGradGuard guard;
    c10d::broadcast_coalesced(group->group, occlude_list(tensors, n), BROADCAST_BYTES, 0);
  });
}

}  // extern "C"
