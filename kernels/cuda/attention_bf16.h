// What the kernels of attention by the matrix unit share: tiles, products of them, the softmax.
#ifndef FARANDOLE_CUDA_ATTENTION_BF16_H
#define FARANDOLE_CUDA_ATTENTION_BF16_H

#include "attention.h"

static_assert(ATTENTION_BF16_NARROW == 64 && ATTENTION_BF16_MOST == 128 && ATTENTION_BF16_VALUES == 64 * 64, "kernels have these two widths");

enum { FLASH_ROWS = ATTENTION_BF16_ROWS, FLASH_VALUES = ATTENTION_BF16_VALUES };

// How a block of threads shares out heads of up to WIDE values: a warp has BANDS · 16 rows, a tile ROWS.
template <int WIDE, int BANDS, int ROWS = FLASH_VALUES / WIDE>
struct flash {
  enum {
    WARP_BANDS = BANDS,
    THREADS = FLASH_ROWS / 16 / BANDS * WARP,
    TILE = ROWS,
    LINE = WIDE / 2,            // floats of its rows
    STEPS = WIDE / 16,          // of the matrix unit along a row
    RAW = TILE * WIDE,          // floats of a tile that arrives
    ROUNDED = RAW / 2,          // and when it is rounded
    STAGES = 2 * FLASH_VALUES,  // where the rounded ones begin: two stages of two tiles
    BEHIND = STAGES + 2 * FLASH_VALUES,
  };
  typedef uint32_t terms[BANDS][4];              // 16 values of a warp's rows, as first factor
  typedef terms factor[STEPS];                   // all of them
  typedef float scores[BANDS][TILE / 8][4];      // a warp's rows by the rows of a tile
  typedef float outputs[BANDS][WIDE / 8][4];     // a warp's rows by a head's values

  shared<float> memory;
  int lane, row;  // the warp's first row in the block

  DEVICE flash of(shared<float> memory) {
    const int t = threadIdx.x;
    return {memory, t % WARP, t / WARP * BANDS * 16};
  }

  __device__ __forceinline__ shared<float> tile(int stage, int number) const { return memory + (STAGES + (2 * stage + number) * ROUNDED); }

  // Chunks of 8 values are exchanged so that eight rows next to each other have those of one number in different banks.
  DEVICE int place(int row, int chunk) { return row * LINE + (chunk ^ row % 8) * 4; }

  // fetch begins to copy the rows of a tile from row0 on; settle, once they have arrived, rounds them into a tile. Each thread settles
  // what it has fetched.
  __device__ __forceinline__ void fetch(const head_rows& from, int row0, int number) const {
    const bool aligned = from.aligned() && from.width % 4 == 0;
    const int mine = fresh(static_cast<int>(threadIdx.x));
#pragma unroll
    for (int i = 0; i < RAW / 4; i += THREADS) {
      const int at = i + mine;
      const int r = row0 + at / (WIDE / 4), d = at % (WIDE / 4) * 4, values = r < from.count ? from.width - d : 0;
      const float* const x = from.x + r * from.stride + d;
      const shared<float> to = memory + number * RAW + at * 4;
      if (aligned) {
        copy_async(place_of(to), x, values > 0);
      } else {
        store4(to, quad_at(x, values, false));
      }
    }
  }
  __device__ __forceinline__ void settle(int number, shared<float> to) const {
    const int mine = fresh(static_cast<int>(threadIdx.x));
#pragma unroll
    for (int i = 0; i < RAW / 4; i += THREADS) store(to, i + mine, load4(memory + number * RAW + (i + mine) * 4));
  }
  static __device__ __forceinline__ void store(shared<float> to, int at, float4 x) {
    const int quad = at % (WIDE / 4);
    store2(to + place(at / (WIDE / 4), quad / 2) + quad % 2 * 2, {float_of(pack_bf16(x.x, x.y)), float_of(pack_bf16(x.z, x.w))});
  }

