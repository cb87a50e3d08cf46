// Causal attention, forward and backward, without a t×t matrix in memory.
//
// A block has a tile of 64 queries of one head and goes through the tiles of keys up to its own, or has a tile of keys and goes through the
// queries from there on. The scores of two tiles are a small matrix product out of shared memory, 4×4 of them a thread. The usual trick,
// to correct sums when a larger score turns up, would round differently than the definition: scores are computed again instead,
// once to find the largest, once for the sum, once to use them. What a thread needs for that stays in registers.
//
// Thread (x,y) of 16×16 has rows 4y … 4y+3 of a tile of scores and columns x, x+16, x+32, x+48: so each thread has one lane of the
// row's lane sums, in order, and half a warp folds them.
//
// Heads are wider than 64 values seldom. Then each block computes 64 of the outputs' values, and scores as often as there are such blocks.
#include "attention.h"

static_assert(ATTENTION_TILE == 64 && ATTENTION_THREADS == 256 && BLOCK_K % ATTENTION_TILE == 0, "a thread has 4×4 of a tile");

enum { TILE = ATTENTION_TILE, TILE_FLOATS = ATTENTION_TILE * ATTENTION_STRIDE };

// 4×4 values of a thread.
struct values {
  float v[4][4];
};
#define EACH_VALUE        \
  _Pragma("unroll") for (int i = 0; i < 4; i++) \
  _Pragma("unroll") for (int j = 0; j < 4; j++)

// Where things are: of one head, and of one thread.
struct place : head {
  int x, y;

  DEVICE place of(int t, int heads, int hs) {
    place p;
    static_cast<head&>(p) = head::of(t, heads, hs);
    p.x = static_cast<int>(threadIdx.x % 16), p.y = static_cast<int>(threadIdx.x / 16 * 4);
    return p;
  }
};

// stage_rows puts rows row0 … and values d0 … of a head into a tile, with +0 where there are none.
DEVICE void stage_rows(const head_rows& r, shared<float> tile, int row0, int d0) {
#pragma unroll
  for (int at = threadIdx.x * 4; at < TILE * TILE; at += ATTENTION_THREADS * 4) {
    const int row = row0 + at / TILE, d = d0 + at % TILE;
    store4(tile + at / TILE * ATTENTION_STRIDE + at % TILE, quad_at(r.x + row * r.stride + d, row < r.count ? r.width - d : 0, r.aligned()));
  }
}

// s[i][j] += row y+i of a · row x+16j of b, count values of them, in order.
DEVICE void dot_rows(values& s, shared<float> a, shared<float> b, int x, int y, int count) {
  a = a + y * ATTENTION_STRIDE, b = b + x * ATTENTION_STRIDE;
  int d = 0;
#pragma unroll 2
  for (; d + 4 <= count; d += 4) {
    float4 q[4];
#pragma unroll
    for (int j = 0; j < 4; j++) q[j] = load4(b + 16 * j * ATTENTION_STRIDE + d);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float4 p = load4(a + i * ATTENTION_STRIDE + d);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float c = fma1(p.x, q[j].x, s.v[i][j]);
        c = fma1(p.y, q[j].y, c);
        c = fma1(p.z, q[j].z, c);
        s.v[i][j] = fma1(p.w, q[j].w, c);
      }
    }
  }
  for (; d < count; d++) {
    EACH_VALUE s.v[i][j] = fma1(a[i * ATTENTION_STRIDE + d], b[16 * j * ATTENTION_STRIDE + d], s.v[i][j]);
  }
}

// A tile of rows and where they are staged; fresh says that they are there already, unless they are wider than a tile.
struct operand {
  shared<float> tile;
  head_rows rows;
  int row0;
  bool fresh;

  __device__ __forceinline__ void stage(int d0) const {
    if (!fresh || rows.width > TILE) stage_rows(rows, tile, row0, d0);
  }
};

// The products of all rows of a with all rows of b. When it returns the tiles hold the rows' last values, and others may still read them.
DEVICE values products(const operand& a, const operand& b, int x, int y, bool busy) {
  values z = {}, s = {};
  const int width = a.rows.width;
  for (int d = 0; d < width; d += TILE) {
    __syncthreads();
    a.stage(d);
    b.stage(d);
    __syncthreads();
    if (busy) dot_rows(s, a.tile, b.tile, x, y, static_cast<int>(least(TILE, width - d)));
    if ((d + TILE) % BLOCK_K != 0 && d + TILE < width) continue;
    EACH_VALUE z.v[i][j] = d < BLOCK_K ? s.v[i][j] : z.v[i][j] + s.v[i][j];
    s = {};
  }
  return z;
}

