// Causal attention, head by head. A head's keys and values are copied together once, rows padded to whole vectors;
// then AR rows at a time meet AV vectors of columns. Probabilities live for AR rows in the forward pass; the backward pass computes
// them again, for the rows of one canonical block at a time, which is as far as the sums over rows need them.

static inline long pad16(long n) { return (n + 15) / 16 * 16; }

static long op_attention_work(long t, long hs) {
  return 5 * (pad16(t) + 16) * (pad16(hs) + 16) + 2 * min_long(BLOCK_K, pad16(t)) * pad16(t);
}

// Which terms k of row r of a tile exist: all; those up to first + r; those from first + r on; all, after others.
enum { TERMS_ALL, TERMS_UP_TO, TERMS_FROM, TERMS_MORE };

// c[r,·] = Σ_k a[r·ar + k·ak]·b[k·ldb + ·] for rows rows and cols columns, over k in [k0, k1) as far as terms lets them exist.
// With TERMS_UP_TO k1 is first + rows, with TERMS_FROM k0 is first. TERMS_MORE are all, added to what is there. first is a multiple of AR, so that the rows' differences
// lie within one canonical block.
static inline __attribute__((always_inline)) void product_tile(const int terms, const int nv, float* c, long ldc,
                                                               const float* a, long ar, long ak, const float* b,
                                                               long ldb, long first, long k0, long k1, long rows,
                                                               long cols) {
  const float* p[AR];  // rows that do not exist repeat the first
#pragma GCC unroll 8
  for (int r = 0; r < AR; r++) p[r] = a + (r < rows ? r * ar : 0);
  for (long k = k0; k < k1;) {
    long end = min_long(k1, (k / BLOCK_K + 1) * BLOCK_K);
    vf acc[AR][AV], x[AV];
#pragma GCC unroll 8
    for (int r = 0; r < AR; r++) {
#pragma GCC unroll 4
      for (int v = 0; v < nv; v++) acc[r][v] = vf_set1(0.0f);
    }
    int set = k == k0 && terms != TERMS_MORE;
#define TERM(r) \
  vf y = vf_set1(p[r][k * ak]); \
  _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) acc[r][v] = vf_fma(y, x[v], acc[r][v])
#define LOAD _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) x[v] = vf_load(b + k * ldb + 16 * v)
    if (terms == TERMS_FROM && set) {
#pragma GCC unroll 8
      for (int d = 0; d < AR - 1; d++) {
        if (k < end) {
          LOAD;
#pragma GCC unroll 8
          for (int r = 0; r <= d; r++) {
            TERM(r);
          }
          k++;
        }
      }
    }
    long common = terms == TERMS_UP_TO ? min_long(end, first + 1) : end;
    for (; k < common; k++) {
      LOAD;
#pragma GCC unroll 8
      for (int r = 0; r < AR; r++) {
        TERM(r);
      }
    }
    if (terms == TERMS_UP_TO) {
#pragma GCC unroll 8
      for (int d = 1; d < AR; d++) {
        if (k < end) {
          LOAD;
#pragma GCC unroll 8
          for (int r = d; r < AR; r++) {
            TERM(r);
          }
          k++;
        }
      }
    }
#undef TERM
#undef LOAD
#pragma GCC unroll 8
    for (int r = 0; r < AR; r++) {
      if (r < rows) {
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
          float* o = c + r * ldc + 16 * v;
          long w = cols - 16 * v;
          if (w >= 16) {
            vf_store(o, set ? acc[r][v] : vf_add(vf_load(o), acc[r][v]));
          } else if (w > 0) {
            vf_storen(o, set ? acc[r][v] : vf_add(vf_loadn(o, w), acc[r][v]), w);
          }
        }
      }
    }
  }
}

#define PRODUCT(name, terms)                                                                                       \
  static void name(float* c, long ldc, const float* a, long ar, long ak, const float* b, long ldb, long first, long k0, \
                   long k1, long rows, long cols) {                                                                \
    long j = 0;                                                                                                    \
    for (; cols - j > 16 * (AV - 1); j += 16 * AV) {                                                               \
      product_tile(terms, AV, c + j, ldc, a, ar, ak, b + j, ldb, first, k0, k1, rows, cols - j);                   \
    }                                                                                                              \
    for (; j < cols; j += 16) {                                                                                    \
      product_tile(terms, 1, c + j, ldc, a, ar, ak, b + j, ldb, first, k0, k1, rows, cols - j);                    \
    }                                                                                                              \
  }
PRODUCT(product_all, TERMS_ALL)
PRODUCT(product_up_to, TERMS_UP_TO)
PRODUCT(product_from, TERMS_FROM)
PRODUCT(product_more, TERMS_MORE)

// dst[d·width + j] = src[j·ld + d] for j < t, d < hs: a head's rows as columns, width = pad16(t).
static void head_columns(float* dst, const float* src, long ld, long t, long hs, long width) {
  ahead none = {0};
  pack_panel(dst, src, ld, 1, t, width, hs, &none);
}

// dst[j·width + d] = src[j·ld + d]: a head's rows together, width = pad16(hs), filled up with +0.
static void head_rows(float* dst, const float* src, long ld, long t, long hs, long width) {
  for (long j = 0; j < t; j++) {
    for (long d = 0; d < width; d += 16) vf_store(dst + j * width + d, load_w(src + j * ld + d, min_long(16, hs - d)));
  }
}

