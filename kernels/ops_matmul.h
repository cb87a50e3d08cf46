// The matrix product: packed tiles and panels, and a register tile of up to MR rows by NV vectors.
//
// Rows of c are cut into tiles of at most MR rows, as equal as they can be: 256 rows are 10·13 + 9·14, so that no row of a
// tile is idle. Columns are cut into panels of PANEL. For each canonical block of k a tile's part of A is packed as [k][rows]
// and a panel's part of B as [k][PANEL], padded with zeros. One side is packed whole, by all threads together, and shared; each
// thread packs the pieces of the other side that it computes. A tile's accumulators hold one whole chain each, so packing,
// grouping and threads cannot change a bit. Where there are tiles in assembly, the first one of a block packs the panel.

// PANEL is the columns of a panel, AHEAD_STEP after how many terms a tile prefetches a line.
enum { PANEL = 16 * NV, AHEAD_STEP = 4 };

#include "ops_matmul_fetch.h"

// pack_panel has room for full vectors: width is a multiple of 16.
// dst[k·width + i] = element k of row i, for rows rows and n values of k; element k of row i is at
// src[i·ri + k·rk], where ri or rk is 1. Rows from rows to width become +0.
static void pack_panel(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long width, long n,
                       ahead* next) {
  if (rk == 1) {
    long k = 0;
    for (; k + TW <= n; k += TW) {
      for (long i = 0; i < width; i += TW) {
        ahead_lines(next, TW * TW / 16);
        long have = rows - i < 0 ? 0 : min_long(TW, rows - i);
        if (have == TW) {
          transpose(dst + k * width + i, width, src + i * ri + k, ri, TW);
        } else {
          transpose(dst + k * width + i, width, src + i * ri + k, ri, have);
        }
      }
    }
    for (; k < n; k++) {
      for (long i = 0; i < width; i++) dst[k * width + i] = i < rows ? src[i * ri + k] : 0.0f;
    }
    return;
  }
  for (long k = 0; k < n; k++) {
    for (long i = 0; i < width; i += 16) {
      ahead_next(next);
      long have = rows - i < 0 ? 0 : min_long(16, rows - i);
      vf_store(dst + k * width + i, have == 16 ? vf_load(src + k * rk + i) : vf_loadn(src + k * rk + i, have));
    }
  }
}

// pack_tile is the same with width = rows ≤ MR. Whole vectors are written as long as what they spill over is written later.
static void pack_tile(float* restrict dst, const float* restrict src, long ri, long rk, long rows, long n, ahead* next) {
  long k = 0;
  if (rk == 1) {
    for (; k + TW <= n; k += TW) {
      ahead_lines(next, TW * TW / 16);
      if ((k + TW - 1) * rows + TW <= n * rows) {
        if (rows == MR) {
          transpose(dst + k * rows, rows, src + k, ri, MR);
        } else {
          transpose(dst + k * rows, rows, src + k, ri, rows);
        }
      } else {
        float square[TW * TW];
        transpose(square, TW, src + k, ri, rows);
        for (long j = 0; j < TW; j++) memcpy(dst + (k + j) * rows, square + j * TW, rows * sizeof(float));
      }
    }
    for (; k < n; k++) {
      for (long i = 0; i < rows; i++) dst[k * rows + i] = src[i * ri + k];
    }
    return;
  }
  for (; k * rows + 16 <= n * rows; k++) {
    ahead_next(next);
    vf_store(dst + k * rows, vf_loadn(src + k * rk, rows));
  }
  for (; k < n; k++) memcpy(dst + k * rows, src + k * rk, rows * sizeof(float));
}

// What a tile does with its chains.
enum { TILE_SET, TILE_ADD };

typedef void (*tile_fn)(const float*, long, const float*, long, long, float*, long, long, int, const float*, ahead*);

// A tile's rows have an address of their own for every TOGETHER, the others being one and two steps from it, which x86's addressing does.
enum { TOGETHER = 3, GROUPS = (MR + TOGETHER - 1) / TOGETHER };

