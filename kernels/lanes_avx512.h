// Sixteen lanes in one AVX-512 register. See lanes_portable.h for what each operation means.
#define ISA avx512
#define MR 14  // rows of a matmul tile: 28 accumulators, 2 columns of B, 1 broadcast
#define NV 2   // vectors in a row of a tile
#define UNROLL 1  // terms in a turn of a tile's loop
#define AR 8   // rows of an attention tile, a divisor of BLOCK_K
#define AV 2   // vectors in a row of an attention tile
#define TW 16  // side of a transposed square
#define LANES_DOT
#define LANES_AMX

typedef __m512 vf;

static inline __mmask16 lanes_below(long n) { return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }

static inline vf vf_load(const float* p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float* p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_loadn(const float* p, long n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
static inline void vf_storen(float* p, vf a, long n) { _mm512_mask_storeu_ps(p, lanes_below(n), a); }
static inline vf vf_keep(vf a, long n) { return _mm512_maskz_mov_ps(lanes_below(n), a); }
static inline vf vf_set1(float a) { return _mm512_set1_ps(a); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_negabs(vf a) { return _mm512_or_ps(a, _mm512_set1_ps(-0.0f)); }

static inline vf vf_if_ge0(vf x, vf a, vf b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), b, a);
}
static inline vf vf_zero_if_le0(vf x, vf a) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), a);
}
static inline vf vf_keep_if_gt0(vf x, vf a) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), a);
}

static inline vf vf_set1_bits(int32_t a) { return _mm512_castsi512_ps(_mm512_set1_epi32(a)); }
static inline vf vf_if_above(vf x, vf y, vf a, vf b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ) | _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, a);
}
static inline vf vf_keep_if_same(vf x, vf y, vf a) {
  return _mm512_maskz_mov_ps(_mm512_cmpeq_epi32_mask(_mm512_castps_si512(x), _mm512_castps_si512(y)), a);
}

static inline vf vf_ldexp(vf p, vf t, vf magic) {
  __m512i i = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_castps_si512(magic));
  __m512i h = _mm512_srai_epi32(i, 1), bias = _mm512_set1_epi32(127);
  __m512i x = _mm512_slli_epi32(_mm512_add_epi32(h, bias), 23);
  __m512i y = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(i, h), bias), 23);
  return _mm512_mul_ps(_mm512_mul_ps(p, _mm512_castsi512_ps(x)), _mm512_castsi512_ps(y));
}

static inline int vf_nonfinite(vf a) {
  __m512i e = _mm512_set1_epi32(0x7f800000);
  return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a), e), e) != 0;
}

static inline float vf_fold(vf a) {
  __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float vf_largest(vf a) { return _mm512_reduce_max_ps(a); }

static inline vf vf_canon(vf a) {
  return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q),
                            _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
}
static inline vf vf_round_bf16(vf a) {
  __m512i u = _mm512_castps_si512(a);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  u = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  u = _mm512_and_si512(u, _mm512_set1_epi32((int)0xffff0000));
  return _mm512_castsi512_ps(
      _mm512_mask_mov_epi32(u, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000)));
}
// Where a lane has a NaN or two zeros, a minimum gives its second operand: both orders together have all the bits.
static inline vf vf_least(vf a, vf b) { return _mm512_or_ps(_mm512_min_ps(a, b), _mm512_min_ps(b, a)); }
static inline vf vf_greatest(vf a, vf b) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return _mm512_xor_ps(sign, vf_least(_mm512_xor_ps(sign, a), _mm512_xor_ps(sign, b)));
}
static inline vf vf_load_bf16(const uint16_t* p) {
  __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
static inline void vf_store_bf16(uint16_t* p, vf a) {
  __m512i u = _mm512_castps_si512(vf_round_bf16(a));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16)));
}
static inline vf vf_low(vf a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 16)); }
static inline vf vf_high(vf a) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0xffff0000)));
}
static inline vf vf_join(vf a, vf b) {
  return _mm512_or_ps(_mm512_castsi512_ps(_mm512_srli_epi32(_mm512_castps_si512(a), 16)), b);
}
static inline vf vf_load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline void vf_store_f16(uint16_t* p, vf a) {
  __m256i h = _mm512_cvtps_ph(vf_canon(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256((__m256i*)p, h);
}
static inline void vf_stream(float* p, vf a) { _mm512_stream_ps(p, a); }
static inline void stream_end(void) { _mm_sfence(); }

#include "lanes_flush.h"
// VF_PIN keeps arithmetic on its side of a change of mode.
#define VF_PIN(x) __asm__ volatile("" : "+v"(x))

// transpose_registers turns sixteen vectors into their columns.
static inline void transpose_registers(vf r[16]) {
  __m512 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#define PD(x) _mm512_castps_pd(x)
#define PS(x) _mm512_castpd_ps(x)
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = PS(_mm512_unpacklo_pd(PD(t[i]), PD(t[i + 2])));
    r[i + 1] = PS(_mm512_unpackhi_pd(PD(t[i]), PD(t[i + 2])));
    r[i + 2] = PS(_mm512_unpacklo_pd(PD(t[i + 1]), PD(t[i + 3])));
    r[i + 3] = PS(_mm512_unpackhi_pd(PD(t[i + 1]), PD(t[i + 3])));
  }
#undef PD
#undef PS
  // r[4g+c] has columns c, c+4, c+8, c+12 of rows 4g … 4g+3: now the quarters change places.
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    __m512 a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    __m512 e = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd), f = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_f32x4(a, b, 0x88);
    t[8 + c] = _mm512_shuffle_f32x4(a, b, 0xdd);
    t[4 + c] = _mm512_shuffle_f32x4(e, f, 0x88);
    t[12 + c] = _mm512_shuffle_f32x4(e, f, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

static inline void transpose(float* restrict d, long dd, const float* restrict s, long ld, int rows) {
  __m512 r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = i < rows ? _mm512_loadu_ps(s + i * ld) : _mm512_setzero_ps();
  transpose_registers(r);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) _mm512_storeu_ps(d + i * dd, r[i]);
}

#ifdef __linux__
#define LANES_TILES  // tile_avx512_amd64.S has tiles for float32
#endif

#define vf_chain vf_fma  // in a tile; AVX2 has another
