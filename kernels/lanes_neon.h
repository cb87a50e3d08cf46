// Sixteen lanes in four NEON registers. See lanes_portable.h for what each operation means.
#define ISA neon
#define MR 5  // rows of a matmul tile: 20 accumulators; a row of B, in halves for class bf16, and broadcasts fill the other 12
#define NV 1  // vectors in a row of a tile
#define UNROLL 1  // terms in a turn of a tile's loop
#define AR 4  // rows of an attention tile, a divisor of BLOCK_K
#define AV 1  // vectors in a row of an attention tile
#define TW 8  // side of a transposed square

typedef struct {
  float32x4_t a, b, c, d;
} vf;

// The quarters of a vector: of one, two and three operands.
#define ONE(op, x) ((vf){op(x.a), op(x.b), op(x.c), op(x.d)})
#define TWO(op, x, y) ((vf){op(x.a, y.a), op(x.b, y.b), op(x.c, y.c), op(x.d, y.d)})
#define THREE(op, x, y, z) ((vf){op(x.a, y.a, z.a), op(x.b, y.b, z.b), op(x.c, y.c, z.c), op(x.d, y.d, z.d)})

#define BITS(x) vreinterpretq_u32_f32(x)
#define FLOATS(x) vreinterpretq_f32_u32(x)

// Whole vectors are bytes to memory: arrays of smaller elements need no alignment of floats.
static inline float32x4_t load4(const float* p) { return vreinterpretq_f32_u8(vld1q_u8((const uint8_t*)p)); }
static inline void store4(float* p, float32x4_t x) { vst1q_u8((uint8_t*)p, vreinterpretq_u8_f32(x)); }
static inline vf vf_load(const float* p) { return (vf){load4(p), load4(p + 4), load4(p + 8), load4(p + 12)}; }
static inline void vf_store(float* p, vf x) {
  store4(p, x.a);
  store4(p + 4, x.b);
  store4(p + 8, x.c);
  store4(p + 12, x.d);
}
static inline float32x4_t load_below(const float* p, long n) {
  if (n >= 4) return vld1q_f32(p);
  float32x4_t x = vdupq_n_f32(0);
  if (n > 0) x = vld1q_lane_f32(p, x, 0);
  if (n > 1) x = vld1q_lane_f32(p + 1, x, 1);
  if (n > 2) x = vld1q_lane_f32(p + 2, x, 2);
  return x;
}
static inline void store_below(float* p, float32x4_t x, long n) {
  if (n >= 4) {
    vst1q_f32(p, x);
    return;
  }
  if (n > 0) vst1q_lane_f32(p, x, 0);
  if (n > 1) vst1q_lane_f32(p + 1, x, 1);
  if (n > 2) vst1q_lane_f32(p + 2, x, 2);
}
static inline vf vf_loadn(const float* p, long n) {
  return (vf){load_below(p, n), load_below(p + 4, n - 4), load_below(p + 8, n - 8), load_below(p + 12, n - 12)};
}
static inline void vf_storen(float* p, vf x, long n) {
  store_below(p, x.a, n);
  store_below(p + 4, x.b, n - 4);
  store_below(p + 8, x.c, n - 8);
  store_below(p + 12, x.d, n - 12);
}
static inline float32x4_t keep_below(float32x4_t x, long n) {
  static const int32_t numbers[4] = {0, 1, 2, 3};
  return FLOATS(vandq_u32(BITS(x), vcgtq_s32(vdupq_n_s32((int32_t)n), vld1q_s32(numbers))));
}
static inline vf vf_keep(vf x, long n) {
  return (vf){keep_below(x.a, n), keep_below(x.b, n - 4), keep_below(x.c, n - 8), keep_below(x.d, n - 12)};
}

static inline vf vf_set1(float a) {
  float32x4_t x = vdupq_n_f32(a);
  return (vf){x, x, x, x};
}
static inline vf vf_add(vf x, vf y) { return TWO(vaddq_f32, x, y); }
static inline vf vf_sub(vf x, vf y) { return TWO(vsubq_f32, x, y); }
static inline vf vf_mul(vf x, vf y) { return TWO(vmulq_f32, x, y); }
static inline vf vf_div(vf x, vf y) { return TWO(vdivq_f32, x, y); }
static inline vf vf_sqrt(vf x) { return ONE(vsqrtq_f32, x); }
// The instructions have the sum first.
static inline vf vf_fma(vf x, vf y, vf z) { return THREE(vfmaq_f32, z, x, y); }
static inline vf vf_fnma(vf x, vf y, vf z) { return THREE(vfmsq_f32, z, x, y); }

// fmax and fmin treat NaN and zeros otherwise: a comparison chooses.
static inline float32x4_t max4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
static inline float32x4_t min4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
static inline vf vf_max(vf x, vf y) { return TWO(max4, x, y); }
static inline vf vf_min(vf x, vf y) { return TWO(min4, x, y); }

