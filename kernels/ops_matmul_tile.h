// A register tile of a matrix product, for one kind of product: TILE_KIND names it. TILE_CHAIN(y, x, acc) adds what one packed
// value holds to a chain. TILE_IN_PLACE says that rows are not packed. Include it once for each kind.

// TILE_STEP adds the terms of packed value u from where rows are and the next of b, TILE_ADVANCE moves rows on by n.
#define TILE_STEP(u)                                                                                        \
  {                                                                                                         \
    vf x[NV];                                                                                               \
    _Pragma("GCC unroll 4") for (int v = 0; v < NV; v++) x[v] = vf_load(b + 16 * v);                        \
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {                                                 \
      vf y = vf_set1(*(const float*)(rows[i / TOGETHER] + i % TOGETHER * step + (u) * each));               \
      _Pragma("GCC unroll 4") for (int v = 0; v < NV; v++) acc[i][v] = TILE_CHAIN(y, x[v], acc[i][v]);      \
    }                                                                                                       \
    b += bs;                                                                                                \
  }
#define TILE_ADVANCE(n)                                                                                     \
  _Pragma("GCC unroll 16") for (int g = 0; TOGETHER * g < mr; g++) {                                        \
    rows[g] += (n) * each;                                                                                  \
    if (TILE_IN_PLACE) __asm__("" : "+r"(rows[g]), "+r"(step)); /* an address of its own, and no others */  \
  }

// One block of a tile of mr rows and NV vectors: c = or += the chains over depth packed values, then + bias.
// cols says how many columns of the tile exist. In place, row i begins at a + i·ai. Packed values of b are bs apart.
static inline __attribute__((always_inline)) void TILE_OF(tile)(const int mr, const float* restrict a, long ai,
                                                                const float* restrict b, long bs, long depth, float* restrict c,
                                                                long ldc, long cols, int mode, const float* bias,
                                                                ahead* next) {
  vf acc[MR][NV];
  TILE_BEGIN
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
      acc[i][v] = vf_set1(0.0f);
      TILE_PIN(acc[i][v]);
    }
  }
  // The tile of c arrives while the chains are computed.
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) __builtin_prefetch(c + i * ldc + 16 * v, 1);
  }
  // gcc would keep the addresses of all rows in registers, vector registers too, that the loop needs: it shall forget them.
  __asm__("" : "+r"(c), "+r"(ldc));
  // Row i's factor is at rows[i / TOGETHER] + i % TOGETHER · step.
  const char* rows[GROUPS];
  long step = (TILE_IN_PLACE ? ai : 1) * (long)sizeof(float);
#pragma GCC unroll 16
  for (int g = 0; TOGETHER * g < mr; g++) rows[g] = (const char*)a + TOGETHER * g * step;
  const long each = (TILE_IN_PLACE ? 1 : mr) * (long)sizeof(float);
  _Static_assert(AHEAD_STEP % UNROLL == 0, "a line is prefetched after whole turns");
  ahead line = *next;
  long k = 0;
  while (k + AHEAD_STEP <= depth) {
    ahead_next(&line);
#pragma GCC unroll 1
    for (const long stop = k + AHEAD_STEP; k < stop; k += UNROLL) {
#pragma GCC unroll 4
      for (int u = 0; u < UNROLL; u++) {
        TILE_STEP(u)
      }
      TILE_ADVANCE(UNROLL)
    }
  }
#pragma GCC unroll 1
  for (; k < depth; k++) {
    TILE_STEP(0)
    TILE_ADVANCE(1)
  }
  *next = line;
  __asm__("" : "+r"(c), "+r"(ldc));
  // The accumulators stay in registers only when every index is a constant.
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) TILE_PIN(acc[i][v]);
  }
  TILE_END
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
      float* p = c + i * ldc + 16 * v;
      long w = cols - 16 * v;
      vf s = acc[i][v];
      TILE_PIN(s);
      if (w >= 16) {
        if (mode == TILE_ADD) s = vf_add(vf_load(p), s);
        if (bias) s = vf_add(s, vf_load(bias + 16 * v));
        vf_store(p, s);
      } else if (w > 0) {
        if (mode == TILE_ADD) s = vf_add(vf_loadn(p, w), s);
        if (bias) s = vf_add(s, vf_loadn(bias + 16 * v, w));
        vf_storen(p, s, w);
      }
    }
  }
}

#define TILE(mr)                                                                                                     \
  static void TILE_OF(tile_##mr)(const float* a, long ai, const float* b, long bs, long depth, float* c, long ldc, long cols, \
                                 int mode, const float* bias, ahead* next) {                                         \
    TILE_OF(tile)(mr, a, ai, b, bs, depth, c, ldc, cols, mode, bias, next);                                              \
  }
#define TILE_ENTRY(mr) TILE_OF(tile_##mr),
TILE_SIZES(TILE)
static const tile_fn TILE_OF(tiles)[MR + 1] = {0, TILE_SIZES(TILE_ENTRY)};

#undef TILE
#undef TILE_ENTRY
#undef TILE_KIND
#undef TILE_CHAIN
#undef TILE_IN_PLACE
#undef TILE_BEGIN
#undef TILE_END
#undef TILE_PIN
#undef TILE_STEP
#undef TILE_ADVANCE
