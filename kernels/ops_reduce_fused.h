// Sums of two, three, four and eight float32 arrays in the usual orders, in registers.

enum { FUSED_MOST = 8 };

typedef void (*fused_fn)(float* const* d, long dst_count, const float* const* s, long n, int stream);

// Where lanes are no registers there is nothing to gain, and much to compile.
#ifndef LANES_IN_MEMORY

#define L(k) load_w(s[k] + i, w)
#define ADD vf_add

// FUSED writes e to every destination. Streaming begins where the first one is aligned, and needs all of them to be aligned there.
#define FUSED(name, sources, e)                                                                                   \
  static void name(float* const* d, long dst_count, const float* const* from, long n, int stream) {               \
    const float* s[sources];                                                                                      \
    for (int k = 0; k < sources; k++) s[k] = from[k];                                                             \
    long i = 0;                                                                                                   \
    if (!stream && dst_count == 1) {                                                                              \
      float* to = d[0];                                                                                           \
      BODY(n, store_w(to + i, vf_canon(e), w));                                                                   \
      return;                                                                                                     \
    }                                                                                                             \
    if (stream) {                                                                                                 \
      long w = (long)(-(uintptr_t)d[0] / 4 % 16);                                                                 \
      if (w > n) w = n;                                                                                           \
      if (w > 0) {                                                                                                \
        vf x = vf_canon(e);                                                                                       \
        for (long k = 0; k < dst_count; k++) store_w(d[k], x, w);                                                 \
        i = w;                                                                                                    \
      }                                                                                                           \
      if (dst_count == 1) {                                                                                       \
        for (float* to = d[0]; i + 16 <= n; i += 16) {                                                            \
          w = 16;                                                                                                 \
          vf_stream(to + i, vf_canon(e));                                                                         \
        }                                                                                                         \
      } else {                                                                                                    \
        for (; i + 16 <= n; i += 16) {                                                                            \
          w = 16;                                                                                                 \
          vf x = vf_canon(e);                                                                                     \
          for (long k = 0; k < dst_count; k++) vf_stream(d[k] + i, x);                                            \
        }                                                                                                         \
      }                                                                                                           \
      stream_end();                                                                                               \
    }                                                                                                             \
    for (; i < n; i += 16) {                                                                                      \
      const long w = n - i < 16 ? n - i : 16;                                                                     \
      vf x = vf_canon(e);                                                                                         \
      for (long k = 0; k < dst_count; k++) store_w(d[k] + i, x, w);                                               \
    }                                                                                                             \
  }

#define SUM4(a) ADD(ADD(L(a), L(a + 1)), ADD(L(a + 2), L(a + 3)))
FUSED(sum_2, 2, ADD(L(0), L(1)))
FUSED(sum_3_left, 3, ADD(ADD(L(0), L(1)), L(2)))
FUSED(sum_3_right, 3, ADD(L(0), ADD(L(1), L(2))))
FUSED(sum_4_left, 4, ADD(ADD(ADD(L(0), L(1)), L(2)), L(3)))
FUSED(sum_4_balanced, 4, SUM4(0))
FUSED(sum_8_left, 8, ADD(ADD(ADD(ADD(ADD(ADD(ADD(L(0), L(1)), L(2)), L(3)), L(4)), L(5)), L(6)), L(7)))
FUSED(sum_8_balanced, 8, ADD(SUM4(0), SUM4(4)))
#undef FUSED
#undef SUM4
#undef ADD
#undef L

// The orders: 's' pushes the next source, '+' combines.
static const struct {
  const char* order;
  fused_fn run;
} fused_sums[] = {
    {"ss+", sum_2},
    {"ss+s+", sum_3_left},
    {"sss++", sum_3_right},
    {"ss+s+s+", sum_4_left},
    {"ss+ss++", sum_4_balanced},
    {"ss+s+s+s+s+s+s+", sum_8_left},
    {"ss+ss++ss+ss+++", sum_8_balanced},
};

// fused_find gives the function for t's order and the sources as it wants them, or NULL. Without an order it is the left one.
static fused_fn fused_find(const reduce_args* t, const float** sources) {
  long n = t->order ? (t->order_count + 1) / 2 : t->src_count;
  if (n < 2 || n > FUSED_MOST) return 0;
  char order[2 * FUSED_MOST];
  long length = 0, used = 0;
  if (t->order) {
    for (long i = 0; i < t->order_count; i++) {
      int k = t->order[i];
      if (k >= 0) sources[used++] = t->srcs[k];
      order[length++] = k >= 0 ? 's' : '+';
    }
  } else {
    for (; used < n; used++) {
      sources[used] = t->srcs[used];
      order[length++] = 's';
      if (used > 0) order[length++] = '+';
    }
  }
  order[length] = 0;
  for (unsigned i = 0; i < sizeof fused_sums / sizeof *fused_sums; i++) {
    if (strcmp(order, fused_sums[i].order) == 0) return fused_sums[i].run;
  }
  return 0;
}

#else

static fused_fn fused_find(const reduce_args* t, const float** sources) {
  (void)t, (void)sources;
  return 0;
}

#endif
