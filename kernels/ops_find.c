//go:build cgo

#define _GNU_SOURCE  // syscall
#include <string.h>

#include "ops.h"

#ifdef __unix__
#include <unistd.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

extern const farandole_ops farandole_ops_portable;

#if defined(__x86_64__)
extern const farandole_ops farandole_ops_avx2, farandole_ops_avx512;
#elif defined(__aarch64__)
extern const farandole_ops farandole_ops_neon;
#endif

const farandole_ops* farandole_find(const char* isa) {
#if defined(__x86_64__)
  // These builtins ask the operating system too, whether it saves the wide registers.
  __builtin_cpu_init();
  int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (strcmp(isa, "avx512") == 0 && avx512) return &farandole_ops_avx512;
  if (strcmp(isa, "avx2") == 0 && avx2) return &farandole_ops_avx2;
#elif defined(__aarch64__)
  if (strcmp(isa, "neon") == 0) return &farandole_ops_neon;
#endif
  if (strcmp(isa, "portable") == 0) return &farandole_ops_portable;
  return 0;
}

long farandole_first_cache = 32 << 10;

__attribute__((constructor)) static void find_first_cache(void) {
#ifdef _SC_LEVEL1_DCACHE_SIZE
  const long size = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  if (size > 0) farandole_first_cache = size;
#endif
}

int farandole_has_dot(const farandole_ops* ops) {
#if defined(__x86_64__)
  return ops == &farandole_ops_avx512 && __builtin_cpu_supports("avx512bf16");
#else
  (void)ops;
  return 0;
#endif
}

int farandole_has_amx(void) {
#if defined(__x86_64__) && defined(__linux__)
  // Linux gives a process the eight tiles' state, number 18, when it asks, and refuses where the processor or the system has none.
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18, BF16_BIT = 1 << 22, TILE_BIT = 1 << 24 };
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx512bf16") && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
         (d & BF16_BIT) && (d & TILE_BIT) && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
  return 0;
#endif
}
