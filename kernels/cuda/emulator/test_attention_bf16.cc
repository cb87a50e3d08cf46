// Attention by the matrix unit: close to the exact result for factors that are bfloat16, by bounds that follow from the roundings on
// the way; the same bits at each launch, wherever a head lies.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "test.h"

using namespace test;

namespace {

using wide = long long;
using doubles = std::vector<double>;

// Of bfloat16: a rounded value is this part of itself off at most. What float32 adds, sums of at most a few hundred values and powers of
// two whose exponents are rounded, is in slack.
constexpr double half_unit = 0x1p-8, slack = 0x1p-13;

struct problem {
  long b, t, heads, hs;
  float scale;
  floats qkv, dout;

  size_t rows() const { return static_cast<size_t>(b * t); }
  size_t width() const { return static_cast<size_t>(heads * hs); }
  // at gives where value d of a row is in qkv; row counts through the batch.
  size_t at(int part, long batch, long row, long head, long d) const {
    return ((static_cast<size_t>(batch * t + row) * 3 + static_cast<size_t>(part)) * static_cast<size_t>(heads) + static_cast<size_t>(head)) * static_cast<size_t>(hs) + static_cast<size_t>(d);
  }
  size_t out(long batch, long row, long head, long d) const { return static_cast<size_t>(((batch * t + row) * heads + head) * hs + d); }
  std::string name() const { return std::to_string(b) + "×" + std::to_string(t) + "×" + std::to_string(heads) + "×" + std::to_string(hs); }
};

double rounded(float x) {
  uint16_t h;
  cpu->encode_bf16(&h, &x, 1);
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  std::memcpy(&x, &bits, sizeof x);
  return static_cast<double>(x);
}

problem make(dice& r, long b, long t, long heads, long hs, bool misplace) {
  const size_t n = static_cast<size_t>(b * t * heads * hs);
  return {b, t, heads, hs, 1.0f / std::sqrt(static_cast<float>(hs)), normal(r, 3 * n, misplace), normal(r, n, misplace)};
}

// One head in double: its rounded factors, and probabilities.
struct exact {
  const problem& p;
  long batch, head;
  doubles part[4], att;  // q, k, v, dout; t×t

