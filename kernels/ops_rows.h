// Operations on rows and columns: embeddings, layer norm, cross-entropy, sums.

// ROWS_AT_ONCE columns vectors are summed at once, so that each row is read in longer pieces.
enum { COLUMNS_AT_ONCE = 4 };

static inline long min_long(long a, long b) { return a < b ? a : b; }

// Columns [j, j+w) of vectors nv: dst += each block of BLOCK_K rows of x.
static inline __attribute__((always_inline)) void column_sums(float* dst, const float* x, long rows, long n, long j,
                                                              int nv, long w) {
  for (long i = 0; i < rows; i += BLOCK_K) {
    vf s[COLUMNS_AT_ONCE];
    for (int v = 0; v < nv; v++) s[v] = vf_set1(0.0f);
    for (long r = i; r < min_long(i + BLOCK_K, rows); r++) {
      for (int v = 0; v < nv; v++) s[v] = vf_add(s[v], load_w(x + r * n + j + 16 * v, w));
    }
    for (int v = 0; v < nv; v++) store_w(dst + j + 16 * v, vf_add(load_w(dst + j + 16 * v, w), s[v]), w);
  }
}

static void op_column_sums(float* dst, const float* x, long rows, long n, long j0, long j1) {
  long j = j0;
  for (; j + 16 * COLUMNS_AT_ONCE <= j1; j += 16 * COLUMNS_AT_ONCE) {
    column_sums(dst, x, rows, n, j, COLUMNS_AT_ONCE, 16);
  }
  for (; j + 16 <= j1; j += 16) column_sums(dst, x, rows, n, j, 1, 16);
  if (j < j1) column_sums(dst, x, rows, n, j, 1, j1 - j);
}

static void op_embed(float* out, const float* wte, const float* wpe, const int32_t* tokens, long t, long c, long i0,
                     long i1) {
  for (long i = i0; i < i1; i++) {
    const float* w = wte + tokens[i] * c;
    if (wpe) {
      op_add(out + i * c, w, wpe + i % t * c, c);
    } else {
      memcpy(out + i * c, w, c * sizeof(float));
    }
  }
}

static void op_embed_backward(float* dwte, float* dwpe, const float* dout, const int32_t* tokens, long rows, long t,
                              long c, long j0, long j1) {
  for (long i = 0; i < rows; i++) {
    float *w = dwte + tokens[i] * c + j0, *p = dwpe ? dwpe + i % t * c + j0 : 0;
    const float* d = dout + i * c + j0;
    op_add(w, w, d, j1 - j0);
    if (p) op_add(p, p, d, j1 - j0);
  }
}

static void op_layernorm(float* out, float* mean, float* rstd, float* sum, const float* x, const float* add, const float* gamma,
                         const float* beta, long c, long i0, long i1) {
  for (long r = i0; r < i1; r++) {
    const float* row = x + r * c;
    float* o = out + r * c;
    if (add) {  // a row stays in the first cache
      op_add(sum + r * c, row, add + r * c, c);
      row = sum + r * c;
    }
    vf s = vf_set1(0.0f);
#define E s = vf_add(s, load_w(row + i, w))
    BODY(c, E);
#undef E
    float average = vf_fold(s) / (float)c;
    const vf m = vf_set1(average);
    s = vf_set1(0.0f);
#define E vf d = keep_w(vf_sub(load_w(row + i, w), m), w); s = vf_fma(d, d, s)
    BODY(c, E);
#undef E
    float scale = 1.0f / sqrtf(vf_fold(s) / (float)c + 1e-5f);
    const vf f = vf_set1(scale);
#define E                                                          \
  vf n = vf_mul(vf_sub(load_w(row + i, w), m), f);                 \
  store_w(o + i, vf_fma(n, load_w(gamma + i, w), load_w(beta + i, w)), w)
    BODY(c, E);
#undef E
    mean[r] = average;
    rstd[r] = scale;
  }
}

static void op_layernorm_rows(float* dx, const float* dout, const float* x, const float* gamma, const float* mean,
                              const float* rstd, long c, long i0, long i1) {
  for (long r = i0; r < i1; r++) {
    const float *row = x + r * c, *d = dout + r * c;
    float* o = dx + r * c;
    const vf m = vf_set1(mean[r]), f = vf_set1(rstd[r]);
    vf s = vf_set1(0.0f), p = s;
#define E                                                        \
  vf g = vf_mul(load_w(d + i, w), load_w(gamma + i, w));         \
  vf n = keep_w(vf_mul(vf_sub(load_w(row + i, w), m), f), w);    \
  s = vf_add(s, g);                                              \
  p = vf_fma(g, n, p)
    BODY(c, E);
#undef E
    const vf a = vf_set1(vf_fold(s) / (float)c), b = vf_set1(vf_fold(p) / (float)c);
#define E                                                        \
  vf g = vf_mul(load_w(d + i, w), load_w(gamma + i, w));         \
  vf n = vf_mul(vf_sub(load_w(row + i, w), m), f);               \
  store_w(o + i, vf_fma(vf_fnma(n, b, vf_sub(g, a)), f, load_w(o + i, w)), w)
    BODY(c, E);
#undef E
  }
}

