// The products of class bf16: a packed value is two factors as bfloat16, the one of the even k in its lower half. See
// canonical.go.
//
// vdpbf16ps, where there is one, computes a chain of this class by itself. Elsewhere two fused multiply-adds do it, in the
// mode that flushes subnormal results; that is several times as slow.

// factor_bf16 rounds a factor to bfloat16: nearest even, but a subnormal number becomes a zero of its sign.
static inline uint32_t factor_bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  if (x != x) return 0x7fc00000u;
  if ((u & 0x7f800000u) == 0) return u & 0x80000000u;
  return (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
}

static inline float pair_bf16(float even, float odd) {
  uint32_t u = factor_bf16(even) >> 16 | factor_bf16(odd);
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

// pack_pairs is pack_panel with a pair of values of k in each packed one: dst[k/2·width + i]. The last may lack its odd half.
static void pack_pairs(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long width, long n,
                       ahead* next) {
  (void)next;
  for (long k = 0; k < n; k += 2) {
    for (long i = 0; i < width; i++) {
      const float* p = src + i * ri + k * rk;
      *dst++ = i < rows ? pair_bf16(p[0], k + 1 < n ? p[rk] : 0.0f) : 0.0f;
    }
  }
}

static void pack_tile_pairs(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long n, ahead* next) {
  pack_pairs(dst, src, ri, rk, rows, rows, n, next);
}

#ifdef LANES_AGAIN
// tile_again computes the chains of a tile of mr rows anew.
static __attribute__((noinline)) void tile_again(vf (*acc)[NV], long mr, const float* a, const float* b, long depth) {
  for (long i = 0; i < mr; i++) {
    for (long v = 0; v < NV; v++) {
      vf s = vf_set1(0.0f);
      for (long k = 0; k < depth; k++) s = vf_dot_exact(vf_set1(a[k * mr + i]), vf_load(b + k * PANEL + 16 * v), s);
      acc[i][v] = s;
    }
  }
}
// Chains whose addresses were given away would not stay in registers: they get copies.
#define TILE_END                                                                                       \
  if (flush_end(mode_before)) {                                                                        \
    vf again[MR][NV];                                                                                  \
    tile_again(again, mr, a, b - depth * bs, depth);                                                \
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {                                            \
      _Pragma("GCC unroll 4") for (int v = 0; v < NV; v++) acc[i][v] = again[i][v];                    \
    }                                                                                                  \
  }
#else
#define TILE_END flush_end(mode_before);
#endif
#define TILE_KIND pairs
#define TILE_CHAIN(y, x, acc) vf_dot(y, x, acc)
#define TILE_IN_PLACE 0
#define TILE_BEGIN const unsigned mode_before = flush_begin();
#define TILE_PIN(x) VF_PIN(x)
#include "ops_matmul_tile.h"

// DOT_LOOP defines fma_loop for the chains of this class. Subnormal results do not occur in it.
#define DOT_LOOP(name, chain)                                              \
  static float name(long rounds, float x) {                                \
    vf acc[FMA_CHAINS], a = vf_set1(pair_bf16(x, x));                      \
    _Pragma("GCC unroll 16") for (int i = 0; i < FMA_CHAINS; i++) {        \
      acc[i] = vf_set1(x + i);                                             \
    }                                                                      \
    for (long r = 0; r < rounds; r++) {                                    \
      _Pragma("GCC unroll 16") for (int i = 0; i < FMA_CHAINS; i++) {      \
        acc[i] = chain(a, a, acc[i]);                                      \
        VF_PIN(acc[i]);                                                    \
      }                                                                    \
    }                                                                      \
    return vf_fold(acc[0]);                                                \
  }

DOT_LOOP(dot_loop, vf_dot)

#ifdef LANES_DOT

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16")
#endif

// Two vectors as pairs: lane i has those of even[i] and odd[i].
static inline vf join_pairs(vf even, vf odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
}

// store_pairs stores the first count lanes; more where what it spills over is still to be written, that is before end.
static inline void store_pairs(float* p, vf x, long count, const float* end) {
  if (p + 16 <= end) {
    vf_store(p, x);
  } else {
    vf_storen(p, x, count);
  }
}

static void dot_pack_pairs(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long width, long n,
                           ahead* next) {
  const float* end = dst + (n + 1) / 2 * width;
  long k = 0;
  if (rk == 1) {
    for (; k + 32 <= n; k += 32) {
      for (long i = 0; i < width; i += 16) {
        const float* p = src + i * ri + k;
        const long have = rows - i;
        ahead_lines(next, 32);
        vf r[16];
        // Thirty-two floats in order are sixteen pairs.
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) {
          r[j] = j < have ? (vf)_mm512_cvtne2ps_pbh(vf_load(p + j * ri + 16), vf_load(p + j * ri)) : vf_set1(0.0f);
        }
        transpose_registers(r);
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) store_pairs(dst + (k / 2 + j) * width + i, r[j], width - i, end);
      }
    }
    pack_pairs(dst + k / 2 * width, src + k, ri, 1, rows, width, n - k, next);
    return;
  }
  for (; k < n; k += 2) {
    for (long i = 0; i < width; i += 16) {
      const float* p = src + k * rk + i;
      ahead_lines(next, 2);
      const long have = rows - i < 0 ? 0 : rows - i;
      vf even = vf_loadn(p, have), odd = k + 1 < n ? vf_loadn(p + rk, have) : vf_set1(0.0f);
      store_pairs(dst + k / 2 * width + i, join_pairs(even, odd), width - i, end);
    }
  }
}

static void dot_pack_tile_pairs(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long n,
                                ahead* next) {
  dot_pack_pairs(dst, src, ri, rk, rows, rows, n, next);
}

static inline vf hardware_dot(vf y, vf x, vf acc) {
  return _mm512_dpbf16_ps(acc, (__m512bh)y, (__m512bh)x);
}

#define TILE_KIND dot
#define TILE_CHAIN(y, x, acc) hardware_dot(y, x, acc)
#define TILE_IN_PLACE 0
#define TILE_BEGIN
#define TILE_END
#define TILE_PIN(x)
#include "ops_matmul_tile.h"

DOT_LOOP(hardware_dot_loop, hardware_dot)

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

#undef DOT_LOOP