  // settle_finite is settle, but for values that are no finite bfloat16: +0 stands for them. It says whether the warp has met any.
  __device__ __forceinline__ bool settle_finite(int number, shared<float> to) const {
    bool odd = false;
    const auto finite = [&odd](float x) INLINE {
      const bool is = x < 0x1.ffp127f && x > -0x1.ffp127f;  // from here on they are rounded up to infinity
      odd = odd || !is;
      return is ? x : 0.0f;
    };
#pragma unroll
    for (int at = threadIdx.x; at < RAW / 4; at += THREADS) {
      const float4 x = load4(memory + number * RAW + at * 4);
      store(to, at, {finite(x.x), finite(x.y), finite(x.z), finite(x.w)});
    }
    return __ballot_sync(ALL_LANES, odd) != 0;
  }

  // through goes along two parts of a head, tile by tile: a thread begins to copy both tiles from row first on, and calls fetch(first);
  // once it has what it copied it settles the first tile, and settle(first, stage) the second; when all have, use(first, stage) has both.
  // The stages take turns, from stage on, which is then that after the last.
  template <class Fetch, class Settle, class Use>
  __device__ __forceinline__ void through(const head_rows& a, const head_rows& b, int first, int end, int& stage, Fetch&& fetch_more,
                                          Settle&& settle_second, Use&& use) const {
    const auto begin = [&](int row) INLINE {
      if (row < end) {
        fetch(a, row, 0);
        fetch(b, row, 1);
        fetch_more(row);
      }
      commit_copies();
    };
    begin(first);
    for (; first < end; first += TILE, stage ^= 1) {
      wait_copies(0);
      settle(0, tile(stage, 0));
      settle_second(first, stage);
      begin(first + TILE);
      __syncthreads();
      use(first, stage);
    }
  }

  // stage_rows puts the block's rows from row0 on, rounded, into shared memory: LINE floats of each.
  __device__ __forceinline__ void stage_rows(shared<float> to, const head_rows& from, int row0) const {
#pragma unroll
    for (int first = 0; first < FLASH_ROWS; first += 2 * TILE) {
      fetch(from, row0 + first, 0);
      fetch(from, row0 + first + TILE, 1);
      commit_copies();
      wait_copies(0);
      settle(0, to + first * LINE);
      settle(1, to + (first + TILE) * LINE);
    }
  }

  // load gives the warp's part of such rows as first factor, STEPS times 16 values of it.
  __device__ __forceinline__ void load(terms& a, shared<float> rows, int k) const {
#pragma unroll
    for (int m = 0; m < BANDS; m++) load_matrices(a[m], place_of(rows) + (row + m * 16) * LINE + place(lane % 16, k * 2 + lane / 16));
  }

