// Operations on windows that slide over images.

// The pixels under the window at position p: rows [top,bottom) and columns [left,right) of the window lie on the image, whose
// pixel under the window's first one, inside or not, has index at.
typedef struct {
  long at, top, bottom, left, right;
} window_place;

static inline window_place place_window(const window_args* t, long p) {
  long each = t->out_height * t->out_width, image = p / each, q = p % each;
  long y = q / t->out_width * t->stride - t->pad, x = q % t->out_width * t->stride - t->pad;
  window_place w = {(image * t->height + y) * t->width + x, y < 0 ? -y : 0, min_long(t->rows, t->height - y), x < 0 ? -x : 0,
                    min_long(t->columns, t->width - x)};
  return w;
}

static void op_add_columns(const window_args* t, long from, long to) {
  const long c = t->channels;
  for (long p = from; p < to; p++) {
    window_place w = place_window(t, p);
    const float* row = t->x + (p - t->p0) * t->rows * t->columns * c;
    for (long y = w.top; y < w.bottom; y++) {
      float* pixels = t->out + (w.at + y * t->width + w.left) * c;
      op_add(pixels, pixels, row + (y * t->columns + w.left) * c, (w.right - w.left) * c);
    }
  }
}

// The largest values m of n ≤ 16 channels from channel i on, and of which pixel of the window each is. The loops over channels are
// plain so that the compiler makes vectors of them, with comparisons that NaN answers as in Go.
static inline __attribute__((always_inline)) void window_largest(const window_args* t, const window_place* w, long i, long n,
                                                                 float* m, int32_t* which) {
  const long c = t->channels;
  const float* first = t->x + (w->at + w->top * t->width + w->left) * c + i;
  for (long j = 0; j < n; j++) m[j] = first[j], which[j] = (int32_t)(w->top * t->columns + w->left);
  for (long y = w->top; y < w->bottom; y++) {
    for (long x = w->left; x < w->right; x++) {
      const float* pixel = t->x + (w->at + y * t->width + x) * c + i;
      const int32_t number = (int32_t)(y * t->columns + x);
      for (long j = 0; j < n; j++) {
        float v = pixel[j];
        int better = (v > m[j]) | (v != v);
        m[j] = better ? v : m[j];
        which[j] = better ? number : which[j];
      }
    }
  }
}

static inline __attribute__((always_inline)) void max_pool_part(const window_args* t, long p, const window_place* w, long i,
                                                                long n) {
  float m[16];
  int32_t which[16];
  window_largest(t, w, i, n, m, which);
  float* out = t->out + p * t->channels + i;
  for (long j = 0; j < n; j++) out[j] = m[j];
}

static void op_max_pool(const window_args* t, long from, long to) {
  const long c = t->channels;
  for (long p = from; p < to; p++) {
    window_place w = place_window(t, p);
    long i = 0;
    for (; i + 16 <= c; i += 16) max_pool_part(t, p, &w, i, 16);
    if (i < c) max_pool_part(t, p, &w, i, c - i);
  }
}

// Adding +0 to the other pixels changes nothing: sums that begin at +0 are never -0.
static inline __attribute__((always_inline)) void max_pool_backward_part(const window_args* t, long p, const window_place* w,
                                                                         long i, long n) {
  float m[16];
  int32_t which[16];
  window_largest(t, w, i, n, m, which);
  const float* dout = t->dout + p * t->channels + i;
  for (long y = w->top; y < w->bottom; y++) {
    for (long x = w->left; x < w->right; x++) {
      float* pixel = t->out + (w->at + y * t->width + x) * t->channels + i;
      const int32_t number = (int32_t)(y * t->columns + x);
      for (long j = 0; j < n; j++) pixel[j] += which[j] == number ? dout[j] : 0.0f;
    }
  }
}

static void op_max_pool_backward(const window_args* t, long from, long to) {
  const long c = t->channels;
  for (long p = from; p < to; p++) {
    window_place w = place_window(t, p);
    long i = 0;
    for (; i + 16 <= c; i += 16) max_pool_backward_part(t, p, &w, i, 16);
    if (i < c) max_pool_backward_part(t, p, &w, i, c - i);
  }
}
