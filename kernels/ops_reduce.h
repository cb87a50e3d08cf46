// Reductions of any type, operation and order, in one pass over memory.

// Bytes that one step of a long reduction works on. Out of the caches short steps keep all sources' streams going.
enum { REDUCE_BLOCK = 1024, REDUCE_FAR_BLOCK = 256 };

// is_source says whether a source is written; then its lines are in the cache anyway.
static int is_source(const reduce_args* t) {
  for (long d = 0; d < t->dst_count; d++) {
    for (long s = 0; s < t->src_count; s++) {
      if (t->dsts[d] == t->srcs[s]) return 1;
    }
  }
  return 0;
}

// same_place says whether all destinations lie alike in their cache lines, at whole elements of a float.
static int same_place(const reduce_args* t) {
  uintptr_t first = (uintptr_t)t->dsts[0];
  for (long d = 1; d < t->dst_count; d++) {
    if (((uintptr_t)t->dsts[d] - first) % 64 != 0) return 0;
  }
  return first % 4 == 0;
}

// put copies a block to dst, past the caches where dst is aligned to a line.
static void put(char* dst, const char* block, long bytes, int stream) {
  long i = 0;
  if (stream && (uintptr_t)dst % 64 == 0) {
    for (; i + 64 <= bytes; i += 64) vf_stream((float*)(dst + i), vf_load((const float*)(block + i)));
  }
  memcpy(dst + i, block + i, bytes - i);
}

static void op_copy_past(uint8_t* dst, const uint8_t* src, long bytes) {
  const long head = min_long(bytes, -(uintptr_t)dst & 63);
  memcpy(dst, src, head);
  put((char*)dst + head, (const char*)src + head, bytes - head, 1);
  stream_end();
}

// evaluate computes elements [at, at+n) and says where they are: in a source, or in out, which a result is written to last.
// A value of the stack that is no source is in the slot of its position.
static const char* evaluate(const reduce_args* t, const element_type* type, char (*slots)[REDUCE_BLOCK], char* out, long at,
                            long n) {
  combine_fn combine = type->combine[t->op];
  long from = at * type->size;
  if (!t->order) {
    const char* sum = (const char*)t->srcs[0] + from;
    for (long k = 1; k < t->src_count; k++) {
      char* to = k == t->src_count - 1 ? out : slots[0];
      combine(to, sum, (const char*)t->srcs[k] + from, n);
      sum = to;
    }
    return sum;
  }
  const char* stack[MAX_DEPTH];
  long top = 0;
  for (long i = 0; i < t->order_count; i++) {
    int k = t->order[i];
    if (k >= 0) {
      stack[top++] = (const char*)t->srcs[k] + from;
      continue;
    }
    top--;
    char* to = i == t->order_count - 1 ? out : slots[top - 1];
    combine(to, stack[top - 1], stack[top], n);
    stack[top - 1] = to;
  }
  return stack[0];
}

static void op_reduce(const reduce_args* t) {
  const element_type* type = &element_types[t->round ? TYPES : t->type];
  const int stream = t->stream && !is_source(t);
  const long n = t->bytes / type->size;
  if (t->type == F32 && t->op == SUM && !t->round && t->divisor <= 1) {
    const float* sources[FUSED_MOST];
    fused_fn sum = fused_find(t, sources);
    if (sum) {
      sum((float* const*)t->dsts, t->dst_count, sources, n, stream && same_place(t));
      return;
    }
  }
  if (!t->order && t->src_count == 2 && t->dst_count == 1 && t->divisor <= 1 && !stream) {
    type->combine[t->op](t->dsts[0], t->srcs[0], t->srcs[1], n);
    return;
  }
  _Alignas(64) char slots[MAX_DEPTH][REDUCE_BLOCK];
  const long block = t->stream ? REDUCE_FAR_BLOCK : REDUCE_BLOCK;
  // The first block ends where a line of the first destination does.
  long at = 0, width = (block - (long)((uintptr_t)t->dsts[0] % 64)) / type->size;
  const int finish = t->divisor > 1 || (t->order ? t->order_count : t->src_count) == 1;
  // A result may go to its place at once, unless more is to be done with it. The other destinations are copies.
  const int direct = !stream && !finish && t->dst_count == 1;
  while (at < n) {
    if (width > n - at) width = n - at;
    const long from = at * type->size, bytes = width * type->size;
    char* first = (char*)t->dsts[0] + from;
    const char* value = evaluate(t, type, slots, direct ? first : slots[0], at, width);
    if (finish) {
      type->finish(slots[0], value, width, t->divisor);
      value = slots[0];
    }
    for (long d = 0; d < t->dst_count && !direct; d++) put((char*)t->dsts[d] + from, value, bytes, stream);
    at += width;
    width = block / type->size;
  }
  if (stream) stream_end();
}
