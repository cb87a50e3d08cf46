// Products of matrices whose factors are bfloat16, by the matrix unit: c[m,n] = or += Σ_k a·b, then + bias. One output is one chain of
// the unit's instructions over each block of MMA_BLOCK terms of k, 16 terms an instruction, with +0 for terms that do not exist, up to a
// multiple of MMA_STEP. What an instruction does to its 16 terms is the GPU's own, so the bits are; but they depend on nothing else:
// blocks of threads may share out rows, columns and blocks of k.
//
// A block of 8 warps has a tile of 128×256 outputs, a warp 64×64. Steps of 32 terms are copied ahead into four stages.
//
//   shared memory   4 stages · (128 + 256) · 32 terms · 2 bytes = 96 KiB: one block on a multiprocessor, on each GPU since sm_80
//   registers       of a thread: 128 outputs, 2 · 32 for factors of this and the next 16 terms, and 63 for all else: 255, none spilled
//   a step          2·128·256·32 = 2.1 million operations. A H100 that shall do 400 · 10¹² a second on 132 multiprocessors has 690 ns
//                   for it, 1200 cycles. Copies: 24 KiB, so 4.7 TB/s out of the second cache. Warps load 8 · 8 KiB = 64 KiB from shared
//                   memory, 512 cycles at 128 bytes each. 8 · 64 instructions of 4096 operations, 512 cycles where a multiprocessor does
//                   1024 multiply-adds in each, as an A100, fewer on an H100.
//
// So nothing but the matrix unit and the second cache should be near its limit. No GPU has confirmed any of that.
#include "arithmetic.h"
#include "mma_tile.h"

enum {
  MMA_TERMS = 16,  // of an instruction
  MMA_CHUNK = 8,   // values in 16 bytes
  MMA_WARP = 64,   // rows and columns of a warp's tile
  MMA_STAGE_A = MMA_ROWS * MMA_STEP / 2,
  MMA_STAGE_B = MMA_COLUMNS * MMA_STEP / 2,
  MMA_STAGE = MMA_STAGE_A + MMA_STAGE_B,  // floats, two values each
};
static_assert(MMA_ROWS == 2 * MMA_WARP && MMA_COLUMNS == 4 * MMA_WARP && MMA_THREADS == 8 * WARP && MMA_STEP == 2 * MMA_TERMS &&
                  MMA_BLOCK % MMA_STEP == 0 && MMA_STAGES * MMA_STAGE * 4 == MMA_BYTES,
              "the tile's shape is built into the kernels");

// dst[rows,stride] = src[rows,columns] rounded to bfloat16, nearest even, NaN canonical, with +0 behind each row: stride is a multiple of
// MMA_CHUNK. Grid ⌈rows·stride / (ELEMENT_THREADS·ENCODE_EACH)⌉, block ELEMENT_THREADS.
KERNEL(encode_bf16, ELEMENT_THREADS, uint16_t* dst, const float* src, long long rows, long long columns, long long stride) {
  const long long i = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * ENCODE_EACH;
  if (i >= rows * stride) return;
  const long long row = i / stride, column = i - row * stride;
  const float* from = src + row * columns + column;
  const bool aligned = reinterpret_cast<uintptr_t>(src) % sizeof(float4) == 0 && columns % 4 == 0;
  const float4 p = quad_at(from, columns - column, aligned), q = quad_at(from + 4, columns - column - 4, aligned);
  const auto pair = [](float x, float y) { return float_of(round_bf16(x) >> 16 | round_bf16(y)); };
  store4(reinterpret_cast<float*>(dst + i), {pair(p.x, p.y), pair(p.z, p.w), pair(q.x, q.y), pair(q.z, q.w)});
}

// One factor's part of a stage: lines of what is contiguous in memory, which are SIZE rows of a or columns of b where ALONG_K, else terms.
// The chunks of a line are exchanged so that eight lines next to each other have their chunks of one number in different banks.
template <int SIZE, bool ALONG_K>
struct mma_factor {
  enum {
    LINES = ALONG_K ? SIZE : MMA_STEP,
    LINE = (ALONG_K ? MMA_STEP : SIZE) / 2,  // floats
    CHUNKS = LINE / 4,
    APART = MMA_THREADS / CHUNKS,  // lines from one that a thread copies to the next
    PLACES = ALONG_K ? MMA_STEP / MMA_TERMS : MMA_WARP / MMA_TERMS,
  };

  const uint16_t* x;  // this thread's first chunk of the next step
  long long stride;   // of lines in memory
  int lines, values;  // how many exist from this thread's first line and chunk on: rows, or terms
  int to;             // where the thread puts its first chunk
  int from[PLACES];   // where a lane has its row of the first matrices, of each 16 terms, or of each 16 rows

  static __device__ __forceinline__ int place(int line, int chunk) {
    return line * LINE + (chunk ^ (CHUNKS == 4 ? line / 2 % 4 : line % 8)) * 4;
  }

