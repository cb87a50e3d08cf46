// Copies to shared memory that go on while their thread does something else. They are as late as they may be: done when their
// thread waits for them, so that what does not wait finds what was there before.
#include <cstring>
#include <vector>

#include "emulator.h"
#include "threads.h"

namespace emulator {
namespace {

constexpr size_t copied = 16;  // bytes

struct copy {
  char* to;
  const void* from;  // nullptr for zeros
  unsigned group;
};

// Of one thread: its copies that have not arrived, in order, and how many groups it has made.
struct sender {
  std::vector<copy> copies;
  unsigned groups;
};

// The senders of the block that this thread of the host runs.
std::vector<sender>& senders() {
  static thread_local std::vector<sender> s;
  return s;
}

// Which words of shared memory such copies write: with EMULATE_RACES only.
std::vector<bool>& on_their_way() {
  static thread_local std::vector<bool> words;
  return words;
}

void mark(const char* to, bool arrives) {
#ifdef EMULATE_RACES
  std::vector<bool>& words = on_their_way();
  const size_t first = word_of(to);
  if (words.size() < first + copied / 4) words.resize(first + copied / 4);
  for (size_t i = 0; i < copied / 4; i++) words[first + i] = arrives;
#else
  (void)to, (void)arrives;
#endif
}

}  // namespace

bool arriving(size_t word) { return word < on_their_way().size() && on_their_way()[word]; }

void begin_copies() {
  on_their_way().clear();
  std::vector<sender>& all = senders();
  all.resize(threads_of_block());
  for (sender& s : all) {
    s.copies.clear();
    s.groups = 0;
  }
}

void end_copies() {
  const size_t left = senders()[thread_number()].copies.size();
  if (left > 0) fail("has returned, but %zu of its copies are on their way", left);
}

void begin_copy(char* to, const void* from) {
  touch(to, copied, true);
  mark(to, true);
  sender& s = senders()[thread_number()];
  s.copies.push_back({to, from, s.groups});
}

void end_group() { senders()[thread_number()].groups++; }

void await_copies(unsigned newest, site at) {
  if (meet(at)) return;
  sender& s = senders()[thread_number()];
  size_t done = 0;
  for (; done < s.copies.size() && s.copies[done].group + newest < s.groups; done++) {
    const copy& c = s.copies[done];
    mark(c.to, false);
    touch(c.to, copied, true);
    if (c.from) {
      memcpy(c.to, c.from, copied);
    } else {
      memset(c.to, 0, copied);
    }
  }
  s.copies.erase(s.copies.begin(), s.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace emulator
