//go:build cgo

#include "ops_system.h"

#ifdef __FP_FAST_FMAF
static inline float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
// The float64 product is exact; where rounding the sum twice could go wrong, it is rounded to odd first. See fma.go.
static float fma1_slow(float a, float b, float c) {
  double p = (double)a * b, x = c, s = p + x, q = s - x;
  double e = (p - q) + (x - (s - q));
  uint64_t u;
  memcpy(&u, &s, sizeof u);
  if (s - s == 0 && e != 0 && (u & 1) == 0) {
    u += (e > 0) == (s > 0) ? 1 : -1;
    memcpy(&s, &u, sizeof s);
  }
  return (float)s;
}

static inline float fma1(float a, float b, float c) {
  double s = (double)a * b + c;
  uint64_t u;
  memcpy(&u, &s, sizeof u);
  if ((u & 0x1fffffff) != 0x10000000 && u << 1 >= (uint64_t)(1023 - 126) << 53) return (float)s;
  return fma1_slow(a, b, c);
}
#endif

#include "lanes_portable.h"
#include "ops_all.h"
