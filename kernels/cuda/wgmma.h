// The matrix unit of compute capability 9.0, which multiplies tiles where they lie in shared memory, for four warps at a time, a group,
// while these do something else.
//
//	swizzled(p)                          the first place from p on where a tile may begin, less than TILE_ALIGN bytes behind p
//	tile_of(p)                           how the unit is told of a tile of TILE_ROWS·n rows of 64 values of bfloat16, from p on
//	publish_copies()                     what has arrived in shared memory for this thread becomes the unit's to read behind the next barrier
//	before_products()                    the group's sums may become the unit's: before the first product, and where a thread had them since
//	start_product(A, B, s, a, b, add)    begins s[64,256] = or += a[64,16]·b[256,16]ᵀ, where A and B, constants, say which of a and b lie along k
//	commit_products()                    makes a set of what was begun since the last one
//	wait_products(n)                     until the group's sets are done, but for the newest n, a constant
//	take_sums(s)                         waits for all, and gives the threads their sums again
//
// All threads of a group call them together. A tile has 128 bytes in a line, which are eight chunks of 16; chunk c of line i is at place c ^ i%8 of
// it. Lines along k are rows, and each has 64 terms. Lines across k are terms, of 64 rows each: 64 such lines for the first 64 rows, then those for
// the next. Lane l of the group's warp w has of the sums those of rows 16·w + l/4 and 8 below, in columns 8·j + l%4·2 and the next: s[4·j] and on.
#ifndef FARANDOLE_CUDA_WGMMA_H
#define FARANDOLE_CUDA_WGMMA_H

#include "device.h"

enum {
  TILE_ALIGN = 1024,                 // bytes
  TILE_LINE = 128,                   // bytes
  TILE_VALUES = TILE_LINE / 2,       // in a line
  TILE_BYTES = 64 * TILE_LINE,       // of 64 rows, or 64 columns
  EIGHT_LINES = 8 * TILE_LINE,       // bytes
  PRODUCT_TERMS = 16,                // of one product
  PRODUCT_SUMS = 128,                // of a thread
};

#if defined(EMULATE)

DEVICE uint32_t address_of(shared_place p) { return emulator::shared_address(p.check(0)); }

#define publish_copies() emulator::publish(HERE)
#define before_products() emulator::fence_sums(HERE)
#define start_product(a_along_k, b_along_k, s, a, b, add) emulator::start_product(s, a, b, add, a_along_k, b_along_k, HERE)
#define commit_products() emulator::commit_products(HERE)
#define wait_products(n) emulator::await_products(n, HERE)
#define take_sums(s) emulator::await_products(0, HERE)

#else

DEVICE uint32_t address_of(shared_place p) { return p.at; }

DEVICE void publish_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void before_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
#define wait_products(n) asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory")

#define SUMS_8(s, i) \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), "+f"(s[i + 6]), "+f"(s[i + 7])
#define SUMS_32(s, i) SUMS_8(s, i), SUMS_8(s, i + 8), SUMS_8(s, i + 16), SUMS_8(s, i + 24)
#define SUMS_128(s) SUMS_32(s, 0), SUMS_32(s, 32), SUMS_32(s, 64), SUMS_32(s, 96)

// The sums are operands: nothing that uses them moves before the wait.
DEVICE void take_sums(float (&s)[PRODUCT_SUMS]) { asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS_128(s)::"memory"); }

template <bool A_ALONG_K, bool B_ALONG_K>
DEVICE void start_product_of(float (&s)[PRODUCT_SUMS], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, "
      "%29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, "
      "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, "
      "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, add, 1, 1, %131, %132; }"
      : SUMS_128(s)
      : "l"(a), "l"(b), "r"(add), "n"(A_ALONG_K ? 0 : 1), "n"(B_ALONG_K ? 0 : 1));
}
#define start_product(a_along_k, b_along_k, s, a, b, add) start_product_of<a_along_k, b_along_k>(s, a, b, add)

#endif

DEVICE shared_place swizzled(shared_place p) {
  return p + static_cast<int>((TILE_ALIGN - address_of(p) % TILE_ALIGN) % TILE_ALIGN / sizeof(float));
}

// The matrix descriptor: the address in units of 16 bytes; the bytes from 64 rows to the next, which only lines across k have; those from
// eight lines to the next; and chunks exchanged among the eight of a line.
DEVICE uint64_t tile_of(shared_place p) {
  return (address_of(p) & 0x3ffff) >> 4 | static_cast<uint64_t>(TILE_BYTES >> 4) << 16 | static_cast<uint64_t>(EIGHT_LINES >> 4) << 32 |
         static_cast<uint64_t>(1) << 62;
}

// How much must be added to what tile_of gives for the next PRODUCT_TERMS terms.
DEVICE constexpr uint64_t next_terms(bool along_k) { return along_k ? PRODUCT_TERMS * 2 >> 4 : 2 * EIGHT_LINES >> 4; }

#endif