  exact(const problem& p, long batch, long head) : p(p), batch(batch), head(head), att(static_cast<size_t>(p.t * p.t)) {
    for (long i = 0; i < p.t; i++) {
      for (long d = 0; d < p.hs; d++) {
        for (int n = 0; n < 3; n++) part[n].push_back(rounded(p.qkv[p.at(n, batch, i, head, d)]));
        part[3].push_back(rounded(p.dout[p.out(batch, i, head, d)]));
      }
    }
    for (long i = 0; i < p.t; i++) {
      double sum = 0, most = -INFINITY;
      for (long j = 0; j <= i; j++) most = std::max(most, dot(0, i, 1, j));
      for (long j = 0; j <= i; j++) sum += prob(i, j) = std::exp(static_cast<double>(p.scale) * (dot(0, i, 1, j) - most));
      for (long j = 0; j <= i; j++) prob(i, j) /= sum;
    }
  }
  double& prob(long i, long j) { return att[static_cast<size_t>(i * p.t + j)]; }
  double value(int n, long row, long d) const { return part[n][static_cast<size_t>(row * p.hs + d)]; }
  double dot(int a, long i, int b, long j) const {
    double s = 0;
    for (long d = 0; d < p.hs; d++) s += value(a, i, d) * value(b, j, d);
    return s;
  }
};

void within(const std::string& what, long row, long d, float got, double want, double bound) {
  if (std::fabs(static_cast<double>(got) - want) <= bound) return;
  fail(what + ": row " + std::to_string(row) + ", value " + std::to_string(d) + " is " + std::to_string(got) + ", want " + std::to_string(want) + " ± " + std::to_string(bound));
}

shape grid_of(const problem& p) { return {static_cast<unsigned>(p.b * p.heads), pieces(p.t, ATTENTION_BF16_ROWS)}; }
bool narrow(const problem& p) { return p.hs <= ATTENTION_BF16_NARROW; }

void forward(const problem& p, const floats& out) {
  const bool n = narrow(p);
  launch(n ? "attention_bf16_64" : "attention_bf16_128", grid_of(p), {n ? ATTENTION_BF16_NARROW_THREADS + 0u : ATTENTION_BF16_THREADS + 0u}, ATTENTION_BF16_BYTES,
         out.get(), p.qkv.get(), (wide)p.t, (wide)p.heads, (wide)p.hs, p.scale);
}

void backward(const problem& p, const floats& dqkv) {
  const bool n = narrow(p);
  const floats statistics(static_cast<size_t>(2 * p.b * p.heads) * pieces(p.t, ATTENTION_BF16_ROWS) * ATTENTION_BF16_ROWS);
  launch(n ? "attention_bf16_rows_64" : "attention_bf16_rows_128", grid_of(p), {ATTENTION_BF16_THREADS}, ATTENTION_BF16_BYTES, dqkv.get(), statistics.get(),
         p.dout.get(), p.qkv.get(), (wide)p.b, (wide)p.t, (wide)p.heads, (wide)p.hs, p.scale);
  launch(n ? "attention_bf16_columns_64" : "attention_bf16_columns_128", grid_of(p), {ATTENTION_BF16_THREADS},
         n ? ATTENTION_BF16_COLUMNS_64_BYTES : ATTENTION_BF16_COLUMNS_128_BYTES, dqkv.get(), static_cast<const float*>(statistics.get()), p.dout.get(),
         p.qkv.get(), (wide)p.b, (wide)p.t, (wide)p.heads, (wide)p.hs, p.scale);
}

void check_forward(exact& e, const floats& out) {
  const problem& p = e.p;
  for (long i = 0; i < p.t; i++) {
    for (long d = 0; d < p.hs; d++) {
      double sum = 0, magnitude = 0;
      for (long j = 0; j <= i; j++) {
        const double v = e.prob(i, j) * e.value(2, j, d);
        sum += v, magnitude += std::fabs(v);
      }
      within("attention_bf16 " + p.name(), i, d, out[p.out(e.batch, i, e.head, d)], sum, (half_unit + slack) * magnitude);
    }
  }
}

// A gradient's sum, and the sum of its terms' magnitudes: what is rounded of a term, and may have been cancelled in it, is in them.
struct sums {
  doubles value, magnitude;

