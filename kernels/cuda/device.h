// What every kernel needs of its machine. There are three: a GPU as clang sees it without NVIDIA's SDK, a GPU as nvcc sees it,
// and the emulator (EMULATE is defined), where a kernel is ordinary C++17. Kernels use nothing beyond this file.
//
//	KERNEL(name, threads, parameters…)   a kernel, and the most threads that a block may have
//	SHARED(type, name, count)            an array in shared memory, with undefined contents
//	DYNAMIC_SHARED(name)                 the launch's dynamic shared memory, as floats
//	shared<T>                            a pointer to shared memory
//	fma1, sqrt1                          a·b + c and a square root, rounded once to nearest
//	lowest_bit(x)                        the number of the lowest bit set in x, which is not 0
//	load4, store4, load2, store2         four floats at a multiple of 16 bytes, two at one of 8
//
// Tiles of bfloat16, two of them in a float's place, pass from memory to the matrix unit like this:
//
//	place_of(p)                          p, which is shared, as a shared_place: + counts floats
//	copy_async(to, from, exists)         begins to copy 16 bytes to shared memory, or zeros if they do not exist
//	commit_copies()                      makes a group of this thread's copies since the last one
//	wait_copies(n)                       until this thread's groups have arrived, but for the newest n, a constant
//	load_matrices(r, row)                four 8×8 matrices to a warp: lane l has row l%8 of matrix l/8 at row, and gets two neighbours
//	                                     of row l/4 of each matrix; load_transposed gives the transposed matrices
//	multiply_add(c, a, b0, b1)           c[16,8] += a[16,16]·b[16,8] by a warp, whose lanes hold the matrices as mma.m16n8k16 says
//	pack_bf16(x, y)                      x, and y in the upper half, rounded to nearest even
//	power2(x)                            2ˣ as the GPU computes it: in classes that name the GPU, and nowhere else; subnormal results are +0
//	largest_number(x, y)                 the larger one; the other where one is NaN
//
//	INLINE                               behind a lambda's parameters: it becomes part of the function around it
//	fresh(x)                             x; what follows from it is computed where it is used, and not kept in registers before
#ifndef FARANDOLE_CUDA_DEVICE_H
#define FARANDOLE_CUDA_DEVICE_H

#include <stdint.h>

#include "launch.h"

#if defined(EMULATE)

#include "emulator/emulator.h"

#else

#if defined(__clang__)

#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))

struct uint3 {
  unsigned x, y, z;
};
struct __align__(8) float2 {
  float x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
#include <__clang_cuda_builtin_vars.h>

static __device__ __forceinline__ float __shfl_xor_sync(unsigned mask, float x, int with) {
  return __nvvm_shfl_sync_bfly_f32(mask, x, with, 31);
}
static __device__ __forceinline__ unsigned __ballot_sync(unsigned mask, int x) { return __nvvm_vote_ballot_sync(mask, x); }
static __device__ __forceinline__ float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static __device__ __forceinline__ float sqrt1(float x) { return __nvvm_sqrt_rn_f(x); }
static __device__ __forceinline__ int lowest_bit(uint32_t x) { return __builtin_ctz(x); }

#else

static __device__ __forceinline__ float fma1(float a, float b, float c) { return __fmaf_rn(a, b, c); }
static __device__ __forceinline__ float sqrt1(float x) { return __fsqrt_rn(x); }
static __device__ __forceinline__ int lowest_bit(uint32_t x) { return __ffs(static_cast<int>(x)) - 1; }

#endif

#define DEVICE static __device__ __forceinline__
#define INLINE __attribute__((always_inline))
#define KERNEL(name, threads, ...) extern "C" __global__ __launch_bounds__(threads) void name(__VA_ARGS__)
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
extern __shared__ __align__(16) float dynamic_shared[];
#define DYNAMIC_SHARED(name) const shared<float> name = dynamic_shared
template <class T>
using shared = T*;

DEVICE float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
DEVICE void store4(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
DEVICE float2 load2(const float* p) { return *reinterpret_cast<const float2*>(p); }
DEVICE void store2(float* p, float2 x) { *reinterpret_cast<float2*>(p) = x; }

DEVICE int fresh(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

struct shared_place {
  uint32_t at;  // in the space of shared memory
  __device__ __forceinline__ shared_place operator+(int floats) const { return {at + static_cast<uint32_t>(floats) * 4}; }
};
DEVICE shared_place place_of(shared<float> p) {
  shared_place s;
  asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(s.at) : "l"(p));
  return s;
}
DEVICE void copy_async(shared_place to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.at), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
#define wait_copies(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
DEVICE void load_matrices(uint32_t (&r)[4], shared_place row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.at)
               : "memory");
}
DEVICE void load_transposed(uint32_t (&r)[4], shared_place row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.at)
               : "memory");
}
DEVICE uint32_t pack_bf16(float x, float y) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
  return pair;
}
DEVICE float power2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float largest_number(float x, float y) {
  float z;
  asm("max.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}
DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

#endif
