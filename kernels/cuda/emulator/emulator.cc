#include "emulator.h"

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fiber.h"
#include "threads.h"

namespace emulator {
namespace {

constexpr unsigned warp = 32;
constexpr size_t static_bytes = 48 << 10, dynamic_bytes = 227 << 10;  // of shared memory, at most
constexpr uint32_t poison = 0x7fbadbad;                               // a NaN
constexpr uint64_t threads_worth_another = 4096;                      // of a grid, for another thread of the host

enum class state { waiting_to_start, ready, at_barrier, at_warp, done };

// One thread of a block.
struct lane {
  state now;
  fiber* on;
  uint3 index;
  site at;  // where it waits
  // Of a warp operation: who takes part, what this lane brings, and whose value it wants; then what it gets.
  unsigned mask;
  uint32_t value;
  unsigned source;
  unsigned votes;
  // Instead, operands of together, and what it does.
  void* operands;
  const char* (*all)(void* const (&operands)[warp]);
};

struct array {
  site at;
  size_t offset, bytes;
};

// The last read or write of a word of shared memory.
struct access {
  uint32_t epoch;
  uint16_t thread;
  bool several;  // threads have read it in that epoch
};

// worker is a thread of the host that runs blocks.
struct worker {
  fiber scheduler;
  std::vector<std::unique_ptr<fiber>> fibers;  // all that there are
  std::vector<fiber*> idle;                    // those that wait for a thread to run
  std::vector<lane> lanes;
  lane* current = nullptr;

  const char* name = nullptr;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  uint3 block, size;

  alignas(128) char memory[static_bytes + dynamic_bytes];  // shared: static, then dynamic
  size_t static_used = 0, shared_bytes = 0;
  std::vector<array> arrays;

  uint32_t epoch = 0, first_epoch = 0;  // counts barriers, over all blocks; of this block
  std::vector<access> reads, writes;

  std::string error;
};

thread_local worker* mine = nullptr;

void fill(char* p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += sizeof poison) __builtin_memcpy(p + i, &poison, sizeof poison);
}

// Leaves the fiber until the scheduler makes it go on.
void wait(state how) {
  lane& l = *mine->current;
  l.now = how;
  l.on->switch_to(mine->scheduler);
}

void set_error(const lane& l, const char* format, va_list more) {
  char what[512], where[256];
  vsnprintf(what, sizeof what, format, more);
  const uint3 b = mine->block;
  snprintf(where, sizeof where, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): ", mine->name, b.x, b.y, b.z, l.index.x,
           l.index.y, l.index.z);
  if (mine->error.empty()) mine->error = std::string(where) + what;
}

// Says that lane l is wrong.
void blame(const lane& l, const char* format, ...) {
  va_list more;
  va_start(more, format);
  set_error(l, format, more);
  va_end(more);
}

// A fiber that waits for its next thread may be resumed by another thread of the host: no compiler may remember where mine is.
[[gnu::noinline]] worker& worker_now() {
  __asm__ volatile("" ::: "memory");
  return *mine;
}

void fiber_main() {
  worker_now().current->on->started();
  for (;;) {
    worker& w = worker_now();
    w.body(w.arguments);
    end_copies();
    end_products();
    wait(state::done);
  }
}

unsigned number(const lane& l) { return static_cast<unsigned>(&l - mine->lanes.data()); }

void resume(lane& l) {
  worker& w = *mine;
  if (l.now == state::waiting_to_start) {
    if (w.idle.empty()) {
      w.fibers.push_back(std::make_unique<fiber>());
      w.fibers.back()->begin(fiber_main);
      w.idle.push_back(w.fibers.back().get());
    }
    l.on = w.idle.back();
    w.idle.pop_back();
  }
  l.now = state::ready;
  w.current = &l;
  w.scheduler.switch_to(*l.on);
  if (l.now == state::done && w.error.empty()) w.idle.push_back(l.on);
}

