// Operations on windows that slide over images.

// The window at one position: its first pixel is at row y and column x of the image, inside or not, and has index at. Of the
// window, rows [top,bottom) and columns [left,right) lie on the image.
typedef struct {
  long row, column;  // of positions
  long y, x, at, top, bottom, left, right;
} window_place;

static inline void place_window(const window_args* t, window_place* w) {
  w->top = w->y < 0 ? -w->y : 0, w->bottom = min_long(t->rows, t->height - w->y);
  w->left = w->x < 0 ? -w->x : 0, w->right = min_long(t->columns, t->width - w->x);
}

static inline window_place first_window(const window_args* t, long p) {
  long each = t->out_height * t->out_width, image = p / each, q = p % each;
  window_place w = {.row = q / t->out_width, .column = q % t->out_width};
  w.y = w.row * t->stride - t->pad, w.x = w.column * t->stride - t->pad;
  w.at = (image * t->height + w.y) * t->width + w.x;
  place_window(t, &w);
  return w;
}

// next_window goes on by one position without a division.
static inline void next_window(const window_args* t, window_place* w) {
  w->x += t->stride, w->at += t->stride;
  if (++w->column == t->out_width) {
    w->at += t->stride * t->width - w->column * t->stride;
    w->column = 0, w->x = -t->pad, w->y += t->stride;
    if (++w->row == t->out_height) {
      w->at += (t->height - w->row * t->stride) * t->width;
      w->row = 0, w->y = -t->pad;
    }
  }
  place_window(t, w);
}

static void op_add_columns(const window_args* t, long from, long to) {
  const long c = t->channels;
  window_place w = first_window(t, from);
  for (long p = from; p < to; p++, next_window(t, &w)) {
    const float* row = t->x + (p - t->p0) * t->rows * t->columns * c;
    for (long y = w.top; y < w.bottom; y++) {
      float* pixels = t->out + (w.at + y * t->width + w.left) * c;
      op_add(pixels, pixels, row + (y * t->columns + w.left) * c, (w.right - w.left) * c);
    }
  }
}

// The largest values of n ≤ 16 channels from channel i on; which is the number of the pixel in the window that each is, as bits.
static inline __attribute__((always_inline)) vf window_largest(const window_args* t, const window_place* w, long i, long n,
                                                               vf* which) {
  const long c = t->channels;
  const float* row = t->x + (w->at + w->top * t->width + w->left) * c + i;
  vf m = load_w(row, n), at = vf_set1_bits((int32_t)(w->top * t->columns + w->left));
  for (long y = w->top; y < w->bottom; y++, row += t->width * c) {
    const float* pixel = row;
    for (long x = w->left; x < w->right; x++, pixel += c) {
      vf v = load_w(pixel, n);
      at = vf_if_above(v, m, vf_set1_bits((int32_t)(y * t->columns + x)), at);
      m = vf_if_above(v, m, v, m);
    }
  }
  *which = at;
  return m;
}

static void op_max_pool(const window_args* t, long from, long to) {
  const long c = t->channels;
  window_place place = first_window(t, from);
  for (long p = from; p < to; p++, next_window(t, &place)) {
    vf which;
    BODY(c, store_w(t->out + p * c + i, window_largest(t, &place, i, w, &which), w));
  }
}

// Adding +0 to the other pixels changes nothing: sums that begin at +0 are never -0.
static inline __attribute__((always_inline)) void max_pool_backward_part(const window_args* t, long p, const window_place* w,
                                                                         long i, long n) {
  const long c = t->channels;
  vf which;
  window_largest(t, w, i, n, &which);
  vf dout = load_w(t->dout + p * c + i, n);
  float* row = t->out + (w->at + w->top * t->width + w->left) * c + i;
  for (long y = w->top; y < w->bottom; y++, row += t->width * c) {
    float* pixel = row;
    for (long x = w->left; x < w->right; x++, pixel += c) {
      vf number = vf_set1_bits((int32_t)(y * t->columns + x));
      store_w(pixel, vf_add(load_w(pixel, n), vf_keep_if_same(which, number, dout)), n);
    }
  }
}

static void op_max_pool_backward(const window_args* t, long from, long to) {
  const long c = t->channels;
  window_place place = first_window(t, from);
  for (long p = from; p < to; p++, next_window(t, &place)) {
    BODY(c, max_pool_backward_part(t, p, &place, i, w));
  }
}