// o[i][j] += Σ_k p[y+i][k]·v[k][4x+j] over a tile's keys k; on the diagonal, those up to the row itself.
DEVICE void add_keys(values& o, shared<float> p, shared<float> v, int x, int y, bool diagonal) {
  p = p + y * ATTENTION_STRIDE, v = v + 4 * x;
  if (diagonal) {
    for (int k = 0; k < y + 4; k++) {
      const float4 q = load4(v + k * ATTENTION_STRIDE);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (k > y + i) continue;
        const float w = p[i * ATTENTION_STRIDE + k];
        o.v[i][0] = fma1(w, q.x, o.v[i][0]);
        o.v[i][1] = fma1(w, q.y, o.v[i][1]);
        o.v[i][2] = fma1(w, q.z, o.v[i][2]);
        o.v[i][3] = fma1(w, q.w, o.v[i][3]);
      }
    }
    return;
  }
#pragma unroll 2
  for (int k = 0; k < TILE; k += 4) {
    float4 q[4];
#pragma unroll
    for (int e = 0; e < 4; e++) q[e] = load4(v + (k + e) * ATTENTION_STRIDE);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float4 w = load4(p + i * ATTENTION_STRIDE + k);
      const float f[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int e = 0; e < 4; e++) {
        o.v[i][0] = fma1(f[e], q[e].x, o.v[i][0]);
        o.v[i][1] = fma1(f[e], q[e].y, o.v[i][1]);
        o.v[i][2] = fma1(f[e], q[e].z, o.v[i][2]);
        o.v[i][3] = fma1(f[e], q[e].w, o.v[i][3]);
      }
    }
  }
}

// o[i][j] += Σ_q p[q][y+i]·v[q][4x+j] over count of a tile's queries q; on the diagonal, those from the key itself on.
DEVICE void add_queries(values& o, shared<float> p, shared<float> v, int x, int y, int count, bool diagonal) {
  p = p + y, v = v + 4 * x;
#pragma unroll 4
  for (int q = diagonal ? y : 0; q < count; q++) {
    const float4 w = load4(p + q * ATTENTION_STRIDE), u = load4(v + q * ATTENTION_STRIDE);
    const float f[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (diagonal && q < y + i) continue;
      o.v[i][0] = fma1(f[i], u.x, o.v[i][0]);
      o.v[i][1] = fma1(f[i], u.y, o.v[i][1]);
      o.v[i][2] = fma1(f[i], u.z, o.v[i][2]);
      o.v[i][3] = fma1(f[i], u.w, o.v[i][3]);
    }
  }
}

// Puts a tile of values where every thread can read it.
DEVICE void publish(shared<float> tile, const values& p, int x, int y) {
  EACH_VALUE tile[(y + i) * ATTENTION_STRIDE + x + 16 * j] = p.v[i][j];
}

// out[row0+y+i, d0+4x+j] = o, or += o, for rows of a head.
DEVICE void write(float* out, long long stride, const values& o, int row0, int d0, const place& at, bool accumulate) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (row0 + at.y + i >= at.t) continue;
    float* to = out + (row0 + at.y + i) * stride + d0 + 4 * at.x;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (d0 + 4 * at.x + j < at.hs) to[j] = accumulate ? to[j] + o.v[i][j] : o.v[i][j];
    }
  }
}

// What a row's softmax needs: the largest score, and 1 over the sum of exponentials.
struct softmax {
  float largest[4], inverse[4];

  __device__ __forceinline__ float probability(int i, float score) const { return exp1(score - largest[i]) * inverse[i]; }
};

// The softmax of a tile of queries, which is tile number last. q and k are restaged.
DEVICE softmax softmax_of(operand& q, operand k, int last, float scale, const place& at, bool busy) {
  softmax m;
  for (int i = 0; i < 4; i++) m.largest[i] = float_of(0xff800000u), m.inverse[i] = 0.0f;
  for (int tile = 0; tile <= last; tile++) {
    k.row0 = tile * TILE;
    const values z = products(q, k, at.x, at.y, busy);
    q.fresh = true;
    EACH_VALUE {
      if (tile < last || at.x + 16 * j <= at.y + i) m.largest[i] = larger(m.largest[i], scale * z.v[i][j]);
    }
  }
  for (int i = 0; i < 4; i++) {
    for (int with = LANES / 2; with > 0; with /= 2) {
      m.largest[i] = larger(m.largest[i], __shfl_xor_sync(ALL_LANES, m.largest[i], with));
    }
  }
  float sums[4] = {};
  for (int tile = 0; tile <= last; tile++) {
    k.row0 = tile * TILE;
    const values z = products(q, k, at.x, at.y, busy);
    if (!busy) continue;
    EACH_VALUE {
      if (tile < last || at.x + 16 * j <= at.y + i) sums[i] = sums[i] + exp1(scale * z.v[i][j] - m.largest[i]);
    }
  }
  for (int i = 0; i < 4; i++) m.inverse[i] = 1.0f / fold_lanes(sums[i]);
  return m;
}