static inline __attribute__((always_inline)) void layernorm_columns(float* dgamma, float* dbeta, const float* dout,
                                                                    const float* x, const float* mean,
                                                                    const float* rstd, long rows, long c, long j,
                                                                    int nv, long w) {
  for (long i = 0; i < rows; i += BLOCK_K) {
    vf g[COLUMNS_AT_ONCE], b[COLUMNS_AT_ONCE];
    for (int v = 0; v < nv; v++) g[v] = b[v] = vf_set1(0.0f);
    for (long r = i; r < min_long(i + BLOCK_K, rows); r++) {
      const vf m = vf_set1(mean[r]), f = vf_set1(rstd[r]);
      for (int v = 0; v < nv; v++) {
        long at = r * c + j + 16 * v;
        vf d = load_w(dout + at, w), n = vf_mul(vf_sub(load_w(x + at, w), m), f);
        g[v] = vf_fma(d, n, g[v]);
        b[v] = vf_add(b[v], d);
      }
    }
    for (int v = 0; v < nv; v++) {
      long at = j + 16 * v;
      store_w(dgamma + at, vf_add(load_w(dgamma + at, w), g[v]), w);
      store_w(dbeta + at, vf_add(load_w(dbeta + at, w), b[v]), w);
    }
  }
}

static void op_layernorm_columns(float* dgamma, float* dbeta, const float* dout, const float* x, const float* mean,
                                 const float* rstd, long rows, long c, long j0, long j1) {
  long j = j0;
  for (; j + 16 * COLUMNS_AT_ONCE <= j1; j += 16 * COLUMNS_AT_ONCE) {
    layernorm_columns(dgamma, dbeta, dout, x, mean, rstd, rows, c, j, COLUMNS_AT_ONCE, 16);
  }
  for (; j + 16 <= j1; j += 16) layernorm_columns(dgamma, dbeta, dout, x, mean, rstd, rows, c, j, 1, 16);
  if (j < j1) layernorm_columns(dgamma, dbeta, dout, x, mean, rstd, rows, c, j, 1, j1 - j);
}

// The greatest of n values, n at least 1; any number where one is NaN.
static inline float row_largest(const float* x, long n) {
  vf m = vf_set1(x[0]);
  long i = 0;
  for (; i + 16 <= n; i += 16) m = vf_max(m, vf_load(x + i));
  float r = vf_largest(m);
  for (; i < n; i++) r = r > x[i] ? r : x[i];
  return r;
}

// e = exp(x - largest), where e is not NULL, and the lane sum of that. e may be x.
static inline __attribute__((always_inline)) float softmax_terms(float* e, const float* x, float largest, long n) {
  const vf m = vf_set1(largest);
  vf s = vf_set1(0.0f);
#define E                                                         \
  vf y = keep_w(vf_exp(vf_sub(load_w(x + i, w), m)), w);          \
  if (e) store_w(e + i, y, w);                                    \
  s = vf_add(s, y)
  BODY(n, E);
#undef E
  return vf_fold(s);
}

static void op_cross_entropy(float* losses, float* logits, const int32_t* targets, long v, float scale, long i0,
                             long i1) {
  for (long r = i0; r < i1; r++) {
    float* x = logits + r * v;
    if (targets[r] < 0) {
      losses[r] = 0.0f;
      if (scale != 0) memset(x, 0, v * sizeof(float));
      continue;
    }
    float largest = row_largest(x, v), xy = x[targets[r]] - largest;
    float sum = scale != 0 ? softmax_terms(x, x, largest, v) : softmax_terms(0, x, largest, v);
    losses[r] = log1(sum) - xy;
    if (scale == 0) continue;
    const vf f = vf_set1(1.0f / sum), g = vf_set1(scale);
    float p = x[targets[r]] * (1.0f / sum) - 1.0f;
#define E store_w(x + i, vf_mul(vf_mul(load_w(x + i, w), f), g), w)
    BODY(v, E);
#undef E
    x[targets[r]] = p * scale;
  }
}

static void op_block_sums(float* dst, const float* x, long n, int square, long b0, long b1) {
  for (long b = b0; b < b1; b++) {
    const float* p = x + b * BLOCK_SUM;
    long len = min_long(BLOCK_SUM, n - b * BLOCK_SUM);
    vf s = vf_set1(0.0f);
    if (square) {
#define E vf y = load_w(p + i, w); s = vf_fma(y, y, s)
      BODY(len, E);
#undef E
    } else {
#define E s = vf_add(s, load_w(p + i, w))
      BODY(len, E);
#undef E
    }
    dst[b] = vf_fold(s);
  }
}
