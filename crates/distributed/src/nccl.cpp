// NCCL, whose headers need CUDA's: the two exported functions of libtorch_cuda are looked up by name.

#include "shim.hpp"

namespace {

using Options = c10::intrusive_ptr<c10d::Backend::Options>;

// More than the objects' sizes in any build seen.
constexpr size_t OPTIONS_ROOM = 8192;
constexpr size_t ROOM = 65536;

constexpr const char *LACK = "this libtorch has no NCCL";
constexpr const char *CREATE = "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb";
constexpr const char *CONSTRUCT =
    "_ZN4c10d16ProcessGroupNCCLC1EN3c1013intrusive_ptrINS_5StoreENS1_6detail"
    "34intrusive_target_default_null_typeIS3_EEEEiiNS2_INS0_7OptionsENS5_IS8_EEEE";

}  // namespace

BackendPointer occlude_make_nccl(const StorePointer &store, int rank, int size, Milliseconds timeout) {
  auto create = occlude_symbol<void (*)(void *, bool)>(LACK, CREATE);
  auto construct = occlude_symbol<void (*)(void *, StorePointer, int, int, Options)>(LACK, CONSTRUCT);
  Options options = occlude_constructed<c10d::Backend::Options>(
      OPTIONS_ROOM, [&](void *memory) { create(memory, false); });
  options->timeout = timeout;
  return occlude_constructed<c10d::Backend>(
      ROOM, [&](void *memory) { construct(memory, store, rank, size, options); });
}
