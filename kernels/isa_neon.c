//go:build cgo

#include "ops_system.h"

// Every processor of this architecture has NEON with fused multiply-adds.
#if defined(__aarch64__)
#include <arm_neon.h>

static inline float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

#include "lanes_neon.h"
#include "ops_all.h"
#endif
