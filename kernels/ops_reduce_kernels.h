// What a reduction does with one element: for every type, combine two arrays and finish one.
// dst may be an operand itself. NaN results are canonical.

typedef void (*combine_fn)(void* dst, const void* a, const void* b, long n);
typedef void (*finish_fn)(void* dst, const void* src, long n, long divisor);

// Iterations depend on nothing before them, although an array may be read and written.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

// The types that are computed in float lanes: how w <= 16 elements are read and written.

static inline vf load_float(const float* p, long w) { return load_w(p, w); }
static inline void store_float(float* p, vf a, long w) { store_w(p, vf_canon(a), w); }
static inline vf load_rounded(const float* p, long w) { return vf_round_bf16(load_w(p, w)); }
static inline void store_rounded(float* p, vf a, long w) { store_w(p, vf_round_bf16(a), w); }

#define LANES_OF_16_BITS(type)                                     \
  static inline vf load_##type(const uint16_t* p, long w) {        \
    if (w == 16) return vf_load_##type(p);                         \
    uint16_t t[16] = {0};                                          \
    memcpy(t, p, 2 * w);                                           \
    return vf_load_##type(t);                                      \
  }                                                                \
  static inline void store_##type(uint16_t* p, vf a, long w) {     \
    if (w == 16) {                                                 \
      vf_store_##type(p, a);                                       \
      return;                                                      \
    }                                                              \
    uint16_t t[16];                                                \
    vf_store_##type(t, a);                                         \
    memcpy(p, t, 2 * w);                                           \
  }
LANES_OF_16_BITS(bf16)
LANES_OF_16_BITS(f16)
#undef LANES_OF_16_BITS

#define COMBINE_LANES(type, T, name, f)                                               \
  static void type##_##name(void* dst, const void* a, const void* b, long n) {        \
    T* d = dst;                                                                       \
    const T *x = a, *y = b;                                                           \
    BODY(n, store_##type(d + i, f(load_##type(x + i, w), load_##type(y + i, w)), w)); \
  }
// Thirty-two bfloat16 at a time: the halves of a float's bits are two elements.
#define COMBINE_PAIRS(name, f)                                                                          \
  static void bf16_##name(void* dst, const void* a, const void* b, long n) {                            \
    uint16_t* d = dst;                                                                                  \
    const uint16_t *p = a, *q = b;                                                                      \
    for (; n >= 32; n -= 32, d += 32, p += 32, q += 32) {                                               \
      vf x = vf_load((const float*)p), y = vf_load((const float*)q);                                    \
      vf low = vf_round_bf16(f(vf_low(x), vf_low(y))), high = vf_round_bf16(f(vf_high(x), vf_high(y))); \
      vf_store((float*)d, vf_join(low, high));                                                          \
    }                                                                                                   \
    BODY(n, store_bf16(d + i, f(load_bf16(p + i, w), load_bf16(q + i, w)), w));                         \
  }

