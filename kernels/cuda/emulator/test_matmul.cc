#include "test.h"

using namespace test;

namespace {

// The product by the operations of the CPU.
void product(matmul_args t) {
  const long tiles = (t.m + cpu->tile_rows - 1) / cpu->tile_rows, panels = (t.n + cpu->panel_columns - 1) / cpu->panel_columns;
  const floats packed(static_cast<size_t>(t.m * t.k + 16)), work(static_cast<size_t>(panels * cpu->panel_columns * BLOCK_K));
  cpu->matmul_pack_rows(&t, packed.get(), 0, t.k, 0, tiles);
  cpu->matmul_columns(&t, packed.get(), work.get(), 0, t.k, 0, panels, -1);
}

struct layout {
  const char* name;
  bool a_along_k, b_along_k;
};

void check(dice& r, const layout& l, long m, long n, long k, bool odd, bool misplace) {
  const floats plain = normal(r, static_cast<size_t>(m * k), misplace), b = normal(r, static_cast<size_t>(n * k));
  const floats a = odd ? sprinkle(r, plain) : plain;
  // Products that are too small for a float: zeros get signs then.
  for (size_t i = 0; odd && i < b.size(); i++) b[i] = r() % 2 ? b[i] * 1e-30f : b[i];
  const floats bias = normal(r, static_cast<size_t>(n), misplace);
  const shape grid = {pieces(n, MATMUL_COLUMNS), pieces(m, MATMUL_ROWS)}, block = {MATMUL_THREADS};
  const std::string what = std::string(l.name) + " " + std::to_string(m) + "×" + std::to_string(n) + "×" + std::to_string(k);
  for (bool accumulate : {false, true}) {
    for (bool biased : {false, true}) {
      const floats want = normal(r, static_cast<size_t>(m * n), misplace), got = want, other = want;
      const float* const add = biased ? bias.get() : nullptr;
      product({a.get(), b.get(), add, want.get(), m, n, k, l.a_along_k ? k : 1, l.a_along_k ? 1 : m, l.b_along_k ? 1 : n,
               l.b_along_k ? k : 1, accumulate, PRODUCT_F32});
      float* const no_planes = nullptr;
      launch(l.name, grid, block, 0, got.get(), a.get(), b.get(), add, no_planes, (long long)m, (long long)n, (long long)k, 0LL,
             static_cast<int>(accumulate));
      same(what, want, got);
      // The same by planes, at most three at a time.
      const long blocks = pieces(k, BLOCK_K);
      const floats planes = normal(r, static_cast<size_t>(3 * m * n));  // what they hold before is in no sum
      for (long first = 0; first < blocks; first += 3) {
        const long count = std::min(3L, blocks - first);
        const shape deep = {grid.x, grid.y, static_cast<unsigned>(count)};
        launch(l.name, deep, block, 0, other.get(), a.get(), b.get(), add, planes.get(), (long long)m, (long long)n, (long long)k,
               (long long)first, static_cast<int>(accumulate));
        launch("add_planes", {pieces(m * n, ELEMENT_THREADS)}, {ELEMENT_THREADS}, 0, other.get(), planes.get(),
               first + count == blocks ? add : nullptr, (long long)m, (long long)n, (long long)count,
               static_cast<int>(accumulate || first > 0));
      }
      same(what + " by planes", want, other);
    }
  }
}

void check_layout(dice& r, const layout& l) {
  const long shapes[][3] = {{1, 1, 1}, {4, 4, 16}, {128, 128, 256}, {129, 127, 257}, {3, 200, 15}, {133, 5, 600}, {64, 132, 520}, {7, 9, 1030}};
  for (const long* s : shapes) check(r, l, s[0], s[1], s[2], s[0] == 7 || s[0] == 133, s[0] == 64);
  for (int i = 0; i < 6; i++) check(r, l, between(r, 1, 150), between(r, 1, 150), between(r, 1, 700), i % 2, i % 3 == 0);
}

TEST(matmul_nt) { check_layout(r, {"matmul_nt", true, true}); }
TEST(matmul_nn) { check_layout(r, {"matmul_nn", true, false}); }
TEST(matmul_tn) { check_layout(r, {"matmul_tn", false, false}); }

}  // namespace
