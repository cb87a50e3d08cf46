// The matrix product: packed panels and a register tile of MR rows by NV vectors.
//
// Rows are taken in groups of up to ROWS_PACKED. For every canonical block of k, the group's part of A is packed as
// tiles [k][mr]; then, panel by panel, BLOCK_K rows of NV·16 columns of B are packed and meet every tile of A.
// A tile's accumulators hold one whole chain each, so packing, grouping and threads cannot change a bit.

enum { ROWS_PACKED = MR * 36, PANEL = 16 * NV };

static long op_matmul_work(long m) {
  long rows = m < ROWS_PACKED ? (m + MR - 1) / MR * MR : ROWS_PACKED;
  return (rows + PANEL) * BLOCK_K + 2 * TW;
}

// dst[k·width + i] = element k of row i, for rows rows and n values of k; element k of row i is at
// src[i·ri + k·rk], where ri or rk is 1. Rows from rows to width become +0. Writes up to TW floats past the end.
static void pack(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long width, long n) {
  if (rk == 1) {
    long k = 0;
    for (; k + TW <= n; k += TW) {
      for (long i = 0; i < width; i += TW) {
        long have = rows - i < 0 ? 0 : min_long(TW, rows - i);
        if (have == TW) {
          transpose(dst + k * width + i, width, src + i * ri + k, ri, TW);
        } else {
          transpose(dst + k * width + i, width, src + i * ri + k, ri, have);
        }
      }
    }
    for (; k < n; k++) {
      for (long i = 0; i < width; i++) dst[k * width + i] = i < rows ? src[i * ri + k] : 0.0f;
    }
    return;
  }
  if (rows == width && width % 16 == 0) {
    for (long k = 0; k < n; k++) {
      for (long i = 0; i < width; i += 16) vf_store(dst + k * width + i, vf_load(src + k * rk + i));
    }
    return;
  }
  for (long k = 0; k < n; k++) {
    for (long i = 0; i < width; i += 16) {
      long have = rows - i < 0 ? 0 : min_long(16, rows - i);
      vf v = vf_loadn(src + k * rk + i, have);
      if (width - i >= 16) {
        vf_store(dst + k * width + i, v);
      } else {
        vf_storen(dst + k * width + i, v, width - i);
      }
    }
  }
}

// What a tile does with its chains.
enum { TILE_SET, TILE_ADD };

// One block of a tile of mr rows and NV vectors: c = or += the chains over kc packed values, then + bias.
// rows and cols say how much of the tile exists.
static inline __attribute__((always_inline)) void tile(const int mr, const float* restrict a, const float* restrict b,
                                                       long kc, float* restrict c, long ldc, long rows, long cols,
                                                       int mode, const float* bias) {
  vf acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[i][v] = vf_set1(0.0f);
  }
  // The tile of c arrives while the chains are computed.
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) {
    const float* p = c + (i < rows ? i * ldc : 0);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) __builtin_prefetch(p + 16 * v, 1);
  }
  for (long k = 0; k < kc; k++) {
    vf x[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) x[v] = vf_load(b + 16 * v);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
      vf y = vf_set1(a[i]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) acc[i][v] = vf_fma(y, x[v], acc[i][v]);
    }
    a += mr;
    b += PANEL;
  }
  // The accumulators stay in registers only when every index is a constant.
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) {
    if (i < rows) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        float* p = c + i * ldc + 16 * v;
        long w = cols - 16 * v;
        vf s = acc[i][v];
        if (w >= 16) {
          if (mode == TILE_ADD) s = vf_add(vf_load(p), s);
          if (bias) s = vf_add(s, vf_load(bias + 16 * v));
          vf_store(p, s);
        } else if (w > 0) {
          if (mode == TILE_ADD) s = vf_add(vf_loadn(p, w), s);
          if (bias) s = vf_add(s, vf_loadn(bias + 16 * v, w));
          vf_storen(p, s, w);
        }
      }
    }
  }
}

typedef void (*tile_fn)(const float*, const float*, long, float*, long, long, long, int, const float*);

#define TILE(mr)                                                                                                 \
  static void tile_##mr(const float* a, const float* b, long kc, float* c, long ldc, long rows, long cols, int mode, \
                        const float* bias) {                                                                     \
    tile(mr, a, b, kc, c, ldc, rows, cols, mode, bias);                                                          \
  }
TILE(1) TILE(2) TILE(3) TILE(4)
#if MR > 4
TILE(5) TILE(6)
#endif
#if MR > 6
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)
#endif

static const tile_fn tiles[MR + 1] = {0, tile_1, tile_2, tile_3, tile_4,
#if MR > 4
                                      tile_5, tile_6,
#endif
#if MR > 6
                                      tile_7, tile_8, tile_9, tile_10, tile_11, tile_12, tile_13, tile_14
#endif
};

static void op_matmul(const matmul_args* t, float* work, long i0, long i1, long j0, long j1) {
  float* panel = work + op_matmul_work(i1 - i0) - PANEL * BLOCK_K - TW;
  for (long i = i0; i < i1; i += ROWS_PACKED) {
    long rows = min_long(ROWS_PACKED, i1 - i);
    // Tiles as equal as they can be: 64 rows are better cut as 5·13 than as 4·14 + 8.
    long count = (rows + MR - 1) / MR, mr = (rows + count - 1) / count;
    for (long k = 0; k < t->k; k += BLOCK_K) {
      long kc = min_long(BLOCK_K, t->k - k);
      int mode = k > 0 || t->accumulate ? TILE_ADD : TILE_SET;
      const float* bias = k + kc == t->k ? t->bias : 0;
      for (long r = 0; r < count; r++) {
        pack(work + r * mr * kc, t->a + (i + r * mr) * t->ai + k * t->ak, t->ai, t->ak, min_long(mr, rows - r * mr),
             mr, kc);
      }
      for (long j = j0; j < j1; j += PANEL) {
        long cols = min_long(PANEL, j1 - j);
        pack(panel, t->b + j * t->bj + k * t->bk, t->bj, t->bk, cols, PANEL, kc);
        tile_fn f = tiles[mr];
        for (long r = 0; r < count; r++) {
          f(work + r * mr * kc, panel, kc, t->c + (i + r * mr) * t->n + j, t->n, rows - r * mr, cols, mode,
            bias ? bias + j : 0);
        }
      }
    }
  }
}
