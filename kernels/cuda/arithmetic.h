// The functions of kernels/canonical.go: the comment there defines every bit of them.
#ifndef FARANDOLE_CUDA_ARITHMETIC_H
#define FARANDOLE_CUDA_ARITHMETIC_H

#include "device.h"

enum { LANES = 16, BLOCK_K = 256, BLOCK_SUM = 4096 };
enum { WARP = 32 };
static constexpr unsigned ALL_LANES = 0xffffffffu;  // of a warp

DEVICE uint32_t bits_of(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
}
DEVICE float float_of(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
}
DEVICE long long least(long long a, long long b) { return a < b ? a : b; }

// Four values at x along a row of which there are count, +0 where there are none.
DEVICE float4 quad_at(const float* x, long long count, bool aligned) {
  if (count >= 4 && aligned) return load4(x);
  return {count > 0 ? x[0] : 0.0f, count > 1 ? x[1] : 0.0f, count > 2 ? x[2] : 0.0f, count > 3 ? x[3] : 0.0f};
}

// The terms of a product that a block of threads has: the canonical blocks of k from number first on, all that are left, which go to c; or, where
// there are planes, only number first + blockIdx.z, whose value goes to plane blockIdx.z and has no bias.
struct term_range {
  int at, end;
};
template <int BLOCK>
DEVICE term_range my_terms(float*& c, const float*& bias, int& accumulate, float* planes, int m, int n, int k, int first) {
  if (!planes) return {first * BLOCK, k};
  const int at = (first + static_cast<int>(blockIdx.z)) * BLOCK;
  c = planes + blockIdx.z * static_cast<long long>(m) * n;
  bias = nullptr;
  accumulate = 0;
  return {at, static_cast<int>(least(k, at + static_cast<long long>(BLOCK)))};
}

// The larger one; b where either is NaN.
DEVICE float larger(float a, float b) { return a > b ? a : b; }

DEVICE float power_of_two(int n) { return float_of(static_cast<uint32_t>(n + 127) << 23); }

DEVICE float exp1(float x) {
  const float magic = 0x1.8p23f;
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float t = fma1(x, 0x1.715476p+0f, magic), n = t - magic;
  float r = fma1(n, -0x1.63p-1f, x);
  r = fma1(n, 0x1.bd0106p-13f, r);
  float p = 0x1.6d117cp-10f;
  p = fma1(p, r, 0x1.120be2p-7f);
  p = fma1(p, r, 0x1.555518p-5f);
  p = fma1(p, r, 0x1.5554dcp-3f);
  p = fma1(p, r, 0.5f);
  p = fma1(p, r, 1.0f);
  p = fma1(p, r, 1.0f);
  const int i = static_cast<int>(bits_of(t) - bits_of(magic)), h = i >> 1;
  return p * power_of_two(h) * power_of_two(i - h);
}

// x is normal and positive, +Inf or NaN.
DEVICE float log1(float x) {
  if (x != x || bits_of(x) == 0x7f800000u) return x;
  const int i = static_cast<int>(bits_of(x) - 0x3f3504f3u) >> 23;
  const float e = static_cast<float>(i), f = float_of(bits_of(x) - (static_cast<uint32_t>(i) << 23)) - 1.0f;
  float p = 0x1.1d8ea6p-4f;
  p = fma1(p, f, -0x1.d635bcp-4f);
  p = fma1(p, f, 0x1.dea282p-4f);
  p = fma1(p, f, -0x1.fcf4c6p-4f);
  p = fma1(p, f, 0x1.23d21ap-3f);
  p = fma1(p, f, -0x1.555b4ap-3f);
  p = fma1(p, f, 0x1.999d5ap-3f);
  p = fma1(p, f, -0x1.fffffcp-3f);
  p = fma1(p, f, 0x1.555554p-2f);
  const float q = f * f;
  float y = f * q;
  y = y * p;
  y = fma1(e, -0x1.bd0106p-13f, y);
  y = fma1(-0.5f, q, y);
  y = f + y;
  return fma1(e, 0x1.63p-1f, y);
}

// The logistic function σ(2u) of GELU at x, and GELU's derivative.
struct gelu_parts {
  float sigmoid, slope;
};
DEVICE gelu_parts gelu_at(float x) {
  const float linear = 1.5957691216057308f;
  float y = x > 32.0f ? 32.0f : x;
  y = y < -32.0f ? -32.0f : y;
  const float q = y * y, u2 = y * fma1(q, 0.07135481282605335f, linear);
  const float a = exp1(float_of(bits_of(u2) | 0x80000000u)), d = 1.0f / (1.0f + a), ad = a * d;
  const float s = u2 >= 0 ? d : ad;
  const float w = fma1(q, 0.21406443847816005f, linear), t = (y * w) * (ad * d);
  return {s, s + t};
}

// The nearest bfloat16, ties to even, NaN canonical: as the upper half of a float's bits.
DEVICE uint32_t round_bf16(float x) {
  const uint32_t u = bits_of(x);
  return x != x ? 0x7fc00000u : (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
}

// The sum of a half-warp's lanes in the canonical order; every lane gets it. a + b = b + a, so the lanes above a fold's middle
// compute what those below do.
DEVICE float fold_lanes(float x) {
  for (int with = LANES / 2; with > 0; with /= 2) x = x + __shfl_xor_sync(ALL_LANES, x, with);
  return x;
}

#endif
