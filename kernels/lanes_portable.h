// Sixteen lanes in plain C: the meaning of every lane operation.
#define ISA portable
#define MR 4  // rows of a matmul tile
#define NV 1  // vectors in a row of a tile
#define UNROLL 1  // terms in a turn of a tile's loop
#define AR 4  // rows of an attention tile, a divisor of BLOCK_K
#define AV 1  // vectors in a row of an attention tile
#define TW 4  // side of a transposed square
#define LANES_IN_MEMORY

typedef struct {
  float v[16];
} vf;

#define LANES for (int i = 0; i < 16; i++)

#include "lanes_exact.h"

// The first n lanes are at p, the others are +0.
static inline vf vf_loadn(const float* p, long n) {
  vf r;
  LANES r.v[i] = i < n ? p[i] : 0.0f;
  return r;
}
static inline void vf_storen(float* p, vf a, long n) {
  LANES if (i < n) p[i] = a.v[i];
}
static inline vf vf_load(const float* p) {
  vf r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
static inline void vf_store(float* p, vf a) { memcpy(p, a.v, sizeof a.v); }

// Lanes from n on become +0.
static inline vf vf_keep(vf a, long n) {
  LANES a.v[i] = i < n ? a.v[i] : 0.0f;
  return a;
}

#define EACH(e)      \
  do {               \
    vf r;            \
    LANES r.v[i] = e; \
    return r;        \
  } while (0)

static inline vf vf_set1(float a) { EACH(a); }
static inline vf vf_add(vf a, vf b) { EACH(a.v[i] + b.v[i]); }
static inline vf vf_sub(vf a, vf b) { EACH(a.v[i] - b.v[i]); }
static inline vf vf_mul(vf a, vf b) { EACH(a.v[i] * b.v[i]); }
static inline vf vf_div(vf a, vf b) { EACH(a.v[i] / b.v[i]); }
static inline vf vf_sqrt(vf a) { EACH(sqrtf(a.v[i])); }
static inline vf vf_fma(vf a, vf b, vf c) { EACH(fma1(a.v[i], b.v[i], c.v[i])); }
static inline vf vf_fnma(vf a, vf b, vf c) { EACH(fma1(-a.v[i], b.v[i], c.v[i])); }

// Where a lane has a NaN, these give b: put the variable second to keep its NaN.
static inline vf vf_max(vf a, vf b) { EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_min(vf a, vf b) { EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }

// -|a|
static inline vf vf_negabs(vf a) { EACH(float_of(bits_of(a.v[i]) | 0x80000000u)); }

// a where x >= 0, else b
static inline vf vf_if_ge0(vf x, vf a, vf b) { EACH(x.v[i] >= 0 ? a.v[i] : b.v[i]); }
// +0 where x <= 0, else a
static inline vf vf_zero_if_le0(vf x, vf a) { EACH(x.v[i] <= 0 ? 0.0f : a.v[i]); }
// a where x > 0, else +0
static inline vf vf_keep_if_gt0(vf x, vf a) { EACH(x.v[i] > 0 ? a.v[i] : 0.0f); }

static inline vf vf_set1_bits(int32_t a) { EACH(float_of((uint32_t)a)); }
// a where x > y or x is NaN, else b
static inline vf vf_if_above(vf x, vf y, vf a, vf b) {
  EACH(x.v[i] > y.v[i] || x.v[i] != x.v[i] ? a.v[i] : b.v[i]);
}
// a where x and y have the same bits, else +0
static inline vf vf_keep_if_same(vf x, vf y, vf a) { EACH(bits_of(x.v[i]) == bits_of(y.v[i]) ? a.v[i] : 0.0f); }

static inline float power_of_two(int32_t n) { return float_of(((uint32_t)n + 127u) << 23); }
static inline float ldexp1(float p, float t, float magic) {
  int32_t n = (int32_t)(bits_of(t) - bits_of(magic)), h = n >> 1;
  return p * power_of_two(h) * power_of_two(n - h);
}
// p·2ⁿ with n = bits(t) - bits(magic), in two multiplications.
static inline vf vf_ldexp(vf p, vf t, vf magic) { EACH(ldexp1(p.v[i], t.v[i], magic.v[i])); }

// Whether a lane is infinite or NaN.
static inline int vf_nonfinite(vf a) {
  int r = 0;
  LANES r |= (bits_of(a.v[i]) & 0x7f800000u) == 0x7f800000u;
  return r;
}

// The sum of the lanes in the canonical order.
static inline float vf_fold(vf a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}

static inline float vf_largest(vf a) {
  float m = a.v[0];
  LANES m = m > a.v[i] ? m : a.v[i];
  return m;
}

// The operations of reductions.

// NaN becomes the canonical one.
static inline vf vf_canon(vf a) { EACH(a.v[i] != a.v[i] ? float_of(0x7fc00000u) : a.v[i]); }
// A bfloat16 in each lane: nearest even, NaN canonical.
static inline uint32_t round_bf16(float x) {
  uint32_t u = bits_of(x);
  return x != x ? 0x7fc00000u : (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
}
static inline vf vf_round_bf16(vf a) { EACH(float_of(round_bf16(a.v[i]))); }
// The lesser and the greater, -0 < +0; NaN, not canonical, if either is.
static inline float least1(float a, float b) {
  return a != a || b != b ? a + b : float_of(a < b ? bits_of(a) : b < a ? bits_of(b) : bits_of(a) | bits_of(b));
}
static inline vf vf_least(vf a, vf b) { EACH(least1(a.v[i], b.v[i])); }
static inline vf vf_greatest(vf a, vf b) { EACH(-least1(-a.v[i], -b.v[i])); }

static inline vf vf_load_bf16(const uint16_t* p) { EACH(float_of((uint32_t)p[i] << 16)); }
static inline void vf_store_bf16(uint16_t* p, vf a) {
  LANES p[i] = (uint16_t)(round_bf16(a.v[i]) >> 16);
}
// The lower and the upper halves of the bits as bfloat16, and two rounded vectors as such halves.
static inline vf vf_low(vf a) { EACH(float_of(bits_of(a.v[i]) << 16)); }
static inline vf vf_high(vf a) { EACH(float_of(bits_of(a.v[i]) & 0xffff0000u)); }
static inline vf vf_join(vf a, vf b) { EACH(float_of(bits_of(a.v[i]) >> 16 | bits_of(b.v[i]))); }
static inline float f16_widen(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
  // Raise the exponent's bias by 112; infinities and NaN need as much again, subnormal numbers a subtraction.
  uint32_t normal = rest + ((127u - 15) << 23), special = rest | 0x7f800000u;
  uint32_t small = bits_of((float)(h & 0x3ff) * 0x1p-24f);
  uint32_t exponent = h & 0x7c00;
  return float_of(sign | (exponent == 0x7c00 ? special : exponent == 0 ? small : normal));
}
static inline uint16_t f16_round(float x) {
  uint32_t u = bits_of(x), sign = u >> 16 & 0x8000;
  u &= 0x7fffffff;
  if (u > 0x7f800000) return 0x7e00;
  if (u >= 0x47800000) return (uint16_t)(sign | 0x7c00);
  // 0.5 + a subnormal float16 has its value in the low bits, rounded.
  if (u < 0x38800000) return (uint16_t)(sign | (bits_of(float_of(u) + 0.5f) - 0x3f000000));
  return (uint16_t)(sign | ((u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13));
}
static inline vf vf_load_f16(const uint16_t* p) { EACH(f16_widen(p[i])); }
static inline void vf_store_f16(uint16_t* p, vf a) {
  LANES p[i] = f16_round(a.v[i]);
}

// vf_stream stores past the caches where the machine can: p is a multiple of 64. stream_end orders such stores before
// the stores that follow.
static inline void vf_stream(float* p, vf a) { vf_store(p, a); }
static inline void stream_end(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

// Two factors of a pair are added one after the other, the odd one first, between flush_begin and flush_end. Where flush_end can
// say that chains may be wrong, LANES_AGAIN is defined and vf_dot_exact computes them.
static inline vf vf_dot(vf y, vf x, vf acc) { EACH(dot1(y.v[i], x.v[i], acc.v[i])); }
// The even or the odd terms of a group, and sums of those, in class bf16-amx: between flush_begin and flush_end too, but always right.
static inline vf vf_even(vf y, vf x, vf acc) { EACH(even1(y.v[i], x.v[i], acc.v[i])); }
static inline vf vf_odd(vf y, vf x, vf acc) { EACH(odd1(y.v[i], x.v[i], acc.v[i])); }
static inline vf vf_sum(vf a, vf b) { EACH(sum1(a.v[i], b.v[i])); }
static inline unsigned flush_begin(void) { return 0; }
static inline void flush_end(unsigned before) { (void)before; }
#define VF_PIN(x) (void)0

// d[k·dd + i] = s[i·ld + k] for i, k < TW; rows from rows on count as zeros and are not read.
static inline void transpose(float* restrict d, long dd, const float* restrict s, long ld, int rows) {
  for (int k = 0; k < TW; k++) {
    for (int i = 0; i < TW; i++) d[k * dd + i] = i < rows ? s[i * ld + k] : 0.0f;
  }
}

#define vf_chain vf_fma  // in a tile; AVX2 has another
