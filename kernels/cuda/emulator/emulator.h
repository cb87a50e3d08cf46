// Kernels as ordinary C++17: what device.h promises, on a CPU, and strict about it.
//
// The threads of a block are fibers of one thread of the host; a fiber begins when the one before has ended or waits, so a kernel
// without barriers is a loop. These are mistakes, and end the launch with one sentence that names kernel, block and thread:
//
//   - threads that wait at different barriers, or at one that another has left out by returning;
//   - a warp operation that not all lanes of its mask have come to;
//   - shared memory outside of its array, and groups of four floats at no multiple of 16 bytes;
//   - with EMULATE_RACES, shared memory that is read before it is written, or that one thread writes and another touches with no
//     barrier between;
//   - the same that a copy writes for which nobody has waited, and a thread that returns before its copies have arrived;
//   - products of the matrix unit that are not fenced, described or waited for as products.cc says;
//   - matrices that are loaded from rows in the same banks of shared memory: right, but slow.
//
// Shared memory is full of NaN when a block begins. What this cannot see: races in global memory, what depends on the order of
// blocks, and anything about speed. Global memory outside of its array is found by the sanitizer of addresses.
#ifndef FARANDOLE_EMULATOR_H
#define FARANDOLE_EMULATOR_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include "barriers.h"
#include "table.h"

#define __device__
#define __forceinline__ inline
#define DEVICE static inline
#define INLINE

struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emulator {

uint3 thread_index();
uint3 block_index();
uint3 block_size();

void block_barrier(site at);
float exchange_xor(unsigned mask, float x, int with, site at);
unsigned ballot(unsigned mask, int x, site at);

// reserve gives an array of the block's static shared memory: the same one to all threads that come from the same place.
void* reserve(size_t bytes, site at);
// dynamic gives the launch's dynamic shared memory.
void* dynamic(size_t* bytes);

[[noreturn]] void outside(const void* p, const void* begin, const void* end);
[[noreturn]] void misaligned(const void* p, size_t bytes);

#ifdef EMULATE_RACES
void touch(const void* p, size_t bytes, bool write);
#else
inline void touch(const void*, size_t, bool) {}
#endif

// What copies.cc and tiles.cc do for device.h.
void begin_copy(char* to, const void* from);
void end_group();
void await_copies(unsigned newest, site at);
void load_tile(uint32_t (&r)[4], const void* row, bool transposed, site at);
uint32_t nearest_bf16(float x);
void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, site at);

// What products.cc does for wgmma.h.
uint32_t shared_address(const void* p);
void publish(site at);
void fence_sums(site at);
void start_product(float (&s)[128], uint64_t a, uint64_t b, bool add, bool a_along_k, bool b_along_k, site at);
void commit_products(site at);
void await_products(unsigned newest, site at);

inline void check_aligned(const void* p, size_t bytes = sizeof(float4)) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) misaligned(p, bytes);
}

// shared_pointer is a pointer into an array of shared memory that knows where the array ends.
template <class T>
class shared_pointer {
  static_assert(sizeof(T) % 4 == 0, "races are looked for in words of 4 bytes");

  class place {
    T* p_;

   public:
    explicit place(T* p) : p_(p) {}
    operator T() const {
      touch(p_, sizeof(T), false);
      return *p_;
    }
    void operator=(T x) const {
      touch(p_, sizeof(T), true);
      *p_ = x;
    }
  };

  T *at_, *begin_, *end_;
  shared_pointer(T* at, T* begin, T* end) : at_(at), begin_(begin), end_(end) {}

 public:
  shared_pointer(void* array, size_t count) : at_(static_cast<T*>(array)), begin_(at_), end_(at_ + count) {}

  // check gives the address of count elements, all of them inside the array.
  T* check(size_t count) const {
    if (at_ < begin_ || at_ > end_ || static_cast<size_t>(end_ - at_) < count) outside(at_, begin_, end_);
    return at_;
  }
  shared_pointer operator+(long long n) const { return shared_pointer(at_ + n, begin_, end_); }
  place operator[](long long i) const { return place((*this + i).check(1)); }
};

// launch_fn is emulated_kernel's launch for any kernel: body runs one thread, with its arguments.
const char* run(const emulated_kernel& kernel, void (*body)(void* arguments), void* arguments, const unsigned grid[3],
                const unsigned block[3], unsigned shared_bytes);
