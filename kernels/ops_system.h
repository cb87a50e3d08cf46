// System headers and the scalar arithmetic; include it before any target pragma.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "ops.h"

// a·b+c must never become an fma by itself. cgo.go passes -std=c11, which makes gcc obey; clang wants this.
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif
#ifdef __FAST_MATH__
#error "the canonical arithmetic needs a compiler without -ffast-math"
#endif
