// The products of class bf16-amx by tdpbf16ps, which adds a group of 32 terms to 16×16 chains. Rows of c are cut into tiles of
// AMX_ROWS, columns into panels of PANEL: four of the eight tile registers hold chains, two a's rows and two b's columns.
//
// A packed tile has, group after group, AMX_ROWS rows of 32 factors; a packed panel, group after group, 16 rows of PANEL pairs, as in class
// bf16. Both have AMX_GROUP floats a group, with zeros where there are no rows, columns or terms.

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,amx-tile,amx-bf16")
#endif

_Static_assert(PANEL == 32 && AMX_ROWS == 32, "two tile registers each way");

static inline long amx_groups(long kc) { return (kc + AMX_TERMS - 1) / AMX_TERMS; }
static inline long amx_tiles(long m) { return (m + AMX_ROWS - 1) / AMX_ROWS; }

// The tile registers belong to nobody between amx_begin and amx_end: all eight have 16 rows of 64 bytes.
static inline void amx_begin(void) {
  static const struct {
    uint8_t palette, start, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } shape = {.palette = 1,
             .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
             .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  _Static_assert(sizeof shape == 64, "what ldtilecfg reads");
  _tile_loadconfig(&shape);
}
static inline void amx_end(void) { _tile_release(); }

// amx_pack_tile packs rows of n terms as a tile: element k of row i is at src[i·ri + k·rk], where ri or rk is 1.
static void amx_pack_tile(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long n, ahead* next) {
  for (long k = 0; k < n; k += AMX_TERMS, dst += AMX_GROUP) {
    const long have = min_long(AMX_TERMS, n - k);
    ahead_lines(next, AMX_ROWS * AMX_TERMS / 16);
    if (rk == 1) {
      for (long i = 0; i < AMX_ROWS; i++) {
        const float* p = src + i * ri + k;
        vf r = vf_set1(0.0f);
        if (i < rows) {
          r = have == AMX_TERMS ? (vf)_mm512_cvtne2ps_pbh(vf_load(p + 16), vf_load(p))
                                : (vf)_mm512_cvtne2ps_pbh(have > 16 ? vf_loadn(p + 16, have - 16) : vf_set1(0.0f), vf_loadn(p, have));
        }
        vf_store(dst + i * 16, r);
      }
      continue;
    }
    for (long i = 0; i < AMX_ROWS; i += 16) {
      const long width = rows - i;
      vf r[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) {
        const float* p = src + (k + 2 * j) * rk + i;
        const vf even = width > 0 && 2 * j < have ? vf_loadn(p, width) : vf_set1(0.0f);
        const vf odd = width > 0 && 2 * j + 1 < have ? vf_loadn(p + rk, width) : vf_set1(0.0f);
        r[j] = join_pairs(even, odd);
      }
      transpose_registers(r);
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) vf_store(dst + (i + j) * 16, r[j]);
    }
  }
}

// amx_pack_panel is the same for a panel's columns.
static void amx_pack_panel(float* restrict dst, const float* restrict src, long ri, long rk, long columns, long n, ahead* next) {
  const long pairs = (n + 1) / 2, whole = amx_groups(n) * (AMX_TERMS / 2);
  dot_pack_pairs(dst, src, ri, rk, columns, PANEL, n, next);
  memset(dst + pairs * PANEL, 0, (whole - pairs) * PANEL * sizeof(float));
}

static void amx_pack_rows(const matmul_args* t, float* dst, long k0, long k1, long r0, long r1) {
  for (long k = k0; k < k1; k += AMX_BLOCK) {
    const long kc = min_long(AMX_BLOCK, k1 - k), size = amx_groups(kc) * AMX_GROUP;
    for (long r = r0; r < r1; r++) {
      const long i = r * AMX_ROWS, after = i + AMX_ROWS;
      ahead next = {0};
      if (r + 1 < r1) {
        next = ahead_of(t->a + after * t->ai + k * t->ak, t->ai, t->ak, min_long(AMX_ROWS, t->m - after), kc);
      }
      amx_pack_tile(dst + r * size, t->a + i * t->ai + k * t->ak, t->ai, t->ak, min_long(AMX_ROWS, t->m - i), kc, &next);
    }
    dst += amx_tiles(t->m) * size;
  }
}

static void amx_pack_columns(const matmul_args* t, float* dst, long k0, long k1, long p0, long p1) {
  for (long k = k0; k < k1; k += AMX_BLOCK) {
    const long kc = min_long(AMX_BLOCK, k1 - k), size = amx_groups(kc) * AMX_GROUP;
    for (long p = p0; p < p1; p++) {
      const long j = p * PANEL, after = j + PANEL;
      ahead next = {0};
      if (p + 1 < p1) {
        next = ahead_of(t->b + after * t->bj + k * t->bk, t->bj, t->bk, min_long(PANEL, t->n - after), kc);
      }
      amx_pack_panel(dst + p * size, t->b + j * t->bj + k * t->bk, t->bj, t->bk, min_long(PANEL, t->n - j), kc, &next);
    }
    dst += whole_panels(t->n) / PANEL * size;
  }
}

