// Causal attention whose products are by the matrix unit, forward: flash attention. attention_bf16_backward.cu is the other half.
//
// A block has 128 queries of one head, a warp 16 or 32 of them, and goes through tiles of keys from the first one on: 64 keys of narrow
// heads, 32 of wide ones. Scores, and what becomes of them, stay in the lanes that the matrix unit gave them to: as sums of one product
// they lie as the first factor of the next one wants them.
//
//   memory          qkv is float32 and is rounded on the way, as tiles are staged. To round it first costs 6 bytes of each of its values:
//                   453 MB for 32 rows of 1024 tokens of GPT-2 124M, as long as the products shall take. On the way all blocks together
//                   read 1 GB, 0.3 GB of them from memory and the rest from the second cache.
//   shared memory   of two tiles, 4096 values each: 32 KiB as they arrive by cp.async, 2 · 16 KiB rounded. 65 KiB: two blocks on a
//                   multiprocessor since sm_80, three with 227 KiB
//   a tile          of narrow heads: 2 · 2·128·64·64 = 2.1 million operations. Shared memory has 32 KiB to take in and give out again, 16
//                   to take in rounded, and 16 to give to each of 4 warps: 144 KiB, 1150 cycles at 128 bytes each. The matrix unit
//                   needs 1024 on an A100, fewer on an H100; 8192 powers take 512, at 16 a cycle.
//
// So 132 multiprocessors at 1.7 GHz should be bound to 410 · 10¹² operations a second, of which the mask on the diagonal drops one in
// nine. No GPU has confirmed any of that.
#include "attention.h"

static_assert(ATTENTION_BF16_NARROW == 64 && ATTENTION_BF16_MOST == 128 && ATTENTION_BF16_VALUES == 64 * 64, "kernels have these two widths");

enum { FLASH_ROWS = ATTENTION_BF16_ROWS, FLASH_VALUES = ATTENTION_BF16_VALUES };

// How a block of threads shares out heads of up to WIDE values: a warp has BANDS · 16 rows.
template <int WIDE, int BANDS>
struct flash {
  enum {
    WARP_BANDS = BANDS,
    THREADS = FLASH_ROWS / 16 / BANDS * WARP,
    TILE = FLASH_VALUES / WIDE,  // rows of a tile
    LINE = WIDE / 2,             // floats of its rows
    STEPS = WIDE / 16,           // of the matrix unit along a row
    RAW = FLASH_VALUES,          // floats of a tile that arrives
    ROUNDED = FLASH_VALUES / 2,  // and when it is rounded
    STAGES = 2 * RAW,            // where the rounded ones begin: two stages of two tiles
    BEHIND = STAGES + 4 * ROUNDED,
  };
  typedef uint32_t factor[STEPS][BANDS][4];      // a warp's rows as first factor
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
#pragma unroll
    for (int at = threadIdx.x; at < RAW / 4; at += THREADS) {
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
#pragma unroll
    for (int at = threadIdx.x; at < RAW / 4; at += THREADS) store(to, at, load4(memory + number * RAW + at * 4));
  }
  static __device__ __forceinline__ void store(shared<float> to, int at, float4 x) {
    const int quad = at % (WIDE / 4);
    store2(to + place(at / (WIDE / 4), quad / 2) + quad % 2 * 2, {float_of(pack_bf16(x.x, x.y)), float_of(pack_bf16(x.z, x.w))});
  }

