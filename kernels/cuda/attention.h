// Where attention finds the rows of its heads: in float32 and in bfloat16.
#ifndef FARANDOLE_CUDA_ATTENTION_H
#define FARANDOLE_CUDA_ATTENTION_H

#include "arithmetic.h"

// The rows of one head: count of them, of width values, stride apart.
struct head_rows {
  const float* x;
  long long stride;
  int count, width;

  // aligned says that four values can be loaded at once from each multiple of 4 of a row.
  __device__ __forceinline__ bool aligned() const { return reinterpret_cast<uintptr_t>(x) % sizeof(float4) == 0 && stride % 4 == 0; }
};

// The head of this block: number blockIdx.x of b·heads.
struct head {
  int t, hs;
  long long row_stride, in, out;  // qkv's row, and where the head begins in qkv and in out

  DEVICE head of(int t, int heads, int hs) {
    const long long c = static_cast<long long>(heads) * hs, batch = blockIdx.x / heads, first = blockIdx.x % heads * hs;
    return {t, hs, 3 * c, batch * t * 3 * c + first, batch * t * c + first};
  }
  __device__ __forceinline__ long long width() const { return row_stride / 3; }
  // part 0, 1, 2 of qkv: queries, keys, values
  __device__ __forceinline__ head_rows part(const float* qkv, int number) const {
    return {qkv + in + number * width(), row_stride, t, hs};
  }
  __device__ __forceinline__ head_rows outputs(const float* dout) const { return {dout + out, width(), t, hs}; }
};

#endif
