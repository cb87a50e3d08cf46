// Causal attention, head by head. A head's keys and values are copied together once, rows padded to whole vectors;
// then AR rows at a time meet AV vectors of columns.

static inline long pad16(long n) { return (n + 15) / 16 * 16; }

static long op_attention_work(long t, long hs) { return 4 * (pad16(t) + 16) * (pad16(hs) + 16); }

// Which terms k of row r of a tile exist: all; those up to first + r; those from first + r on.
enum { TERMS_ALL, TERMS_UP_TO, TERMS_FROM };

// c[r,·] = Σ_k a[r·ar + k·ak]·b[k·ldb + ·] for rows rows and cols columns, over k in [k0, k1) as far as terms lets them exist.
// With TERMS_UP_TO k1 is first + rows, with TERMS_FROM k0 is first. first is a multiple of AR, so that the rows' differences
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
    int set = k == k0;
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

// dst[d·width + j] = src[j·ld + d] for j < t, d < hs: a head's rows as columns, width = pad16(t).
static void head_columns(float* dst, const float* src, long ld, long t, long hs, long width) {
  pack_panel(dst, src, ld, 1, t, width, hs);
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

static void op_attention(const attention_args* t, float* work, long h0, long h1) {
  const long n = t->t, hs = t->hs, c = t->heads * hs, tw = pad16(n), hw = pad16(hs);
  float *keys = work, *values = keys + (tw + 16) * (hw + 16);
  const vf scale = vf_set1(t->scale);
  for (long h = h0; h < h1; h++) {
    long o, q = head_at(t, h, &o);
    float *att = t->att + h * n * n, *out = t->out + o;
    head_columns(keys, t->qkv + q + c, 3 * c, n, hs, tw);
    head_rows(values, t->qkv + q + 2 * c, 3 * c, n, hs, hw);
    for (long r = 0; r < n; r += AR) {
      long rows = min_long(AR, n - r), end = r + rows;
      float* a = att + r * n;
      product_all(a, n, t->qkv + q + r * 3 * c, 3 * c, 1, keys, tw, 0, 0, hs, rows, end);
      for (long l = 1; l <= rows; l++, a += n) {
        long len = r + l;
#define E store_w(a + i, vf_mul(scale, load_w(a + i, w)), w)
        BODY(len, E);
#undef E
        const vf f = vf_set1(1.0f / softmax_terms(a, a, row_largest(a, len), len));
#define E store_w(a + i, vf_mul(load_w(a + i, w), f), w)
        BODY(len, E);
#undef E
        memset(a + len, 0, (n - len) * sizeof(float));
      }
      product_up_to(out + r * c, c, att + r * n, n, 1, values, hw, r, 0, end, rows, hs);
    }
  }
}

static void op_attention_backward(const attention_args* t, float* work, long h0, long h1) {
  const long n = t->t, hs = t->hs, c = t->heads * hs, tw = pad16(n), hw = pad16(hs), part = (tw + 16) * (hw + 16);
  float *values = work, *keys = values + part, *queries = keys + part, *douts = queries + part;
  const vf scale = vf_set1(t->scale);
  for (long h = h0; h < h1; h++) {
    long o, q = head_at(t, h, &o);
    const float *att = t->att + h * n * n, *dout = t->dout + o;
    float *dz = t->scratch + h * n * n, *dqkv = t->dqkv + q;
    head_columns(values, t->qkv + q + 2 * c, 3 * c, n, hs, tw);
    head_rows(keys, t->qkv + q + c, 3 * c, n, hs, hw);
    head_rows(queries, t->qkv + q, 3 * c, n, hs, hw);
    head_rows(douts, dout, c, n, hs, hw);
    for (long r = 0; r < n; r += AR) {
      long rows = min_long(AR, n - r), end = r + rows;
      product_all(dz + r * n, n, dout + r * c, c, 1, values, tw, 0, 0, hs, rows, end);
      for (long l = 0; l < rows; l++) {
        const float* a = att + (r + l) * n;
        float* z = dz + (r + l) * n;
        vf s = vf_set1(0.0f);
#define E s = vf_fma(load_w(a + i, w), load_w(z + i, w), s)
        BODY(r + l + 1, E);
#undef E
        const vf dot = vf_set1(vf_fold(s));
#define E store_w(z + i, vf_mul(vf_mul(vf_sub(load_w(z + i, w), dot), load_w(a + i, w)), scale), w)
        BODY(r + l + 1, E);
#undef E
      }
      product_up_to(dqkv + r * 3 * c, 3 * c, dz + r * n, n, 1, keys, hw, r, 0, end, rows, hs);
    }
    for (long r = 0; r < n; r += AR) {
      long rows = min_long(AR, n - r);
      product_from(dqkv + c + r * 3 * c, 3 * c, dz + r, 1, n, queries, hw, r, r, n, rows, hs);
      product_from(dqkv + 2 * c + r * 3 * c, 3 * c, att + r, 1, n, douts, hw, r, r, n, rows, hs);
    }
  }
}