  explicit sums(size_t n) : value(n), magnitude(n) {}
  void add(size_t at, double factor, double size, double by) { value[at] += factor * by, magnitude[at] += size * std::fabs(by); }
};

void check_backward(exact& e, const floats& dqkv) {
  const problem& p = e.p;
  const double scale = static_cast<double>(p.scale);
  const size_t n = static_cast<size_t>(p.t * p.hs);
  sums part[3] = {sums(n), sums(n), sums(n)};
  for (long i = 0; i < p.t; i++) {
    double dot = 0, dot_size = 0;
    for (long j = 0; j <= i; j++) {
      const double term = e.prob(i, j) * e.dot(3, i, 2, j);
      dot += term, dot_size += std::fabs(term);
    }
    for (long j = 0; j <= i; j++) {
      const double dp = e.dot(3, i, 2, j), ds = scale * e.prob(i, j) * (dp - dot), size = scale * e.prob(i, j) * (std::fabs(dp - dot) + 0x1p-4 * (std::fabs(dp) + dot_size));
      for (long d = 0; d < p.hs; d++) {
        const size_t query = static_cast<size_t>(i * p.hs + d), key = static_cast<size_t>(j * p.hs + d);
        part[0].add(query, ds, size, e.value(1, j, d));
        part[1].add(key, ds, size, e.value(0, i, d));
        part[2].add(key, e.prob(i, j), e.prob(i, j), e.value(3, i, d));
      }
    }
  }
  static const char* const names[] = {"dq", "dk", "dv"};
  for (int number = 0; number < 3; number++) {
    for (long i = 0; i < p.t; i++) {
      for (long d = 0; d < p.hs; d++) {
        const size_t at = static_cast<size_t>(i * p.hs + d);
        within("attention_bf16 " + p.name() + ", " + names[number], i, d, dqkv[p.at(number, e.batch, i, e.head, d)], part[number].value[at],
               (half_unit + slack) * part[number].magnitude[at] + 1e-7);
      }
    }
  }
}

void check(dice& r, long b, long t, long heads, long hs, bool misplace) {
  const problem p = make(r, b, t, heads, hs, misplace);
  const floats out = normal(r, p.rows() * p.width(), misplace), again = normal(r, p.rows() * p.width());
  forward(p, out);
  forward(p, again);
  same("attention_bf16 " + p.name() + " again", out, again);
  const floats dqkv = normal(r, 3 * out.size(), misplace), dagain = normal(r, 3 * out.size());
  backward(p, dqkv);
  backward(p, dagain);
  same("attention_bf16 backward " + p.name() + " again", dqkv, dagain);
  for (long batch = 0; batch < b; batch++) {
    for (long head = 0; head < heads; head++) {
      exact e(p, batch, head);
      check_forward(e, out);
      check_backward(e, dqkv);
    }
  }
}

// Small shapes, edges of tiles and blocks, widths that are no multiple of anything.
constexpr long narrow_shapes[][4] = {{1, 1, 1, 1}, {2, 5, 3, 4}, {1, 16, 1, 64}, {1, 65, 2, 16}, {1, 128, 1, 7}, {1, 131, 1, 64}, {1, 193, 1, 12}};
constexpr long wide_shapes[][4] = {{1, 3, 2, 65}, {1, 33, 1, 128}, {1, 131, 1, 100}, {1, 97, 2, 72}};

TEST(attention_bf16_64) {
  for (const long* s : narrow_shapes) check(r, s[0], s[1], s[2], s[3], s[1] == 65);
  for (int i = 0; i < 2; i++) check(r, between(r, 1, 2), between(r, 1, 150), between(r, 1, 2), between(r, 1, 64), i == 0);
}
TEST(attention_bf16_128) {
  for (const long* s : wide_shapes) check(r, s[0], s[1], s[2], s[3], s[3] == 72);
}

// The bits of a head are its own: they do not depend on which others there are.
TEST(attention_bf16_alone) {
  const problem all = make(r, 2, 70, 2, 20, false);
  const floats out(all.rows() * all.width()), dqkv(all.qkv.size());
  forward(all, out);
  backward(all, dqkv);
  problem one = make(r, 1, 70, 1, 20, true);
  for (long i = 0; i < one.t; i++) {
    for (long d = 0; d < one.hs; d++) {
      for (int n = 0; n < 3; n++) one.qkv[one.at(n, 0, i, 0, d)] = all.qkv[all.at(n, 1, i, 1, d)];
      one.dout[one.out(0, i, 0, d)] = all.dout[all.out(1, i, 1, d)];
    }
  }
  const floats alone(one.rows() * one.width()), dalone(one.qkv.size());
  forward(one, alone);
  backward(one, dalone);
  for (long i = 0; i < one.t; i++) {
    const size_t n = static_cast<size_t>(one.hs);
    same("attention_bf16 alone", out.get() + all.out(1, i, 1, 0), alone.get() + one.out(0, i, 0, 0), n);
    for (int part = 0; part < 3; part++) same("attention_bf16 backward alone", dqkv.get() + all.at(part, 1, i, 1, 0), dalone.get() + one.at(part, 0, i, 0, 0), n);
  }
}

// A value that is not finite reaches the queries from its key on, and no other value than its own.
TEST(attention_bf16_not_finite) {
  for (float odd : {INFINITY, -INFINITY, NAN, 3.4e38f}) {
    const problem p = make(r, 1, 150, 1, 12, false);
    const long key = between(r, 0, p.t - 1), value = between(r, 0, p.hs - 1);
    p.qkv[p.at(2, 0, key, 0, value)] = odd;
    const floats out(p.rows() * p.width());
    forward(p, out);
    for (long i = 0; i < p.t; i++) {
      for (long d = 0; d < p.hs; d++) {
        if (std::isfinite(out[p.out(0, i, 0, d)]) == (i >= key && d == value)) {
          fail("attention_bf16: key " + std::to_string(key) + " is not finite, but query " + std::to_string(i) + ", value " + std::to_string(d) + " is " + std::to_string(out[p.out(0, i, 0, d)]));
          return;
        }
      }
    }
  }
}

}  // namespace