// amx_chains goes on with up to 32×32 chains at c, whose rows are ldc apart; zero says that they begin with +0, or with bias where there is one.
// More than 16 rows and columns there are where tall and wide are true. Lines of next are fetched, a few for each group.
static inline __attribute__((always_inline)) void amx_chains(const int tall, const int wide, const float* a, const float* b, long groups,
                                                             float* c, long ldc, int zero, const float* bias, ahead* next, long lines) {
  // Until here are stores that gcc must not move past what it does not know to read them.
  __asm__ volatile("" ::: "memory");
  if (!zero) {
    const long step = ldc * (long)sizeof(float);
    _tile_loadd(0, c, step);
    if (wide) _tile_loadd(1, c + 16, step);
    if (tall) _tile_loadd(2, c + 16 * ldc, step);
    if (tall && wide) _tile_loadd(3, c + 16 * ldc + 16, step);
  } else if (bias) {  // the same row sixteen times
    _tile_loadd(0, bias, 0);
    if (wide) _tile_loadd(1, bias + 16, 0);
    if (tall) _tile_loadd(2, bias, 0);
    if (tall && wide) _tile_loadd(3, bias + 16, 0);
  } else {
    _tile_zero(0);
    if (wide) _tile_zero(1);
    if (tall) _tile_zero(2);
    if (tall && wide) _tile_zero(3);
  }
  ahead line = *next;
  for (long g = 0; g < groups; g++, a += AMX_GROUP, b += AMX_GROUP) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, PANEL * sizeof(float));
    _tile_dpbf16ps(0, 4, 6);
    if (wide) {
      _tile_loadd(7, b + 16, PANEL * sizeof(float));
      _tile_dpbf16ps(1, 4, 7);
    }
    if (tall) {
      _tile_loadd(5, a + 16 * 16, 64);
      _tile_dpbf16ps(2, 5, 6);
      if (wide) _tile_dpbf16ps(3, 5, 7);
    }
    ahead_lines(&line, lines);
  }
  *next = line;
  const long step = ldc * (long)sizeof(float);
  _tile_stored(0, c, step);
  if (wide) _tile_stored(1, c + 16, step);
  if (tall) _tile_stored(2, c + 16 * ldc, step);
  if (tall && wide) _tile_stored(3, c + 16 * ldc + 16, step);
  __asm__ volatile("" ::: "memory");
}

// amx_tile computes rows by columns of c from a packed tile and panel. Where they do not fill tile registers it does so beside c.
static void amx_tile(const float* a, const float* b, long groups, float* c, long ldc, long rows, long columns, int zero,
                     const float* bias, ahead* next, long lines) {
  if (rows == AMX_ROWS && columns == PANEL) {
    amx_chains(1, 1, a, b, groups, c, ldc, zero, bias, next, lines);
    return;
  }
  float square[AMX_ROWS * PANEL], first[PANEL];
  for (long i = 0; i < rows && !zero; i++) {
    for (long j = 0; j < PANEL; j += 16) vf_store(square + i * PANEL + j, vf_loadn(c + i * ldc + j, columns - j < 0 ? 0 : columns - j));
  }
  for (long j = 0; j < PANEL && bias; j += 16) vf_store(first + j, vf_loadn(bias + j, columns - j < 0 ? 0 : columns - j));
  if (!zero) memset(square + rows * PANEL, 0, (AMX_ROWS - rows) * PANEL * sizeof(float));
  const float* begin = bias ? first : 0;
  if (rows > 16 && columns > 16) {
    amx_chains(1, 1, a, b, groups, square, PANEL, zero, begin, next, lines);
  } else if (rows > 16) {
    amx_chains(1, 0, a, b, groups, square, PANEL, zero, begin, next, lines);
  } else if (columns > 16) {
    amx_chains(0, 1, a, b, groups, square, PANEL, zero, begin, next, lines);
  } else {
    amx_chains(0, 0, a, b, groups, square, PANEL, zero, begin, next, lines);
  }
  for (long i = 0; i < rows; i++) {
    for (long j = 0; j < columns; j += 16) vf_storen(c + i * ldc + j, vf_load(square + i * PANEL + j), columns - j);
  }
}

// amx_block is where a block of terms goes.
typedef struct {
  long k, kc, groups, size;
  int zero;
  const float* bias;
} amx_block;