#define FINISH_LANES(type, T)                                                           \
  static void type##_finish(void* dst, const void* src, long n, long divisor) {         \
    T* d = dst;                                                                         \
    const T* x = src;                                                                   \
    const vf by = vf_set1((float)divisor);                                              \
    if (divisor > 1) {                                                                  \
      BODY(n, store_##type(d + i, vf_div(load_##type(x + i, w), by), w));               \
    } else {                                                                            \
      BODY(n, store_##type(d + i, load_##type(x + i, w), w));                           \
    }                                                                                   \
  }

#define FLOAT_LANES(type, T)                            \
  COMBINE_LANES(type, T, sum, vf_add)                   \
  COMBINE_LANES(type, T, prod, vf_mul)                  \
  COMBINE_LANES(type, T, min, vf_least)                 \
  COMBINE_LANES(type, T, max, vf_greatest)              \
  FINISH_LANES(type, T)
FLOAT_LANES(float, float)
FLOAT_LANES(rounded, float)
FLOAT_LANES(f16, uint16_t)
COMBINE_PAIRS(sum, vf_add)
COMBINE_PAIRS(prod, vf_mul)
COMBINE_PAIRS(min, vf_least)
COMBINE_PAIRS(max, vf_greatest)
FINISH_LANES(bf16, uint16_t)
#undef FLOAT_LANES
#undef FINISH_LANES
#undef COMBINE_LANES
#undef COMBINE_PAIRS

// The other types, in loops that compilers turn into vectors.

static inline double double_of(uint64_t u) {
  double x;
  memcpy(&x, &u, sizeof x);
  return x;
}
static inline uint64_t bits_of_double(double x) {
  uint64_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
static inline double canon_double(double x) { return x != x ? double_of(0x7ff8000000000000u) : x; }
static inline double least_double(double a, double b) {
  double lesser = a < b ? a : b;
  double equal = double_of(bits_of_double(a) | bits_of_double(b));  // the same number, or zeros of which one may be -0
  double r = a == b ? equal : lesser;
  return a != a ? a : r;
}

#define COMBINE(type, T, name, e)                                              \
  static void type##_##name(void* dst, const void* a, const void* b, long n) { \
    T* d = dst;                                                                \
    const T *p = a, *q = b;                                                    \
    INDEPENDENT for (long i = 0; i < n; i++) {                                 \
      const T x = p[i], y = q[i];                                              \
      d[i] = (e);                                                              \
    }                                                                          \
  }
COMBINE(f64, double, sum, canon_double(x + y))
COMBINE(f64, double, prod, canon_double(x * y))
COMBINE(f64, double, min, canon_double(least_double(x, y)))
COMBINE(f64, double, max, canon_double(-least_double(-x, -y)))

static void f64_finish(void* dst, const void* src, long n, long divisor) {
  double* d = dst;
  const double *p = src, by = divisor > 1 ? (double)divisor : 1.0;
  INDEPENDENT for (long i = 0; i < n; i++) d[i] = canon_double(p[i] / by);
}

// Integers wrap: the arithmetic is that of the unsigned type U.
#define INTEGERS(type, T, U)                                                    \
  COMBINE(type, T, sum, (T)((U)x + (U)y))                                       \
  COMBINE(type, T, prod, (T)((U)x * (U)y))                                      \
  COMBINE(type, T, min, x < y ? x : y)                                          \
  COMBINE(type, T, max, x > y ? x : y)                                          \
  static void type##_finish(void* dst, const void* src, long n, long divisor) { \
    T* d = dst;                                                                 \
    const T* p = src;                                                           \
    if (divisor <= 1) {                                                         \
      memmove(dst, src, n * sizeof(T));                                         \
      return;                                                                   \
    }                                                                           \
    for (long i = 0; i < n; i++) d[i] = (T)((int64_t)p[i] / divisor);           \
  }
INTEGERS(i32, int32_t, uint32_t)
INTEGERS(i64, int64_t, uint64_t)
INTEGERS(u8, uint8_t, unsigned)
#undef INTEGERS
#undef COMBINE

typedef struct {
  int size;
  combine_fn combine[RED_OPS];
  finish_fn finish;
} element_type;

#define TYPE(type, size) {size, {type##_sum, type##_prod, type##_min, type##_max}, type##_finish}
// The last is float32 with every value rounded to a bfloat16.
static const element_type element_types[TYPES + 1] = {
    TYPE(float, 4), TYPE(f64, 8), TYPE(bf16, 2), TYPE(f16, 2), TYPE(i32, 4), TYPE(i64, 8), TYPE(u8, 1), TYPE(rounded, 4),
};
#undef TYPE

static void op_encode_bf16(uint16_t* dst, const float* src, long n) {
  BODY(n, store_bf16(dst + i, load_w(src + i, w), w));
}

static void op_decode_bf16(float* dst, const uint16_t* src, long n) {
  BODY(n, store_w(dst + i, load_bf16(src + i, w), w));
}
