// NCCL, whose headers need CUDA's: the two exported functions of libtorch_cuda are looked up by name.

#include "shim.hpp"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace {

using Options = c10::intrusive_ptr<c10d::Backend::Options>;

// More than the objects' sizes in any build seen.
constexpr size_t OPTIONS_ROOM = 8192;
constexpr size_t ROOM = 65536;

constexpr const char *CREATE = "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb";
constexpr const char *CONSTRUCT =
    "_ZN4c10d16ProcessGroupNCCLC1EN3c1013intrusive_ptrINS_5StoreENS1_6detail"
    "34intrusive_target_default_null_typeIS3_EEEEiiNS2_INS0_7OptionsENS5_IS8_EEEE";

template <class Function> Function symbol(const char *name) {
  void *found = dlsym(RTLD_DEFAULT, name);
  if (found == nullptr) throw std::runtime_error(std::string("this libtorch has no NCCL: it does not export ") + name);
  return reinterpret_cast<Function>(found);
}

}  // namespace

BackendPointer occlude_make_nccl(const StorePointer &store, int rank, int size, Milliseconds timeout) {
  auto create = symbol<void (*)(void *, bool)>(CREATE);
  auto construct = symbol<void (*)(void *, StorePointer, int, int, Options)>(CONSTRUCT);
  void *made = ::operator new(OPTIONS_ROOM);
  create(made, false);
  Options options = Options::unsafe_steal_from_new(static_cast<c10d::Backend::Options *>(made));
  options->timeout = timeout;
  void *memory = ::operator new(ROOM);
  try {
    construct(memory, store, rank, size, options);
  } catch (...) {
    ::operator delete(memory);
    throw;
  }
  return BackendPointer::unsafe_steal_from_new(static_cast<c10d::Backend *>(memory));
}
