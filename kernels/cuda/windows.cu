// Windows that slide over images, channels last: convolution by columns and max-pooling. kernels/conv.go has the terms.
//
// A thread has one value, neighbours the next channel. What a CPU scatters is gathered here: the thread of a pixel goes through the
// windows that cover it, in order, so sums need no atomic additions.
#include "arithmetic.h"

struct window {
  long long height, width, channels, rows, columns, stride, pad, out_height, out_width;
};

#define WINDOW_PARAMETERS                                                                                            \
  long long height, long long width, long long channels, long long rows, long long columns, long long stride, long long pad, \
      long long out_height, long long out_width
#define WINDOW \
  { height, width, channels, rows, columns, stride, pad, out_height, out_width }

// A range of rows or columns.
struct range {
  long long from, to;
};

// The positions whose window covers coordinate at: those where at - position·stride + pad is in [0, size).
DEVICE range covering(long long at, long long size, long long stride, long long pad, long long positions) {
  const long long before = at + pad - size;
  return {before < 0 ? 0 : before / stride + 1, least(positions, (at + pad) / stride + 1)};
}

DEVICE long long my_value() { return static_cast<long long>(blockIdx.x) * ELEMENT_THREADS + threadIdx.x; }

// out[p-p0, under] = the pixels under the window at positions [p0,p1) of all images, +0 where it reaches over an edge.
// Grid ⌈(p1-p0)·rows·columns·channels / ELEMENT_THREADS⌉, block ELEMENT_THREADS.
KERNEL(window_columns, ELEMENT_THREADS, float* out, const float* x, WINDOW_PARAMETERS, long long p0, long long p1) {
  const long long i = my_value(), under = rows * columns * channels;
  if (i >= (p1 - p0) * under) return;
  const long long p = p0 + i / under, k = i % under, pixel = k / channels, q = p % (out_height * out_width);
  const long long image = p / (out_height * out_width);
  const long long row = q / out_width * stride - pad + pixel / columns, column = q % out_width * stride - pad + pixel % columns;
  const bool inside = row >= 0 && row < height && column >= 0 && column < width;
  out[i] = inside ? x[((image * height + row) * width + column) * channels + k % channels] : 0.0f;
}

// dx[pixel] += the gradients of columns that hold the pixel, at positions [p0,p1) in order; dcolumns has those positions only.
// Grid ⌈images·height·width·channels / ELEMENT_THREADS⌉, block ELEMENT_THREADS.
KERNEL(window_images, ELEMENT_THREADS, float* dx, const float* dcolumns, long long images, WINDOW_PARAMETERS, long long p0,
       long long p1) {
  const long long i = my_value(), channel = i % channels, pixel = i / channels;
  if (pixel >= images * height * width) return;
  const long long image = pixel / (height * width), y = pixel / width % height, x = pixel % width;
  const range down = covering(y, rows, stride, pad, out_height), across = covering(x, columns, stride, pad, out_width);
  float s = dx[i];
  for (long long oy = down.from; oy < down.to; oy++) {
    const long long line = (image * out_height + oy) * out_width, ky = y + pad - oy * stride;
    for (long long ox = across.from; ox < across.to; ox++) {
      const long long p = line + ox, kx = x + pad - ox * stride;
      if (p >= p0 && p < p1) s = s + dcolumns[(((p - p0) * rows + ky) * columns + kx) * channels + channel];
    }
  }
  dx[i] = s;
}

// The largest pixel under a window, and which one of its image it is: the first of several; the last NaN if there are any.
// x is of this image and this channel.
struct largest {
  float value;
  long long at;
};
DEVICE largest largest_under(const float* x, const window& w, long long oy, long long ox) {
  const long long y = oy * w.stride - w.pad, z = ox * w.stride - w.pad;
  largest m = {0.0f, -1};
  for (long long row = y < 0 ? 0 : y; row < least(w.height, y + w.rows); row++) {
    for (long long column = z < 0 ? 0 : z; column < least(w.width, z + w.columns); column++) {
      const long long at = row * w.width + column;
      const float v = x[at * w.channels];
      if (m.at < 0 || v > m.value || v != v) m = {v, at};
    }
  }
  return m;
}

// out[p,channel] = the largest pixel under the window at p. Grid ⌈images·out_height·out_width·channels / ELEMENT_THREADS⌉, block ELEMENT_THREADS.
KERNEL(max_pool, ELEMENT_THREADS, float* out, const float* x, long long images, WINDOW_PARAMETERS) {
  const long long i = my_value(), p = i / channels, outputs = out_height * out_width;
  if (p >= images * outputs) return;
  const long long image = p / outputs, at = p - image * outputs, y = at / out_width;
  x += image * height * width * channels + (i - p * channels);
  out[i] = largest_under(x, WINDOW, y, at - y * out_width).value;
}

// dx = dout at the largest pixel of every window, 0 elsewhere. Windows that overlap have their largest found by each of their pixels: that
// reads a cache, where a list of the largest would read and write memory. Grid ⌈images·height·width·channels / ELEMENT_THREADS⌉, block
// ELEMENT_THREADS.
KERNEL(max_pool_backward, ELEMENT_THREADS, float* dx, const float* dout, const float* x, long long images, WINDOW_PARAMETERS) {
  const long long i = my_value(), pixel = i / channels, channel = i - pixel * channels;
  if (pixel >= images * height * width) return;
  const long long image = pixel / (height * width), at = pixel - image * (height * width), y = at / width, z = at - y * width;
  const range down = covering(y, rows, stride, pad, out_height), across = covering(z, columns, stride, pad, out_width);
  x += i - at * channels;
  dout += image * out_height * out_width * channels + channel;
  float s = 0.0f;
  for (long long oy = down.from; oy < down.to; oy++) {
    for (long long ox = across.from; ox < across.to; ox++) {
      if (largest_under(x, WINDOW, oy, ox).at != at) continue;
      s = s + dout[(oy * out_width + ox) * channels];
    }
  }
  dx[i] = s;
}
