// The instructions of a warp for tiles of bfloat16. How the lanes hold a matrix is what the PTX manual says of ldmatrix and of
// mma.m16n8k16.
//
// The manual does not say in which order a matrix unit adds, nor how it rounds on the way; GPUs differ. Here it is a chain of fused
// multiply-adds in the order of k that begins with c: a reference to test with, whose bits no GPU need have.
#include <cmath>
#include <cstring>

#include "emulator.h"
#include "threads.h"

namespace emulator {
namespace {

constexpr unsigned lanes = 32, rows = 8, row_bytes = 16, banks_bytes = 128;

struct loading {
  uintptr_t at;
  uint16_t row[rows];  // what this lane has read
  bool transposed;
  uint32_t* r;
};

const char* load(void* const (&operands)[lanes]) {
  const auto of = [&](unsigned lane) -> loading& { return *static_cast<loading*>(operands[lane]); };
  for (unsigned lane = 0; lane < lanes; lane++) {
    for (unsigned other = lane / rows * rows; other < lane; other++) {
      if (of(lane).at != of(other).at && of(lane).at % banks_bytes == of(other).at % banks_bytes) return "two rows of a matrix are in the same banks";
    }
    loading& mine = of(lane);
    for (unsigned m = 0; m < 4; m++) {
      const unsigned row = lane / 4, column = lane % 4 * 2;
      const auto at = [&](unsigned i, unsigned j) -> uint32_t { return of(m * rows + i).row[j]; };
      mine.r[m] = mine.transposed ? at(column, row) | at(column + 1, row) << 16 : at(row, column) | at(row, column + 1) << 16;
    }
  }
  return nullptr;
}

float low(uint32_t pair) {
  const uint32_t bits = pair << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
float high(uint32_t pair) { return low(pair >> 16); }

struct factors {
  const uint32_t* a;
  uint32_t b[2];
  float* c;
};

const char* multiply(void* const (&operands)[lanes]) {
  float a[16][16], b[16][8], c[16][8];
  for (unsigned lane = 0; lane < lanes; lane++) {
    const factors& f = *static_cast<factors*>(operands[lane]);
    const unsigned row = lane / 4, pair = lane % 4 * 2;
    for (unsigned i = 0; i < 4; i++) {
      float* const to = &a[row + i % 2 * 8][pair + i / 2 * 8];
      to[0] = low(f.a[i]), to[1] = high(f.a[i]);
      c[row + i / 2 * 8][pair + i % 2] = f.c[i];
    }
    for (unsigned i = 0; i < 2; i++) b[pair + i * 8][row] = low(f.b[i]), b[pair + i * 8 + 1][row] = high(f.b[i]);
  }
  for (unsigned k = 0; k < 16; k++) {
    for (unsigned i = 0; i < 16; i++) {
      for (unsigned j = 0; j < 8; j++) c[i][j] = std::fma(a[i][k], b[k][j], c[i][j]);
    }
  }
  for (unsigned lane = 0; lane < lanes; lane++) {
    const factors& f = *static_cast<factors*>(operands[lane]);
    for (unsigned i = 0; i < 4; i++) f.c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
  return nullptr;
}

}  // namespace

void load_tile(uint32_t (&r)[4], const void* row, bool transposed, site at) {
  touch(row, row_bytes, false);
  loading l = {reinterpret_cast<uintptr_t>(row), {}, transposed, r};
  memcpy(l.row, row, row_bytes);
  together(&l, load, at);
}

uint32_t nearest_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, site at) {
  factors f = {a, {b0, b1}, c};
  together(&f, multiply, at);
}

}  // namespace emulator