#if MR == 14
#define TILE_SIZES(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14)
#elif MR == 6
#define TILE_SIZES(F) F(1) F(2) F(3) F(4) F(5) F(6)
#elif MR == 5
#define TILE_SIZES(F) F(1) F(2) F(3) F(4) F(5)
#else
#define TILE_SIZES(F) F(1) F(2) F(3) F(4)
#endif

#define TILE_OF(name) JOIN(name##_, TILE_KIND)

#define TILE_KIND f32
#define TILE_CHAIN(y, x, acc) vf_chain(y, x, acc)
#define TILE_IN_PLACE 0
#define TILE_BEGIN
#define TILE_END
#define TILE_PIN(x)
#include "ops_matmul_tile.h"

#define TILE_KIND in_place
#define TILE_CHAIN(y, x, acc) vf_chain(y, x, acc)
#define TILE_IN_PLACE 1
#define TILE_BEGIN
#define TILE_END
#define TILE_PIN(x)
#include "ops_matmul_tile.h"

#include "ops_matmul_bf16.h"
#include "ops_matmul_groups.h"

// product is one kind of matrix product: how it packs, and what it computes with what is packed.
typedef struct {
  const tile_fn *tiles, *in_place;  // in_place may be missing
  void (*pack_tile)(float*, const float*, long ri, long rk, long rows, long n, ahead*);
  void (*pack_panel)(float*, const float*, long ri, long rk, long rows, long width, long n, ahead*);
  long terms;  // in one packed value
  int through;  // one chain goes through all blocks, and begins with the bias
} product;

static const product products[] = {
    [PRODUCT_F32] = {tiles_f32, tiles_in_place, pack_tile, pack_panel, 1},
    [PRODUCT_PAIRS] = {tiles_pairs, 0, pack_tile_pairs, pack_pairs, 2},
#ifdef LANES_DOT
    [PRODUCT_DOT] = {tiles_dot, 0, dot_pack_tile_pairs, dot_pack_pairs, 2},
#endif
    [PRODUCT_GROUPS] = {tiles_groups, 0, pack_tile_pairs, pack_pairs, 2, 1},
};

// depth is how many packed values hold kc terms.
static inline long depth(const product* f, long kc) { return (kc + f->terms - 1) / f->terms; }

// The row where tile r of m rows begins.
static inline long tile_row(long m, long r) { return m * r / ((m + MR - 1) / MR); }

static inline long whole_panels(long n) { return (n + PANEL - 1) / PANEL * PANEL; }

#ifdef LANES_AMX
#include "ops_matmul_amx.h"
#endif

static float op_dot_loop(int kind, long rounds, float x) {
#ifdef LANES_DOT
  if (kind == PRODUCT_DOT) return hardware_dot_loop(rounds, x);
#endif
#ifdef LANES_AMX
  if (kind == PRODUCT_AMX) return amx_loop(rounds, x);
#endif
  (void)kind;
  return dot_loop(rounds, x);
}

static void op_matmul_pack_rows(const matmul_args* t, float* dst, long k0, long k1, long r0, long r1) {
#ifdef LANES_AMX
  if (t->product == PRODUCT_AMX) return amx_pack_rows(t, dst, k0, k1, r0, r1);
#endif
  const product* f = &products[t->product];
  for (long k = k0; k < k1; k += BLOCK_K) {
    long kc = min_long(BLOCK_K, k1 - k);
    for (long r = r0; r < r1; r++) {
      long i = tile_row(t->m, r), end = tile_row(t->m, r + 1);
      ahead next = {0};
      if (r + 1 < r1) {
        next = ahead_of(t->a + end * t->ai + k * t->ak, t->ai, t->ak, tile_row(t->m, r + 2) - end, kc);
      } else if (k + kc < k1) {
        long first = tile_row(t->m, r0);
        next = ahead_of(t->a + first * t->ai + (k + kc) * t->ak, t->ai, t->ak, tile_row(t->m, r0 + 1) - first,
                        min_long(BLOCK_K, k1 - k - kc));
      }
      f->pack_tile(dst + i * depth(f, kc), t->a + i * t->ai + k * t->ak, t->ai, t->ak, end - i, kc, &next);
    }
    dst += t->m * depth(f, kc);
  }
}