static inline float32x4_t negabs4(float32x4_t x) { return FLOATS(vorrq_u32(BITS(x), vdupq_n_u32(0x80000000u))); }
static inline vf vf_negabs(vf x) { return ONE(negabs4, x); }

static inline float32x4_t if_ge0(float32x4_t x, float32x4_t a, float32x4_t b) { return vbslq_f32(vcgezq_f32(x), a, b); }
static inline float32x4_t zero_if_le0(float32x4_t x, float32x4_t a) { return FLOATS(vbicq_u32(BITS(a), vclezq_f32(x))); }
static inline float32x4_t keep_if_gt0(float32x4_t x, float32x4_t a) { return FLOATS(vandq_u32(BITS(a), vcgtzq_f32(x))); }
static inline vf vf_if_ge0(vf x, vf a, vf b) { return THREE(if_ge0, x, a, b); }
static inline vf vf_zero_if_le0(vf x, vf a) { return TWO(zero_if_le0, x, a); }
static inline vf vf_keep_if_gt0(vf x, vf a) { return TWO(keep_if_gt0, x, a); }

static inline vf vf_set1_bits(int32_t a) {
  float32x4_t x = FLOATS(vdupq_n_u32((uint32_t)a));
  return (vf){x, x, x, x};
}
// x > y, or x is not itself.
static inline uint32x4_t above4(float32x4_t x, float32x4_t y) { return vornq_u32(vcgtq_f32(x, y), vceqq_f32(x, x)); }
static inline vf vf_if_above(vf x, vf y, vf a, vf b) {
  return (vf){vbslq_f32(above4(x.a, y.a), a.a, b.a), vbslq_f32(above4(x.b, y.b), a.b, b.b),
              vbslq_f32(above4(x.c, y.c), a.c, b.c), vbslq_f32(above4(x.d, y.d), a.d, b.d)};
}
static inline float32x4_t keep_if_same(float32x4_t x, float32x4_t y, float32x4_t a) {
  return FLOATS(vandq_u32(BITS(a), vceqq_u32(BITS(x), BITS(y))));
}
static inline vf vf_keep_if_same(vf x, vf y, vf a) { return THREE(keep_if_same, x, y, a); }

static inline float32x4_t power4(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
static inline float32x4_t ldexp4(float32x4_t p, float32x4_t t, float32x4_t magic) {
  int32x4_t n = vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(magic)), h = vshrq_n_s32(n, 1);
  return vmulq_f32(vmulq_f32(p, power4(h)), power4(vsubq_s32(n, h)));
}
static inline vf vf_ldexp(vf p, vf t, vf magic) { return THREE(ldexp4, p, t, magic); }

static inline uint32x4_t nonfinite4(float32x4_t x) {
  const uint32x4_t exponent = vdupq_n_u32(0x7f800000);
  return vceqq_u32(vandq_u32(BITS(x), exponent), exponent);
}
static inline int vf_nonfinite(vf x) {
  uint32x4_t a = vorrq_u32(nonfinite4(x.a), nonfinite4(x.b)), b = vorrq_u32(nonfinite4(x.c), nonfinite4(x.d));
  return vmaxvq_u32(vorrq_u32(a, b)) != 0;
}

static inline float vf_fold(vf x) {
  float32x4_t s = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  return vpadds_f32(vadd_f32(vget_low_f32(s), vget_high_f32(s)));
}

static inline float vf_largest(vf x) {
  float32x4_t m = max4(max4(x.a, x.c), max4(x.b, x.d));
  m = max4(m, vextq_f32(m, m, 2));
  return vgetq_lane_f32(max4(m, vextq_f32(m, m, 1)), 0);
}

static inline float32x4_t canon4(float32x4_t x) {
  return vbslq_f32(vceqq_f32(x, x), x, FLOATS(vdupq_n_u32(0x7fc00000)));
}
static inline vf vf_canon(vf x) { return ONE(canon4, x); }

