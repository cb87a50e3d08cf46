// Tests of the kernels on the emulator: every result has the bits of the portable operations of kernels/ops.h.
#ifndef FARANDOLE_EMULATOR_TEST_H
#define FARANDOLE_EMULATOR_TEST_H

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../launch.h"
#include "table.h"

extern "C" {
#include "../../ops.h"
}

namespace test {

using dice = std::mt19937_64;

// The operations that the kernels are compared with.
extern const farandole_ops* const cpu;

// array is n values in a block of memory of that size, so that the sanitizer of addresses knows its ends; with misplace they begin at
// no multiple of 16 bytes.
template <class T>
class array {
  std::unique_ptr<char[]> memory_;
  size_t n_, before_;

 public:
  explicit array(size_t n, bool misplace = false)
      : memory_(new char[n * sizeof(T) + (misplace ? 4 : 0)]()), n_(n), before_(misplace ? 4 : 0) {}
  array(const array& o) : array(o.n_, o.before_ != 0) {
    for (size_t i = 0; i < n_; i++) get()[i] = o[i];
  }
  T* get() const { return reinterpret_cast<T*>(memory_.get() + before_); }
  T& operator[](size_t i) const { return get()[i]; }
  size_t size() const { return n_; }
};
using floats = array<float>;
using ints = array<int32_t>;

// normal fills an array; sprinkle puts zeros of both signs, subnormal and large numbers, infinities and NaN among it.
floats normal(dice& r, size_t n, bool misplace = false);
floats sprinkle(dice& r, floats x);
// below gives n numbers in [from, to).
ints below(dice& r, size_t n, int from, int to);
long between(dice& r, long least, long most);

// same reports the first value where got has not want's bits; all NaN are the same.
void same(const std::string& what, const floats& want, const floats& got);
void same(const std::string& what, const float* want, const float* got, size_t n);
// fail reports a failed check.
void fail(const std::string& what);

struct shape {
  unsigned x, y = 1, z = 1;
};
inline unsigned pieces(long n, long each) { return static_cast<unsigned>((n + each - 1) / each); }

// launch_args gives the emulator's sentence, or nullptr.
const char* launch_args(const char* name, shape grid, shape block, unsigned shared_bytes, std::initializer_list<void*> args,
                        std::initializer_list<size_t> sizes);

// launch runs a kernel, whose parameters must have the arguments' sizes, and reports what the emulator says.
template <class... A>
void launch(const char* name, shape grid, shape block, unsigned shared_bytes, A... args) {
  const char* mistake = launch_args(name, grid, block, shared_bytes, {const_cast<void*>(static_cast<const void*>(&args))...}, {sizeof(A)...});
  if (mistake) fail(mistake);
}

// The kernels that some test has launched.
bool launched(const char* name);

// Tests add themselves before main.
int add(const char* name, void (*run)(dice&));

}  // namespace test

#define TEST(name)                                                                 \
  static void name(test::dice&);                                                 \
  [[maybe_unused]] static const int number_of_##name = test::add(#name, name); \
  static void name(test::dice& r)

#endif
