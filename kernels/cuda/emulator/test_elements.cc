#include <cstring>

#include "test.h"

using namespace test;

namespace {

struct where {
  shape grid, block;
};
where elements(size_t n) { return {{pieces(static_cast<long>(n), ELEMENT_THREADS * ELEMENTS_EACH)}, {ELEMENT_THREADS}}; }

// Lengths around the borders of groups of four and of blocks, and arrays at multiples of 16 bytes or not.
template <class F>
void each_length(dice& r, F f) {
  for (long n : {1L, 3L, 4L, 5L, 15L, 64L, 1023L, 1024L, 1025L, 4099L, between(r, 5000, 20000)}) {
    for (bool misplace : {false, true}) f(static_cast<size_t>(n), misplace);
  }
}

// The float between the bfloat16 below x and the next one.
float halfway(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  u = (u & 0xffff0000u) | 0x8000u;
  memcpy(&x, &u, sizeof x);
  return x;
}

// y = x, rounded to bfloat16.
void round_all(const floats& y, const floats& x) {
  std::vector<uint16_t> halves(x.size());
  cpu->encode_bf16(halves.data(), x.get(), static_cast<long>(x.size()));
  cpu->decode_bf16(y.get(), halves.data(), static_cast<long>(x.size()));
}

TEST(add) {
  each_length(r, [&](size_t n, bool misplace) {
    const floats a = sprinkle(r, normal(r, n)), b = sprinkle(r, normal(r, n, misplace));
    const floats want(n), got(n);
    cpu->add(want.get(), a.get(), b.get(), static_cast<long>(n));
    launch("add", elements(n).grid, elements(n).block, 0, got.get(), a.get(), b.get(), static_cast<long long>(n));
    same("add", want, got);
    launch("add", elements(n).grid, elements(n).block, 0, a.get(), a.get(), b.get(), static_cast<long long>(n));
    same("add in place", want, a);
    const floats p = sprinkle(r, normal(r, n, misplace)), q = sprinkle(r, normal(r, n)), rounded(n), other(n), both(n);
    for (size_t i = 0; i < n; i += 3) p[i] = halfway(p[i]);
    round_all(rounded, p);
    round_all(other, q);
    cpu->add(both.get(), rounded.get(), other.get(), static_cast<long>(n));
    round_all(both, both);
    launch("add_rounded", elements(n).grid, elements(n).block, 0, got.get(), p.get(), (float*)nullptr, static_cast<long long>(n));
    same("add_rounded of one", rounded, got);
    launch("add_rounded", elements(n).grid, elements(n).block, 0, p.get(), p.get(), q.get(), static_cast<long long>(n));
    same("add_rounded", both, p);
  });
}

TEST(scale) {
  each_length(r, [&](size_t n, bool misplace) {
    const floats want = sprinkle(r, normal(r, n, misplace)), got = want;
    cpu->scale(want.get(), 0.3f, static_cast<long>(n));
    launch("scale", elements(n).grid, elements(n).block, 0, got.get(), 0.3f, static_cast<long long>(n));
    same("scale", want, got);
  });
}

TEST(activations) {
  each_length(r, [&](size_t n, bool misplace) {
    const floats x = sprinkle(r, normal(r, n, misplace)), dout = sprinkle(r, normal(r, n));
    const floats want(n), got(n), want_out(n), got_out(n, misplace);
    const where at = elements(n);
    const long count = static_cast<long>(n);
    const long long wide = count;
    cpu->gelu(want.get(), x.get(), count);
    launch("gelu", at.grid, at.block, 0, got.get(), x.get(), wide);
    same("gelu", want, got);
    cpu->gelu_backward(want.get(), want_out.get(), dout.get(), x.get(), count);
    launch("gelu_backward", at.grid, at.block, 0, got.get(), got_out.get(), dout.get(), x.get(), wide);
    same("gelu_backward, dx", want, got);
    same("gelu_backward, out", want_out, got_out);
    const floats alone(n);
    launch("gelu_backward", at.grid, at.block, 0, alone.get(), static_cast<float*>(nullptr), dout.get(), x.get(), wide);
    same("gelu_backward without out", want, alone);
    cpu->relu(want.get(), x.get(), count);
    launch("relu", at.grid, at.block, 0, got.get(), x.get(), wide);
    same("relu", want, got);
    cpu->relu_backward(want.get(), dout.get(), x.get(), count);
    launch("relu_backward", at.grid, at.block, 0, got.get(), dout.get(), x.get(), wide);
    same("relu_backward", want, got);
  });
}

TEST(adamw) {
  each_length(r, [&](size_t n, bool misplace) {
    const floats p = sprinkle(r, normal(r, n, misplace)), g = sprinkle(r, normal(r, n)), m = normal(r, n), v = normal(r, n);
    for (size_t i = 0; i < n; i++) v[i] = v[i] * v[i];
    const floats p2 = p, m2 = m, v2 = v;
    const adamw_factors f = {3e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.1f, 0.05f, 1.7f, 3.1f, 0.25f};
    cpu->adamw(p.get(), g.get(), m.get(), v.get(), static_cast<long>(n), &f);
    launch("adamw", elements(n).grid, elements(n).block, 0, p2.get(), g.get(), m2.get(), v2.get(), static_cast<long long>(n), f.lr, f.beta1,
           f.beta2, f.eps, f.decay, f.rest1, f.rest2, f.c1, f.c2, f.gscale);
    same("adamw, p", p, p2);
    same("adamw, m", m, m2);
    same("adamw, v", v, v2);
  });
}

}  // namespace