// out[b,t,heads·hs] = softmax(q·kᵀ·scale)·v, from qkv[b,t,3,heads,hs].
// Grid (b·heads, ⌈t/ATTENTION_TILE⌉, ⌈hs/ATTENTION_TILE⌉), block ATTENTION_THREADS, shared ATTENTION_BYTES.
KERNEL(attention, ATTENTION_THREADS, float* out, const float* qkv, long long t, long long heads, long long hs, float scale) {
  DYNAMIC_SHARED(memory);
  const place at = place::of(static_cast<int>(t), static_cast<int>(heads), static_cast<int>(hs));
  // Tiles with many keys begin first, so that no block is left to work alone at the end.
  const int last = static_cast<int>((t - 1) / TILE - blockIdx.y), row0 = last * TILE, d0 = blockIdx.z * TILE;
  const bool busy = row0 + at.y < t;
  operand q = {memory, at.part(qkv, 0), row0, false}, k = {memory + TILE_FLOATS, at.part(qkv, 1), 0, false};
  const head_rows v = at.part(qkv, 2);
  const shared<float> p = memory + 2 * TILE_FLOATS;

  const softmax m = softmax_of(q, k, last, scale, at, busy);
  values o = {}, s = {};
  for (int tile = 0; tile <= last; tile++) {
    k.row0 = tile * TILE;
    values z = products(q, k, at.x, at.y, busy);
    if (busy) EACH_VALUE z.v[i][j] = m.probability(i, scale * z.v[i][j]);
    publish(p, z, at.x, at.y);
    __syncthreads();
    stage_rows(v, k.tile, k.row0, d0);
    __syncthreads();
    if (busy) add_keys(s, p, k.tile, at.x, at.y, tile == last);
    if ((tile + 1) * TILE % BLOCK_K != 0 && tile < last) continue;
    EACH_VALUE o.v[i][j] = tile * TILE < BLOCK_K ? s.v[i][j] : o.v[i][j] + s.v[i][j];
    s = {};
  }
  write(out + at.out, at.width(), o, row0, d0, at, false);
}

// The part of dqkv that belongs to queries, and for every row of every head what the other part needs: statistics[3,b·heads,t] are
// the largest score, 1 / the sum of exponentials, and Σ_j att·dp.
// Grid (b·heads, ⌈t/ATTENTION_TILE⌉, ⌈hs/ATTENTION_TILE⌉), block ATTENTION_THREADS, shared ATTENTION_BACKWARD_ROWS_BYTES.
KERNEL(attention_backward_rows, ATTENTION_THREADS, float* dqkv, float* statistics, const float* dout, const float* qkv,
       long long b, long long t, long long heads, long long hs, float scale) {
  DYNAMIC_SHARED(memory);
  const place at = place::of(static_cast<int>(t), static_cast<int>(heads), static_cast<int>(hs));
  const int last = static_cast<int>((t - 1) / TILE - blockIdx.y), row0 = last * TILE, d0 = blockIdx.z * TILE;
  const bool busy = row0 + at.y < t;
  operand q = {memory, at.part(qkv, 0), row0, false}, d = {memory + TILE_FLOATS, at.outputs(dout), row0, false};
  operand k = {memory + 2 * TILE_FLOATS, at.part(qkv, 1), 0, false}, v = {k.tile, at.part(qkv, 2), 0, false};
  const shared<float> p = memory + 3 * TILE_FLOATS;

  const softmax m = softmax_of(q, k, last, scale, at, busy);
  float dots[4] = {};
  for (int tile = 0; tile <= last; tile++) {
    k.row0 = v.row0 = tile * TILE;
    const values dp = products(d, v, at.x, at.y, busy);
    const values z = products(q, k, at.x, at.y, busy);
    d.fresh = true;
    if (!busy) continue;
    EACH_VALUE {
      const int key = at.x + 16 * j, row = at.y + i;
      if (tile < last || key <= row) {
        dots[i] = fma1(m.probability(i, scale * z.v[i][j]), dp.v[i][j], dots[i]);
      } else if (key / LANES == row / LANES) {
        dots[i] = dots[i] + 0.0f;  // the last round's missing products are +0 and take part
      }
    }
  }
  for (int i = 0; i < 4; i++) dots[i] = fold_lanes(dots[i]);

  values o = {}, s = {};
  for (int tile = 0; tile <= last; tile++) {
    k.row0 = v.row0 = tile * TILE;
    const values dp = products(d, v, at.x, at.y, busy);
    values z = products(q, k, at.x, at.y, busy);
    if (busy) EACH_VALUE z.v[i][j] = ((dp.v[i][j] - dots[i]) * m.probability(i, scale * z.v[i][j])) * scale;
    publish(p, z, at.x, at.y);
    __syncthreads();
    if (hs > TILE) {
      stage_rows(k.rows, k.tile, k.row0, d0);
      __syncthreads();
    }
    if (busy) add_keys(s, p, k.tile, at.x, at.y, tile == last);
    if ((tile + 1) * TILE % BLOCK_K != 0 && tile < last) continue;
    EACH_VALUE o.v[i][j] = tile * TILE < BLOCK_K ? s.v[i][j] : o.v[i][j] + s.v[i][j];
    s = {};
  }
  write(dqkv + at.in, at.row_stride, o, row0, d0, at, false);
  if (blockIdx.z > 0 || at.x > 0) return;
  for (int i = 0; i < 4; i++) {
    const long long row = row0 + at.y + i, heads_rows = b * heads * t;
    if (row >= t) continue;
    float* to = statistics + blockIdx.x * t + row;
    to[0] = m.largest[i], to[heads_rows] = m.inverse[i], to[2 * heads_rows] = dots[i];
  }
}

