// Block-scaled int8 and what it loses: quantize.go has the format. Loops that compilers turn into vectors.

enum { QUANT_BLOCK = 256, QUANT_MOST = 126, QUANT_INFINITE = 127, QUANT_NAN = -128 };

static inline uint32_t bits32(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
static inline float float32_of(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

static const uint32_t infinite_bits = 0x7f800000;

// The bits of numbers without a sign are ordered as the numbers. What is not finite counts as 0.
static inline uint32_t finite_size(float x) {
  uint32_t u = bits32(x) & 0x7fffffff;
  return u < infinite_bits ? u : 0;
}

// The largest of each lane is found first, because compilers make vectors of that.
static float quant_scale(const float* x, long n) {
  uint32_t most[LANE_COUNT] = {0};
  long i = 0;
  for (; i + LANE_COUNT <= n; i += LANE_COUNT) {
    for (int l = 0; l < LANE_COUNT; l++) {
      uint32_t u = finite_size(x[i + l]);
      most[l] = most[l] > u ? most[l] : u;
    }
  }
  for (int l = 0; l < LANE_COUNT; l++) {
    uint32_t u = i + l < n ? finite_size(x[i + l]) : 0;
    most[l] = most[l] > u ? most[l] : u;
    most[0] = most[0] > most[l] ? most[0] : most[l];
  }
  return float32_of(most[0]) / QUANT_MOST;
}

static void quantize_block(int8_t* restrict code, const float* restrict x, long n, float scale) {
  const float magic = 0x1.8p23f;
  const uint32_t base = bits32(magic);
  // Where the scale is 0, so are the quotients.
  const float by = scale == 0 ? float32_of(infinite_bits) : scale;
  for (long i = 0; i < n; i++) {
    int32_t k = (int32_t)(bits32(x[i] / by + magic) - base);
    k = k > QUANT_MOST ? QUANT_MOST : k;
    k = k < -QUANT_MOST ? -QUANT_MOST : k;
    uint32_t u = bits32(x[i]), size = u & 0x7fffffff;
    int32_t infinite = u == size ? QUANT_INFINITE : -QUANT_INFINITE;
    k = size == infinite_bits ? infinite : k;
    k = size > infinite_bits ? QUANT_NAN : k;
    code[i] = (int8_t)k;
  }
}

static void dequantize_block(float* restrict x, const int8_t* restrict code, long n, float scale) {
  const float most = 0x1.fffffep127f;
  for (long i = 0; i < n; i++) {
    const int32_t k = code[i];
    float v = (float)k * scale;
    v = v > most ? most : v;
    v = v < -most ? -most : v;
    uint32_t u = v != v ? 0x7fc00000u : bits32(v);
    u = k == QUANT_INFINITE ? infinite_bits : u;
    u = k == -QUANT_INFINITE ? infinite_bits | 0x80000000u : u;
    u = k == QUANT_NAN ? 0x7fc00000u : u;
    x[i] = float32_of(u);
  }
}

static void op_encode_int8(uint8_t* dst, const float* src, long n) {
  while (n > 0) {
    const long w = n < QUANT_BLOCK ? n : QUANT_BLOCK;
    const float scale = quant_scale(src, w);
    memcpy(dst, &scale, sizeof scale);
    quantize_block((int8_t*)dst + sizeof scale, src, w, scale);
    dst += sizeof scale + w;
    src += w;
    n -= w;
  }
}

static void op_decode_int8(float* dst, const uint8_t* src, long n) {
  while (n > 0) {
    const long w = n < QUANT_BLOCK ? n : QUANT_BLOCK;
    float scale;
    memcpy(&scale, src, sizeof scale);
    dequantize_block(dst, (const int8_t*)src + sizeof scale, w, scale);
    src += sizeof scale + w;
    dst += w;
    n -= w;
  }
}

static void op_residual(float* x, const float* sent, long n) {
  INDEPENDENT for (long i = 0; i < n; i++) {
    const float a = x[i], b = sent[i];
    const int finite = (bits32(a) & infinite_bits) != infinite_bits && (bits32(b) & infinite_bits) != infinite_bits;
    x[i] = finite ? a - b : 0;
  }
}