  // settle_finite is settle, but for values that are no finite bfloat16: +0 stands for them. It says whether the warp has met any.
  __device__ __forceinline__ bool settle_finite(int number, shared<float> to) const {
    bool odd = false;
    const auto finite = [&odd](float x) {
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

  // load gives the block's rows from row0 on as first factor. It needs all of the memory before STAGES, and of one factor's size behind.
  __device__ __forceinline__ void load(factor& f, const head_rows& from, int row0) const {
#pragma unroll
    for (int first = 0; first < FLASH_ROWS; first += 2 * TILE) {
      fetch(from, row0 + first, 0);
      fetch(from, row0 + first + TILE, 1);
      commit_copies();
      wait_copies(0);
      settle(0, tile(0, 0) + first * LINE);
      settle(1, tile(0, 1) + first * LINE);
    }
    __syncthreads();
    const shared_place rows = place_of(tile(0, 0) + row * LINE);
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
      for (int m = 0; m < BANDS; m++) load_matrices(f[k][m], rows + m * 16 * LINE + place(lane % 16, k * 2 + lane / 16));
    }
    __syncthreads();
  }

  // s = a·bᵀ, with a tile as b: a chain over a row's values.
  __device__ __forceinline__ void multiply(scores& s, const factor& a, shared<float> tile) const {
    const shared_place b = place_of(tile);
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
      for (int n = 0; n < TILE / 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
      for (int n = 0; n < TILE / 16; n++) {
        uint32_t r[4];
        load_matrices(r, b + n * 16 * LINE + place(lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < BANDS; m++) {
          multiply_add(s[m][2 * n], a[k][m], r[0], r[1]);
          multiply_add(s[m][2 * n + 1], a[k][m], r[2], r[3]);
        }
      }
    }
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

static constexpr float LOG2_E = 0x1.715476p+0f;

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
  f.load(q, at.part(qkv, 0), row0);
  typename F::outputs o;
  F::clear(o);
  online_softmax<F, BANDS> softmax;
  softmax.begin();
  f.fetch(k, 0, 0);
  f.fetch(v, 0, 1);
  commit_copies();
  int stage = 0;
  for (int first = 0; first < keys; first += F::TILE, stage ^= 1) {
    const bool diagonal = first + F::TILE > row0;
    wait_copies(0);
    f.settle(0, f.tile(stage, 0));
    if (diagonal) {
      const bool any = f.settle_finite(1, f.tile(stage, 1));
      if (f.lane == 0) odd[stage * 8 + f.row / 16] = any ? 1.0f : 0.0f;
    } else {
      f.settle(1, f.tile(stage, 1));
    }
    if (first + F::TILE < keys) {
      f.fetch(k, first + F::TILE, 0);
      f.fetch(v, first + F::TILE, 1);
    }
    commit_copies();
    __syncthreads();
    if (first > row0 + f.row + BANDS * 16 - 1) continue;  // all above the diagonal
    typename F::scores s;
    float correction[BANDS][2];
    f.multiply(s, q, f.tile(stage, 0));
    softmax.take(s, correction, f, scale * LOG2_E, row0, first, diagonal);
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
      for (int n = 0; n < WIDE / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) o[m][n][e] = o[m][n][e] * correction[m][e / 2];
      }
    }
    f.add_product(o, s, f.tile(stage, 1));
    if (!diagonal) continue;
    bool any = false;
    for (int w = 0; w < 8; w += BANDS) any = any || odd[stage * 8 + w] != 0.0f;
    if (any) add_not_finite(o, f, v, row0, first);
  }
  float inverse[BANDS][2];
#pragma unroll
  for (int m = 0; m < BANDS; m++) {
#pragma unroll
    for (int h = 0; h < 2; h++) inverse[m][h] = 1.0f / fold_quad(softmax.sum[m][h]);
  }
  f.write(out + at.out, at.width(), at, row0, o, inverse);
}

// out[b,t,heads·hs] = softmax(q·kᵀ·scale)·v, from qkv[b,t,3,heads,hs]; hs is at most the number in the name.
// Grid (b·heads, ⌈t/ATTENTION_BF16_ROWS⌉), block ATTENTION_BF16_THREADS or …_NARROW_THREADS, shared ATTENTION_BF16_BYTES.
#define ATTENTION_BF16(name, threads, wide, bands)                                                                                 \
  KERNEL(name, threads, float* out, const float* qkv, long long t, long long heads, long long hs, float scale) {                   \
    attention_bf16<wide, bands>(out, qkv, static_cast<int>(t), static_cast<int>(heads), static_cast<int>(hs), scale);              \
  }
ATTENTION_BF16(attention_bf16_64, ATTENTION_BF16_NARROW_THREADS, 64, 2)
ATTENTION_BF16(attention_bf16_128, ATTENTION_BF16_THREADS, 128, 1)
