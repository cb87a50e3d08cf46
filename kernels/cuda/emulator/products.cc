// The matrix unit of compute capability 9.0: wgmma.mma_async of bfloat16 as the PTX manual describes it, with both factors in shared memory, lines of
// 128 bytes whose chunks are exchanged, and nothing else. A warp computes its own 16 of the 64 rows.
//
// A product is as late as it may be: done when its warp waits for it, from what is in shared memory then. Until then the warp's sums are NaN, and
// a thread that changes one has made a mistake, as has one that writes what a product reads. These end the launch too:
//
//   - a product whose sums no fence has handed over since threads had them;
//   - one that reads what its writer has not published to the unit before a barrier, with EMULATE_RACES;
//   - a descriptor of other lines, or of tiles that begin at no multiple of 1024 bytes or lie outside of the launch's shared memory;
//   - warps of a group that do different things, and a thread that returns before its products are done.
//
// In which order the unit adds is its own; here it is a chain of fused multiply-adds in the order of k.
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "emulator.h"
#include "threads.h"

namespace emulator {
namespace {

constexpr unsigned lanes = 32, warps_of_group = 4, rows = 16, columns = 256, terms = 16, sums = 128;
constexpr uint32_t line_bytes = 128, tile_lines = 8, align = 1024;
// Where dynamic shared memory begins: behind what the system has, and at no multiple of what tiles need.
constexpr uint32_t first_address = 1024 + 16;

// What a lane brings.
struct operands_of_lane {
  float* s;
  uint64_t a, b;
  bool add, a_along_k, b_along_k;
  unsigned warp, newest;
};

// The sums of a warp that the unit has.
struct owned {
  float* of_lane[lanes];
  float s[rows][columns];
};

struct product {
  uint64_t a, b;
  bool add, a_along_k, b_along_k;
  unsigned set;
};

struct warp_state {
  bool fenced = false;
  unsigned sets = 0;
  std::vector<product> on_their_way;
  std::unique_ptr<owned> own;
  std::vector<uint64_t> done;  // what the group's warps must have done alike
};

struct writing {
  uint16_t thread = 0;
  uint32_t published = 0;  // how often the thread had, then
};

// Of the block that this thread of the host runs.
struct block_state {
  std::vector<warp_state> warps;
  std::vector<std::vector<uint32_t>> published;  // by each thread, in which epochs
  std::vector<writing> writes;    // of each word
  std::vector<uint32_t> readers;  // products that read a word
};
block_state& now() {
  static thread_local block_state s;
  return s;
}

const char* sentence(const char* format, uint64_t x) {
  static thread_local char text[160];
  snprintf(text, sizeof text, format, static_cast<unsigned long long>(x));
  return text;
}

// A NaN that no arithmetic gives: what is computed from it has another bit.
constexpr uint32_t poison = 0x7fa03bad;
bool poisoned(const float& x) { return memcmp(&x, &poison, sizeof x) == 0; }

uint32_t field(uint64_t descriptor, int from) { return static_cast<uint32_t>(descriptor >> from & 0x3fff) << 4; }

// address of the value in a row, or column, and term of a descriptor's tile.
uint32_t address(uint64_t descriptor, bool along_k, uint32_t row, uint32_t term) {
  const uint32_t begin = field(descriptor, 0), far = field(descriptor, 16), lines = field(descriptor, 32);
  const uint32_t at = along_k ? begin + row / tile_lines * lines + row % tile_lines * line_bytes + term * 2
                              : begin + row / 64 * far + row % 64 * 2 + term / tile_lines * lines + term % tile_lines * line_bytes;
  return at ^ (at >> 7 & 7) << 4;
}

const char* wrong(uint64_t descriptor, bool along_k, uint32_t all_rows) {
  if (descriptor >> 62 != 1) return sentence("descriptor %#llx is not of lines of 128 bytes with exchanged chunks", descriptor);
  if (descriptor & ~(uint64_t{3} << 62 | uint64_t{0x3fff} << 32 | uint64_t{0x3fff} << 16 | 0x3fff)) return sentence("descriptor %#llx has bits that mean nothing here", descriptor);
  const uint32_t begin = field(descriptor, 0);
  const uint32_t into = begin % align;  // the first line, where lines along k have terms of earlier products
  if (into >= line_bytes || into % (along_k ? terms * 2 : line_bytes) != 0) return sentence("a tile begins at address %llu, not with eight lines or a product's terms in one", begin);
  if (field(descriptor, 32) % align != 0 || (!along_k && all_rows > 64 && field(descriptor, 16) % align != 0)) {
    return sentence("descriptor %#llx leads to addresses that are no multiples of 1024", descriptor);
  }
  size_t bytes;
  (void)dynamic(&bytes);
  for (uint32_t row = 0; row < all_rows; row++) {
    for (const uint32_t term : {0u, terms - 1}) {
      const uint32_t at = address(descriptor, along_k, row, term);
      if (at < first_address || at + 2 > first_address + bytes) return sentence("a product reads address %llu, outside of the launch's shared memory", at);
    }
  }
  return nullptr;
}

float value(uint64_t descriptor, bool along_k, uint32_t row, uint32_t term) {
  size_t bytes;
  const char* memory = static_cast<const char*>(dynamic(&bytes));
  uint16_t half;
  memcpy(&half, memory + (address(descriptor, along_k, row, term) - first_address), sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// sum is where the unit has lane's sum i.
float& sum(owned& o, unsigned lane, unsigned i) { return o.s[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2]; }

void compute(const product& p, owned& o, unsigned warp) {
  static thread_local float a[rows][terms], b[terms][columns];
  for (uint32_t t = 0; t < terms; t++) {
    for (uint32_t i = 0; i < rows; i++) a[i][t] = value(p.a, p.a_along_k, warp % warps_of_group * rows + i, t);
    for (uint32_t j = 0; j < columns; j++) b[t][j] = value(p.b, p.b_along_k, j, t);
  }
  for (uint32_t i = 0; i < rows; i++) {
    if (!p.add) memset(o.s[i], 0, sizeof o.s[i]);
    for (uint32_t t = 0; t < terms; t++) {
      for (uint32_t j = 0; j < columns; j++) o.s[i][j] = __builtin_fmaf(a[i][t], b[t][j], o.s[i][j]);
    }
  }
}

const operands_of_lane& of(void* x) { return *static_cast<operands_of_lane*>(x); }

const char* handed_over(void* const (&operands)[lanes]) {
  warp_state& w = now().warps[of(operands[0]).warp];
  w.fenced = true;
  w.done.push_back(1);
  return nullptr;
}

const char* started(void* const (&operands)[lanes]) {
  const operands_of_lane& first = of(operands[0]);
  warp_state& w = now().warps[first.warp];
  for (void* x : operands) {
    if (of(x).a != first.a || of(x).b != first.b || of(x).add != first.add) return "lanes of a warp begin different products";
  }
  if (!w.own) w.own = std::make_unique<owned>();
  if (!w.fenced) return "a product begins, but no fence has handed its sums over since threads had them";
  if (const char* bad = wrong(first.a, first.a_along_k, 64)) return bad;
  if (const char* bad = wrong(first.b, first.b_along_k, columns)) return bad;
  for (unsigned lane = 0; lane < lanes; lane++) {
    float* const s = of(operands[lane]).s;
    for (unsigned i = 0; i < sums; i++) {
      if (w.on_their_way.empty()) {
        w.own->of_lane[lane] = s;
        sum(*w.own, lane, i) = s[i];
        memcpy(&s[i], &poison, sizeof poison);
      } else if (w.own->of_lane[lane] != s || !poisoned(s[i])) {
        return "sums were changed that products on their way have";
      }
    }
  }
  w.on_their_way.push_back({first.a, first.b, first.add, first.a_along_k, first.b_along_k, w.sets});
  for (const uint64_t x : {uint64_t{2}, first.a, first.b, uint64_t{first.add}}) w.done.push_back(x);
  return nullptr;
}

const char* committed(void* const (&operands)[lanes]) {
  warp_state& w = now().warps[of(operands[0]).warp];
  w.sets++;
  w.done.push_back(3);
  return nullptr;
}

bool is_done(const warp_state& w, const product& p, unsigned newest) { return p.set + newest < w.sets; }

const char* waited(void* const (&operands)[lanes]) {
  const operands_of_lane& first = of(operands[0]);
  warp_state& w = now().warps[first.warp];
  w.done.push_back(4);
  size_t done = 0;
  for (; done < w.on_their_way.size() && is_done(w, w.on_their_way[done], first.newest); done++) compute(w.on_their_way[done], *w.own, first.warp);
  w.on_their_way.erase(w.on_their_way.begin(), w.on_their_way.begin() + static_cast<std::ptrdiff_t>(done));
  if (!w.on_their_way.empty()) return nullptr;
  w.fenced = false;
  for (unsigned lane = 0; lane < lanes && done > 0; lane++) {
    float* const s = w.own->of_lane[lane];
    for (unsigned i = 0; i < sums; i++) {
      if (!poisoned(s[i])) return "sums were changed that products on their way have";
      s[i] = sum(*w.own, lane, i);
    }
  }
  return nullptr;
}

operands_of_lane plain() { return {nullptr, 0, 0, false, false, false, thread_number() / lanes, 0}; }

#ifdef EMULATE_RACES

// each_word does f with every word of a product's factors that this lane looks after.
template <class F>
void each_word(const product& p, F f) {
  const unsigned thread = thread_number(), lane = thread % lanes;
  size_t bytes;
  char* const memory = static_cast<char*>(dynamic(&bytes));
  const auto walk = [&](uint64_t descriptor, bool along_k, uint32_t from, uint32_t count) {
    for (uint32_t i = lane; i < count * terms / 2; i += lanes) {
      const uint32_t row = along_k ? from + i / (terms / 2) : from + i % (count / 2) * 2;
      const uint32_t term = along_k ? i % (terms / 2) * 2 : i / (count / 2);
      f(memory + (address(descriptor, along_k, row, term) / 4 * 4 - first_address));
    }
  };
  walk(p.a, p.a_along_k, thread / lanes % warps_of_group * rows, rows);
  walk(p.b, p.b_along_k, 0, columns);
}

uint32_t& readers(size_t word) {
  std::vector<uint32_t>& all = now().readers;
  if (all.size() <= word) all.resize(word + 1);
  return all[word];
}

void begin_reading(const product& p) {
  block_state& s = now();
  each_word(p, [&](const char* at) {
    touch(at, 4, false);
    const size_t word = word_of(at);
    const writing w = word < s.writes.size() ? s.writes[word] : writing{};
    const std::vector<uint32_t>& epochs = s.published[w.thread];
    if (epochs.size() <= w.published || (epochs[w.published] == epoch_now() && w.thread != thread_number())) {
      fail("a product reads byte %zu of shared memory, which thread %u has written and not published before the last barrier", word * 4, w.thread);
    }
    readers(word)++;
  });
}

void end_reading(const product& p) {
  each_word(p, [&](const char* at) {
    readers(word_of(at))--;
    touch(at, 4, false);
  });
}

#else

void begin_reading(const product&) {}
void end_reading(const product&) {}

#endif

}  // namespace

void begin_products() {
  block_state& s = now();
  s.warps.clear();
  s.warps.resize((threads_of_block() + lanes - 1) / lanes);
  s.published.assign(threads_of_block(), {});
  s.writes.clear();
  s.readers.clear();
}

void end_products() {
  const block_state& s = now();
  const unsigned warp = thread_number() / lanes;
  const size_t left = s.warps[warp].on_their_way.size();
  if (left > 0) fail("has returned, but %zu products of its warp are on their way", left);
  if (warp % warps_of_group != warps_of_group - 1) return;
  for (unsigned other = warp / warps_of_group * warps_of_group; other < warp; other++) {
    if (s.warps[other].done != s.warps[warp].done) fail("warps %u and %u of a group have not done the same with the matrix unit", other, warp);
  }
}

void wrote(size_t word, unsigned thread) {
  block_state& s = now();
  if (s.writes.size() <= word) s.writes.resize(word + 1);
  s.writes[word] = {static_cast<uint16_t>(thread), static_cast<uint32_t>(s.published[thread].size())};
}

bool being_multiplied(size_t word) { return word < now().readers.size() && now().readers[word] > 0; }

uint32_t shared_address(const void* p) {
  size_t bytes;
  return first_address + static_cast<uint32_t>(static_cast<const char*>(p) - static_cast<const char*>(dynamic(&bytes)));
}

void publish(site at) {
  if (!meet(at)) now().published[thread_number()].push_back(epoch_now());
}

void fence_sums(site at) {
  if (meet(at)) return;
  operands_of_lane mine = plain();
  together(&mine, handed_over, at);
}

void start_product(float (&s)[sums], uint64_t a, uint64_t b, bool add, bool a_along_k, bool b_along_k, site at) {
  operands_of_lane mine = {s, a, b, add, a_along_k, b_along_k, thread_number() / lanes, 0};
  together(&mine, started, at);
  begin_reading({a, b, add, a_along_k, b_along_k, 0});
}

void commit_products(site at) {
  if (meet(at)) return;
  operands_of_lane mine = plain();
  together(&mine, committed, at);
}

void await_products(unsigned newest, site at) {
  if (meet(at)) return;
  operands_of_lane mine = plain();
  mine.newest = newest;
  const warp_state& w = now().warps[mine.warp];
  for (const product& p : w.on_their_way) {
    if (is_done(w, p, newest)) end_reading(p);
  }
  together(&mine, waited, at);
}

}  // namespace emulator