static void op_matmul_pack_columns(const matmul_args* t, float* dst, long k0, long k1, long p0, long p1) {
#ifdef LANES_AMX
  if (t->product == PRODUCT_AMX) return amx_pack_columns(t, dst, k0, k1, p0, p1);
#endif
  const product* f = &products[t->product];
  const long j1 = min_long(p1 * PANEL, t->n);
  for (long k = k0; k < k1; k += BLOCK_K) {
    long kc = min_long(BLOCK_K, k1 - k);
    for (long j = p0 * PANEL; j < j1; j += PANEL) {
      ahead next = {0};
      if (j + PANEL < j1) {
        next = ahead_of(t->b + (j + PANEL) * t->bj + k * t->bk, t->bj, t->bk, min_long(PANEL, j1 - j - PANEL), kc);
      } else if (k + kc < k1) {
        next = ahead_of(t->b + p0 * PANEL * t->bj + (k + kc) * t->bk, t->bj, t->bk, min_long(PANEL, j1 - p0 * PANEL),
                        min_long(BLOCK_K, k1 - k - kc));
      }
      f->pack_panel(dst + j * depth(f, kc), t->b + j * t->bj + k * t->bk, t->bj, t->bk, min_long(PANEL, t->n - j), PANEL, kc,
                    &next);
    }
    dst += whole_panels(t->n) * depth(f, kc);
  }
}

// FAR is the values after which rows are so far apart that each needs a page of its own for every block: they are packed, which fewer tiles read.
// WAY is the bytes after which addresses share a place in the first cache, ROOM how many of a tile's rows may: it has eight places.
enum { FAR = 16384, WAY = 4096, ROOM = 6 };

static int rows_in_place(const matmul_args* t) {
  const long step = t->ai * (long)sizeof(float), apart = min_long(WAY, step & -step);
  return products[t->product].in_place && t->ak == 1 && t->ai < FAR && apart > 0 && MR * apart <= ROOM * WAY;
}

// SECOND is the bytes of a second cache. A block of a panel has a place there for each of its rows unless they are too far apart.
enum { SECOND = 1 << 20 };

// panels_in_place says whether tiles had better read panels up to p1 of b where they lie. Where a packed panel has no room in the
// first cache, tiles read it from the second one in any case. Where it has, a training step's products wait for memory less when panels are packed.
static int panels_in_place(const matmul_args* t, long p1) {
  const long step = t->bk * (long)sizeof(float);
  return BLOCK_K * PANEL * (long)sizeof(float) >= farandole_first_cache && products[t->product].in_place && t->bj == 1 && BLOCK_K * (step & -step) <= SECOND && p1 * PANEL <= t->n;
}

static int op_matmul_in_place(const matmul_args* t) {
  if (t->product == PRODUCT_AMX) return 0;
  return t->m > t->n ? t->n % PANEL == 0 && panels_in_place(t, t->n / PANEL) : rows_in_place(t);
}

// block says where one block of k goes, and what it does to c.
typedef struct {
  const product* f;
  long k, kc, depth;
  int mode;
  const float* bias;
} block;

static inline block block_at(const matmul_args* t, long k, long k1) {
  long kc = min_long(BLOCK_K, k1 - k);
  const product* f = &products[t->product];
  const int with_bias = f->through ? k == 0 : k + kc == t->k;
  return (block){f, k, kc, depth(f, kc), k > 0 || t->accumulate ? TILE_ADD : TILE_SET, with_bias ? t->bias : 0};
}

