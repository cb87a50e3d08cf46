#include "test.h"

#include <cmath>

using namespace test;

namespace {

using wide = long long;

void check(dice& r, long b, long t, long heads, long hs, bool odd, bool misplace) {
  const size_t c = static_cast<size_t>(heads * hs), rows = static_cast<size_t>(b * t);
  const floats plain = normal(r, rows * 3 * c, misplace), qkv = odd ? sprinkle(r, plain) : plain, dout = normal(r, rows * c);
  // Products too small for a float make zeros with signs.
  for (size_t i = 0; odd && i < dout.size(); i++) dout[i] = dout[i] * 1e-38f;
  const float scale = 1.0f / std::sqrt(static_cast<float>(hs));
  const std::string what = std::to_string(b) + "×" + std::to_string(t) + "×" + std::to_string(heads) + "×" + std::to_string(hs);
  const floats work(static_cast<size_t>(cpu->attention_work(t, hs))), want(rows * c), got(rows * c, misplace);
  const shape grid = {static_cast<unsigned>(b * heads), pieces(t, ATTENTION_TILE), pieces(hs, ATTENTION_TILE)}, block = {ATTENTION_THREADS};
  attention_args a = {want.get(), qkv.get(), nullptr, nullptr, t, heads, hs, scale};
  cpu->attention(&a, work.get(), 0, b * heads);
  launch("attention", grid, block, ATTENTION_BYTES, got.get(), qkv.get(), (wide)t, (wide)heads, (wide)hs, scale);
  same("attention " + what, want, got);

  const floats dwant(rows * 3 * c), dgot = normal(r, rows * 3 * c, misplace), statistics(static_cast<size_t>(3 * b * heads * t));
  a.dqkv = dwant.get(), a.dout = dout.get();
  cpu->attention_backward(&a, work.get(), 0, b * heads);
  launch("attention_backward_rows", grid, block, ATTENTION_BACKWARD_ROWS_BYTES, dgot.get(), statistics.get(), dout.get(), qkv.get(), (wide)b, (wide)t,
         (wide)heads, (wide)hs, scale);
  launch("attention_backward_columns", grid, block, ATTENTION_BACKWARD_COLUMNS_BYTES, dgot.get(), static_cast<const float*>(statistics.get()), dout.get(),
         qkv.get(), (wide)b, (wide)t, (wide)heads, (wide)hs, scale);
  same("attention_backward " + what, dwant, dgot);
}

TEST(attention) {
  const long shapes[][4] = {{1, 1, 1, 1}, {2, 5, 3, 4}, {1, 64, 1, 64}, {1, 65, 2, 16}, {1, 127, 1, 7}, {1, 300, 1, 12}, {1, 70, 2, 80}, {1, 20, 1, 300}};
  for (const long* s : shapes) {
    check(r, s[0], s[1], s[2], s[3], false, s[1] == 65);
    check(r, s[0], s[1], s[2], s[3], true, false);
  }
  for (int i = 0; i < 4; i++) check(r, between(r, 1, 2), between(r, 1, 150), between(r, 1, 3), between(r, 1, 70), i % 2, i == 0);
}

}  // namespace
