// Gloo, of which the wheel has no headers: the two exported functions are looked up by name.

#include "shim.hpp"

namespace {

using Options = c10::intrusive_ptr<c10d::Backend::Options>;

// More than the object's size in any build seen (libtorch 2.11: below 1 KiB).
constexpr size_t ROOM = 8192;

constexpr const char *LACK = "this libtorch has no Gloo";
constexpr const char *CREATE =
    "_ZN4c10d16ProcessGroupGloo7Options14create_defaultENSt6chrono8durationIlSt5ratioILl1ELl1000EEEE";
constexpr const char *CONSTRUCT =
    "_ZN4c10d16ProcessGroupGlooC1ERKN3c1013intrusive_ptrINS_5StoreENS1_6detail"
    "34intrusive_target_default_null_typeIS3_EEEEiiNS2_INS0_7OptionsENS5_ISA_EEEE";

}  // namespace

BackendPointer occlude_make_gloo(const StorePointer &store, int rank, int size, Milliseconds timeout) {
  auto create = occlude_symbol<Options (*)(Milliseconds)>(LACK, CREATE);
  auto construct = occlude_symbol<void (*)(void *, const StorePointer &, int, int, Options)>(LACK, CONSTRUCT);
  Options options = create(timeout);
  return occlude_constructed<c10d::Backend>(
      ROOM, [&](void *memory) { construct(memory, store, rank, size, options); });
}
