// Cross-entropy and sums over everything.
#include "arithmetic.h"

// The largest of the block's values, for all its threads; any number where one is NaN. room has a float for every warp.
DEVICE float block_largest(float x, shared<float> room) {
  for (int with = WARP / 2; with > 0; with /= 2) x = larger(x, __shfl_xor_sync(ALL_LANES, x, with));
  if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(blockDim.x / WARP); w++) x = larger(x, room[w]);
  return x;
}

enum { CROSS_ENTROPY_PIECE = 4 * CROSS_ENTROPY_THREADS };

// losses[i] = -log softmax(logits[i,:v])[targets[i]], and logits[i,:] becomes its gradient times scale; with scale 0 logits stay. A negative
// target gives loss 0 and gradient 0.
//
// A block has one row, which it reads three times: for the largest, for the sum, for the gradient. Only 16 chains add up a row, in
// threads 0 to 15: they add one piece of exponentials while all other warps compute the next one.
// Grid rows, block whole warps up to CROSS_ENTROPY_THREADS: a short row wants few.
KERNEL(cross_entropy, CROSS_ENTROPY_THREADS, float* losses, float* logits, const int* targets, long long v, float scale) {
  SHARED(float, pieces, 2 * CROSS_ENTROPY_PIECE);
  SHARED(float, room, CROSS_ENTROPY_THREADS / WARP);
  SHARED(float, total, 1);
  float* const x = logits + blockIdx.x * v;
  const int target = targets[blockIdx.x];
  if (target < 0) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
    for (long long j = threadIdx.x; scale != 0 && j < v; j += blockDim.x) x[j] = 0.0f;
    return;
  }
  const float xy = x[target];  // barriers come before anyone writes it
  float m = x[0];
#pragma unroll 8
  for (long long j = threadIdx.x; j < v; j += blockDim.x) m = larger(m, x[j]);
  m = block_largest(m, room);

  float s = 0.0f;  // of the first 16 threads
  int buffer = 0;
  for (long long from = 0; from < v; from += CROSS_ENTROPY_PIECE, buffer = CROSS_ENTROPY_PIECE - buffer) {
    const long long count = least(CROSS_ENTROPY_PIECE, v - from);
#pragma unroll 4
    for (int j = threadIdx.x; j < CROSS_ENTROPY_PIECE; j += blockDim.x) {
      if (j < count) pieces[buffer + j] = exp1(x[from + j] - m);
    }
    __syncthreads();
    if (threadIdx.x < LANES) {
#pragma unroll 8
      for (int j = threadIdx.x; j < count; j += LANES) s = s + pieces[buffer + j];
    }
  }
  if (threadIdx.x < WARP) {
    s = fold_lanes(s);
    if (threadIdx.x == 0) total[0] = s;
  }
  __syncthreads();
  s = total[0];
  if (threadIdx.x == 0) losses[blockIdx.x] = log1(s) - (xy - m);
  if (scale == 0) return;
  const float f = 1.0f / s;
#pragma unroll 4
  for (long long j = threadIdx.x; j < v; j += blockDim.x) {
    float p = exp1(x[j] - m) * f;
    if (j == target) p = p - 1.0f;
    x[j] = p * scale;
  }
}

// The values of the canonical blocks of Sum, or of SquareSum, ⌈n/BLOCK_SUM⌉ floats. Half a warp has a block.
// Grid ⌈⌈n/BLOCK_SUM⌉/SUM_BLOCKS⌉, block SUM_THREADS.
KERNEL(block_sums, SUM_THREADS, float* sums, const float* x, long long n, int square) {
  const long long block = static_cast<long long>(blockIdx.x) * SUM_BLOCKS + threadIdx.x / LANES;
  const int lane = threadIdx.x % LANES;
  const long long from = block * BLOCK_SUM, end = least(n, from + BLOCK_SUM);
  float s = 0.0f;
  if (square) {
#pragma unroll 16
    for (long long i = from + lane; i < end; i += LANES) s = fma1(x[i], x[i], s);
  } else {
#pragma unroll 16
    for (long long i = from + lane; i < end; i += LANES) s = s + x[i];
  }
  s = fold_lanes(s);
  if (lane == 0 && from < n) sums[block] = s;
}

// out[0] = the sums of count canonical blocks, added in order as float64. One thread adds, the others fetch.
// Grid 1, block SUM_TOTAL_THREADS. count may be 0.
KERNEL(sum_total, SUM_TOTAL_THREADS, float* out, const float* sums, long long count) {
  SHARED(float, piece, 2 * SUM_TOTAL_THREADS);
  double s = 0.0;
  int buffer = 0;
  for (long long from = 0; from < count; from += SUM_TOTAL_THREADS, buffer = SUM_TOTAL_THREADS - buffer) {
    const int many = static_cast<int>(least(SUM_TOTAL_THREADS, count - from));
    if (static_cast<int>(threadIdx.x) < many) piece[buffer + threadIdx.x] = sums[from + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 8
      for (int i = 0; i < many; i++) s = s + static_cast<double>(piece[buffer + i]);
    }
  }
  if (threadIdx.x == 0) out[0] = static_cast<float>(s);
}
