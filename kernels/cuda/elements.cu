// Operations that treat every element alike: bound by memory, so a thread moves 16 bytes at a time.
//
// For all kernels here: grid ⌈n / (ELEMENT_THREADS·ELEMENTS_EACH)⌉, block ELEMENT_THREADS. Arrays may be the same memory.
#include "arithmetic.h"

// The elements [i, i+count) that a thread treats. Whole: there are four, and every array has them at a multiple of 16 bytes.
struct part {
  long long i;
  int count;
  bool whole;
};

struct four {
  float v[ELEMENTS_EACH];
};

DEVICE uintptr_t addresses() { return 0; }
template <class... T>
DEVICE uintptr_t addresses(const void* p, T... more) {
  return reinterpret_cast<uintptr_t>(p) | addresses(more...);
}

template <class... T>
DEVICE part my_part(long long n, T... arrays) {
  const long long i = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * ELEMENTS_EACH;
  const int count = static_cast<int>(i < n ? least(ELEMENTS_EACH, n - i) : 0);
  return {i, count, count == ELEMENTS_EACH && addresses(arrays...) % sizeof(float4) == 0};
}

DEVICE four load(const part& at, const float* x) {
  if (at.whole) {
    const float4 q = load4(x + at.i);
    return {{q.x, q.y, q.z, q.w}};
  }
  four r;
  for (int e = 0; e < ELEMENTS_EACH; e++) r.v[e] = e < at.count ? x[at.i + e] : 0.0f;
  return r;
}

DEVICE void store(const part& at, float* x, const four& r) {
  if (at.whole) {
    store4(x + at.i, {r.v[0], r.v[1], r.v[2], r.v[3]});
    return;
  }
  for (int e = 0; e < ELEMENTS_EACH; e++) {
    if (e < at.count) x[at.i + e] = r.v[e];
  }
}

#define EACH for (int e = 0; e < ELEMENTS_EACH; e++)

// dst = a + b: also a node of the reduction tree with its two children.
KERNEL(add, ELEMENT_THREADS, float* dst, const float* a, const float* b, long long n) {
  const part at = my_part(n, dst, a, b);
  four x = load(at, a);
  const four y = load(at, b);
  EACH x.v[e] = x.v[e] + y.v[e];
  store(at, dst, x);
}

// The same with bfloat16 for what is read and what is written; b may be null.
KERNEL(add_rounded, ELEMENT_THREADS, float* dst, const float* a, const float* b, long long n) {
  const part at = b ? my_part(n, dst, a, b) : my_part(n, dst, a);
  four x = load(at, a);
  EACH x.v[e] = float_of(round_bf16(x.v[e]));
  if (b) {
    const four y = load(at, b);
    EACH x.v[e] = float_of(round_bf16(x.v[e] + float_of(round_bf16(y.v[e]))));
  }
  store(at, dst, x);
}

// x = x·s
KERNEL(scale, ELEMENT_THREADS, float* x, float s, long long n) {
  const part at = my_part(n, x);
  four y = load(at, x);
  EACH y.v[e] = y.v[e] * s;
  store(at, x, y);
}

KERNEL(gelu, ELEMENT_THREADS, float* out, const float* x, long long n) {
  const part at = my_part(n, out, x);
  four y = load(at, x);
  EACH y.v[e] = y.v[e] * gelu_at(y.v[e]).sigmoid;
  store(at, out, y);
}

// dx = dout·gelu'(x), and out = gelu(x) once more if out is not null.
KERNEL(gelu_backward, ELEMENT_THREADS, float* dx, float* out, const float* dout, const float* x, long long n) {
  const part at = my_part(n, dx, out, dout, x);
  four y = load(at, x), d = load(at, dout);
  EACH {
    const gelu_parts g = gelu_at(y.v[e]);
    d.v[e] = d.v[e] * g.slope;
    y.v[e] = y.v[e] * g.sigmoid;
  }
  store(at, dx, d);
  if (out) store(at, out, y);
}

KERNEL(relu, ELEMENT_THREADS, float* out, const float* x, long long n) {
  const part at = my_part(n, out, x);
  four y = load(at, x);
  EACH y.v[e] = y.v[e] <= 0 ? 0.0f : y.v[e];
  store(at, out, y);
}

KERNEL(relu_backward, ELEMENT_THREADS, float* dx, const float* dout, const float* x, long long n) {
  const part at = my_part(n, dx, dout, x);
  const four y = load(at, x);
  four d = load(at, dout);
  EACH d.v[e] = y.v[e] > 0 ? d.v[e] : 0.0f;
  store(at, dx, d);
}

// One update of parameters p with moments m and v from gradients g. The scalars are adamWFactors, in its order.
KERNEL(adamw, ELEMENT_THREADS, float* p, const float* g, float* m, float* v, long long n, float lr, float beta1, float beta2,
       float eps, float decay, float rest1, float rest2, float c1, float c2, float gscale) {
  const part at = my_part(n, p, g, m, v);
  four x = load(at, p), a = load(at, m), b = load(at, v);
  const four y = load(at, g);
  EACH {
    const float h = y.v[e] * gscale;
    a.v[e] = fma1(beta1, a.v[e], rest1 * h);
    b.v[e] = fma1(beta2, b.v[e], (rest2 * h) * h);
    float u = (a.v[e] * c1) / (sqrt1(b.v[e] * c2) + eps);
    u = fma1(decay, x.v[e], u);
    x.v[e] = fma1(-lr, u, x.v[e]);
  }
  store(at, m, a);
  store(at, v, b);
  store(at, p, x);
}
