// Sixteen lanes in two AVX2 registers. See lanes_portable.h for what each operation means.
#define ISA avx2
#define MR 6  // rows of a matmul tile: 12 accumulators, 2 for a row of B, 1 broadcast
#define NV 1  // vectors in a row of a tile
#define UNROLL 4  // terms in a turn of a tile's loop, so that counting does not take a fifth of the instructions
#define AR 4  // rows of an attention tile, a divisor of BLOCK_K
#define AV 1  // vectors in a row of an attention tile
#define TW 8  // side of a transposed square

typedef struct {
  __m256 a, b;
} vf;

#define EACH(op) ((vf){op(x.a, y.a), op(x.b, y.b)})

static inline __m256i lanes_below(long n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : (int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_load(const float* p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void vf_store(float* p, vf x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
static inline vf vf_loadn(const float* p, long n) {
  return (vf){_mm256_maskload_ps(p, lanes_below(n)), _mm256_maskload_ps(p + 8, lanes_below(n - 8))};
}
static inline void vf_storen(float* p, vf x, long n) {
  _mm256_maskstore_ps(p, lanes_below(n), x.a);
  _mm256_maskstore_ps(p + 8, lanes_below(n - 8), x.b);
}
static inline vf vf_keep(vf x, long n) {
  return (vf){_mm256_and_ps(x.a, _mm256_castsi256_ps(lanes_below(n))),
              _mm256_and_ps(x.b, _mm256_castsi256_ps(lanes_below(n - 8)))};
}
static inline vf vf_set1(float a) { return (vf){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
static inline vf vf_add(vf x, vf y) { return EACH(_mm256_add_ps); }
static inline vf vf_sub(vf x, vf y) { return EACH(_mm256_sub_ps); }
static inline vf vf_mul(vf x, vf y) { return EACH(_mm256_mul_ps); }
static inline vf vf_div(vf x, vf y) { return EACH(_mm256_div_ps); }
static inline vf vf_max(vf x, vf y) { return EACH(_mm256_max_ps); }
static inline vf vf_min(vf x, vf y) { return EACH(_mm256_min_ps); }
static inline vf vf_sqrt(vf x) { return (vf){_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
static inline vf vf_fma(vf x, vf y, vf z) {
  return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline vf vf_fnma(vf x, vf y, vf z) {
  return (vf){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
static inline vf vf_negabs(vf x) {
  __m256 s = _mm256_set1_ps(-0.0f);
  return (vf){_mm256_or_ps(x.a, s), _mm256_or_ps(x.b, s)};
}

#define GE0(x) _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ)
#define NLE0(x) _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NLE_UQ)
#define GT0(x) _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ)
static inline vf vf_if_ge0(vf x, vf a, vf b) {
  return (vf){_mm256_blendv_ps(b.a, a.a, GE0(x.a)), _mm256_blendv_ps(b.b, a.b, GE0(x.b))};
}
static inline vf vf_zero_if_le0(vf x, vf a) {
  return (vf){_mm256_and_ps(a.a, NLE0(x.a)), _mm256_and_ps(a.b, NLE0(x.b))};
}
static inline vf vf_keep_if_gt0(vf x, vf a) {
  return (vf){_mm256_and_ps(a.a, GT0(x.a)), _mm256_and_ps(a.b, GT0(x.b))};
}
#undef GE0
#undef NLE0
#undef GT0

static inline vf vf_set1_bits(int32_t a) {
  __m256 x = _mm256_castsi256_ps(_mm256_set1_epi32(a));
  return (vf){x, x};
}
static inline __m256 above8(__m256 x, __m256 y) {
  return _mm256_or_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
static inline vf vf_if_above(vf x, vf y, vf a, vf b) {
  return (vf){_mm256_blendv_ps(b.a, a.a, above8(x.a, y.a)), _mm256_blendv_ps(b.b, a.b, above8(x.b, y.b))};
}
static inline __m256 same8(__m256 x, __m256 y) {
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
}
static inline vf vf_keep_if_same(vf x, vf y, vf a) {
  return (vf){_mm256_and_ps(a.a, same8(x.a, y.a)), _mm256_and_ps(a.b, same8(x.b, y.b))};
}

static inline __m256 ldexp8(__m256 p, __m256 t, __m256 magic) {
  __m256i i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic));
  __m256i h = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
  __m256i x = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23);
  __m256i y = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(x)), _mm256_castsi256_ps(y));
}
static inline vf vf_ldexp(vf p, vf t, vf magic) {
  return (vf){ldexp8(p.a, t.a, magic.a), ldexp8(p.b, t.b, magic.b)};
}

static inline int vf_nonfinite(vf x) {
  __m256i e = _mm256_set1_epi32(0x7f800000);
  __m256i p = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x.a), e), e);
  __m256i q = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x.b), e), e);
  return _mm256_movemask_epi8(_mm256_or_si256(p, q)) != 0;
}

static inline float vf_fold(vf x) {
  __m256 b = _mm256_add_ps(x.a, x.b);
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float vf_largest(vf x) {
  __m256 b = _mm256_max_ps(x.a, x.b);
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

#define BOTH(f) ((vf){f(x.a), f(x.b)})

static inline __m256 canon8(__m256 x) {
  __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  return _mm256_blendv_ps(x, nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
static inline vf vf_canon(vf x) { return BOTH(canon8); }

static inline __m256 round8(__m256 x) {
  __m256i u = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  u = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  u = _mm256_and_si256(u, _mm256_set1_epi32((int)0xffff0000));
  __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  return _mm256_blendv_ps(_mm256_castsi256_ps(u), nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
static inline vf vf_round_bf16(vf x) { return BOTH(round8); }

// Where a lane has a NaN or two zeros, a minimum gives its second operand: both orders together have all the bits.
static inline __m256 least8(__m256 a, __m256 b) { return _mm256_or_ps(_mm256_min_ps(a, b), _mm256_min_ps(b, a)); }
static inline __m256 greatest8(__m256 a, __m256 b) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return _mm256_xor_ps(sign, least8(_mm256_xor_ps(sign, a), _mm256_xor_ps(sign, b)));
}
static inline vf vf_least(vf x, vf y) { return EACH(least8); }
static inline vf vf_greatest(vf x, vf y) { return EACH(greatest8); }

static inline __m128i load8(const uint16_t* p) { return _mm_loadu_si128((const __m128i*)p); }
static inline __m256 widen_bf16(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline vf vf_load_bf16(const uint16_t* p) { return (vf){widen_bf16(load8(p)), widen_bf16(load8(p + 8))}; }
static inline void vf_store_bf16(uint16_t* p, vf x) {
  x = vf_round_bf16(x);
  __m256i a = _mm256_srli_epi32(_mm256_castps_si256(x.a), 16), b = _mm256_srli_epi32(_mm256_castps_si256(x.b), 16);
  // Packing works in each half by itself: the middle quarters change places.
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8));
}
static inline __m256 low8(__m256 x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16)); }
static inline __m256 high8(__m256 x) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000)));
}
static inline __m256 join8(__m256 a, __m256 b) {
  return _mm256_or_ps(_mm256_castsi256_ps(_mm256_srli_epi32(_mm256_castps_si256(a), 16)), b);
}
static inline vf vf_low(vf x) { return BOTH(low8); }
static inline vf vf_high(vf x) { return BOTH(high8); }
static inline vf vf_join(vf x, vf y) { return EACH(join8); }
static inline vf vf_load_f16(const uint16_t* p) {
  return (vf){_mm256_cvtph_ps(load8(p)), _mm256_cvtph_ps(load8(p + 8))};
}
static inline void vf_store_f16(uint16_t* p, vf x) {
  x = vf_canon(x);
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vf_stream(float* p, vf x) {
  _mm256_stream_ps(p, x.a);
  _mm256_stream_ps(p + 8, x.b);
}
static inline void stream_end(void) { _mm_sfence(); }

#include "lanes_flush.h"
#define VF_PIN(x) __asm__ volatile("" : "+x"((x).a), "+x"((x).b))

static inline void transpose(float* restrict d, long dd, const float* restrict s, long ld, int rows) {
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = i < rows ? _mm256_loadu_ps(s + i * ld) : _mm256_setzero_ps();
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    _mm256_storeu_ps(d + c * dd, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    _mm256_storeu_ps(d + (4 + c) * dd, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}

// vf_chain is vf_fma(y, x, acc) in acc's own registers: from the intrinsic, gcc may overwrite a factor instead, and then moves chains
// from register to register and into memory.
static inline vf vf_chain(vf y, vf x, vf acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc.a) : "x"(y.a), "x"(x.a));
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc.b) : "x"(y.b), "x"(x.b));
  return acc;
}
