// What the parts of the shim share.
//
// A tch tensor's pointer is an `at::Tensor*`; lists come as arrays of them. A function that can fail returns
// null, or its message in a malloc'ed string that the caller frees.

#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

using Milliseconds = std::chrono::milliseconds;
using StorePointer = c10::intrusive_ptr<c10d::Store>;
using BackendPointer = c10::intrusive_ptr<c10d::Backend>;
using GroupPointer = c10::intrusive_ptr<c10d::ProcessGroup>;

// Processes that know each other.
struct OccludeGroup {
  GroupPointer group;
};

// Both look the constructor up by name, so that one program runs with and without CUDA's libtorch.
BackendPointer occlude_make_gloo(const StorePointer &store, int rank, int size, Milliseconds timeout);
BackendPointer occlude_make_nccl(const StorePointer &store, int rank, int size, Milliseconds timeout);

// What libtorch exports under a name; `lack` begins the message where it does not.
template <class Function> Function occlude_symbol(const char *lack, const char *name) {
  void *found = dlsym(RTLD_DEFAULT, name);
  if (found == nullptr) throw std::runtime_error(std::string(lack) + ": it does not export " + name);
  return reinterpret_cast<Function>(found);
}

// An object whose size is not known, in more room than it takes; `construct` makes it there.
template <class Object, class Construct>
c10::intrusive_ptr<Object> occlude_constructed(size_t room, Construct construct) {
  void *memory = ::operator new(room);
  try {
    construct(memory);
  } catch (...) {
    ::operator delete(memory);
    throw;
  }
  return c10::intrusive_ptr<Object>::unsafe_steal_from_new(static_cast<Object *>(memory));
}

// Sums in place, and waits.
void occlude_sum(c10d::ProcessGroup &group, at::Tensor tensor);

// Runs `what`; the message of what it throws, without a stack trace.
template <class What> char *occlude_message_of(What what) {
  try {
    what();
    return nullptr;
  } catch (const c10::Error &e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an exception of an unknown type");
  }
}

inline std::vector<at::Tensor> occlude_list(at::Tensor *const *tensors, size_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; i++) out.push_back(*tensors[i]);
  return out;
}
