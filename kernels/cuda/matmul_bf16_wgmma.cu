// Products of matrices whose factors are bfloat16, by the matrix unit of compute capability 9.0: what matmul_bf16.cu does, by an instruction that
// takes both factors from shared memory and goes on beside the threads that began it. One output is one chain of the unit's
// instructions over each block of MMA_BLOCK terms of k, 16 terms an instruction, the first of which adds to nothing, with +0 for terms that do not
// exist, up to a multiple of WGMMA_STEP. What an instruction does to its terms is the GPU's own, and need not be what mma.sync does.
//
// A block of 2 groups of 4 warps has a tile of 128×256 outputs, a group 64×256. Steps of 64 terms are copied ahead into four stages: one is
// multiplied, of one the products may still be on their way, two are filled.
//
//   shared memory   4 stages · (128 + 256) · 64 terms · 2 bytes = 192 KiB, and up to 1 KiB before the first: one block on a multiprocessor
//   registers       of a thread: 128 outputs; no factor passes through registers
//   a step          2·128·256·64 = 4.2 million operations, 1024 cycles where a multiprocessor does 2048 multiply-adds in each. The unit reads
//                   8 · (2 + 8) KiB from shared memory, copies write 48 KiB: also 1024 cycles at 128 bytes each, all in all
//
// So it should be bound by the matrix unit and by shared memory, both at once. No GPU has run it.
#include "arithmetic.h"
#include "mma_tile.h"
#include "wgmma.h"

enum {
  WGMMA_GROUP = 128,         // threads
  WGMMA_ROWS = 64,           // of a group
  WGMMA_CHUNK = 8,           // values in 16 bytes
  WGMMA_AHEAD = WGMMA_STAGES - 2,
  WGMMA_STAGE_A = MMA_ROWS * WGMMA_STEP / 2,
  WGMMA_STAGE_B = MMA_COLUMNS * WGMMA_STEP / 2,
  WGMMA_STAGE = WGMMA_STAGE_A + WGMMA_STAGE_B,  // floats, two values each
};
static_assert(MMA_ROWS == 2 * WGMMA_ROWS && MMA_COLUMNS == 256 && MMA_THREADS == 2 * WGMMA_GROUP && WGMMA_STEP == TILE_VALUES &&
                  MMA_BLOCK % WGMMA_STEP == 0 && WGMMA_STAGES * WGMMA_STAGE * 4 + TILE_ALIGN == WGMMA_BYTES && WGMMA_AHEAD > 0,
              "the tile's shape is built into the kernels");

// One factor's part of a stage, as tile_of wants it: SIZE rows of a or columns of b.
template <int SIZE, bool ALONG_K>
struct wgmma_factor {
  enum {
    LINES = ALONG_K ? SIZE : WGMMA_STEP,  // of what is contiguous in memory
    CHUNKS = (ALONG_K ? WGMMA_STEP : SIZE) / WGMMA_CHUNK,
    APART = MMA_THREADS / CHUNKS,  // lines from one that a thread copies to the next
  };
  static_assert(APART % 8 == 0, "a thread's chunks are exchanged alike in all its lines");

  const uint16_t* x;  // this thread's first chunk of the next step
  long long stride;   // of lines in memory
  int lines, values;  // how many exist from this thread's first line and chunk on: rows, or terms
  int to;             // where the thread puts its first chunk

  DEVICE wgmma_factor make(const uint16_t* x, long long stride, int first, int size, int at, int end) {
    const int t = threadIdx.x, line = t / CHUNKS, chunk = t % CHUNKS;
    wgmma_factor f;
    f.stride = stride;
    f.x = x + (ALONG_K ? first + line : at + line) * stride + (ALONG_K ? at : first) + chunk * WGMMA_CHUNK;
    f.lines = (ALONG_K ? size - first : end - at) - line;
    f.values = (ALONG_K ? end - at : size - first) - chunk * WGMMA_CHUNK;
    f.to = (chunk / 8 * TILE_BYTES + line * TILE_LINE + (chunk % 8 ^ line % 8) * 16) / 4;
    return f;
  }

  // fetch begins to copy the next step.
  __device__ __forceinline__ void fetch(shared_place stage) {
#pragma unroll
    for (int s = 0; s < LINES / APART; s++) {
      copy_async(stage + to + s * APART * TILE_LINE / 4, x + s * APART * stride, s * APART < lines && values > 0);
    }
    x += ALONG_K ? WGMMA_STEP : WGMMA_STEP * stride;
    (ALONG_K ? values : lines) -= WGMMA_STEP;
  }
};

