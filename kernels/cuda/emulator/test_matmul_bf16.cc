// Products of bfloat16: with the emulator's matrix unit they have the bits of one chain in the order of k over each block, and with any
// unit they are close to the exact sums.
#include <algorithm>
#include <climits>
#include <cmath>

#include "test.h"

using namespace test;

namespace {

using words = array<uint16_t>;

float widened(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

long padded(long columns) { return (columns + ENCODE_EACH - 1) / ENCODE_EACH * ENCODE_EACH; }

// rounded gives a matrix as the kernels want it, by the kernel for that.
words rounded(const floats& x, long rows, long columns) {
  words y(static_cast<size_t>(rows * padded(columns)));
  launch("encode_bf16", {pieces(rows * padded(columns), ELEMENT_THREADS * ENCODE_EACH)}, {ELEMENT_THREADS}, 0, y.get(), x.get(),
         (long long)rows, (long long)columns, (long long)padded(columns));
  return y;
}

TEST(encode_bf16) {
  for (long columns : {1L, 3L, 8L, 12L, 77L, 1024L, between(r, 1, 3000)}) {
    for (bool misplace : {false, true}) {
      const long rows = between(r, 1, 9);
      const floats x = sprinkle(r, normal(r, static_cast<size_t>(rows * columns), misplace));
      const words want(x.size()), got = rounded(x, rows, columns);
      cpu->encode_bf16(want.get(), x.get(), static_cast<long>(x.size()));
      for (long i = 0; i < rows * padded(columns); i++) {
        const long row = i / padded(columns), column = i % padded(columns);
        const uint16_t value = column < columns ? want[static_cast<size_t>(row * columns + column)] : 0;
        if (got[static_cast<size_t>(i)] != value) fail("encode_bf16: row " + std::to_string(row) + ", column " + std::to_string(column) + " differs");
      }
    }
  }
}

struct layout {
  const char* name;
  bool a_along_k, b_along_k;
  long step = MMA_STEP;  // behind the last term there are +0 up to a multiple of it
  unsigned shared_bytes = MMA_BYTES;
  long once_from = LONG_MAX;  // products of so many terms are tried with an accumulated result and a bias alone: they take long
};

// One factor: as values that are bfloat16, and as the kernel reads it.
struct factor {
  bool along_k;
  long rows, k, stride;
  words x;

  factor(const floats& plain, bool along_k, long rows, long k)
      : along_k(along_k), rows(rows), k(k), stride(padded(along_k ? k : rows)),
        x(along_k ? rounded(plain, rows, k) : rounded(plain, k, rows)) {}
  float at(long row, long term) const { return widened(x[static_cast<size_t>(along_k ? row * stride + term : term * stride + row)]); }
};

// The product as the emulator's matrix unit adds it up.
void product(const layout& l, const floats& c, const factor& a, const factor& b, const float* bias, bool accumulate) {
  for (long i = 0; i < a.rows; i++) {
    for (long j = 0; j < b.rows; j++) {
      float& to = c[static_cast<size_t>(i * b.rows + j)];
      bool add = accumulate;
      for (long first = 0; first < a.k; first += MMA_BLOCK, add = true) {
        const long end = std::min<long>(a.k, first + MMA_BLOCK);
        float s = 0;
        for (long term = first; term < end; term++) s = std::fma(a.at(i, term), b.at(j, term), s);
        if (end % l.step != 0) s = s + 0.0f;
        to = add ? to + s : s;
      }
      if (bias) to = to + bias[j];
    }
  }
}

// No value is further from the exact sum than 2⁻²² of the sum of all magnitudes for each thing added: that many additions, of which each
// may cut off what does not fit into 24 bits, and may have cut off its terms before.
void near(const std::string& what, const floats& got, const floats& before, const factor& a, const factor& b, const float* bias,
          bool accumulate) {
  for (long i = 0; i < a.rows; i++) {
    for (long j = 0; j < b.rows; j++) {
      const size_t at = static_cast<size_t>(i * b.rows + j);
      double sum = accumulate ? static_cast<double>(before[at]) : 0, magnitude = std::fabs(sum);
      for (long term = 0; term < a.k; term++) {
        const double p = static_cast<double>(a.at(i, term)) * static_cast<double>(b.at(j, term));
        sum += p, magnitude += std::fabs(p);
      }
      if (bias) sum += static_cast<double>(bias[j]), magnitude += std::fabs(static_cast<double>(bias[j]));
      const double bound = std::ldexp(magnitude * static_cast<double>(a.k + 2), -22);
      if (!(std::fabs(static_cast<double>(got[at]) - sum) <= bound)) fail(what + ": row " + std::to_string(i) + ", column " + std::to_string(j) + " is too far from the exact sum");
    }
  }
}

void check(dice& r, const layout& l, long m, long n, long k, bool odd, bool misplace) {
  const floats p = normal(r, static_cast<size_t>(m * k)), q = normal(r, static_cast<size_t>(n * k));
  const factor a(odd ? sprinkle(r, p) : p, l.a_along_k, m, k), b(q, l.b_along_k, n, k);
  const floats bias = normal(r, static_cast<size_t>(n), misplace);
  const unsigned tiles = pieces(n, MMA_COLUMNS) * pieces(m, MMA_ROWS);
  const std::string what = std::string(l.name) + " " + std::to_string(m) + "×" + std::to_string(n) + "×" + std::to_string(k);
  for (bool accumulate : {false, true}) {
    for (bool biased : {false, true}) {
      if (k >= l.once_from && !(accumulate && biased)) continue;
      const floats want = normal(r, static_cast<size_t>(m * n), misplace), got = want, other = want, before = want;
      const float* const add = biased ? bias.get() : nullptr;
      product(l, want, a, b, add, accumulate);
      float* const no_planes = nullptr;
      const auto run = [&](unsigned z, const floats& c, float* planes, long first) {
        launch(l.name, {tiles, 1, z}, {MMA_THREADS}, l.shared_bytes, c.get(), a.x.get(), b.x.get(), add, planes, (long long)m, (long long)n,
               (long long)k, (long long)a.stride, (long long)b.stride, (long long)first, static_cast<int>(accumulate));
      };
      run(1, got, no_planes, 0);
      same(what, want, got);
      if (!odd) near(what, got, before, a, b, add, accumulate);
      // The same by planes, at most two at a time.
      const long blocks = pieces(k, MMA_BLOCK);
      if (blocks == 1) continue;
      const floats planes(static_cast<size_t>(2 * m * n));
      for (long first = 0; first < blocks; first += 2) {
        const long count = std::min(2L, blocks - first);
        run(static_cast<unsigned>(count), other, planes.get(), first);
        launch("add_planes", {pieces(m * n, ELEMENT_THREADS)}, {ELEMENT_THREADS}, 0, other.get(), planes.get(),
               first + count == blocks ? add : nullptr, (long long)m, (long long)n, (long long)count, static_cast<int>(accumulate || first > 0));
      }
      same(what + " by planes", want, other);
    }
  }
}

void check_layout(dice& r, const layout& l) {
  const long shapes[][3] = {{1, 1, 1}, {8, 8, 16}, {64, 64, 200}, {129, 257, 40}, {5, 261, 17}, {133, 3, 161}, {1100, 270, 8}};
  for (const long* s : shapes) check(r, l, s[0], s[1], s[2], s[0] == 133, s[0] == 64);
  for (int i = 0; i < 3; i++) check(r, l, between(r, 1, 300), between(r, 1, 300), between(r, 1, 140), i == 1, i == 2);
  check(r, l, between(r, 1, 9), between(r, 1, 9), 2 * MMA_BLOCK + between(r, 1, 99), false, false);
}

// Each product reads a whole tile here, however small: so these are fewer.
void check_wgmma(dice& r, const char* name, bool a_along_k, bool b_along_k) {
  const layout l = {name, a_along_k, b_along_k, WGMMA_STEP, WGMMA_BYTES, MMA_BLOCK};
  const long shapes[][3] = {{1, 1, 1}, {128, 256, 328}, {129, 257, 40}, {133, 3, 161}, {70, 264, 64}};
  for (const long* s : shapes) check(r, l, s[0], s[1], s[2], s[0] == 133, s[0] == 70);
  check(r, l, between(r, 1, 300), between(r, 1, 300), between(r, 1, 140), false, false);
  check(r, l, between(r, 1, 9), between(r, 1, 9), MMA_BLOCK + between(r, 1, 99), false, false);
}

TEST(matmul_bf16_nt) { check_layout(r, {"matmul_bf16_nt", true, true}); }
TEST(matmul_bf16_nn) { check_layout(r, {"matmul_bf16_nn", true, false}); }
TEST(matmul_bf16_tn) { check_layout(r, {"matmul_bf16_tn", false, false}); }

TEST(matmul_bf16_wgmma_nt) { check_wgmma(r, "matmul_bf16_wgmma_nt", true, true); }
TEST(matmul_bf16_wgmma_nn) { check_wgmma(r, "matmul_bf16_wgmma_nn", true, false); }
TEST(matmul_bf16_wgmma_tn) { check_wgmma(r, "matmul_bf16_wgmma_tn", false, false); }

}  // namespace
