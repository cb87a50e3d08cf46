#include <algorithm>
#include <cmath>

#include "test.h"

using namespace test;

namespace {

using wide = long long;

size_t area(long rows, long c) { return static_cast<size_t>(rows * c); }

// Numbers of rows and columns around the borders of warps, lanes and canonical blocks.
template <class F>
void each_shape(dice& r, F f) {
  const long shapes[][2] = {{1, 1}, {1, 16}, {16, 17}, {17, 31}, {33, 64}, {256, 5}, {257, 48}, {600, 130}, {5, 1000}};
  for (const long* s : shapes) f(s[0], s[1], s[1] % 2 == 0);
  for (int i = 0; i < 4; i++) f(between(r, 1, 400), between(r, 1, 300), i % 2 == 0);
}

void add_planes(const floats& dst, const floats& planes, long n, long count) {
  launch("add_planes", {pieces(n, ELEMENT_THREADS)}, {ELEMENT_THREADS}, 0, dst.get(), planes.get(), static_cast<const float*>(nullptr), 1LL, (wide)n,
         (wide)count, 1);
}

TEST(embed) {
  each_shape(r, [&](long rows, long c, bool odd) {
    const long t = between(r, 1, rows), vocabulary = between(r, 1, 2 * rows);
    const floats wte = normal(r, area(vocabulary, c)), wpe = normal(r, area(t, c)), want(area(rows, c)), got(area(rows, c));
    const ints tokens = below(r, static_cast<size_t>(rows), 0, static_cast<int>(vocabulary));
    const float* const positions = odd ? wpe.get() : nullptr;
    cpu->embed(want.get(), wte.get(), positions, tokens.get(), t, c, 0, rows);
    launch("embed", {pieces(rows, ROWS_BY_WARP)}, {ROW_THREADS}, 0, got.get(), wte.get(), positions, tokens.get(), (wide)rows, (wide)t, (wide)c);
    same("embed", want, got);
  });
}

TEST(embed_backward) {
  for (long rows : {1L, 31L, 256L, 300L, 700L}) {
    for (long vocabulary : {1L, 7L, 2 * rows}) {
      const long c = between(r, 1, 300), t = between(r, 1, rows);
      const floats dout = normal(r, area(rows, c)), wte = normal(r, area(vocabulary, c)), wpe = normal(r, area(t, c));
      const floats wte2 = wte, wpe2 = wpe;
      const ints tokens = below(r, static_cast<size_t>(rows), 0, static_cast<int>(vocabulary));
      cpu->embed_backward(wte.get(), wpe.get(), dout.get(), tokens.get(), rows, t, c, 0, c);
      const shape some = {static_cast<unsigned>(EMBED_THREADS >> vocabulary % 3)};
      launch("embed_backward_tokens", {static_cast<unsigned>(rows)}, some, 0, wte2.get(), dout.get(), tokens.get(), (wide)rows, (wide)c);
      launch("embed_backward_positions", {static_cast<unsigned>(t), pieces(c, EMBED_THREADS)}, {EMBED_THREADS}, 0, wpe2.get(), dout.get(), (wide)rows,
             (wide)t, (wide)c);
      same("embed_backward, dwte", wte, wte2);
      same("embed_backward, dwpe", wpe, wpe2);
    }
  }
}

TEST(layernorm) {
  each_shape(r, [&](long rows, long c, bool odd) {
    const floats plain = normal(r, area(rows, c)), x = odd ? sprinkle(r, plain) : plain;
    const floats gamma = normal(r, c), beta = normal(r, c, odd), dout = normal(r, area(rows, c), odd);
    const floats want(area(rows, c)), mean(rows), rstd(rows), got(area(rows, c)), mean2(rows), rstd2(rows);
    const shape by_row = {pieces(rows, ROWS_BY_HALF_WARP)}, block = {ROW_THREADS};
    cpu->layernorm(want.get(), mean.get(), rstd.get(), nullptr, x.get(), nullptr, gamma.get(), beta.get(), c, 0, rows);
    launch("layernorm", by_row, block, 0, got.get(), mean2.get(), rstd2.get(), x.get(), gamma.get(), beta.get(), (wide)rows, (wide)c);
    same("layernorm, out", want, got);
    same("layernorm, mean", mean, mean2);
    same("layernorm, rstd", rstd, rstd2);
    const floats add = normal(r, area(rows, c)), want_sum(area(rows, c)), got_sum(area(rows, c)), residual(area(rows, c));
    const floats mean3(rows), rstd3(rows), mean4(rows), rstd4(rows), got_residual(area(rows, c));
    cpu->layernorm(residual.get(), mean3.get(), rstd3.get(), want_sum.get(), x.get(), add.get(), gamma.get(), beta.get(), c, 0, rows);
    launch("residual_layernorm", by_row, block, 0, got_sum.get(), got_residual.get(), mean4.get(), rstd4.get(), x.get(), add.get(), gamma.get(),
           beta.get(), (wide)rows, (wide)c);
    same("residual_layernorm, sum", want_sum, got_sum);
    same("residual_layernorm, out", residual, got_residual);
    same("residual_layernorm, mean", mean3, mean4);
    same("residual_layernorm, rstd", rstd3, rstd4);
    // Gradients so small that products are zeros with signs.
    for (size_t i = 0; odd && i < dout.size(); i++) dout[i] = dout[i] * 1e-38f;
    const floats dx = normal(r, area(rows, c)), dx2 = dx, dgamma = normal(r, c), dgamma2 = dgamma, dbeta = normal(r, c), dbeta2 = dbeta;
    cpu->layernorm_rows(dx.get(), dout.get(), x.get(), gamma.get(), mean.get(), rstd.get(), c, 0, rows);
    launch("layernorm_backward_rows", by_row, block, 0, dx2.get(), dout.get(), x.get(), gamma.get(), mean.get(), rstd.get(), (wide)rows, (wide)c);
    same("layernorm_backward_rows", dx, dx2);
    cpu->layernorm_columns(dgamma.get(), dbeta.get(), dout.get(), x.get(), mean.get(), rstd.get(), rows, c, 0, c);
    const unsigned blocks = pieces(rows, BLOCK_K);
    const floats gammas(blocks * c), betas(blocks * c);
    launch("layernorm_backward_columns", {pieces(c, COLUMN_THREADS), blocks}, {COLUMN_THREADS}, 0, gammas.get(), betas.get(), dout.get(), x.get(),
           mean.get(), rstd.get(), (wide)rows, (wide)c);
    add_planes(dgamma2, gammas, c, blocks);
    add_planes(dbeta2, betas, c, blocks);
    same("layernorm_backward_columns, dgamma", dgamma, dgamma2);
    same("layernorm_backward_columns, dbeta", dbeta, dbeta2);
  });
}

TEST(column_sums) {
  each_shape(r, [&](long rows, long n, bool odd) {
    const floats plain = normal(r, area(rows, n)), x = odd ? sprinkle(r, plain) : plain;
    const floats want = normal(r, n), got = want;
    cpu->column_sums(want.get(), x.get(), rows, n, 0, n);
    const unsigned blocks = pieces(rows, BLOCK_K);
    const floats sums(blocks * n);
    launch("column_sums", {pieces(n, COLUMN_THREADS), blocks}, {COLUMN_THREADS}, 0, sums.get(), x.get(), (wide)rows, (wide)n);
    add_planes(got, sums, n, blocks);
    same("column_sums", want, got);
  });
}

TEST(cross_entropy) {
  for (long v : {1L, 2L, 16L, 33L, 1000L, 2048L, 2049L, 5003L}) {
    for (float scale : {0.0f, 0.125f}) {
      const long rows = 4;
      const floats want = normal(r, area(rows, v), v % 2 == 0);
      for (long j = 0; j < v; j++) want[j] = want[j] * 30;
      if (v == 33) want[40] = NAN;
      const floats got = want, losses(rows), losses2(rows);
      const ints targets = below(r, rows, 0, static_cast<int>(v));
      targets[2] = -1;
      cpu->cross_entropy(losses.get(), want.get(), targets.get(), v, scale, 0, rows);
      const shape some = {v < 2000 ? 96u : CROSS_ENTROPY_THREADS};
      launch("cross_entropy", {static_cast<unsigned>(rows)}, some, 0, losses2.get(), got.get(), targets.get(), (wide)v, scale);
      same("cross_entropy, losses of " + std::to_string(v), losses, losses2);
      same("cross_entropy, gradient of " + std::to_string(v), want, got);
    }
  }
}

TEST(sums) {
  for (long n : {0L, 1L, 15L, 4096L, 4097L, 70000L, 260L * 4096 + 5}) {
    for (int square : {0, 1}) {
      const floats x = normal(r, static_cast<size_t>(n), n % 2 != 0);
      const long blocks = (n + BLOCK_SUM - 1) / BLOCK_SUM;
      const floats want(blocks), got(blocks), total(1), expected(1);
      cpu->block_sums(want.get(), x.get(), n, square, 0, blocks);
      if (n > 0) launch("block_sums", {pieces(blocks, SUM_BLOCKS)}, {SUM_THREADS}, 0, got.get(), x.get(), (wide)n, square);
      same("block_sums", want, got);
      double s = 0;
      for (long b = 0; b < blocks; b++) s += static_cast<double>(want[b]);
      expected[0] = static_cast<float>(s);
      launch("sum_total", {1}, {SUM_TOTAL_THREADS}, 0, total.get(), got.get(), (wide)blocks);
      same("sum_total", expected, total);
    }
  }
}

}  // namespace