// Completes the warp operation that l waits at, if all lanes of its mask do.
bool complete(lane& l, lane* first, unsigned count) {
  unsigned votes = 0;
  for (unsigned i = 0; i < warp; i++) {
    if (!(l.mask >> i & 1)) continue;
    if (i >= count) {
      blame(l, "line %d names lane %u of a warp that has %u", l.at.line, i, count);
      return false;
    }
    const lane& other = first[i];
    if (other.now != state::at_warp || !same(other.at, l.at) || other.mask != l.mask) {
      blame(l, "line %d waits for lane %u, which %s", l.at.line, i,
            other.now == state::done ? "has returned" : other.now == state::at_barrier ? "waits at a barrier" : "is at another warp operation");
      return false;
    }
    if (other.value) votes |= 1u << i;
  }
  if (l.all) {
    void* operands[warp];
    for (unsigned i = 0; i < warp; i++) operands[i] = first[i].operands;
    if (const char* mistake = l.all(operands)) {
      blame(l, "line %d: %s", l.at.line, mistake);
      return false;
    }
    for (unsigned i = 0; i < warp; i++) first[i].now = state::ready;
    return true;
  }
  // Two rounds, because lanes exchange values.
  uint32_t values[warp];
  for (unsigned i = 0; i < count; i++) values[i] = first[i].value;
  const unsigned mask = l.mask;
  for (unsigned i = 0; i < count; i++) {
    if (!(mask >> i & 1)) continue;
    if (!(mask >> first[i].source & 1)) {
      blame(first[i], "line %d takes the value of lane %u, which is not in the mask", first[i].at.line, first[i].source);
      return false;
    }
    first[i].value = values[first[i].source];
    first[i].votes = votes;
    first[i].now = state::ready;
  }
  return true;
}

// Runs a warp until all its threads wait at a barrier or have returned.
void run_warp(unsigned number) {
  worker& w = *mine;
  lane* const first = &w.lanes[number * warp];
  const unsigned count = static_cast<unsigned>(std::min<size_t>(warp, w.lanes.size() - number * warp));
  for (bool again = true; again && w.error.empty();) {
    again = false;
    for (unsigned i = 0; i < count && w.error.empty(); i++) {
      if (first[i].now == state::ready || first[i].now == state::waiting_to_start) resume(first[i]);
    }
    for (unsigned i = 0; i < count && w.error.empty(); i++) {
      if (first[i].now != state::at_warp) continue;
      again = complete(first[i], first, count);
    }
  }
}

#ifdef EMULATE_RACES

struct barriers {
  std::mutex guard;
  std::vector<site> seen;
  site left_out = {nullptr, 0};  // changes between launches alone
};
barriers& all_barriers() {
  static barriers b;
  return b;
}

void see_barrier(site at) {
  barriers& all = all_barriers();
  const std::lock_guard<std::mutex> lock(all.guard);
  for (const site& s : all.seen) {
    if (same(s, at)) return;
  }
  all.seen.push_back(at);
}
bool left_out(site at) { return same(at, all_barriers().left_out); }

#else

void see_barrier(site) {}
bool left_out(site) { return false; }

#endif

void run_block() {
  worker& w = *mine;
  const unsigned warps = static_cast<unsigned>((w.lanes.size() + warp - 1) / warp);
  for (lane& l : w.lanes) l.now = state::waiting_to_start;
  begin_copies();
  begin_products();
  w.arrays.clear();
  w.static_used = 0;
  fill(w.memory + static_bytes, w.shared_bytes);
  w.first_epoch = w.epoch + 1;
  for (;;) {
    w.epoch++;
    for (unsigned i = 0; i < warps && w.error.empty(); i++) run_warp(i);
    if (!w.error.empty()) return;
    lane *waits = nullptr, *returned = nullptr;
    for (lane& l : w.lanes) {
      if (l.now == state::done) {
        returned = &l;
      } else if (!waits) {
        waits = &l;
      } else if (!same(l.at, waits->at)) {
        blame(l, "waits at the barrier of line %d, thread %u at that of line %d", l.at.line, number(*waits), waits->at.line);
        return;
      }
    }
    if (!waits) return;
    if (returned) {
      blame(*returned, "has returned, but thread %u waits at the barrier of line %d", number(*waits), waits->at.line);
      return;
    }
    see_barrier(waits->at);
    for (lane& l : w.lanes) l.now = state::ready;
  }
}

// The workers that no launch uses now.
struct workers {
  std::mutex guard;
  std::vector<std::unique_ptr<worker>> idle;
};
workers& all_workers() {
  static workers w;
  return w;
}

