// What every kernel needs of its machine. There are three: a GPU as clang sees it without NVIDIA's SDK, a GPU as nvcc sees it,
// and the emulator (EMULATE is defined), where a kernel is ordinary C++17. Kernels use nothing beyond this file.
//
//	KERNEL(name, threads, parameters…)   a kernel, and the most threads that a block may have
//	SHARED(type, name, count)            an array in shared memory, with undefined contents
//	DYNAMIC_SHARED(name)                 the launch's dynamic shared memory, as floats
//	shared<T>                            a pointer to shared memory
//	load4, store4                        four floats at a multiple of 16 bytes
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

#else

static __device__ __forceinline__ float fma1(float a, float b, float c) { return __fmaf_rn(a, b, c); }
static __device__ __forceinline__ float sqrt1(float x) { return __fsqrt_rn(x); }

#endif

#define DEVICE static __device__ __forceinline__
#define KERNEL(name, threads, ...) extern "C" __global__ __launch_bounds__(threads) void name(__VA_ARGS__)
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(name)                              \
  extern __shared__ __align__(16) float dynamic_shared[]; \
  const shared<float> name = dynamic_shared
template <class T>
using shared = T*;

DEVICE float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
DEVICE void store4(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }

#endif

#endif
