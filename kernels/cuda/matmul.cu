// Products of matrices: c[m,n] = or += Σ_k a·b, then + bias. One output is one chain of fused multiply-adds over each canonical
// block of k, so blocks of threads may share out rows, columns and canonical blocks, but no chain.
//
// A block of 256 threads has a tile of 128×128 outputs, a thread 8×8 of them: 64 chains in registers take 16 loads from shared
// memory for 64 multiply-adds. Steps of 16 terms are staged in two buffers, so one barrier a step is enough, and the next step's
// values come from memory while this one's are multiplied. A block's value is added to c in memory, once in 256 terms: that
// costs little, and another 64 registers for the sums would leave none to fetch ahead.
#include "arithmetic.h"

enum {
  MATMUL_STRIDE = MATMUL_COLUMNS + 4,  // of a staged row: 4 more, so that storing columns meets fewer bank conflicts
  MATMUL_STAGE = MATMUL_STEP * MATMUL_STRIDE,
  MATMUL_QUADS = MATMUL_ROWS * MATMUL_STEP / 4 / MATMUL_THREADS,  // groups of four values that a thread stages
};
static_assert(MATMUL_ROWS == 128 && MATMUL_COLUMNS == 128 && MATMUL_THREADS == 256 && MATMUL_STEP == 16,
              "the tile's shape is built into the kernels");

// One factor: 128 rows of a or columns of b, as one thread fetches and stages them. ALONG_K says that values of consecutive k are neighbours in
// memory; else consecutive rows are.
template <bool ALONG_K>
struct factor {
  const float* x;  // this thread's first value of the next step
  int width;       // of a line in memory
  int rows;        // from this thread's first one to the last of all
  bool aligned;

  DEVICE factor make(const float* x, int first, int size, int k, long long at) {
    const int t = threadIdx.x, width = ALONG_K ? k : size, row = first + (ALONG_K ? t / 4 : t % 32 * 4);
    const long long from = at + (ALONG_K ? t % 4 * 4 : t / 32);
    const bool aligned = reinterpret_cast<uintptr_t>(x) % sizeof(float4) == 0 && width % 4 == 0;
    return {x + (ALONG_K ? row * static_cast<long long>(width) + from : from * width + row), width, size - row, aligned};
  }

  // The next step, of which left terms exist.
  __device__ __forceinline__ void fetch(float4 (&q)[MATMUL_QUADS], int left) {
    const int t = threadIdx.x;
#pragma unroll
    for (int s = 0; s < MATMUL_QUADS; s++) {
      if (ALONG_K) {
        q[s] = quad_at(x + s * 64LL * width, rows > s * 64 ? left - t % 4 * 4 : 0, aligned);
      } else {
        q[s] = quad_at(x + s * 8LL * width, t / 32 + s * 8 < left ? rows : 0, aligned);
      }
    }
    x += ALONG_K ? MATMUL_STEP : static_cast<long long>(MATMUL_STEP) * width;
  }

  // stage puts them to stage[term·MATMUL_STRIDE + row].
  __device__ __forceinline__ void stage(shared<float> stage, const float4 (&q)[MATMUL_QUADS]) const {
#pragma unroll
    for (int s = 0; s < MATMUL_QUADS; s++) {
      const int at = threadIdx.x + s * MATMUL_THREADS;
      if (ALONG_K) {
        const int to = at % 4 * 4 * MATMUL_STRIDE + at / 4;
        stage[to] = q[s].x;
        stage[to + MATMUL_STRIDE] = q[s].y;
        stage[to + 2 * MATMUL_STRIDE] = q[s].z;
        stage[to + 3 * MATMUL_STRIDE] = q[s].w;
      } else {
        store4(stage + at / 32 * MATMUL_STRIDE + at % 32 * 4, q[s]);
      }
    }
  }
};

// The 64 chains of a thread: rows 4·ty … and 64 more, columns 4·tx … and 64 more, so that loads from shared memory meet no
// bank conflicts.
struct chains {
  float s[8][8];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) s[i][j] = 0.0f;
    }
  }

  // The next term of every chain.
  __device__ __forceinline__ void add(shared<float> a, shared<float> b) {
    const float4 a0 = load4(a), a1 = load4(a + 64), b0 = load4(b), b1 = load4(b + 64);
    const float x[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
    const float y[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) s[i][j] = fma1(x[i], y[j], s[i][j]);
    }
  }

  // c = the chains, or c + them, and then + bias where there is one. row and column are of the first chain.
  __device__ __forceinline__ void flush(float* c, const float* bias, int row, int column, int m, int n, bool accumulate) const {
    const bool aligned = reinterpret_cast<uintptr_t>(c) % sizeof(float4) == 0 && n % 4 == 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int r = row + i % 4 + i / 4 * 64;
      if (r >= m) continue;
#pragma unroll
      for (int j = 0; j < 8; j += 4) {
        const int col = column + j * 16;
        float* to = c + static_cast<long long>(r) * n + col;
        float4 v = {s[i][j], s[i][j + 1], s[i][j + 2], s[i][j + 3]};
        if (accumulate) {
          const float4 old = quad_at(to, n - col, aligned);
          v = {old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w};
        }
        if (bias) {
          const float4 more = quad_at(bias + col, n - col, false);
          v = {v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w};
        }
        if (aligned && col < n) {
          store4(to, v);
          continue;
        }
        if (col < n) to[0] = v.x;
        if (col + 1 < n) to[1] = v.y;
        if (col + 2 < n) to[2] = v.z;
        if (col + 3 < n) to[3] = v.w;
      }
    }
  }
};