std::unique_ptr<worker> take_worker() {
  workers& all = all_workers();
  const std::lock_guard<std::mutex> lock(all.guard);
  if (all.idle.empty()) return std::make_unique<worker>();
  std::unique_ptr<worker> w = std::move(all.idle.back());
  all.idle.pop_back();
  return w;
}

// A worker with an error has threads in the middle of something: it is dropped.
void give_worker(std::unique_ptr<worker> w) {
  if (!w->error.empty()) return;
  workers& all = all_workers();
  const std::lock_guard<std::mutex> lock(all.guard);
  all.idle.push_back(std::move(w));
}

std::vector<emulated_kernel>& table() {
  static std::vector<emulated_kernel> t;
  return t;
}

}  // namespace

uint3 thread_index() { return mine->current->index; }
uint3 block_index() { return mine->block; }
uint3 block_size() { return mine->size; }

unsigned thread_number() { return number(*mine->current); }
size_t threads_of_block() { return mine->lanes.size(); }
uint32_t epoch_now() { return mine->epoch; }
size_t word_of(const void* p) { return static_cast<size_t>(static_cast<const char*>(p) - mine->memory) / 4; }

// The same as blame from inside the thread that is wrong: it ends here.
void fail(const char* format, ...) {
  va_list more;
  va_start(more, format);
  set_error(*mine->current, format, more);
  va_end(more);
  for (;;) wait(state::done);
}

bool meet(site at) {
  see_barrier(at);
  return left_out(at);
}

void block_barrier(site at) {
  if (left_out(at)) return;
  mine->current->at = at;
  wait(state::at_barrier);
}

static lane& warp_operation(unsigned mask, uint32_t value, unsigned source, site at) {
  lane& l = *mine->current;
  const unsigned me = number(l) % warp;
  if (!(mask >> me & 1)) fail("line %d: the mask %#x lacks this thread's lane %u", at.line, mask, me);
  l.at = at;
  l.mask = mask;
  l.value = value;
  l.source = source;
  l.all = nullptr;
  wait(state::at_warp);
  return l;
}

void together(void* operands, const char* (*all)(void* const (&operands)[warp]), site at) {
  lane& l = *mine->current;
  l.at = at;
  l.mask = 0xffffffff;
  l.operands = operands;
  l.all = all;
  wait(state::at_warp);
}

float exchange_xor(unsigned mask, float x, int with, site at) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits = warp_operation(mask, bits, (number(*mine->current) % warp ^ static_cast<unsigned>(with)) % warp, at).value;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

unsigned ballot(unsigned mask, int x, site at) {
  return warp_operation(mask, x != 0, number(*mine->current) % warp, at).votes;
}

void* reserve(size_t bytes, site at) {
  worker& w = *mine;
  for (const array& a : w.arrays) {
    if (same(a.at, at)) return w.memory + a.offset;
  }
  const size_t offset = (w.static_used + 15) / 16 * 16;
  if (offset + bytes > static_bytes) fail("line %d: %zu bytes of static shared memory, the most are %zu", at.line, offset + bytes, static_bytes);
  fill(w.memory + offset, bytes);
  w.static_used = offset + bytes;
  w.arrays.push_back({at, offset, bytes});
  return w.memory + offset;
}

void* dynamic(size_t* bytes) {
  *bytes = mine->shared_bytes;
  return mine->memory + static_bytes;
}

void outside(const void* p, const void* begin, const void* end) {
  fail("shared memory at byte %td of an array of %td", static_cast<const char*>(p) - static_cast<const char*>(begin),
       static_cast<const char*>(end) - static_cast<const char*>(begin));
}

void misaligned(const void* p, size_t bytes) { fail("%zu bytes at %p, which is no multiple of %zu", bytes, p, bytes); }

#ifdef EMULATE_RACES

std::vector<site> seen_barriers() {
  barriers& all = all_barriers();
  const std::lock_guard<std::mutex> lock(all.guard);
  return std::exchange(all.seen, {});
}

void leave_out(site barrier) { all_barriers().left_out = barrier; }

static bool ordered(const access& a, unsigned me) { return a.epoch != mine->epoch || a.thread == me; }