#ifdef LANES_TILES
// tile_args are what a tile in assembly computes from: see the arguments of tile_fn. The panel is packed, unless the tile shall pack it into keep.
typedef struct {
  const float* a;
  long ai;
  const float* b;
  long bs;
  float* keep;
  long depth;
  float* c;
  long ldc, cols;
  const float* bias;
  long add;
  walk* walks;
} tile_args;
_Static_assert(offsetof(tile_args, walks) == 88 && offsetof(walk, left) == 40, "the assembly's offsets");

#define TILE_DECLARE(rows)                                  \
  extern void farandole_packed_##rows(const tile_args*);      \
  extern void farandole_packed_keep_##rows(const tile_args*); \
  extern void farandole_placed_##rows(const tile_args*);      \
  extern void farandole_placed_keep_##rows(const tile_args*);
TILE_SIZES(TILE_DECLARE)
#define TILE_PACKED(rows) farandole_packed_##rows,
#define TILE_PACKED_KEEP(rows) farandole_packed_keep_##rows,
#define TILE_PLACED(rows) farandole_placed_##rows,
#define TILE_PLACED_KEEP(rows) farandole_placed_keep_##rows,
static void (*const assembled[2][2][MR + 1])(const tile_args*) = {
    {{0, TILE_SIZES(TILE_PACKED)}, {0, TILE_SIZES(TILE_PACKED_KEEP)}},
    {{0, TILE_SIZES(TILE_PLACED)}, {0, TILE_SIZES(TILE_PLACED_KEEP)}},
};
#endif

// can_keep says whether a tile can pack the panels that it reads.
static inline int can_keep(const matmul_args* t) {
#ifdef LANES_TILES
  return t->product == PRODUCT_F32 && t->bj == 1;
#else
  (void)t;
  return 0;
#endif
}

// block_tile computes a tile from packed rows, or without them from the rows themselves, and a panel whose rows are bs values apart, which it packs
// into keep if there is one.
static inline void block_tile(const matmul_args* t, const block* b, const float* packed, const float* panel, long bs, long i, long rows,
                              long j, float* keep, fetches* f) {
  const float* a = packed ? packed : t->a + i * t->ai + b->k;
  float* c = t->c + i * t->n + j;
  const long cols = min_long(PANEL, t->n - j);
  const float* bias = b->bias ? b->bias + j : 0;
#ifdef LANES_TILES
  if (t->product == PRODUCT_F32 && (keep || bs == PANEL)) {
    const tile_args args = {a, t->ai, panel, bs, keep, b->depth, c, t->n, cols, bias, b->mode == TILE_ADD, f->walks};
    assembled[packed == 0][keep != 0][rows](&args);
    return;
  }
#endif
  const tile_fn tile = (packed ? b->f->tiles : b->f->in_place)[rows];
  tile(a, t->ai, panel, bs, b->depth, c, t->n, cols, b->mode, bias, &f->next);
}

// ahead_rows walks over tile r of a block of k, where block_tile will read it; packed has the rows of block b.
static inline ahead ahead_rows(const matmul_args* t, const block* b, const float* packed, long r, long k) {
  const long i = tile_row(t->m, r), rows = tile_row(t->m, r + 1) - i;
  if (!packed) return ahead_of(t->a + i * t->ai + k, t->ai, 1, rows, b->kc);
  if (k == b->k) return ahead_packed(packed + i * b->depth, rows, b->depth);
  return k > b->k ? ahead_packed(packed + t->m * b->depth, rows, b->depth) : (ahead){0};
}

