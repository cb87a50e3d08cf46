// Causal attention whose products are by the matrix unit, backward: attention_bf16.cu has the forward pass and says how blocks and tiles
// lie. Nothing is kept from there and nothing is added atomically, so products are computed more than once: nine of them, where five
// would do if blocks could add to each other's sums.
//
//   rows      a block has 128 queries. Through their keys once for the statistics of their softmax, by scores and the gradients of
//             probabilities; and through them again for the queries' gradient. Five products.
//   columns   a block has 128 keys, which are the rows of transposed scores here, and goes through the queries from theirs on, for the
//             gradients of keys and values. Four products.
//
// A warp has 16 rows, and gets a tile from shared memory for each product: one of narrow heads costs 8 · 8 KiB, 512 cycles of shared memory,
// and 512 of an A100's matrix unit; to round two tiles costs 640 more. A lane has 128 to 176 registers for scores, gradients and its
// rows, of 221 to 253 that the kernels have in all: one block on a multiprocessor, and none spilled. No GPU has confirmed any of that.
#include "attention_bf16.h"

// statistics[2,b·heads,t rounded up to a multiple of FLASH_ROWS]: of a query the logarithm to base 2 of the sum of its exponentials, and
// Σ_j att·dp. Queries behind the last one have those of zeros: they add zeros to gradients.
struct statistics_of {
  long long stride, all;  // of a head, of all heads

  DEVICE statistics_of make(long long heads, long long t) {
    const long long stride = (t + FLASH_ROWS - 1) / FLASH_ROWS * FLASH_ROWS;
    return {stride, heads * stride};
  }
  __device__ __forceinline__ long long row(int number, int row) const { return number * all + blockIdx.x * stride + row; }
};

// The probabilities of a tile's scores s, scaled: +0 where exists(m, n, e) is not. sum gives the logarithm of a score's query.
template <class F, class Sum, class Exists>
DEVICE void probabilities(typename F::scores& s, float scale, Sum&& sum, Exists&& exists) {
#pragma unroll
  for (int m = 0; m < F::WARP_BANDS; m++) {
#pragma unroll
    for (int n = 0; n < F::TILE / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) s[m][n][e] = exists(m, n, e) ? power2(fma1(s[m][n][e], scale, -sum(m, n, e))) : 0.0f;
    }
  }
}

// dp becomes the gradients of scores with probabilities p. They are multiplied by scale later, in the sums. dot gives Σ_j att·dp of a
// score's query.
template <class F, class Dot>
DEVICE void gradients(typename F::scores& dp, const typename F::scores& p, Dot&& dot) {
#pragma unroll
  for (int m = 0; m < F::WARP_BANDS; m++) {
#pragma unroll
    for (int n = 0; n < F::TILE / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) dp[m][n][e] = p[m][n][e] * (dp[m][n][e] - dot(m, n, e));
    }
  }
}

template <int WIDE>
DEVICE void attention_bf16_rows(float* dqkv, float* statistics, const float* dout, const float* qkv, int b, int t, int heads, int hs, float scale) {
  typedef flash<WIDE, 1> F;
  DYNAMIC_SHARED(memory);
  const F f = F::of(memory);
  const head at = head::of(t, heads, hs);
  const int row0 = ((t - 1) / FLASH_ROWS - static_cast<int>(blockIdx.y)) * FLASH_ROWS;
  const int keys = static_cast<int>(least(t, row0 + FLASH_ROWS));
  const head_rows k = at.part(qkv, 1), v = at.part(qkv, 2);

  typename F::factor q, d;
  f.keep(q, at.part(qkv, 0), row0);
  f.keep(d, at.outputs(dout), row0);
  online_softmax<F, 1> softmax;
  softmax.begin();
  float sum[2], dot[2] = {0.0f, 0.0f};
  int stage = 0;
  const auto nothing = [](int) INLINE {};
  const auto settle = [&](int, int stage) INLINE { f.settle(1, f.tile(stage, 1)); };
  const auto masked = [&](int first) INLINE { return first + F::TILE > row0 + f.row; };
  const auto above = [&](int first) INLINE { return first > row0 + f.row + 15; };
  f.through(k, v, 0, keys, stage, nothing, settle, [&](int first, int stage) INLINE {
    if (above(first)) return;
    typename F::scores s, dp;
    float correction[1][2];
    f.multiply(s, q, f.tile(stage, 0));
    softmax.take(s, correction, f, scale * LOG2_E, row0, first, masked(first));
    f.multiply(dp, d, f.tile(stage, 1));
#pragma unroll
    for (int h = 0; h < 2; h++) {
      dot[h] = dot[h] * correction[0][h];
#pragma unroll
      for (int n = 0; n < F::TILE / 8; n++) {
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; e++) dot[h] = fma1(s[0][n][e], dp[0][n][e], dot[h]);
      }
    }
  });
  const statistics_of place = statistics_of::make(static_cast<long long>(b) * heads, t);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = row0 + f.row_of(0, 2 * h);
    const float all = fold_quad(softmax.sum[0][h]);
    dot[h] = fold_quad(dot[h]) / all;
    sum[h] = fma1(softmax.largest[0][h], scale * LOG2_E, log1(all) * LOG2_E);
    if (f.lane % 4 != 0) continue;
    statistics[place.row(0, row)] = sum[h];
    statistics[place.row(1, row)] = dot[h];
  }

  typename F::outputs o;
  F::clear(o);
  f.through(k, v, 0, keys, stage, nothing, settle, [&](int first, int stage) INLINE {
    if (above(first)) return;
    const auto exists = [&](int m, int n, int e) INLINE { return !masked(first) || first + f.column_of(n, e) <= row0 + f.row_of(m, e); };
    typename F::scores p, ds;
    f.multiply(p, q, f.tile(stage, 0));
    probabilities<F>(p, scale * LOG2_E, [&](int, int, int e) INLINE { return sum[e / 2]; }, exists);
    f.multiply(ds, d, f.tile(stage, 1));
    gradients<F>(ds, p, [&](int, int, int e) INLINE { return dot[e / 2]; });
    f.add_product(o, ds, f.tile(stage, 0));
  });
  const float factor[1][2] = {{scale, scale}};
  f.write(dqkv + at.in, at.row_stride, at, row0, o, factor);
}