static inline amx_block amx_block_at(const matmul_args* t, long k, long k1) {
  const long kc = min_long(AMX_BLOCK, k1 - k), groups = amx_groups(kc);
  return (amx_block){k, kc, groups, groups * AMX_GROUP, k == 0 && !t->accumulate, k == 0 ? t->bias : 0};
}

static inline void amx_tile_at(const matmul_args* t, const amx_block* b, const float* tile, const float* panel, long i, long j, ahead* next,
                               long lines) {
  amx_tile(tile, panel, b->groups, t->c + i * t->n + j, t->n, min_long(AMX_ROWS, t->m - i), min_long(PANEL, t->n - j), b->zero,
           b->bias ? b->bias + j : 0, next, lines);
}

// amx_each is how many lines to fetch for each group, so that all are there in the end.
static inline long amx_each(const ahead* next, long groups) { return next->left > 0 ? (next->left + groups - 1) / groups : 0; }

static void amx_columns(const matmul_args* t, const float* packed, float* work, long k0, long k1, long p0, long p1, long soon) {
  const long tiles = amx_tiles(t->m), j0 = p0 * PANEL, j1 = min_long(p1 * PANEL, t->n);
  amx_begin();
  for (long k = k0; k < k1; k += AMX_BLOCK) {
    const amx_block b = amx_block_at(t, k, k1);
    ahead next = {0};
    for (long p = p0; p < p1; p++) {
      const long j = p * PANEL;
      amx_pack_panel(work + (p - p0) * b.size, t->b + j * t->bj + k * t->bk, t->bj, t->bk, min_long(PANEL, t->n - j), b.kc, &next);
    }
    if (k + b.kc < k1) {
      next = ahead_of(t->b + j0 * t->bj + (k + b.kc) * t->bk, t->bj, t->bk, j1 - j0, min_long(AMX_BLOCK, k1 - k - b.kc));
    } else if (soon >= 0 && soon * PANEL < t->n) {
      next = ahead_of(t->b + soon * PANEL * t->bj + k0 * t->bk, t->bj, t->bk, min_long(j1 - j0, t->n - soon * PANEL),
                      min_long(AMX_BLOCK, k1 - k0));
    }
    const long lines = amx_each(&next, tiles * (p1 - p0) * b.groups);
    for (long r = 0; r < tiles; r++) {
      for (long p = p0; p < p1; p++) {
        amx_tile_at(t, &b, packed + r * b.size, work + (p - p0) * b.size, r * AMX_ROWS, p * PANEL, &next, lines);
      }
    }
    packed += tiles * b.size;
  }
  amx_end();
}

static void amx_rows(const matmul_args* t, const float* packed, float* work, long k0, long k1, long r0, long r1, long soon) {
  const long panels = whole_panels(t->n) / PANEL, i0 = r0 * AMX_ROWS, i1 = min_long(r1 * AMX_ROWS, t->m);
  amx_begin();
  for (long k = k0; k < k1; k += AMX_BLOCK) {
    const amx_block b = amx_block_at(t, k, k1);
    ahead next = {0};
    for (long r = r0; r < r1; r++) {
      const long i = r * AMX_ROWS;
      amx_pack_tile(work + (r - r0) * b.size, t->a + i * t->ai + k * t->ak, t->ai, t->ak, min_long(AMX_ROWS, t->m - i), b.kc, &next);
    }
    if (k + b.kc < k1) {
      next = ahead_of(t->a + i0 * t->ai + (k + b.kc) * t->ak, t->ai, t->ak, i1 - i0, min_long(AMX_BLOCK, k1 - k - b.kc));
    } else if (soon >= 0 && soon * AMX_ROWS < t->m) {
      next = ahead_of(t->a + soon * AMX_ROWS * t->ai + k0 * t->ak, t->ai, t->ak, min_long(i1 - i0, t->m - soon * AMX_ROWS),
                      min_long(AMX_BLOCK, k1 - k0));
    }
    const long lines = amx_each(&next, panels * (r1 - r0) * b.groups);
    for (long p = 0; p < panels; p++) {
      for (long r = r0; r < r1; r++) {
        amx_tile_at(t, &b, work + (r - r0) * b.size, packed + p * b.size, r * AMX_ROWS, p * PANEL, &next, lines);
      }
    }
    packed += panels * b.size;
  }
  amx_end();
}

// amx_loop does AMX_FLOPS a round in registers.
static float amx_loop(long rounds, float x) {
  float square[16 * 16];
  for (int i = 0; i < 16 * 16; i++) square[i] = pair_bf16(x, x);
  amx_begin();
  __asm__ volatile("" ::: "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, square, 64);
  _tile_loadd(5, square, 64);
  _tile_loadd(6, square, 64);
  _tile_loadd(7, square, 64);
  for (long r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, square, 64);
  amx_end();
  return square[0];
}

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
