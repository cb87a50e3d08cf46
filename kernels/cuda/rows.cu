// Operations row by row and down columns: embedding and layer norm.
//
// Lane sums have 16 chains, so half a warp sums a row: its lane l adds elements l, l+16 …, which the half warp reads 64 bytes at
// a time, and shuffles fold the lanes. A row is short, so when it is read again it comes from a cache.
#include "arithmetic.h"

// The row of half a warp. Where rows are missing the last one is computed once more, because shuffles want whole warps.
struct half_warp {
  long long row;
  int lane;
  bool exists;
};
DEVICE half_warp my_half_warp(long long rows) {
  const long long row = static_cast<long long>(blockIdx.x) * ROWS_BY_HALF_WARP + threadIdx.x / LANES;
  return {least(row, rows - 1), static_cast<int>(threadIdx.x % LANES), row < rows};
}

// out[i,:] = wte[tokens[i],:] + wpe[i mod t,:] for rows of c; wpe may be null. Grid ⌈rows/ROWS_BY_WARP⌉, block ROW_THREADS.
KERNEL(embed, ROW_THREADS, float* out, const float* wte, const float* wpe, const int* tokens, long long rows, long long t,
       long long c) {
  const long long row = static_cast<long long>(blockIdx.x) * ROWS_BY_WARP + threadIdx.x / WARP;
  if (row >= rows) return;
  const float *w = wte + tokens[row] * c, *p = wpe ? wpe + row % t * c : nullptr;
#pragma unroll 4
  for (long long j = threadIdx.x % WARP; j < c; j += WARP) out[row * c + j] = p ? w[j] + p[j] : w[j];
}

// dwte[tokens[i],:] += dout[i,:] in order of i, without atomic additions: the block of the first row with a token adds up all rows with
// it. A block looks for its token in the rows before, one row a thread, nearest first, because it may end when it meets it; then
// in those behind. Reading 4 bytes of each other row costs less than the rows' own values.
// Grid rows, block whole warps up to EMBED_THREADS.
KERNEL(embed_backward_tokens, EMBED_THREADS, float* dwte, const float* dout, const int* tokens, long long rows, long long c) {
  SHARED(uint32_t, masks, EMBED_THREADS / WARP);  // of the rows looked at: which have the token
  const long long mine = blockIdx.x;
  const int token = tokens[mine], warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  for (long long end = mine; end > 0; end -= blockDim.x) {
    const long long row = end - 1 - threadIdx.x;
    const uint32_t mask = __ballot_sync(ALL_LANES, row >= 0 && tokens[row] == token);
    if (threadIdx.x % WARP == 0) masks[warp] = mask;
    __syncthreads();
    uint32_t found = 0;
    for (int w = 0; w < warps; w++) found |= masks[w];
    __syncthreads();
    if (found) return;
  }
  for (long long from = mine; from < rows; from += blockDim.x) {
    const long long row = from + threadIdx.x;
    const uint32_t mask = __ballot_sync(ALL_LANES, row < rows && tokens[row] == token);
    if (threadIdx.x % WARP == 0) masks[warp] = mask;
    __syncthreads();
    for (long long j = threadIdx.x; j < c; j += blockDim.x) {
      float s = dwte[token * c + j];
      for (int w = 0; w < warps; w++) {
        for (uint32_t left = masks[w]; left != 0; left &= left - 1) {
          s = s + dout[(from + w * WARP + lowest_bit(left)) * c + j];
        }
      }
      dwte[token * c + j] = s;
    }
    __syncthreads();
  }
}

// dwpe[i mod t,:] += dout[i,:] in order of i, for b·t rows. Grid (min(t, b·t), ⌈c/EMBED_THREADS⌉), block EMBED_THREADS.
KERNEL(embed_backward_positions, EMBED_THREADS, float* dwpe, const float* dout, long long rows, long long t, long long c) {
  const long long j = static_cast<long long>(blockIdx.y) * EMBED_THREADS + threadIdx.x;
  if (j >= c) return;
  float s = dwpe[blockIdx.x * c + j];
#pragma unroll 4
  for (long long i = blockIdx.x; i < rows; i += t) s = s + dout[i * c + j];
  dwpe[blockIdx.x * c + j] = s;
}

// layer norm of a row: s is this lane's sum of the row's values, x(j) is value j.
template <typename Row>
DEVICE void normalize(const half_warp& me, float s, const Row& x, float* out, float* mean, float* rstd, const float* gamma,
                      const float* beta, long long c) {
  const float m = fold_lanes(s) / static_cast<float>(c);
  s = 0.0f;
#pragma unroll 8
  for (long long j = me.lane; j < c; j += LANES) {
    const float d = x(j) - m;
    s = fma1(d, d, s);
  }
  const float f = 1.0f / sqrt1(fold_lanes(s) / static_cast<float>(c) + 1e-5f);
  if (!me.exists) return;
#pragma unroll 8
  for (long long j = me.lane; j < c; j += LANES) out[me.row * c + j] = fma1((x(j) - m) * f, gamma[j], beta[j]);
  if (me.lane == 0) mean[me.row] = m, rstd[me.row] = f;
}