// A tile of the product, its blocks of k as my_terms says, added to c.
template <bool A_ALONG_K, bool B_ALONG_K>
DEVICE void matmul(float* c, const float* a, const float* b, const float* bias, float* planes, int m, int n, int k, int first,
                   int accumulate) {
  SHARED(float, as, 2 * MATMUL_STAGE);
  SHARED(float, bs, 2 * MATMUL_STAGE);
  const term_range mine = my_terms<BLOCK_K>(c, bias, accumulate, planes, m, n, k, first);
  const int end = mine.end;
  int at = mine.at;
  factor<A_ALONG_K> rows = factor<A_ALONG_K>::make(a, blockIdx.y * MATMUL_ROWS, m, k, at);
  factor<B_ALONG_K> columns = factor<B_ALONG_K>::make(b, blockIdx.x * MATMUL_COLUMNS, n, k, at);
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
  const int row = blockIdx.y * MATMUL_ROWS + y, column = blockIdx.x * MATMUL_COLUMNS + x;
  const bool busy = row < m && column < n;  // a thread with no output helps to stage

  chains s;
  s.clear();
  float4 p[MATMUL_QUADS], q[MATMUL_QUADS];
  rows.fetch(p, end - at);
  columns.fetch(q, end - at);
  int buffer = 0;
  while (at < end) {
    const shared<float> pa = as + buffer, pb = bs + buffer;
    rows.stage(pa, p);
    columns.stage(pb, q);
    __syncthreads();
    const int terms = static_cast<int>(least(MATMUL_STEP, end - at));
    at += terms;
    buffer = MATMUL_STAGE - buffer;
    if (at < end) {
      rows.fetch(p, end - at);
      columns.fetch(q, end - at);
    }
    if (!busy) continue;
    if (terms == MATMUL_STEP) {
#pragma unroll
      for (int t = 0; t < MATMUL_STEP; t++) s.add(pa + t * MATMUL_STRIDE + y, pb + t * MATMUL_STRIDE + x);
    } else {  // terms that do not exist are not even zeros
      for (int t = 0; t < terms; t++) s.add(pa + t * MATMUL_STRIDE + y, pb + t * MATMUL_STRIDE + x);
    }
    if (at % BLOCK_K == 0 || at == end) {
      s.flush(c, at == end ? bias : nullptr, row, column, m, n, accumulate);
      s.clear();
      accumulate = 1;
    }
  }
}

// The three layouts; m, n and k are below 2³¹. Grid (⌈n/MATMUL_COLUMNS⌉, ⌈m/MATMUL_ROWS⌉), block MATMUL_THREADS.
//
// That leaves most of a GPU idle where m and n are small and k is large, as for the gradient of weights: then planes, with room for
// z·m·n floats, and the grid's z > 0 compute z canonical blocks side by side, from number first on; add_planes adds them to c in order. Without planes
// first is 0 and the grid's z is 1.
#define MATMUL(name, a_along_k, b_along_k)                                                                              \
  KERNEL(name, MATMUL_THREADS, float* c, const float* a, const float* b, const float* bias, float* planes, long long m, \
         long long n, long long k, long long first, int accumulate) {                                                   \
    matmul<a_along_k, b_along_k>(c, a, b, bias, planes, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),  \
                                 static_cast<int>(first), accumulate);                                                  \
  }
MATMUL(matmul_nt, true, true)    // a[m,k]·b[n,k]ᵀ: Linear
MATMUL(matmul_nn, true, false)   // a[m,k]·b[k,n]: the gradient of Linear's input
MATMUL(matmul_tn, false, false)  // a[k,m]ᵀ·b[k,n]: the gradient of weights

// dst[rows,n] = or += planes[0], planes[1] … planes[count-1] in order, each rows·n values; then + bias[n] if not null.
// Grid ⌈rows·n / ELEMENT_THREADS⌉, block ELEMENT_THREADS.
KERNEL(add_planes, ELEMENT_THREADS, float* dst, const float* planes, const float* bias, long long rows, long long n,
       long long count, int accumulate) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x, size = rows * n;
  if (i >= size) return;
  float s = accumulate ? dst[i] + planes[i] : planes[i];
#pragma unroll 8
  for (long long p = 1; p < count; p++) s = s + planes[p * size + i];
  dst[i] = bias ? s + bias[i % n] : s;
}