static inline long head_at(const attention_args* t, long h, long* out) {
  long c = t->heads * t->hs, batch = h / t->heads, first = h % t->heads * t->hs;
  *out = batch * t->t * c + first;
  return batch * t->t * 3 * c + first;
}

// The probabilities of rows [r, r+rows) of a head, as far as they exist, to att, rows of ld. q is the head's first row.
static void probabilities(float* att, long ld, const attention_args* t, const float* q, const float* keys, long r,
                          long rows) {
  const long c = t->heads * t->hs;
  const vf scale = vf_set1(t->scale);
  product_all(att, ld, q + r * 3 * c, 3 * c, 1, keys, pad16(t->t), 0, 0, t->hs, rows, r + rows);
  for (long len = r + 1; len <= r + rows; len++, att += ld) {
#define E store_w(att + i, vf_mul(scale, load_w(att + i, w)), w)
    BODY(len, E);
#undef E
    const vf f = vf_set1(1.0f / softmax_terms(att, att, row_largest(att, len), len));
#define E store_w(att + i, vf_mul(load_w(att + i, w), f), w)
    BODY(len, E);
#undef E
  }
}

static void op_attention(const attention_args* t, float* work, long h0, long h1) {
  const long n = t->t, hs = t->hs, c = t->heads * hs, tw = pad16(n), hw = pad16(hs), part = (tw + 16) * (hw + 16);
  float *keys = work, *values = keys + part, *att = values + part;
  for (long h = h0; h < h1; h++) {
    long o, q = head_at(t, h, &o);
    head_columns(keys, t->qkv + q + c, 3 * c, n, hs, tw);
    head_rows(values, t->qkv + q + 2 * c, 3 * c, n, hs, hw);
    for (long r = 0; r < n; r += AR) {
      long rows = min_long(AR, n - r);
      probabilities(att, tw, t, t->qkv + q, keys, r, rows);
      product_up_to(t->out + o + r * c, c, att, tw, 1, values, hw, r, 0, r + rows, rows, hs);
    }
  }
}

// dz = the gradient of the scores, from the gradient of the probabilities in dz and the probabilities.
static void scores_backward(float* dz, const float* att, long len, vf scale) {
  vf s = vf_set1(0.0f);
#define E s = vf_fma(load_w(att + i, w), load_w(dz + i, w), s)
  BODY(len, E);
#undef E
  const vf dot = vf_set1(vf_fold(s));
#define E store_w(dz + i, vf_mul(vf_mul(vf_sub(load_w(dz + i, w), dot), load_w(att + i, w)), scale), w)
  BODY(len, E);
#undef E
}

static void op_attention_backward(const attention_args* t, float* work, long h0, long h1) {
  const long n = t->t, hs = t->hs, c = t->heads * hs, tw = pad16(n), hw = pad16(hs), part = (tw + 16) * (hw + 16);
  float *values = work, *columns = values + part, *keys = columns + part, *queries = keys + part;
  float *douts = queries + part, *att = douts + part, *dz = att + min_long(BLOCK_K, tw) * tw;
  const vf scale = vf_set1(t->scale);
  for (long h = h0; h < h1; h++) {
    long o, q = head_at(t, h, &o);
    const float* dout = t->dout + o;
    float* dqkv = t->dqkv + q;
    head_columns(values, t->qkv + q + 2 * c, 3 * c, n, hs, tw);
    head_columns(columns, t->qkv + q + c, 3 * c, n, hs, tw);
    head_rows(keys, t->qkv + q + c, 3 * c, n, hs, hw);
    head_rows(queries, t->qkv + q, 3 * c, n, hs, hw);
    head_rows(douts, dout, c, n, hs, hw);
    for (long b = 0; b < n; b += BLOCK_K) {
      const long end = min_long(n, b + BLOCK_K);
      for (long r = b; r < end; r += AR) {
        long rows = min_long(AR, end - r);
        float *a = att + (r - b) * tw, *z = dz + (r - b) * tw;
        probabilities(a, tw, t, t->qkv + q, columns, r, rows);
        product_all(z, tw, dout + r * c, c, 1, values, tw, 0, 0, hs, rows, r + rows);
        for (long l = 0; l < rows; l++) scores_backward(z + l * tw, a + l * tw, r + l + 1, scale);
        product_up_to(dqkv + r * 3 * c, 3 * c, z, tw, 1, keys, hw, r, 0, r + rows, rows, hs);
      }
      // Keys and values before this block get its rows' terms after those of the blocks before.
      float *dk = dqkv + c, *dv = dqkv + 2 * c;
      for (long r = 0; r < b; r += AR) {
        product_more(dk + r * 3 * c, 3 * c, dz + r, 1, tw, queries + b * hw, hw, 0, 0, end - b, AR, hs);
        product_more(dv + r * 3 * c, 3 * c, att + r, 1, tw, douts + b * hw, hw, 0, 0, end - b, AR, hs);
      }
      for (long r = b; r < end; r += AR) {
        long rows = min_long(AR, end - r), at = r - b;
        product_from(dk + r * 3 * c, 3 * c, dz + r, 1, tw, queries + b * hw, hw, at, at, end - b, rows, hs);
        product_from(dv + r * 3 * c, 3 * c, att + r, 1, tw, douts + b * hw, hw, at, at, end - b, rows, hs);
      }
    }
  }
}
