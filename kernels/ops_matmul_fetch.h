// What a matrix product fetches into the second cache ahead of its use.

// ahead walks over the cache lines that will be packed next, a few for every tile or packed row, so that packing does not wait
// for memory: rows of lines 64-byte lines each, step bytes apart.
typedef struct {
  const char *p, *row;
  long line, lines, step, left;
} ahead;

static ahead ahead_of(const float* src, long ri, long rk, long rows, long n) {
  long count = rk == 1 ? rows : n, length = rk == 1 ? n : rows, lines = (length + 15) / 16;
  const char* p = (const char*)src;
  return (ahead){p, p, lines, lines, (rk == 1 ? ri : rk) * (long)sizeof(float), count * lines};
}

// ahead_packed walks over n packed values of width floats each.
static ahead ahead_packed(const float* src, long width, long n) {
  const long lines = (width * n + 15) / 16;
  return (ahead){(const char*)src, (const char*)src, lines, lines, 0, lines};
}

static inline void ahead_next(ahead* h) {
  if (h->left <= 0) return;
  h->left--;
  __builtin_prefetch(h->p, 0, 2);
  h->p += 64;
  if (--h->line == 0) {
    h->line = h->lines;
    h->p = h->row += h->step;
  }
}

static inline void ahead_lines(ahead* h, long lines) {
  if (h->left <= 0) return;
  for (long i = 0; i < lines; i++) ahead_next(h);
}

// walk is an ahead of four or eight lines at a time, so that it costs a tile in assembly little.
typedef struct {
  const char *p, *row;
  long here, each, step, left;
} walk;

// fetches is what tiles prefetch: of what will be packed, and in assembly of the next tile's rows or panel as well.
typedef struct {
  ahead next;
  walk walks[2];
} fetches;

static walk walk_of(ahead h, long lines) {
  const long rows = h.lines > 0 ? h.left / h.lines : 0, each = (h.lines + lines - 1) / lines;
  return (walk){h.p, h.row, each, each, h.step, rows * each};
}

static void fetch_next(fetches* f, ahead h) {
  f->next = h;
  f->walks[0] = walk_of(h, 4);
}

static void fetch_tile(fetches* f, ahead h) { f->walks[1] = walk_of(h, 8); }
