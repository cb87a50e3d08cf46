// Causal attention whose products are by the matrix unit, forward: flash attention. attention_bf16_backward.cu is the other half.
//
// A block has 128 queries of one head, a warp 16 or 32 of them, and goes through tiles of keys from the first one on: 64 keys of narrow
// heads, 32 of wide ones. Scores, and what becomes of them, stay in the lanes that the matrix unit gave them to: as sums of one product
// they lie as the first factor of the next one wants them.
//
//   memory          qkv is float32 and is rounded on the way, as tiles are staged. To round it first costs 6 bytes of each of its values:
//                   453 MB for 32 rows of 1024 tokens of GPT-2 124M, as long as the products shall take. On the way all blocks together
//                   read 1 GB, 0.3 GB of them from memory and the rest from the second cache.
//   shared memory   of two tiles, 4096 values each: 32 KiB as they arrive by cp.async, 2 · 16 KiB rounded. 66 KiB: two blocks on a
//                   multiprocessor of an A100
//   registers       of a lane of narrow heads: 64 sums, 64 scores, 32 for its queries, and 95 for all else: 255, none spilled, so two blocks
//                   of 128 threads
//   a tile          of narrow heads: 2 · 2·128·64·64 = 2.1 million operations. Shared memory has 32 KiB to take in and give out again, 16
//                   to take in rounded, and 16 to give to each of 4 warps: 144 KiB, 1150 cycles at 128 bytes each. The matrix unit
//                   needs 1024 on an A100, fewer on an H100; 8192 powers take 512, at 16 a cycle.
//
// So 132 multiprocessors at 1.7 GHz should be bound to 410 · 10¹² operations a second, of which the mask on the diagonal drops one in
// nine. No GPU has confirmed any of that.
#include "attention_bf16.h"

// Keys above the diagonal have probability +0 in a tile's product, and +0 · infinity would be NaN: so values on the diagonal that are
// not finite are left out of it, and reach the queries from their key on here, as they are.
template <class F>
DEVICE void add_not_finite(typename F::outputs& o, const F& f, const head_rows& v, int row0, int first) {
  for (int key = first; key < least(v.count, first + F::TILE); key++) {
#pragma unroll
    for (int n = 0; n < F::LINE / 4; n++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int d = f.column_of(n, e);
        const float x = d < v.width ? float_of(round_bf16(v.x[key * v.stride + d])) : 0.0f;
        if (x - x == 0.0f) continue;
#pragma unroll
        for (int m = 0; m < F::WARP_BANDS; m++) {
#pragma unroll
          for (int h = 0; h < 2; h++) {
            if (key <= row0 + f.row_of(m, 2 * h)) o[m][n][2 * h + e] = o[m][n][2 * h + e] + x;
          }
        }
      }
    }
  }
}

template <int WIDE, int BANDS>
DEVICE void attention_bf16(float* out, const float* qkv, int t, int heads, int hs, float scale) {
  typedef flash<WIDE, BANDS> F;
  DYNAMIC_SHARED(memory);
  const F f = F::of(memory);
  const head at = head::of(t, heads, hs);
  // Blocks with many keys begin first, so that no block is left to work alone at the end.
  const int row0 = ((t - 1) / FLASH_ROWS - static_cast<int>(blockIdx.y)) * FLASH_ROWS;
  const int keys = static_cast<int>(least(t, row0 + FLASH_ROWS));
  const head_rows k = at.part(qkv, 1), v = at.part(qkv, 2);
  const shared<float> odd = memory + F::BEHIND;  // of each stage and warp: whether it has met a value that is not finite

  typename F::factor q;
  f.keep(q, at.part(qkv, 0), row0);
  typename F::outputs o;
  F::clear(o);
  online_softmax<F, BANDS> softmax;
  softmax.begin();
  int stage = 0;
  const auto diagonal = [&](int first) INLINE { return first + F::TILE > row0; };
  f.through(
      k, v, 0, keys, stage, [](int) INLINE {},
      [&](int first, int stage) INLINE {
        if (!diagonal(first)) return f.settle(1, f.tile(stage, 1));
        const bool any = f.settle_finite(1, f.tile(stage, 1));
        if (f.lane == 0) odd[stage * 8 + f.row / 16] = any ? 1.0f : 0.0f;
      },
      [&](int first, int stage) INLINE {
        if (first > row0 + f.row + BANDS * 16 - 1) return;  // all above the diagonal
        typename F::scores s;
        float correction[BANDS][2];
        f.multiply(s, q, f.tile(stage, 0));
        softmax.take(s, correction, f, scale * LOG2_E, row0, first, diagonal(first));
        F::correct(o, correction);
        f.add_product(o, s, f.tile(stage, 1));
        if (!diagonal(first)) return;
        bool any = false;
        for (int w = 0; w < 8; w += BANDS) any = any || odd[stage * 8 + w] != 0.0f;
        if (any) add_not_finite(o, f, v, row0, first);
      });
  float inverse[BANDS][2];
#pragma unroll
  for (int m = 0; m < BANDS; m++) {
#pragma unroll
    for (int h = 0; h < 2; h++) inverse[m][h] = 1.0f / fold_quad(softmax.sum[m][h]);
  }
  const head again = head::of(fresh(t), fresh(heads), fresh(hs));
  f.write(out + again.out, again.width(), again, row0, o, inverse);
}

// out[b,t,heads·hs] = softmax(q·kᵀ·scale)·v, from qkv[b,t,3,heads,hs]; hs is at most the number in the name.
// Grid (b·heads, ⌈t/ATTENTION_BF16_ROWS⌉), block ATTENTION_BF16_THREADS or …_NARROW_THREADS, shared ATTENTION_BF16_BYTES.
#define ATTENTION_BF16(name, threads, wide, bands)                                                                                 \
  KERNEL(name, threads, float* out, const float* qkv, long long t, long long heads, long long hs, float scale) {                   \
    attention_bf16<wide, bands>(out, qkv, static_cast<int>(t), static_cast<int>(heads), static_cast<int>(hs), scale);              \
  }
ATTENTION_BF16(attention_bf16_64, ATTENTION_BF16_NARROW_THREADS, 64, 2)
ATTENTION_BF16(attention_bf16_128, ATTENTION_BF16_THREADS, 128, 1)