  // first is the tile's first row; the warp's part begins at row part of it. Which eight of 16 rows, and of 16 terms, a lane's
  // row belongs to, is given by side and deep.
  DEVICE mma_factor make(const uint16_t* x, long long stride, int first, int size, int at, int end, int part, int side, int deep) {
    const int t = threadIdx.x, line = t / CHUNKS, chunk = t % CHUNKS, row = t % 8;
    mma_factor f;
    f.stride = stride;
    f.x = x + (ALONG_K ? first + line : at + line) * stride + (ALONG_K ? at : first) + chunk * MMA_CHUNK;
    f.lines = (ALONG_K ? size - first : end - at) - line;
    f.values = (ALONG_K ? end - at : size - first) - chunk * MMA_CHUNK;
    f.to = place(line, chunk);
#pragma unroll
    for (int p = 0; p < PLACES; p++) {
      f.from[p] = ALONG_K ? place(part + side * 8 + row, p * 2 + deep) : place(deep * 8 + row, part / MMA_CHUNK + p * 2 + side);
    }
    return f;
  }

  // fetch begins to copy the next step.
  __device__ __forceinline__ void fetch(shared_place stage) {
#pragma unroll
    for (int s = 0; s < LINES / APART; s++) {
      copy_async(stage + to + s * APART * LINE, x + s * APART * stride, s * APART < lines && values > 0);
    }
    x += ALONG_K ? MMA_STEP : MMA_STEP * stride;
    (ALONG_K ? values : lines) -= MMA_STEP;
  }

  // load gives 16 rows' factors of 16 terms, both by number.
  __device__ __forceinline__ void load(uint32_t (&r)[4], shared_place stage, int rows, int terms) const {
    if (ALONG_K) {
      load_matrices(r, stage + from[terms] + rows * MMA_TERMS * LINE);
    } else {
      load_transposed(r, stage + from[rows] + terms * MMA_TERMS * LINE);
    }
  }
};

// What a warp multiplies at a time: 64 rows and 64 columns of 16 terms.
struct mma_terms {
  uint32_t a[MMA_WARP / 16][4], b[MMA_WARP / 16][4];
};

// The 64×64 chains of a warp. A lane has of each 16×8 of them two neighbours in row lane/4 and two in the row 8 below.
struct mma_chains {
  float s[MMA_WARP / 16][MMA_WARP / 8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < MMA_WARP / 16; i++) {
#pragma unroll
      for (int j = 0; j < MMA_WARP / 8; j++) s[i][j][0] = s[i][j][1] = s[i][j][2] = s[i][j][3] = 0.0f;
    }
  }

  __device__ __forceinline__ void add(const mma_terms& f) {
#pragma unroll
    for (int i = 0; i < MMA_WARP / 16; i++) {
#pragma unroll
      for (int j = 0; j < MMA_WARP / 8; j++) multiply_add(s[i][j], f.a[i], f.b[j / 2][j % 2 * 2], f.b[j / 2][j % 2 * 2 + 1]);
    }
  }

  // c = the chains, or c + them, and then + bias where there is one. row and column are of this lane's first chain.
  __device__ __forceinline__ void flush(float* c, const float* bias, int row, int column, int m, int n, bool accumulate) const {
    const bool pairs = reinterpret_cast<uintptr_t>(c) % sizeof(float2) == 0 && n % 2 == 0;
    if (pairs && row - row % MMA_WARP + MMA_WARP <= m && column - column % MMA_WARP + MMA_WARP <= n) {
      flush_whole(c + static_cast<long long>(row) * n + column, bias ? bias + column : nullptr, n, accumulate);
    } else {
      flush_edge(c, bias, row, column, m, n, accumulate);
    }
  }

  // The same where all of the warp's outputs exist, in pairs: c and bias are those of this lane's first one.
  __device__ __forceinline__ void flush_whole(float* c, const float* bias, int n, bool accumulate) const {
#pragma unroll
    for (int i = 0; i < MMA_WARP / 8; i++) {
#pragma unroll
      for (int j = 0; j < MMA_WARP / 8; j++) {
        float2 v = {s[i / 2][j][i % 2 * 2], s[i / 2][j][i % 2 * 2 + 1]};
        if (accumulate) {
          const float2 old = load2(c + j * 8);
          v = {old.x + v.x, old.y + v.y};
        }
        if (bias) v = {v.x + bias[j * 8], v.y + bias[j * 8 + 1]};
        store2(c + j * 8, v);
      }
      c += n * 8LL;
    }
  }

  __device__ __forceinline__ void flush_edge(float* c, const float* bias, int row, int column, int m, int n, bool accumulate) const {
#pragma unroll
    for (int i = 0; i < MMA_WARP / 8; i++) {
#pragma unroll
      for (int j = 0; j < MMA_WARP / 4; j++) {
        const int r = row + i * 8, col = column + j / 2 * 8 + j % 2;
        if (r >= m || col >= n) continue;
        float* to = c + static_cast<long long>(r) * n + col;
        float v = s[i / 2][j / 2][i % 2 * 2 + j % 2];
        if (accumulate) v = *to + v;
        *to = bias ? v + bias[col] : v;
      }
    }
  }
};