static void op_matmul_columns(const matmul_args* t, const float* packed, float* work, long k0, long k1, long p0, long p1,
                              long soon) {
#ifdef LANES_AMX
  if (t->product == PRODUCT_AMX) return amx_columns(t, packed, work, k0, k1, p0, p1, soon);
#endif
  const long count = (t->m + MR - 1) / MR, j0 = p0 * PANEL, j1 = min_long(p1 * PANEL, t->n);
  const long later = soon < 0 ? 0 : min_long(soon * PANEL, t->n);
  const int there = panels_in_place(t, p1);
  // The first tile packs the whole panels, where it reads their rows as they are.
  const long kept = there || !can_keep(t) ? j0 : j0 + (j1 - j0) / PANEL * PANEL;
  for (long k = k0; k < k1; k += BLOCK_K) {
    block b = block_at(t, k, k1);
    fetches f = {0};
    for (long j = kept; j < j1 && !there; j += PANEL) {
      b.f->pack_panel(work + (j - j0) * b.depth, t->b + j * t->bj + k * t->bk, t->bj, t->bk, min_long(PANEL, t->n - j), PANEL,
                      b.kc, &f.next);
    }
    if (k + b.kc < k1) {
      fetch_next(&f, ahead_of(t->b + j0 * t->bj + (k + b.kc) * t->bk, t->bj, t->bk, j1 - j0, min_long(BLOCK_K, k1 - k - b.kc)));
    } else if (soon >= 0 && later < t->n) {
      fetch_next(&f, ahead_of(t->b + later * t->bj + k0 * t->bk, t->bj, t->bk, min_long(j1 - j0, t->n - later),
                      min_long(BLOCK_K, k1 - k0)));
    }
    for (long r = 0; r < count; r++) {
      long i = tile_row(t->m, r), rows = tile_row(t->m, r + 1) - i;
      fetch_tile(&f, ahead_rows(t, &b, packed, r + 1 < count ? r + 1 : 0, r + 1 < count ? k : k + b.kc < k1 ? k + b.kc : k0));
      for (long j = j0; j < j1; j += PANEL) {
        float* own = work + (j - j0) * b.depth;
        const int keep = r == 0 && j < kept, where = there || keep;
        block_tile(t, &b, packed ? packed + i * b.depth : 0, where ? t->b + j + k * t->bk : own, where ? t->bk : PANEL, i, rows, j,
                   keep ? own : 0, &f);
      }
    }
    if (packed) packed += t->m * b.depth;
  }
}

static void op_matmul_rows(const matmul_args* t, const float* packed, float* work, long k0, long k1, long r0, long r1,
                           long soon) {
#ifdef LANES_AMX
  if (t->product == PRODUCT_AMX) return amx_rows(t, packed, work, k0, k1, r0, r1, soon);
#endif
  const long i0 = tile_row(t->m, r0), i1 = tile_row(t->m, r1);
  const long later = soon < 0 ? t->m : min_long(t->m, tile_row(t->m, soon));
  for (long k = k0; k < k1; k += BLOCK_K) {
    block b = block_at(t, k, k1);
    fetches f = {0};
    for (long r = r0; r < r1; r++) {
      long i = tile_row(t->m, r);
      b.f->pack_tile(work + (i - i0) * b.depth, t->a + i * t->ai + k * t->ak, t->ai, t->ak, tile_row(t->m, r + 1) - i, b.kc,
                     &f.next);
    }
    if (k + b.kc < k1) {
      fetch_next(&f, ahead_of(t->a + i0 * t->ai + (k + b.kc) * t->ak, t->ai, t->ak, i1 - i0, min_long(BLOCK_K, k1 - k - b.kc)));
    } else if (later < t->m) {
      fetch_next(&f, ahead_of(t->a + later * t->ai + k0 * t->ak, t->ai, t->ak, min_long(i1 - i0, t->m - later),
                      min_long(BLOCK_K, k1 - k0)));
    }
    for (long j = 0; j < t->n; j += PANEL) {
      if (packed) fetch_tile(&f, ahead_packed(packed + (j + PANEL) * b.depth, PANEL, b.depth));
      for (long r = r0; r < r1; r++) {
        long i = tile_row(t->m, r);
        const float* panel = packed ? packed + j * b.depth : t->b + j + k * t->bk;
        block_tile(t, &b, work + (i - i0) * b.depth, panel, packed ? PANEL : t->bk, i, tile_row(t->m, r + 1) - i, j, 0, &f);
      }
    }
    if (packed) packed += whole_panels(t->n) * b.depth;
  }
}