// The parts of dqkv that belong to keys and values; attention_backward_rows comes before.
// Grid (b·heads, ⌈t/ATTENTION_TILE⌉, ⌈hs/ATTENTION_TILE⌉), block ATTENTION_THREADS, shared ATTENTION_BACKWARD_COLUMNS_BYTES.
KERNEL(attention_backward_columns, ATTENTION_THREADS, float* dqkv, const float* statistics, const float* dout,
       const float* qkv, long long b, long long t, long long heads, long long hs, float scale) {
  DYNAMIC_SHARED(memory);
  const place at = place::of(static_cast<int>(t), static_cast<int>(heads), static_cast<int>(hs));
  const int first = blockIdx.y, key0 = first * TILE, d0 = blockIdx.z * TILE, tiles = static_cast<int>((t + TILE - 1) / TILE);
  operand k = {memory, at.part(qkv, 1), key0, false}, v = {memory + TILE_FLOATS, at.part(qkv, 2), key0, false};
  operand q = {memory + 2 * TILE_FLOATS, at.part(qkv, 0), 0, false}, d = {memory + 3 * TILE_FLOATS, at.outputs(dout), 0, false};
  const shared<float> p = memory + 4 * TILE_FLOATS;
  float *const dk = dqkv + at.in + at.width(), *const dv = dk + at.width();

  values keys = {}, vals = {};
  bool accumulate = false;
  for (int tile = first; tile < tiles; tile++) {
    q.row0 = d.row0 = tile * TILE;
    const bool busy = q.row0 + at.y < t;
    values dz = products(d, v, at.x, at.y, busy);
    values att = products(q, k, at.x, at.y, busy);
    k.fresh = v.fresh = true;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const long long row = q.row0 + at.y + i;
      if (row >= t) continue;
      const float* const s = statistics + blockIdx.x * t + row;
      const float largest = s[0], inverse = s[b * heads * t], dot = s[2 * b * heads * t];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        att.v[i][j] = exp1(scale * att.v[i][j] - largest) * inverse;
        dz.v[i][j] = ((dz.v[i][j] - dot) * att.v[i][j]) * scale;
      }
    }
    const int count = static_cast<int>(least(TILE, t - q.row0));
    publish(p, att, at.x, at.y);
    __syncthreads();
    if (hs > TILE) {
      stage_rows(d.rows, d.tile, d.row0, d0);
      stage_rows(q.rows, q.tile, q.row0, d0);
      __syncthreads();
    }
    add_queries(vals, p, d.tile, at.x, at.y, count, tile == first);
    __syncthreads();
    publish(p, dz, at.x, at.y);
    __syncthreads();
    add_queries(keys, p, q.tile, at.x, at.y, count, tile == first);
    if ((tile + 1) * TILE % BLOCK_K != 0 && tile + 1 < tiles) continue;
    write(dk, at.row_stride, keys, key0, d0, at, accumulate);
    write(dv, at.row_stride, vals, key0, d0, at, accumulate);
    keys = {}, vals = {};
    accumulate = true;
  }
}