template <int WIDE>
DEVICE void attention_bf16_columns(float* dqkv, const float* statistics, const float* dout, const float* qkv, int b, int t, int heads, int hs, float scale) {
  typedef flash<WIDE, 1, WIDE == ATTENTION_BF16_NARROW ? 64 : 16> F;  // more rows would need more registers than there are
  enum { BOTH = 2 * F::TILE };  // statistics of a tile: as they arrive, and then of two stages
  DYNAMIC_SHARED(memory);
  const F f = F::of(memory);
  const head at = head::of(t, heads, hs);
  const int key0 = static_cast<int>(blockIdx.y) * FLASH_ROWS;
  const head_rows q = at.part(qkv, 0), d = at.outputs(dout);
  const statistics_of place = statistics_of::make(static_cast<long long>(b) * heads, t);
  const shared<float> arriving = memory + F::BEHIND;
  const int mine = static_cast<int>(threadIdx.x) * 4;  // of BOTH

  const shared<float> v = arriving + 3 * BOTH;  // of the block's keys
  f.stage_rows(v, at.part(qkv, 2), key0);
  typename F::factor k;
  f.keep(k, at.part(qkv, 1), key0);
  typename F::outputs dk, dv;
  F::clear(dk);
  F::clear(dv);
  int stage = 0;
  f.through(
      q, d, key0, t, stage,
      [&](int first) INLINE {
        if (mine < BOTH) copy_async(place_of(arriving + mine), statistics + place.row(mine / F::TILE, first + mine % F::TILE), true);
      },
      [&](int, int stage) INLINE {
        f.settle(1, f.tile(stage, 1));
        if (mine < BOTH) store4(arriving + (1 + stage) * BOTH + mine, load4(arriving + mine));
      },
      [&](int first, int stage) INLINE {
        const int key = key0 + f.row;  // the warp's first
        if (first + F::TILE <= key) return;
        const bool masked = first < key + 16;
        const auto exists = [&](int m, int n, int e) INLINE { return !masked || first + f.column_of(n, e) >= key0 + f.row_of(m, e); };
        const shared<float> queries = arriving + (1 + stage) * BOTH;
        typename F::scores p, ds;
        f.multiply(p, k, f.tile(stage, 0));
        probabilities<F>(p, scale * LOG2_E, [&](int, int n, int e) INLINE { return queries[f.column_of(n, e)]; }, exists);
        f.add_product(dv, p, f.tile(stage, 1));
        f.multiply(ds, v, f.tile(stage, 1));
        gradients<F>(ds, p, [&](int, int n, int e) INLINE { return queries[F::TILE + f.column_of(n, e)]; });
        f.add_product(dk, ds, f.tile(stage, 0));
      });
  const float factor[1][2] = {{scale, scale}}, one[1][2] = {{1.0f, 1.0f}};
  const head again = head::of(fresh(t), fresh(heads), fresh(hs));
  f.write(dqkv + again.in + again.width(), again.row_stride, again, key0, dk, factor);
  f.write(dqkv + again.in + 2 * again.width(), again.row_stride, again, key0, dv, one);
}

// The part of dqkv that belongs to queries, and statistics for the other parts, which attention_bf16_columns gives afterwards.
// Grid (b·heads, ⌈t/ATTENTION_BF16_ROWS⌉), block ATTENTION_BF16_THREADS, shared ATTENTION_BF16_BYTES, and _COLUMNS_64_BYTES or _128_BYTES.
#define ATTENTION_BF16_BACKWARD(wide)                                                                                                 \
  KERNEL(attention_bf16_rows_##wide, ATTENTION_BF16_THREADS, float* dqkv, float* statistics, const float* dout, const float* qkv,    \
         long long b, long long t, long long heads, long long hs, float scale) {                                                     \
    attention_bf16_rows<wide>(dqkv, statistics, dout, qkv, static_cast<int>(b), static_cast<int>(t), static_cast<int>(heads),        \
                              static_cast<int>(hs), scale);                                                                          \
  }                                                                                                                                  \
  KERNEL(attention_bf16_columns_##wide, ATTENTION_BF16_THREADS, float* dqkv, const float* statistics, const float* dout,             \
         const float* qkv, long long b, long long t, long long heads, long long hs, float scale) {                                   \
    attention_bf16_columns<wide>(dqkv, statistics, dout, qkv, static_cast<int>(b), static_cast<int>(t), static_cast<int>(heads),     \
                                 static_cast<int>(hs), scale);                                                                       \
  }
ATTENTION_BF16_BACKWARD(64)
ATTENTION_BF16_BACKWARD(128)