static inline uint32x4_t round4(float32x4_t x) {
  uint32x4_t u = BITS(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  u = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  return vbslq_u32(vceqq_f32(x, x), vandq_u32(u, vdupq_n_u32(0xffff0000)), vdupq_n_u32(0x7fc00000));
}
static inline float32x4_t round_floats4(float32x4_t x) { return FLOATS(round4(x)); }
static inline vf vf_round_bf16(vf x) { return ONE(round_floats4, x); }
// These give NaN where either operand has one, and order zeros by their signs.
static inline vf vf_least(vf x, vf y) { return TWO(vminq_f32, x, y); }
static inline vf vf_greatest(vf x, vf y) { return TWO(vmaxq_f32, x, y); }

static inline float32x4_t load_bf16x4(const uint16_t* p) { return FLOATS(vshll_n_u16(vld1_u16(p), 16)); }
static inline vf vf_load_bf16(const uint16_t* p) {
  return (vf){load_bf16x4(p), load_bf16x4(p + 4), load_bf16x4(p + 8), load_bf16x4(p + 12)};
}
static inline void vf_store_bf16(uint16_t* p, vf x) {
  vst1q_u16(p, vcombine_u16(vshrn_n_u32(round4(x.a), 16), vshrn_n_u32(round4(x.b), 16)));
  vst1q_u16(p + 8, vcombine_u16(vshrn_n_u32(round4(x.c), 16), vshrn_n_u32(round4(x.d), 16)));
}
static inline float32x4_t low4(float32x4_t x) { return FLOATS(vshlq_n_u32(BITS(x), 16)); }
static inline float32x4_t high4(float32x4_t x) { return FLOATS(vandq_u32(BITS(x), vdupq_n_u32(0xffff0000))); }
static inline float32x4_t join4(float32x4_t x, float32x4_t y) { return FLOATS(vsriq_n_u32(BITS(y), BITS(x), 16)); }
static inline vf vf_low(vf x) { return ONE(low4, x); }
static inline vf vf_high(vf x) { return ONE(high4, x); }
static inline vf vf_join(vf x, vf y) { return TWO(join4, x, y); }
static inline vf vf_load_f16(const uint16_t* p) {
  float16x8_t x = vreinterpretq_f16_u16(vld1q_u16(p)), y = vreinterpretq_f16_u16(vld1q_u16(p + 8));
  return (vf){vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x), vcvt_f32_f16(vget_low_f16(y)), vcvt_high_f32_f16(y)};
}
static inline void vf_store_f16(uint16_t* p, vf x) {
  x = vf_canon(x);
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b)));
  vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.c), x.d)));
}

static inline void vf_stream(float* p, vf x) {
  __asm__ volatile("stnp %q2, %q3, [%1]\n\tstnp %q4, %q5, [%1, 32]"
                   : "=m"(*(float(*)[16])p)
                   : "r"(p), "w"(x.a), "w"(x.b), "w"(x.c), "w"(x.d));
}
static inline void stream_end(void) { __asm__ volatile("dmb ishst" ::: "memory"); }

// Two factors of a pair are added one after the other, the odd one first, between flush_begin and flush_end. That flushes what is
// subnormal before it is rounded, which the class does not: it may be the least normal number by then. So flush_end says whether
// anything was flushed, and such chains are computed again, lane by lane.
#define LANES_AGAIN
static inline vf vf_dot(vf y, vf x, vf acc) {
  return vf_fma(vf_low(y), vf_low(x), vf_fma(vf_high(y), vf_high(x), acc));
}
enum { FPCR_FZ = 1 << 24, FPSR_UFC = 1 << 3 };
static inline unsigned flush_begin(void) {
  unsigned long before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, xzr" ::"r"(before | FPCR_FZ));
  return (unsigned)before;
}
static inline int flush_end(unsigned before) {
  unsigned long status;
  __asm__ volatile("mrs %0, fpsr\n\tmsr fpcr, %1" : "=&r"(status) : "r"((unsigned long)before));
  return (status & FPSR_UFC) != 0;
}
#define VF_PIN(x) __asm__ volatile("" : "+w"((x).a), "+w"((x).b), "+w"((x).c), "+w"((x).d))

#include "lanes_exact.h"
#define LANE_BY_LANE(name, lane)                                   \
  static inline vf name(vf y, vf x, vf acc) {                      \
    float a[16], b[16], s[16];                                     \
    vf_store(a, y);                                                \
    vf_store(b, x);                                                \
    vf_store(s, acc);                                              \
    for (int i = 0; i < 16; i++) s[i] = lane(a[i], b[i], s[i]);    \
    return vf_load(s);                                             \
  }
LANE_BY_LANE(vf_dot_exact, dot1)
// Class bf16-amx is always computed so, without the mode.
LANE_BY_LANE(vf_even, even1)
LANE_BY_LANE(vf_odd, odd1)
static inline vf vf_sum(vf y, vf x) {
  float a[16], b[16];
  vf_store(a, y);
  vf_store(b, x);
  for (int i = 0; i < 16; i++) a[i] = sum1(a[i], b[i]);
  return vf_load(a);
}

// transpose4 turns four registers into their columns.
static inline void transpose4(float32x4_t r[4]) {
  float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
  float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
  r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

// A row of d may spill over into the next, so that rows are written in order.
static inline void transpose(float* restrict d, long dd, const float* restrict s, long ld, int rows) {
#pragma GCC unroll 2
  for (int k = 0; k < TW; k += 4) {
    float32x4_t left[4], right[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      left[i] = i < rows ? vld1q_f32(s + i * ld + k) : vdupq_n_f32(0);
      right[i] = 4 + i < rows ? vld1q_f32(s + (4 + i) * ld + k) : vdupq_n_f32(0);
    }
    transpose4(left);
    transpose4(right);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      vst1q_f32(d + (k + i) * dd, left[i]);
      vst1q_f32(d + (k + i) * dd + 4, right[i]);
    }
  }
}

#undef ONE
#undef TWO
#undef THREE
#undef BITS
#undef FLOATS

#define vf_chain vf_fma  // in a tile; AVX2 has another