// A tile of the product, its blocks of k as my_terms says.
template <bool A_ALONG_K, bool B_ALONG_K>
DEVICE void matmul_bf16(float* c, const uint16_t* a, const uint16_t* b, const float* bias, float* planes, int m, int n, int k,
                        long long a_stride, long long b_stride, int first, int accumulate) {
  DYNAMIC_SHARED(memory);
  const shared_place stages = place_of(memory);
  const term_range mine = my_terms<MMA_BLOCK>(c, bias, accumulate, planes, m, n, k, first);
  const int end = mine.end;
  int at = mine.at;
  const mma_tile tile = mma_tile::mine(m, n);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, part_a = warp % 2 * MMA_WARP, part_b = warp / 2 * MMA_WARP;
  mma_factor<MMA_ROWS, A_ALONG_K> rows =
      mma_factor<MMA_ROWS, A_ALONG_K>::make(a, a_stride, tile.row, m, at, end, part_a, lane / 8 % 2, lane / 16);
  mma_factor<MMA_COLUMNS, B_ALONG_K> columns =
      mma_factor<MMA_COLUMNS, B_ALONG_K>::make(b, b_stride, tile.column, n, at, end, part_b, lane / 16, lane / 8 % 2);
  const bool busy = tile.row + part_a < m && tile.column + part_b < n;  // a warp with no output helps to copy

  int from = 0;  // the stage to read now; that before it is the next to fill
  const auto fetch = [&](int next, int to) {
    if (next < end) {
      rows.fetch(stages + to);
      columns.fetch(stages + to + MMA_STAGE_A);
    }
    commit_copies();
  };
  const auto load = [&](mma_terms& f, int terms) {
#pragma unroll
    for (int i = 0; i < MMA_WARP / 16; i++) rows.load(f.a[i], stages + from, i, terms);
#pragma unroll
    for (int j = 0; j < MMA_WARP / 16; j++) columns.load(f.b[j], stages + from + MMA_STAGE_A, j, terms);
  };

  for (int s = 0; s < MMA_STAGES - 1; s++) fetch(at + s * MMA_STEP, s * MMA_STAGE);
  wait_copies(MMA_STAGES - 2);
  __syncthreads();
  mma_chains s;
  mma_terms f, g;  // 16 terms each: one is loaded while the other is multiplied
  s.clear();
  if (busy) load(f, 0);
  while (at < end) {
    if (busy) {
      load(g, 1);
      s.add(f);
    }
    fetch(at + (MMA_STAGES - 1) * MMA_STEP, from == 0 ? (MMA_STAGES - 1) * MMA_STAGE : from - MMA_STAGE);
    wait_copies(MMA_STAGES - 2);
    __syncthreads();
    from = from == (MMA_STAGES - 1) * MMA_STAGE ? 0 : from + MMA_STAGE;
    at += MMA_STEP;
    if (!busy) continue;
    const bool ends = at % MMA_BLOCK == 0 || at >= end;
    if (!ends) load(f, 0);
    s.add(g);
    if (!ends) continue;
    const int l = fresh(static_cast<int>(threadIdx.x)) % WARP;
    s.flush(c, at >= end ? bias : nullptr, tile.row + part_a + l / 4, tile.column + part_b + l % 4 * 2, m, n, accumulate);
    s.clear();
    accumulate = 1;
    if (at < end) load(f, 0);
  }
}

// The three layouts, as those of matmul; m, n and k are below 2³⁰. The lines of a and b begin at multiples of 16 bytes, a_stride and b_stride
// values apart, and are +0 up to a multiple of MMA_CHUNK. Grid (⌈m/MMA_ROWS⌉·⌈n/MMA_COLUMNS⌉, 1, planes or 1), block MMA_THREADS,
// shared MMA_BYTES.
#define MATMUL_BF16(name, a_along_k, b_along_k)                                                                                     \
  KERNEL(name, MMA_THREADS, float* c, const uint16_t* a, const uint16_t* b, const float* bias, float* planes, long long m,          \
         long long n, long long k, long long a_stride, long long b_stride, long long first, int accumulate) {                       \
    matmul_bf16<a_along_k, b_along_k>(c, a, b, bias, planes, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), a_stride, \
                                      b_stride, static_cast<int>(first), accumulate);                                               \
  }
MATMUL_BF16(matmul_bf16_nt, true, true)    // a[m,k]·b[n,k]ᵀ: Linear
MATMUL_BF16(matmul_bf16_nn, true, false)   // a[m,k]·b[k,n]: the gradient of Linear's input
MATMUL_BF16(matmul_bf16_tn, false, false)  // a[k,m]ᵀ·b[k,n]: the gradient of weights