static void touch_word(access& read, access& wrote, unsigned me, bool write, size_t offset) {
  const worker& w = *mine;
  if (arriving(offset / 4)) {
    fail("a race: %s byte %zu of shared memory, to which a copy is on its way", write ? "writes" : "reads", offset);
  }
  if (write && being_multiplied(offset / 4)) fail("a race: writes byte %zu of shared memory, which a product on its way reads", offset);
  if (!write && wrote.epoch < w.first_epoch) fail("reads byte %zu of shared memory, which nobody has written", offset);
  if (!ordered(wrote, me)) {
    fail("a race: %s byte %zu of shared memory, which thread %u has written with no barrier between", write ? "writes" : "reads",
         offset, wrote.thread);
  }
  if (write) {
    if (!ordered(read, me) || (read.epoch == w.epoch && read.several)) {
      fail("a race: writes byte %zu of shared memory, which another thread has read with no barrier between", offset);
    }
    emulator::wrote(offset / 4, me);
    wrote = {w.epoch, static_cast<uint16_t>(me), false};
    return;
  }
  const bool again = read.epoch == w.epoch;
  read = {w.epoch, static_cast<uint16_t>(me), again && (read.several || read.thread != me)};
}

void touch(const void* p, size_t bytes, bool write) {
  worker& w = *mine;
  if (w.reads.empty()) {
    w.reads.resize(sizeof w.memory / 4);
    w.writes.resize(sizeof w.memory / 4);
  }
  const size_t offset = static_cast<size_t>(static_cast<const char*>(p) - w.memory);
  for (size_t i = offset / 4; i < (offset + bytes) / 4; i++) {
    touch_word(w.reads[i], w.writes[i], number(*w.current), write, i * 4);
  }
}

#endif

const char* run(const emulated_kernel& kernel, void (*body)(void*), void* arguments, const unsigned grid[3],
                const unsigned block[3], unsigned shared_bytes) {
  static thread_local std::string error;
  const uint64_t blocks = static_cast<uint64_t>(grid[0]) * grid[1] * grid[2];
  const uint64_t threads = static_cast<uint64_t>(block[0]) * block[1] * block[2];
  if (blocks == 0 || grid[0] > 0x7fffffff || grid[1] > 0xffff || grid[2] > 0xffff || threads == 0 || threads > kernel.threads ||
      shared_bytes > dynamic_bytes || shared_bytes % 4 != 0) {
    char text[256];
    snprintf(text, sizeof text, "kernel %s: no such launch: grid (%u,%u,%u), block (%u,%u,%u) of at most %u threads, %u bytes of shared memory",
             kernel.name, grid[0], grid[1], grid[2], block[0], block[1], block[2], kernel.threads, shared_bytes);
    return (error = text).c_str();
  }
  std::atomic<uint64_t> next{0};
  std::mutex guard;
  error.clear();
  std::string* const first_error = &error;
  const auto work = [&] {
    std::unique_ptr<worker> w = take_worker();
    mine = w.get();
    w->name = kernel.name;
    w->body = body;
    w->arguments = arguments;
    w->size = {block[0], block[1], block[2]};
    w->lanes.assign(threads, lane{});
    for (unsigned i = 0; i < threads; i++) w->lanes[i].index = {i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
    w->shared_bytes = shared_bytes;
    for (uint64_t b; (b = next.fetch_add(1)) < blocks && w->error.empty();) {
      w->block = {static_cast<unsigned>(b % grid[0]), static_cast<unsigned>(b / grid[0] % grid[1]),
                  static_cast<unsigned>(b / (static_cast<uint64_t>(grid[0]) * grid[1]))};
      run_block();
    }
    if (!w->error.empty()) {
      next = blocks;
      const std::lock_guard<std::mutex> lock(guard);
      if (first_error->empty()) *first_error = w->error;
    }
    mine = nullptr;
    give_worker(std::move(w));
  };
  const uint64_t useful = std::min({blocks, blocks * threads / threads_worth_another, static_cast<uint64_t>(std::thread::hardware_concurrency())});
  std::vector<std::thread> others;
  for (uint64_t i = 1; i < useful; i++) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
  return error.empty() ? nullptr : error.c_str();
}

int add_kernel(const emulated_kernel& kernel) {
  table().push_back(kernel);
  return static_cast<int>(table().size());
}

}  // namespace emulator

const emulated_kernel* emulated_kernels(int* count) {
  *count = static_cast<int>(emulator::table().size());
  return emulator::table().data();
}
