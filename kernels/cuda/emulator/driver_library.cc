#include "driver_library.h"

#include "driver_state.h"

using driver::refuse;

API(emulated_context, int* gpu) {
  IN_CONTEXT;
  if (gpu) *gpu = c->gpu;
  return CUDA_SUCCESS;
}

API(emulated_enqueue, void* stream, const char* what, const emulated_range* ranges, int n, bool (*work)(void*), void (*drop)(void*), void* state) {
  const std::shared_ptr<void> kept(state, drop);
  IN_CONTEXT;
  const std::vector<emulated_range> all(ranges, ranges + n);
  const auto there = [c, what, all] {
    for (const emulated_range& r : all) {
      const CUdeviceptr at = reinterpret_cast<CUdeviceptr>(r.at);
      if (!(r.written ? c->covers(at, r.bytes) : c->reaches(at, r.bytes))) {
        return refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: %zu bytes at %#llx are not memory of this GPU", what, r.bytes, at);
      }
    }
    return CUDA_SUCCESS;
  };
  if (CUresult bad = there()) return bad;
  return driver::start(c, static_cast<CUstream>(stream), what, [=] {
    if (CUresult bad = there()) return bad;
    return work(kept.get()) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  });
}
