#include <algorithm>

#include "test.h"

using namespace test;

namespace {

using wide = long long;

struct sliding {
  long images, height, width, channels, rows, columns, stride, pad;
  long out_height() const { return (height + 2 * pad - rows) / stride + 1; }
  long out_width() const { return (width + 2 * pad - columns) / stride + 1; }
  long positions() const { return images * out_height() * out_width(); }
  size_t inputs() const { return static_cast<size_t>(images * height * width * channels); }
  long under() const { return rows * columns * channels; }
  window_args args(float* out, const float* x, const float* dout, long p0) const {
    return {out, x, dout, height, width, channels, rows, columns, stride, pad, out_height(), out_width(), p0};
  }
};

#define WINDOW_OF(w) \
  (wide)(w).height, (wide)(w).width, (wide)(w).channels, (wide)(w).rows, (wide)(w).columns, (wide)(w).stride, (wide)(w).pad, (wide)(w).out_height(), (wide)(w).out_width()

shape grid_for(size_t n) { return {pieces(static_cast<long>(n), ELEMENT_THREADS)}; }

template <class F>
void each_window(dice& r, F f) {
  f(sliding{1, 1, 1, 1, 1, 1, 1, 0});
  f(sliding{2, 8, 8, 16, 2, 2, 2, 0});
  f(sliding{3, 7, 5, 3, 3, 3, 1, 1});
  f(sliding{2, 9, 11, 17, 5, 3, 2, 2});
  for (int i = 0; i < 8; i++) {
    sliding w = {between(r, 1, 3), between(r, 3, 12), between(r, 3, 12), between(r, 1, 20), between(r, 1, 3), between(r, 1, 3), between(r, 1, 4), 0};
    w.pad = between(r, 0, std::min(w.rows, w.columns) - 1);
    f(w);
  }
}

TEST(window_columns) {
  each_window(r, [&](const sliding& w) {
    const floats x = normal(r, w.inputs());
    const long p0 = w.positions() / 3, p1 = w.positions();
    const size_t n = static_cast<size_t>((p1 - p0) * w.under());
    const floats want(n), got(n);
    for (long p = p0; p < p1; p++) {
      const long image = p / (w.out_height() * w.out_width()), q = p % (w.out_height() * w.out_width());
      for (long k = 0; k < w.under(); k++) {
        const long row = q / w.out_width() * w.stride - w.pad + k / w.channels / w.columns;
        const long column = q % w.out_width() * w.stride - w.pad + k / w.channels % w.columns;
        if (row < 0 || row >= w.height || column < 0 || column >= w.width) continue;
        want[(p - p0) * w.under() + k] = x[((image * w.height + row) * w.width + column) * w.channels + k % w.channels];
      }
    }
    launch("window_columns", grid_for(n), {ELEMENT_THREADS}, 0, got.get(), x.get(), WINDOW_OF(w), (wide)p0, (wide)p1);
    same("window_columns", want, got);
  });
}

TEST(window_images) {
  each_window(r, [&](const sliding& w) {
    const floats want = normal(r, w.inputs()), got = want;
    // In two pieces, as a convolution with many positions does.
    const long middle = w.positions() / 2;
    for (long p0 : {0L, middle}) {
      const long p1 = p0 == 0 ? middle : w.positions();
      if (p0 == p1) continue;
      const floats columns = normal(r, static_cast<size_t>((p1 - p0) * w.under()));
      const window_args t = w.args(want.get(), columns.get(), nullptr, p0);
      cpu->add_columns(&t, p0, p1);
      launch("window_images", grid_for(w.inputs()), {ELEMENT_THREADS}, 0, got.get(), columns.get(), (wide)w.images, WINDOW_OF(w), (wide)p0, (wide)p1);
    }
    same("window_images", want, got);
  });
}

TEST(max_pool) {
  each_window(r, [&](const sliding& w) {
    const size_t outputs = static_cast<size_t>(w.positions() * w.channels);
    const floats x = sprinkle(r, normal(r, w.inputs())), dout = normal(r, outputs);
    for (size_t i = 0; i + 1 < x.size(); i += 3) x[i + 1] = x[i];  // some that are equal
    const floats want(outputs), got(outputs), dwant(w.inputs()), dgot = normal(r, w.inputs());
    const window_args t = w.args(want.get(), x.get(), nullptr, 0), back = w.args(dwant.get(), x.get(), dout.get(), 0);
    cpu->max_pool(&t, 0, w.positions());
    launch("max_pool", grid_for(outputs), {ELEMENT_THREADS}, 0, got.get(), x.get(), (wide)w.images, WINDOW_OF(w));
    same("max_pool", want, got);
    cpu->max_pool_backward(&back, 0, w.positions());
    launch("max_pool_backward", grid_for(w.inputs()), {ELEMENT_THREADS}, 0, dgot.get(), dout.get(), x.get(), (wide)w.images, WINDOW_OF(w));
    same("max_pool_backward", dwant, dgot);
  });
}

}  // namespace