// flush_sums makes c the sums, or c + them, and then + bias where there is one, as mma_chains::flush. row and column are of this lane's first sum.
DEVICE void flush_sums(const float (&s)[PRODUCT_SUMS], float* c, const float* bias, int row, int column, int m, int n, bool accumulate) {
  const bool pairs = reinterpret_cast<uintptr_t>(c) % sizeof(float2) == 0 && n % 2 == 0;
  const bool whole = pairs && row - row % WGMMA_ROWS + WGMMA_ROWS <= m && column - column % MMA_COLUMNS + MMA_COLUMNS <= n;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = row + half * 8;
    float* const to = c + static_cast<long long>(r) * n + column;
    if (whole) {
#pragma unroll
      for (int j = 0; j < MMA_COLUMNS / 8; j++) {
        float2 v = {s[j * 4 + half * 2], s[j * 4 + half * 2 + 1]};
        if (accumulate) {
          const float2 old = load2(to + j * 8);
          v = {old.x + v.x, old.y + v.y};
        }
        if (bias) v = {v.x + bias[column + j * 8], v.y + bias[column + j * 8 + 1]};
        store2(to + j * 8, v);
      }
    } else if (r < m) {
#pragma unroll
      for (int j = 0; j < MMA_COLUMNS / 4; j++) {
        const int x = j / 2 * 8 + j % 2;
        if (column + x >= n) continue;
        float v = s[j / 2 * 4 + half * 2 + j % 2];
        if (accumulate) v = to[x] + v;
        to[x] = bias ? v + bias[column + x] : v;
      }
    }
  }
}

// A tile of the product, its blocks of k as my_terms says.
template <bool A_ALONG_K, bool B_ALONG_K>
DEVICE void matmul_bf16_wgmma(float* c, const uint16_t* a, const uint16_t* b, const float* bias, float* planes, int m, int n, int k,
                              long long a_stride, long long b_stride, int first, int accumulate) {
  DYNAMIC_SHARED(memory);
  const shared_place stages = swizzled(place_of(memory));
  const term_range mine = my_terms<MMA_BLOCK>(c, bias, accumulate, planes, m, n, k, first);
  const int end = mine.end;
  int at = mine.at;
  const mma_tile tile = mma_tile::mine(m, n);
  const int group = static_cast<int>(threadIdx.x) / WGMMA_GROUP;
  auto rows = wgmma_factor<MMA_ROWS, A_ALONG_K>::make(a, a_stride, tile.row, m, at, end);
  auto columns = wgmma_factor<MMA_COLUMNS, B_ALONG_K>::make(b, b_stride, tile.column, n, at, end);
  const auto fetch = [&](int next, int to) INLINE {
    if (next < end) {
      rows.fetch(stages + to);
      columns.fetch(stages + to + WGMMA_STAGE_A);
    }
    commit_copies();
  };

  float s[PRODUCT_SUMS];
#pragma unroll
  for (int i = 0; i < PRODUCT_SUMS; i++) s[i] = 0.0f;
  for (int i = 0; i < WGMMA_AHEAD; i++) fetch(at + i * WGMMA_STEP, i * WGMMA_STAGE);
  int from = 0, to = WGMMA_AHEAD * WGMMA_STAGE;  // the stages to multiply and to fill
  while (at < end) {
    const int until = static_cast<int>(least(end, at + static_cast<long long>(MMA_BLOCK)));
    int add = 0;  // whether the sums have something
    for (; at < until; at += WGMMA_STEP) {
      wait_copies(WGMMA_AHEAD - 1);
      publish_copies();
      __syncthreads();  // this step is there for all, and no group's products before the last step's are on their way
      uint64_t x = tile_of(stages + from + group * TILE_BYTES / 4), y = tile_of(stages + from + WGMMA_STAGE_A);
      before_products();
#pragma unroll
      for (int i = 0; i < WGMMA_STEP / PRODUCT_TERMS; i++) {
        start_product(A_ALONG_K, B_ALONG_K, s, x, y, add);
        add = 1;
        x += next_terms(A_ALONG_K);
        y += next_terms(B_ALONG_K);
      }
      commit_products();
      fetch(at + WGMMA_AHEAD * WGMMA_STEP, to);
      wait_products(1);
      from = from == (WGMMA_STAGES - 1) * WGMMA_STAGE ? 0 : from + WGMMA_STAGE;
      to = to == (WGMMA_STAGES - 1) * WGMMA_STAGE ? 0 : to + WGMMA_STAGE;
    }
    take_sums(s);
    const int t = fresh(static_cast<int>(threadIdx.x)), lane = t % WARP;
    flush_sums(s, c, at >= end ? bias : nullptr, tile.row + t / WARP * 16 + lane / 4, tile.column + lane % 4 * 2, m, n, accumulate);
    accumulate = 1;
  }
}

// The three layouts, as those of matmul_bf16, with the same arguments. Grid and block are the same, shared WGMMA_BYTES.
#define MATMUL_BF16_WGMMA(name, a_along_k, b_along_k)                                                                                     \
  KERNEL(name, MMA_THREADS, float* c, const uint16_t* a, const uint16_t* b, const float* bias, float* planes, long long m,                \
         long long n, long long k, long long a_stride, long long b_stride, long long first, int accumulate) {                             \
    matmul_bf16_wgmma<a_along_k, b_along_k>(c, a, b, bias, planes, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), a_stride, \
                                            b_stride, static_cast<int>(first), accumulate);                                               \
  }
MATMUL_BF16_WGMMA(matmul_bf16_wgmma_nt, true, true)
MATMUL_BF16_WGMMA(matmul_bf16_wgmma_nn, true, false)
MATMUL_BF16_WGMMA(matmul_bf16_wgmma_tn, false, false)
