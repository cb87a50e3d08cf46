// Operations that treat every element alike, and the functions they need.

// BODY runs e for i = 0, 16, 32 … below n, with w elements each: 16, and fewer the last time.
#define BODY(n, e)              \
  do {                          \
    long i = 0;                 \
    for (; i + 16 <= (n); i += 16) { \
      const long w = 16;        \
      e;                        \
    }                           \
    if (i < (n)) {              \
      const long w = (n) - i;   \
      e;                        \
    }                           \
  } while (0)

static inline vf load_w(const float* p, long w) { return w == 16 ? vf_load(p) : vf_loadn(p, w); }
static inline void store_w(float* p, vf a, long w) {
  if (w == 16) {
    vf_store(p, a);
  } else {
    vf_storen(p, a, w);
  }
}
static inline vf keep_w(vf a, long w) { return w == 16 ? a : vf_keep(a, w); }

static inline vf vf_exp(vf x) {
  const vf magic = vf_set1(0x1.8p23f);
  x = vf_min(vf_set1(89.0f), vf_max(vf_set1(-104.0f), x));
  vf t = vf_fma(x, vf_set1(0x1.715476p+0f), magic);
  vf n = vf_sub(t, magic);
  vf r = vf_fma(n, vf_set1(-0x1.63p-1f), x);
  r = vf_fma(n, vf_set1(0x1.bd0106p-13f), r);
  vf p = vf_set1(0x1.6d117cp-10f);
  p = vf_fma(p, r, vf_set1(0x1.120be2p-7f));
  p = vf_fma(p, r, vf_set1(0x1.555518p-5f));
  p = vf_fma(p, r, vf_set1(0x1.5554dcp-3f));
  p = vf_fma(p, r, vf_set1(0.5f));
  p = vf_fma(p, r, vf_set1(1.0f));
  p = vf_fma(p, r, vf_set1(1.0f));
  return vf_ldexp(p, t, magic);
}

// log1 is the natural logarithm of a normal positive number, +Inf or NaN.
static float log1(float x) {
  static const float l[9] = {0x1.1d8ea6p-4f,  -0x1.d635bcp-4f, 0x1.dea282p-4f,  -0x1.fcf4c6p-4f, 0x1.23d21ap-3f,
                             -0x1.555b4ap-3f, 0x1.999d5ap-3f,  -0x1.fffffcp-3f, 0x1.555554p-2f};
  const uint32_t sqrt_half = 0x3f3504f3;
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  if (x != x || u == 0x7f800000) return x;
  int32_t i = (int32_t)(u - sqrt_half) >> 23;
  u -= (uint32_t)i << 23;
  float f, e = (float)i;
  memcpy(&f, &u, sizeof f);
  f = f - 1.0f;
  float p = l[0];
  for (int j = 1; j < 9; j++) p = fma1(p, f, l[j]);
  float q = f * f;
  float y = f * q;
  y = y * p;
  y = fma1(e, -0x1.bd0106p-13f, y);
  y = fma1(-0.5f, q, y);
  y = f + y;
  return fma1(e, 0x1.63p-1f, y);
}

static void op_add(float* dst, const float* a, const float* b, long n) {
#define E vf x = vf_add(load_w(a + i, w), load_w(b + i, w)); store_w(dst + i, x, w)
  BODY(n, E);
#undef E
}

static void op_scale(float* x, float s, long n) {
  const vf f = vf_set1(s);
#define E store_w(x + i, vf_mul(load_w(x + i, w), f), w)
  BODY(n, E);
#undef E
}

// The logistic function σ(2u) of GELU and, where slope is not NULL, GELU's derivative.
static inline __attribute__((always_inline)) vf gelu_sigmoid(vf x, vf* slope) {
  const vf one = vf_set1(1.0f), linear = vf_set1(1.5957691216057308f);
  vf y = vf_max(vf_set1(-32.0f), vf_min(vf_set1(32.0f), x));
  vf q = vf_mul(y, y);
  vf u2 = vf_mul(y, vf_fma(q, vf_set1(0.07135481282605335f), linear));
  vf a = vf_exp(vf_negabs(u2));
  vf d = vf_div(one, vf_add(one, a));
  vf ad = vf_mul(a, d);
  vf s = vf_if_ge0(u2, d, ad);
  if (slope) {
    vf w = vf_fma(q, vf_set1(0.21406443847816005f), linear);
    vf t = vf_mul(ad, d);
    t = vf_mul(vf_mul(y, w), t);
    *slope = vf_add(s, t);
  }
  return s;
}