// out = (x - mean)·rstd·gamma + beta over rows of c; mean and rstd [rows] are kept. Grid ⌈rows/ROWS_BY_HALF_WARP⌉, block ROW_THREADS.
KERNEL(layernorm, ROW_THREADS, float* out, float* mean, float* rstd, const float* x, const float* gamma, const float* beta,
       long long rows, long long c) {
  const half_warp me = my_half_warp(rows);
  x += me.row * c;
  float s = 0.0f;
#pragma unroll 8
  for (long long j = me.lane; j < c; j += LANES) s = s + x[j];
  normalize(me, s, [&](long long j) INLINE { return x[j]; }, out, mean, rstd, gamma, beta, c);
}

// The same of x = sum = a + b. The sum is made anew each time it is needed: of a row that does not exist, it is somebody else's to
// store. Grid ⌈rows/ROWS_BY_HALF_WARP⌉, block ROW_THREADS.
KERNEL(residual_layernorm, ROW_THREADS, float* sum, float* out, float* mean, float* rstd, const float* a, const float* b,
       const float* gamma, const float* beta, long long rows, long long c) {
  const half_warp me = my_half_warp(rows);
  a += me.row * c, b += me.row * c, sum += me.row * c;
  float s = 0.0f;
#pragma unroll 8
  for (long long j = me.lane; j < c; j += LANES) {
    const float x = a[j] + b[j];
    if (me.exists) sum[j] = x;
    s = s + x;
  }
  normalize(me, s, [&](long long j) INLINE { return a[j] + b[j]; }, out, mean, rstd, gamma, beta, c);
}

// dx += the gradient of layernorm's input. Grid ⌈rows/ROWS_BY_HALF_WARP⌉, block ROW_THREADS.
KERNEL(layernorm_backward_rows, ROW_THREADS, float* dx, const float* dout, const float* x, const float* gamma, const float* mean,
       const float* rstd, long long rows, long long c) {
  const half_warp me = my_half_warp(rows);
  x += me.row * c, dout += me.row * c;
  const float m = mean[me.row], f = rstd[me.row];
  float s = 0.0f, p = 0.0f;
  const long long whole = (c + LANES - 1) / LANES * LANES;
#pragma unroll 4
  for (long long j = me.lane; j < whole; j += LANES) {  // the last round's missing products are +0 and take part
    const float g = j < c ? dout[j] * gamma[j] : 0.0f, n = j < c ? (x[j] - m) * f : 0.0f;
    s = s + g;
    p = fma1(g, n, p);
  }
  const float a = fold_lanes(s) / static_cast<float>(c), b = fold_lanes(p) / static_cast<float>(c);
  if (!me.exists) return;
  dx += me.row * c;
#pragma unroll 4
  for (long long j = me.lane; j < c; j += LANES) {
    const float g = dout[j] * gamma[j], n = (x[j] - m) * f;
    dx[j] = fma1(fma1(-n, b, g - a), f, dx[j]);
  }
}

// The value of every canonical block of rows in dgamma and dbeta, each ⌈rows/BLOCK_K⌉·c floats: add_planes adds them up.
// Grid (⌈c/COLUMN_THREADS⌉, ⌈rows/BLOCK_K⌉), block COLUMN_THREADS.
KERNEL(layernorm_backward_columns, COLUMN_THREADS, float* dgamma, float* dbeta, const float* dout, const float* x,
       const float* mean, const float* rstd, long long rows, long long c) {
  const long long j = static_cast<long long>(blockIdx.x) * COLUMN_THREADS + threadIdx.x;
  if (j >= c) return;
  const long long from = static_cast<long long>(blockIdx.y) * BLOCK_K, end = least(rows, from + BLOCK_K);
  float g = 0.0f, b = 0.0f;
#pragma unroll 8
  for (long long i = from; i < end; i++) {
    const float d = dout[i * c + j];
    g = fma1(d, (x[i * c + j] - mean[i]) * rstd[i], g);
    b = b + d;
  }
  dgamma[blockIdx.y * c + j] = g;
  dbeta[blockIdx.y * c + j] = b;
}

// The sum of every canonical block of rows down the columns of x[rows,n], ⌈rows/BLOCK_K⌉·n floats: add_planes adds them to a bias's
// gradient. Grid (⌈n/COLUMN_THREADS⌉, ⌈rows/BLOCK_K⌉), block COLUMN_THREADS.
KERNEL(column_sums, COLUMN_THREADS, float* sums, const float* x, long long rows, long long n) {
  const long long j = static_cast<long long>(blockIdx.x) * COLUMN_THREADS + threadIdx.x;
  if (j >= n) return;
  const long long from = static_cast<long long>(blockIdx.y) * BLOCK_K, end = least(rows, from + BLOCK_K);
  float s = 0.0f;
#pragma unroll 16
  for (long long i = from; i < end; i++) s = s + x[i * n + j];
  sums[blockIdx.y * n + j] = s;
}
