#include "test.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "barriers.h"

extern "C" const farandole_ops farandole_ops_portable;

// The portable operations are linked without what finds processors, so they have the size that is taken where none is known.
long farandole_first_cache = 32 << 10;

namespace test {

static constexpr int most_reported = 20;

struct named {
  const char* name;
  void (*run)(dice&);
};
static std::vector<named>& tests() {
  static std::vector<named> t;
  return t;
}
static std::set<std::string>& all_launched() {
  static std::set<std::string> s;
  return s;
}
static int failures = 0;

// With a mistake in the kernels the first failure ends a test.
struct found {};
static bool mistaken = false;

const farandole_ops* const cpu = &farandole_ops_portable;

int add(const char* name, void (*run)(dice&)) {
  tests().push_back({name, run});
  return static_cast<int>(tests().size());
}

void fail(const std::string& what) {
  if (mistaken) throw found{};
  if (failures++ < most_reported) std::printf("    %s\n", what.c_str());
}

floats normal(dice& r, size_t n, bool misplace) {
  floats x(n, misplace);
  std::normal_distribution<float> d;
  for (size_t i = 0; i < n; i++) x[i] = d(r);
  return x;
}

floats sprinkle(dice& r, floats x) {
  static const float odd[] = {0.0f, -0.0f, 1e-40f, -1e-40f, 0x1p-126f, -1e-30f, 1e-30f, 1e30f, -3e38f, INFINITY, -INFINITY, NAN, 89.5f, -104.5f};
  for (size_t i = 0; i < x.size(); i++) {
    if (r() % 8 == 0) x[i] = odd[r() % (sizeof odd / sizeof *odd)];
  }
  return x;
}

ints below(dice& r, size_t n, int from, int to) {
  ints x(n);
  for (size_t i = 0; i < n; i++) x[i] = static_cast<int32_t>(between(r, from, to - 1));
  return x;
}

long between(dice& r, long least, long most) { return least + static_cast<long>(r() % static_cast<uint64_t>(most - least + 1)); }

void same(const std::string& what, const float* want, const float* got, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (std::memcmp(want + i, got + i, sizeof *want) == 0 || (want[i] != want[i] && got[i] != got[i])) continue;
    char text[256];
    std::snprintf(text, sizeof text, ": value %zu of %zu is %a (%g), want %a (%g)", i, n, got[i], got[i], want[i], want[i]);
    fail(what + text);
    return;
  }
}
void same(const std::string& what, const floats& want, const floats& got) { same(what, want.get(), got.get(), want.size()); }

static const emulated_kernel* find(const char* name) {
  int n;
  const emulated_kernel* all = emulated_kernels(&n);
  for (int i = 0; i < n; i++) {
    if (std::strcmp(all[i].name, name) == 0) return all + i;
  }
  std::printf("there is no kernel %s\n", name);
  std::exit(1);
}

const char* launch_args(const char* name, shape grid, shape block, unsigned shared_bytes, std::initializer_list<void*> args,
                        std::initializer_list<size_t> sizes) {
  const emulated_kernel* k = find(name);
  all_launched().insert(name);
  bool fits = static_cast<size_t>(k->params) == sizes.size();
  for (size_t i = 0; fits && i < sizes.size(); i++) fits = k->sizes[i] == sizes.begin()[i];
  if (!fits) {
    std::printf("kernel %s has other parameters than this test gives it\n", name);
    std::exit(1);
  }
  const unsigned g[3] = {grid.x, grid.y, grid.z}, b[3] = {block.x, block.y, block.z};
  return k->launch(const_cast<void**>(args.begin()), g, b, shared_bytes);
}

bool launched(const char* name) { return all_launched().count(name) != 0; }

}  // namespace test

// Runs a test once more, from the same numbers, and says whether it fails without a barrier.
static bool misses(const test::named& t, emulator::site barrier) {
  test::dice r(1);
  bool missed = false;
  emulator::leave_out(barrier);
  test::mistaken = true;
  try {
    t.run(r);
  } catch (const test::found&) {
    missed = true;
  }
  test::mistaken = false;
  emulator::leave_out({nullptr, 0});
  return missed;
}

// Usage: kernels [PART OF A TEST'S NAME]
//
// Every test runs as the kernels are, and then without each of their barriers, which must make it fail.
int main(int argc, char** argv) {
  const char* only = argc > 1 ? argv[1] : "";
  int bad = 0;
  std::vector<emulator::site> done;
  const auto report = [&bad](bool ok, const std::string& what) {
    bad += !ok;
    std::printf("%s %s\n", ok ? "ok  " : "FAIL", what.c_str());
    std::fflush(stdout);
  };
  for (const test::named& t : test::tests()) {
    if (!std::strstr(t.name, only)) continue;
    test::dice r(1);
    const int before = test::failures;
    t.run(r);
    report(test::failures == before, t.name);
    for (const emulator::site& s : emulator::seen_barriers()) {
      bool again = test::failures != before;
      for (const emulator::site& d : done) again |= emulator::same(s, d);
      if (again) continue;
      done.push_back(s);
      report(misses(t, s), std::string(t.name) + " misses the barrier at " + (std::strrchr(s.file, '/') + 1) + ":" + std::to_string(s.line));
    }
    emulator::seen_barriers();
  }
  if (*only != 0) return bad != 0;
  report(!done.empty(), "barriers were met");
  int n;
  const emulated_kernel* all = emulated_kernels(&n);
  for (int i = 0; i < n; i++) {
    if (!test::launched(all[i].name)) report(false, std::string("no test launches ") + all[i].name);
  }
  return bad != 0;
}