static void op_gelu(float* out, const float* x, long n) {
#define E vf v = load_w(x + i, w); store_w(out + i, vf_mul(v, gelu_sigmoid(v, 0)), w)
  BODY(n, E);
#undef E
}

static void op_gelu_backward(float* dx, float* out, const float* dout, const float* x, long n) {
#define E                                          \
  vf s, v = load_w(x + i, w);                      \
  vf y = vf_mul(v, gelu_sigmoid(v, &s));           \
  store_w(dx + i, vf_mul(load_w(dout + i, w), s), w); \
  if (out) store_w(out + i, y, w)
  BODY(n, E);
#undef E
}

static void op_relu(float* out, const float* x, long n) {
#define E vf v = load_w(x + i, w); store_w(out + i, vf_zero_if_le0(v, v), w)
  BODY(n, E);
#undef E
}

static void op_relu_backward(float* dx, const float* dout, const float* x, long n) {
#define E store_w(dx + i, vf_keep_if_gt0(load_w(x + i, w), load_w(dout + i, w)), w)
  BODY(n, E);
#undef E
}

static void op_adamw(float* p, const float* g, float* m, float* v, long n, const adamw_factors* f) {
  const vf gscale = vf_set1(f->gscale), beta1 = vf_set1(f->beta1), beta2 = vf_set1(f->beta2);
  const vf rest1 = vf_set1(f->rest1), rest2 = vf_set1(f->rest2), c1 = vf_set1(f->c1), c2 = vf_set1(f->c2);
  const vf eps = vf_set1(f->eps), decay = vf_set1(f->decay), lr = vf_set1(f->lr);
#define E                                                                     \
  vf x = load_w(p + i, w), h = vf_mul(load_w(g + i, w), gscale);              \
  vf a = vf_fma(beta1, load_w(m + i, w), vf_mul(rest1, h));                   \
  vf b = vf_fma(beta2, load_w(v + i, w), vf_mul(vf_mul(rest2, h), h));        \
  vf u = vf_div(vf_mul(a, c1), vf_add(vf_sqrt(vf_mul(b, c2)), eps));          \
  u = vf_fma(decay, x, u);                                                    \
  store_w(m + i, a, w);                                                       \
  store_w(v + i, b, w);                                                       \
  store_w(p + i, vf_fnma(lr, u, x), w)
  BODY(n, E);
#undef E
}

static long op_first_nonfinite(const float* x, long n) {
#define E                                                             \
  if (vf_nonfinite(load_w(x + i, w))) {                               \
    for (long j = i; j < i + w; j++) {                                \
      if (!(x[j] - x[j] == 0)) return j;                              \
    }                                                                 \
  }
  BODY(n, E);
#undef E
  return -1;
}

enum { FMA_CHAINS = MR * NV > 12 ? 12 : MR * NV };

static float op_fma_loop(long rounds, float x) {
  // All different, or a compiler may compute equal lanes once.
  float start[16 * FMA_CHAINS];
  for (int i = 0; i < 16 * FMA_CHAINS; i++) start[i] = x + i;
  vf acc[FMA_CHAINS], a = vf_set1(x), b = vf_set1(x * 0.5f);
#pragma GCC unroll 16
  for (int i = 0; i < FMA_CHAINS; i++) acc[i] = vf_load(start + 16 * i);
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < FMA_CHAINS; i++) acc[i] = vf_fma(acc[i], b, a);
  }
  vf s = acc[0];
#pragma GCC unroll 16
  for (int i = 1; i < FMA_CHAINS; i++) s = vf_add(s, acc[i]);
  return vf_fold(s);
}
