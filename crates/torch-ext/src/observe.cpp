// Counts the operators that libtorch is asked for, and measures time and memory on devices, as C functions.
// The conventions are those of shim.cpp.

#include <ATen/ATen.h>
#include <ATen/core/function_schema.h>
#include <ATen/record_function.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

char *message(const std::exception &e) { return strdup(e.what()); }

struct Row {
  uint64_t calls = 0, kernels = 0, reads = 0;
  // whether it only looks at memory, or takes some
  bool idle = false;
};

struct Counts {
  std::mutex lock;
  uint64_t calls = 0, kernels = 0, reads = 0;
  std::map<std::string, Row> rows;
};

// The observer's handle owns it; one observes at a time.
Counts counts;
at::CallbackHandle observing = at::INVALID_CALLBACK_HANDLE;

struct Call final : at::ObserverContext {
  Call *outer = nullptr;
  Row *row = nullptr;
  bool leaf = true;
  // one launch of many tensors on CUDA, whatever it does on the CPU
  bool fused = false;
  // inside a fused one
  bool hidden = false;
  bool reads = false;
};

thread_local Call *innermost = nullptr;

bool starts(const std::string &name, const char *with) { return name.rfind(with, 0) == 0; }

bool launches_nothing(const at::RecordFunction &fn, const std::string &name) {
  static const std::set<std::string> others = {
      "aten::detach_",   "aten::set_",          "aten::resize_",     "aten::requires_grad_", "aten::record_stream",
      "aten::is_pinned", "aten::result_type",   "aten::pin_memory",  "aten::_pin_memory",    "aten::retain_grad",
      "aten::resolve_conj", "aten::resolve_neg"};
  if (others.count(name) || starts(name, "aten::empty") || starts(name, "aten::new_empty")) return true;
  auto schema = fn.operator_schema();
  if (!schema || schema->returns().empty()) return false;
  // an answer that shares memory with an argument and is not written to is a view
  auto *alias = schema->returns()[0].alias_info();
  return alias && !alias->isWrite();
}

bool on_host(const c10::IValue &value) { return value.isTensor() && value.toTensor().defined() && value.toTensor().is_cpu(); }

// Whether the host has to wait for what the device computed. On the CPU, where nothing waits, the same calls are seen.
bool waits(const at::RecordFunction &fn, const std::string &name) {
  static const std::set<std::string> always = {
      "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select",      "aten::equal",   "aten::_unique",
      "aten::_unique2",            "aten::unique_dim", "aten::unique_consecutive", "aten::bincount"};
  if (always.count(name)) return true;
  auto inputs = fn.inputs();
  if (name == "aten::copy_") return inputs.size() > 1 && on_host(inputs[0]) && inputs[1].isTensor() && !on_host(inputs[1]);
  if (name == "aten::to" || name == "aten::_to_copy") {
    bool to_host = false;
    for (auto &value : inputs) to_host = to_host || (value.isDevice() && value.toDevice().is_cpu());
    // on the CPU itself, who asks for no other type asks for the place: gradients of conversions name both
    return to_host && (!on_host(inputs[0]) || (name == "aten::to" && inputs[1].isNone()));
  }
  return false;
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction &fn) {
  auto call = std::make_unique<Call>();
  call->outer = innermost;
  if (auto *outer = innermost) {
    outer->leaf = false;
    call->hidden = outer->hidden || outer->fused;
    call->reads = outer->reads;
  }
  innermost = call.get();
  if (call->hidden) return call;
  std::string name = fn.name();
  call->fused = starts(name, "aten::_foreach_") || starts(name, "aten::_fused_");
  bool reads = !call->reads && waits(fn, name);
  call->reads = call->reads || reads;
  std::lock_guard<std::mutex> guard(counts.lock);
  auto [at, fresh] = counts.rows.try_emplace(name);
  call->row = &at->second;
  if (fresh) call->row->idle = launches_nothing(fn, name);
  call->row->calls++;
  counts.calls++;
  if (reads) {
    call->row->reads++;
    counts.reads++;
  }
  return call;
}

void end(const at::RecordFunction &, at::ObserverContext *context) {
  auto *call = static_cast<Call *>(context);
  innermost = call->outer;
  if (call->hidden || !(call->leaf || call->fused) || call->row->idle) return;
  std::lock_guard<std::mutex> guard(counts.lock);
  call->row->kernels++;
  counts.kernels++;
}

c10::impl::VirtualGuardImpl of(const at::Device &device) { return c10::impl::VirtualGuardImpl(device.type()); }

at::Device cuda(int device) { return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device)); }

}  // namespace

extern "C" {

// Threads that compute this one's gradients inherit its callback.
char *occlude_observe_start() {
  try {
    std::lock_guard<std::mutex> guard(counts.lock);
    counts.calls = counts.kernels = counts.reads = 0;
    counts.rows.clear();
    auto callback = at::RecordFunctionCallback(&begin, &end).needsInputs(true).scopes({at::RecordScope::FUNCTION});
    observing = at::addThreadLocalCallback(callback);
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

void occlude_observe_stop() {
  if (observing != at::INVALID_CALLBACK_HANDLE) at::removeCallback(observing);
  observing = at::INVALID_CALLBACK_HANDLE;
}

void occlude_observe_counts(uint64_t *calls, uint64_t *kernels, uint64_t *reads) {
  std::lock_guard<std::mutex> guard(counts.lock);
  *calls = counts.calls;
  *kernels = counts.kernels;
  *reads = counts.reads;
}

// Lines of name, calls, kernels and reads, with tabs between them.
char *occlude_observe_rows() {
  std::lock_guard<std::mutex> guard(counts.lock);
  std::string out;
  for (auto &[name, row] : counts.rows) {
    out += name + "\t" + std::to_string(row.calls) + "\t" + std::to_string(row.kernels) + "\t" +
           std::to_string(row.reads) + "\n";
  }
  return strdup(out.c_str());
}

// A mark in what this thread queues on a CUDA device.
char *occlude_mark_new(int device, c10::Event **out) {
  try {
    auto on = cuda(device);
    auto event = std::make_unique<c10::Event>(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    event->record(of(on).getStream(on));
    *out = event.release();
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

// Milliseconds between two marks; waits until the device has reached the later one.
char *occlude_mark_elapsed(const c10::Event *from, const c10::Event *to, double *out) {
  try {
    to->synchronize();
    *out = from->elapsedTime(*to);
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

void occlude_mark_free(c10::Event *event) { delete event; }

char *occlude_memory_reset(int device) {
  try {
    c10::getDeviceAllocator(at::kCUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device));
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

// The most bytes that tensors took together, and that the process took from the device for them.
char *occlude_memory_peak(int device, int64_t *taken, int64_t *reserved) {
  try {
    auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *taken = stats.allocated_bytes[all].peak;
    *reserved = stats.reserved_bytes[all].peak;
    return nullptr;
  } catch (const std::exception &e) {
    return message(e);
  }
}

}  // extern "C"