int add_kernel(const emulated_kernel& kernel);

template <auto F>
struct kernel;

template <class... A, void (*F)(A...)>
struct kernel<F> {
  using arguments = std::tuple<A...>;
  static inline emulated_kernel self;
  static constexpr unsigned short sizes[] = {sizeof(A)...};

  static void body(void* a) { std::apply(F, *static_cast<arguments*>(a)); }

  template <size_t... I>
  static arguments unpack(void** args, std::index_sequence<I...>) {
    return arguments(*static_cast<A*>(args[I])...);
  }

  static const char* launch(void** args, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes) {
    arguments a = unpack(args, std::index_sequence_for<A...>());
    return run(self, body, &a, grid, block, shared_bytes);
  }

  static int add(const char* name, unsigned threads) {
    self = {name, sizeof...(A), sizes, threads, launch};
    return add_kernel(self);
  }
};

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define HERE \
  emulator::site { __FILE__, __LINE__ }
#define __syncthreads() emulator::block_barrier(HERE)
#define __shfl_xor_sync(mask, x, with) emulator::exchange_xor(mask, x, with, HERE)
#define __ballot_sync(mask, x) emulator::ballot(mask, x, HERE)

#define KERNEL(name, threads, ...)                                                         \
  static void name(__VA_ARGS__);                                                           \
  [[maybe_unused]] static const int number_of_##name = emulator::kernel<name>::add(#name, threads); \
  static void name(__VA_ARGS__)

template <class T>
using shared = emulator::shared_pointer<T>;

#define SHARED(type, name, count) const shared<type> name(emulator::reserve((count) * sizeof(type), HERE), count)
#define DYNAMIC_SHARED(name)                                     \
  size_t name##_bytes;                                           \
  void* const name##_array = emulator::dynamic(&name##_bytes);   \
  const shared<float> name(name##_array, name##_bytes / sizeof(float))

DEVICE float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE float sqrt1(float x) { return std::sqrt(x); }
DEVICE int lowest_bit(uint32_t x) { return __builtin_ctz(x); }

DEVICE float4 load4(const float* p) {
  emulator::check_aligned(p);
  float4 x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
DEVICE void store4(float* p, float4 x) {
  emulator::check_aligned(p);
  __builtin_memcpy(p, &x, sizeof x);
}
DEVICE float2 load2(const float* p) {
  float2 x;
  emulator::check_aligned(p, sizeof x);
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
DEVICE void store2(float* p, float2 x) {
  emulator::check_aligned(p, sizeof x);
  __builtin_memcpy(p, &x, sizeof x);
}
DEVICE float4 load4(shared<float> p) {
  emulator::touch(p.check(4), sizeof(float4), false);
  return load4(p.check(4));
}
DEVICE void store4(shared<float> p, float4 x) {
  emulator::touch(p.check(4), sizeof(float4), true);
  store4(p.check(4), x);
}

DEVICE float2 load2(shared<float> p) {
  emulator::touch(p.check(2), sizeof(float2), false);
  return load2(p.check(2));
}
DEVICE void store2(shared<float> p, float2 x) {
  emulator::touch(p.check(2), sizeof(float2), true);
  store2(p.check(2), x);
}

DEVICE int fresh(int x) { return x; }

using shared_place = shared<float>;
DEVICE shared_place place_of(shared<float> p) { return p; }

DEVICE void* sixteen_bytes(shared_place p) {
  emulator::check_aligned(p.check(4));
  return p.check(4);
}
DEVICE void copy_async(shared_place to, const void* from, bool exists) {
  emulator::check_aligned(from);
  emulator::begin_copy(static_cast<char*>(sixteen_bytes(to)), exists ? from : nullptr);
}
DEVICE void commit_copies() { emulator::end_group(); }
DEVICE float largest_number(float x, float y) { return std::fmax(x, y); }
DEVICE float power2(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}
DEVICE uint32_t pack_bf16(float x, float y) { return emulator::nearest_bf16(x) | emulator::nearest_bf16(y) << 16; }
#define wait_copies(n) emulator::await_copies(n, HERE)
#define load_matrices(r, row) emulator::load_tile(r, sixteen_bytes(row), false, HERE)
#define load_transposed(r, row) emulator::load_tile(r, sixteen_bytes(row), true, HERE)
#define multiply_add(c, a, b0, b1) emulator::multiply_tile(c, a, b0, b1, HERE)

#endif
