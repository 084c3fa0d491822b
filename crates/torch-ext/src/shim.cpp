// What tch does not reach in libtorch, as C functions.
//
// A tch tensor's pointer is an `at::Tensor*`; lists come as arrays of them. A function that can
// fail returns null, or its message in a malloc'ed string that the caller frees.

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

namespace {

char *message(const std::exception &e) { return strdup(e.what()); }

std::vector<at::Tensor> list(at::Tensor *const *tensors, size_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; i++) out.push_back(*tensors[i]);
  return out;
}

at::DeviceType device_type(int cuda) { return cuda ? at::kCUDA : at::kCPU; }

// The interfaces for streams of any kind of device: CUDA's own headers would be needed for CUDA's own.
c10::impl::VirtualGuardImpl cuda() { return c10::impl::VirtualGuardImpl(at::kCUDA); }

struct Copying {
  at::Tensor tensor;
  c10::Event done;
};

}  // namespace

extern "C" {

const char *occlude_torch_version() { return TORCH_VERSION; }

void occlude_free(char *s) { std::free(s); }

// The state before the call, as bit 0 (enabled) and the bits above (the scalar type).
int occlude_autocast_get(int cuda) {
  auto device = device_type(cuda);
  int enabled = at::autocast::is_autocast_enabled(device) ? 1 : 0;
  return enabled | (static_cast<int>(at::autocast::get_autocast_dtype(device)) << 1);
}

void occlude_autocast_set(int cuda, int state) {
  auto device = device_type(cuda);
  at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(state >> 1));
  at::autocast::set_autocast_enabled(device, (state & 1) != 0);
}

int occlude_half_scalar_type(int bf16) { return static_cast<int>(bf16 ? at::kBFloat16 : at::kHalf); }

void occlude_autocast_enter() { at::autocast::increment_nesting(); }

// The cache holds cast copies of the weights; it must not outlive a step, or it would be stale.
void occlude_autocast_leave() {
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
}

char *occlude_foreach_lerp(at::Tensor *const *self, at::Tensor *const *other, size_t n, double weight) {
  try {
    at::NoGradGuard guard;
    at::_foreach_lerp_(list(self, n), list(other, n), at::Scalar(weight));
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

char *occlude_fused_sgd(at::Tensor *const *params, at::Tensor *const *grads, at::Tensor *const *momenta, size_t n,
                        double weight_decay, double momentum, double lr, int first) {
  try {
    at::NoGradGuard guard;
    // without momentum libtorch wants no buffers
    auto buffers = momentum == 0.0 ? std::vector<at::Tensor>{} : list(momenta, n);
    at::_fused_sgd_(list(params, n), list(grads, n), buffers, weight_decay, momentum, lr, 0.0, false, false, first != 0);
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

char *occlude_lars(at::Tensor *const *params, at::Tensor *const *grads, at::Tensor *const *momenta, size_t n,
                   double weight_decay, double momentum, double lr, double eta, int adapt) {
  try {
    at::NoGradGuard guard;
    auto p = list(params, n), m = list(momenta, n);
    auto d = at::_foreach_add(list(grads, n), p, weight_decay);
    if (adapt) {
      auto of_param = at::stack(at::_foreach_norm(p, 2)), of_update = at::stack(at::_foreach_norm(d, 2));
      auto one = at::ones_like(of_param);
      // on the device: reading a norm would wait for it
      auto both = at::logical_and(of_param > 0, of_update > 0);
      at::_foreach_mul_(d, at::where(both, eta * of_param / of_update, one).unbind());
    }
    at::_foreach_mul_(m, momentum);
    at::_foreach_add_(m, d);
    at::_foreach_add_(p, m, -lr);
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

char *occlude_clip(at::Tensor *const *grads, size_t n, double norm) {
  try {
    at::NoGradGuard guard;
    auto g = list(grads, n);
    auto total = at::stack(at::_foreach_norm(g, 2)).norm();
    at::_foreach_mul_(g, at::clamp_max(norm / (total + 1e-6), 1.0));
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

// Each gradient by its own norm.
char *occlude_clip_each(at::Tensor *const *grads, size_t n, double norm) {
  try {
    at::NoGradGuard guard;
    auto g = list(grads, n);
    auto norms = at::stack(at::_foreach_norm(g, 2));
    at::_foreach_mul_(g, at::clamp_max(norm / (norms + 1e-6), 1.0).unbind());
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

char *occlude_upload(const at::Tensor *host, int device, at::Tensor **out) {
  try {
    at::NoGradGuard guard;
    // the allocator of pinned memory keeps it until the device has read it
    auto to = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device));
    *out = new at::Tensor(host->pin_memory().to(to, /*non_blocking=*/true));
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

char *occlude_stream_new(int device, c10::Stream **out) {
  try {
    auto on = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device));
    *out = new c10::Stream(cuda().getStreamFromGlobalPool(on));
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

void occlude_stream_free(c10::Stream *stream) { delete stream; }

char *occlude_copy_start(const c10::Stream *stream, const at::Tensor *host, Copying **out) {
  try {
    at::NoGradGuard no_grad;
    c10::StreamGuard on(*stream);
    auto tensor = host->pin_memory().to(stream->device(), /*non_blocking=*/true);
    c10::Event done(at::kCUDA);
    done.record(*stream);
    *out = new Copying{std::move(tensor), std::move(done)};
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

// The tensor's memory belongs to the copies' stream, whose allocator is told who else reads it.
char *occlude_copy_finish(const Copying *copying, at::Tensor **out) {
  try {
    auto here = cuda().getStream(copying->tensor.device());
    copying->done.block(here);
    copying->tensor.record_stream(here);
    *out = new at::Tensor(copying->tensor);
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

void occlude_copy_free(Copying *copying) { delete copying; }

void occlude_deterministic() {
  at::globalContext().setDeterministicAlgorithms(true, false);
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(false);
}

// Bit 0: matrix products; bit 1: convolutions.
int occlude_tf32_get() {
  auto &context = at::globalContext();
  return (context.allowTF32CuBLAS() ? 1 : 0) | (context.allowTF32CuDNN() ? 2 : 0);
}

void occlude_tf32_set(int allowed) {
  at::globalContext().setAllowTF32CuBLAS((allowed & 1) != 0);
  at::globalContext().setAllowTF32CuDNN((allowed & 2) != 0);
}

void occlude_forget_grads(at::Tensor *const *params, size_t n) {
  for (size_t i = 0; i < n; i++) params[i]->mutable_grad().reset();
}

char *occlude_foreach_count(at::Tensor *const *steps, size_t n) {
  try {
    at::NoGradGuard guard;
    at::_foreach_add_(list(steps, n), 1);
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

char *occlude_fused_adamw(at::Tensor *const *params, at::Tensor *const *grads, at::Tensor *const *means,
                          at::Tensor *const *squares, at::Tensor *const *steps, size_t n, double lr, double beta1,
                          double beta2, double weight_decay, double eps) {
  try {
    at::NoGradGuard guard;
    at::_fused_adamw_(list(params, n), list(grads, n), list(means, n), list(squares, n), {}, list(steps, n), lr, beta1,
                      beta2, weight_decay, eps, false, false);
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

}  // extern "C"