  // keep stages the block's rows and loads the warp's. It needs the memory of the tiles, which are free again afterwards.
  __device__ __forceinline__ void keep(factor& f, const head_rows& from, int row0) const {
    stage_rows(tile(0, 0), from, row0);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < STEPS; k++) load(f[k], tile(0, 0), k);
    __syncthreads();
  }

  // s = a·bᵀ, with a tile as b: a chain over a row's values. term gives 16 of a's.
  template <class Term>
  __device__ __forceinline__ void multiply_terms(scores& s, shared<float> tile, Term&& term) const {
    const shared_place b = place_of(tile);
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
      for (int n = 0; n < TILE / 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
      const terms& a = term(k);
#pragma unroll
      for (int n = 0; n < TILE / 16; n++) {
        uint32_t r[4];
        load_matrices(r, b + n * 16 * LINE + place(lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < BANDS; m++) {
          multiply_add(s[m][2 * n], a[m], r[0], r[1]);
          multiply_add(s[m][2 * n + 1], a[m], r[2], r[3]);
        }
      }
    }
  }
  __device__ __forceinline__ void multiply(scores& s, const factor& a, shared<float> tile) const {
    multiply_terms(s, tile, [&](int k) INLINE -> const terms& { return a[k]; });
  }
  // The same with staged rows as a.
  __device__ __forceinline__ void multiply(scores& s, shared<float> rows, shared<float> tile) const {
    terms a;
    multiply_terms(s, tile, [&](int k) INLINE -> const terms& {
      load(a, rows, k);
      return a;
    });
  }

  // o += p·b, with p rounded and a tile as b: a chain over the tile's rows.
  __device__ __forceinline__ void add_product(outputs& o, const scores& p, shared<float> tile) const {
    const shared_place b = place_of(tile);
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
      uint32_t a[BANDS][4];
#pragma unroll
      for (int m = 0; m < BANDS; m++) {
#pragma unroll
        for (int e = 0; e < 4; e++) a[m][e] = pack_bf16(p[m][2 * k + e / 2][e % 2 * 2], p[m][2 * k + e / 2][e % 2 * 2 + 1]);
      }
#pragma unroll
      for (int n = 0; n < STEPS; n++) {
        uint32_t r[4];
        load_transposed(r, b + k * 16 * LINE + place(lane % 16, n * 2 + lane / 16));
#pragma unroll
        for (int m = 0; m < BANDS; m++) {
          multiply_add(o[m][2 * n], a[m], r[0], r[1]);
          multiply_add(o[m][2 * n + 1], a[m], r[2], r[3]);
        }
      }
    }
  }

  static __device__ __forceinline__ void clear(outputs& o) {
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
      for (int n = 0; n < WIDE / 8; n++) o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0.0f;
    }
  }

  // correct multiplies each row with its factor.
  static __device__ __forceinline__ void correct(outputs& o, const float (&factor)[BANDS][2]) {
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
      for (int n = 0; n < WIDE / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) o[m][n][e] = o[m][n][e] * factor[m][e / 2];
      }
    }
  }

  // Of a lane's value number e of band m: its row in the block; of number n: its column, in a tile or in a head.
  __device__ __forceinline__ int row_of(int m, int e) const { return row + m * 16 + lane / 4 + e / 2 * 8; }
  __device__ __forceinline__ int column_of(int n, int e) const { return n * 8 + lane % 4 * 2 + e % 2; }

  // to[row0 + row, column] = o·factor of its row, for rows and columns of a head.
  __device__ __forceinline__ void write(float* to, long long stride, const head& at, int row0, const outputs& o, const float (&factor)[BANDS][2]) const {
    const bool pairs = reinterpret_cast<uintptr_t>(to) % sizeof(float2) == 0 && stride % 2 == 0;
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = row0 + row_of(m, 2 * h);
        if (r >= at.t) continue;
#pragma unroll
        for (int n = 0; n < WIDE / 8; n++) {
          const int d = column_of(n, 0);
          const float2 v = {o[m][n][2 * h] * factor[m][h], o[m][n][2 * h + 1] * factor[m][h]};
          float* const x = to + r * stride + d;
          if (pairs && d + 2 <= at.hs) {
            store2(x, v);
          } else {
            if (d < at.hs) x[0] = v.x;
            if (d + 1 < at.hs) x[1] = v.y;
          }
        }
      }
    }
  }
};

// The sum over the four lanes that share a row; every one gets it.
DEVICE float fold_quad(float x) {
  x = x + __shfl_xor_sync(ALL_LANES, x, 1);
  return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

static constexpr float LOG2_E = 0x1.715476p+0f;

// The softmax of a warp's rows, of which tiles of scores come one after the other. The lanes' sums are theirs until the end.
template <class F, int BANDS>
struct online_softmax {
  float largest[BANDS][2], sum[BANDS][2];

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int m = 0; m < BANDS; m++) largest[m][0] = largest[m][1] = float_of(0xff800000u), sum[m][0] = sum[m][1] = 0.0f;
  }

  // take makes s, on or above whose diagonal are scores that do not exist where masked, exponentials: exp2((s - largest)·scale).
  // correction is what sums of earlier tiles are to be multiplied with. first is the tile's first key, row0 the block's first query.
  __device__ __forceinline__ void take(typename F::scores& s, float (&correction)[BANDS][2], const F& f, float scale, int row0, int first, bool masked) {
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = row0 + f.row_of(m, 2 * h);
        float most = largest[m][h];
#pragma unroll
        for (int n = 0; n < F::TILE / 8; n++) {
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) {
            if (masked && first + f.column_of(n, e) > row) s[m][n][e] = float_of(0xff800000u);
            most = largest_number(most, s[m][n][e]);
          }
        }
        most = largest_number(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = largest_number(most, __shfl_xor_sync(ALL_LANES, most, 2));
        const float minus = -most * scale;
        correction[m][h] = power2((largest[m][h] - most) * scale);
        largest[m][h] = most;
        float add = sum[m][h] * correction[m][h];
#pragma unroll
        for (int n = 0; n < F::TILE / 8; n++) {
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[m][n][e] = power2(fma1(s[m][n][e], scale, minus));
            add = add + s[m][n][e];
          }
        }
        sum[m][h] = add;
      }
    }
  }
};

#endif
