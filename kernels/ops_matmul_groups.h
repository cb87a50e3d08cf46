// The products of class bf16-amx without its instruction: packed values are pairs as in class bf16, sixteen of them a group. See
// canonical.go. This is the class for machines that lack AMX, several times as slow as float32.

enum { GROUP_PAIRS = 16 };

// Where a mode that flushes is not enough, these lanes need none.
#ifdef LANES_AGAIN
#define GROUPS_BEGIN
#define GROUPS_END
#else
#define GROUPS_BEGIN const unsigned mode_before = flush_begin();
#define GROUPS_END flush_end(mode_before);
#endif

// groups_vector goes on with the chains s of one row and one vector of columns. a's values are as apart, b's bs.
static inline vf groups_vector(vf s, const float* restrict a, long as, const float* restrict b, long bs, long depth) {
  for (long k = 0; k < depth; k += GROUP_PAIRS) {
    const long end = min_long(k + GROUP_PAIRS, depth);
    vf even = vf_set1(0.0f), odd = vf_set1(0.0f);
    for (long p = k; p < end; p++) {
      const vf y = vf_set1(a[p * as]), x = vf_load(b + p * bs);
      even = vf_even(y, x, even);
      odd = vf_odd(y, x, odd);
    }
    // What a group lacks are products of zeros.
    if (end < k + GROUP_PAIRS) even = vf_sum(even, vf_set1(0.0f)), odd = vf_sum(odd, vf_set1(0.0f));
    s = vf_sum(s, vf_sum(even, odd));
  }
  return s;
}

static void groups(long mr, const float* a, const float* b, long bs, long depth, float* c, long ldc, long cols, int mode,
                   const float* bias) {
  GROUPS_BEGIN
  for (long i = 0; i < mr; i++) {
    for (long v = 0; v < NV && cols > 16 * v; v++) {
      const long w = min_long(16, cols - 16 * v);
      float* p = c + i * ldc + 16 * v;
      vf s = mode == TILE_ADD ? vf_loadn(p, w) : bias ? vf_loadn(bias + 16 * v, w) : vf_set1(0.0f);
      vf_storen(p, groups_vector(s, a + i, mr, b + 16 * v, bs, depth), w);
    }
  }
  GROUPS_END
}

#define GROUPS_TILE(mr)                                                                                                      \
  static void groups_##mr(const float* a, long ai, const float* b, long bs, long depth, float* c, long ldc, long cols, int mode, \
                          const float* bias, ahead* next) {                                                                  \
    (void)ai, (void)next;                                                                                                    \
    groups(mr, a, b, bs, depth, c, ldc, cols, mode, bias);                                                                   \
  }
#define GROUPS_ENTRY(mr) groups_##mr,
TILE_SIZES(GROUPS_TILE)
static const tile_fn tiles_groups[MR + 1] = {0, TILE_SIZES(GROUPS_ENTRY)};
#undef GROUPS_TILE
#undef GROUPS_ENTRY
#undef GROUPS_BEGIN
#undef GROUPS_END
