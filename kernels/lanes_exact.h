// One lane of class bf16's chains, where the machine has no mode that flushes as the class does.

static inline uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
static inline float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

// flushes says whether x·y + s, rounded to 24 bits whatever its exponent, is less than the least normal number, where its value
// in binary32 is r. x, y and s are zero or normal. Only rounding to a subnormal number's bits could make r normal.
static inline int flushes(float x, float y, float s, float r) {
  const double least = 0x1p-126, limit = 0x1p-126 - 0x1p-151;
  if (fabs((double)r) != least) return fabs((double)r) < least;
  double p = (double)x * y, c = s, t = p + c, q = t - c, e = (p - q) + (c - (t - q));
  return fabs(t) < limit || (fabs(t) == limit && e != 0 && (e < 0) == (t > 0));
}
static inline float fma_flushed(float x, float y, float s) {
  float r = fma1(x, y, s);
  return flushes(x, y, s, r) ? float_of(bits_of(r) & 0x80000000u) : r;
}
// The two terms of a pair, the odd one first.
static inline float dot1(float y, float x, float s) {
  uint32_t a = bits_of(y), b = bits_of(x);
  s = fma_flushed(float_of(a & 0xffff0000u), float_of(b & 0xffff0000u), s);
  return fma_flushed(float_of(a << 16), float_of(b << 16), s);
}
// The steps of class bf16-amx.
static inline float even1(float y, float x, float s) {
  return fma_flushed(float_of(bits_of(y) << 16), float_of(bits_of(x) << 16), s);
}
static inline float odd1(float y, float x, float s) {
  return fma_flushed(float_of(bits_of(y) & 0xffff0000u), float_of(bits_of(x) & 0xffff0000u), s);
}
static inline float normal1(float x) { return (bits_of(x) & 0x7f800000u) ? x : float_of(bits_of(x) & 0x80000000u); }
static inline float sum1(float a, float b) { return fma_flushed(1.0f, normal1(a), normal1(b)); }
