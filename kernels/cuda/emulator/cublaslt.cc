// cuBLASLt for tests: the part that package cuda calls, for products of bfloat16 into float32, computed on the host in the order of the driver for tests.
// It is stricter than the library: it refuses what is not described in full, and says on standard error why.
//
//   FARANDOLE_EMULATOR_CUBLASLT_VERSION=n   the version that it says it has (131000)
//   FARANDOLE_EMULATOR_CUBLASLT_NONE=n      it has no algorithm where the sum has n terms
//   FARANDOLE_EMULATOR_CUBLASLT_FAIL=n      the n-th product that the process asks for is refused, from 1
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>

#include "../cublaslt_types.h"
#include "driver_library.h"
#include "refuse.h"

#define LT_ENTRY(result, name, params) extern "C" __attribute__((visibility("default"))) result name params;
#include "../cublaslt_entries.h"
#undef LT_ENTRY

const char* const emulated::name = "cuBLASLt";

namespace {

struct product {
  std::map<int, int32_t> attributes;
  const void* bias = nullptr;
  int operator[](int which) const { return attributes.count(which) ? attributes.at(which) : 0; }
};

struct matrix {
  int type;
  size_t rows, columns;
  int64_t between;  // columns, in values
  size_t bytes() const { return (static_cast<size_t>(between) * (columns - 1) + rows) * (type == LT_32F ? 4 : 2); }
};

struct preference {
  uint64_t workspace = 0;
  std::map<int, uint32_t> attributes;
};

// What an algorithm of this library was chosen for.
struct question {
  size_t m, n, k;
  int64_t a, b, c;
  int first, second, bias;
  bool operator<(const question& o) const {
    return std::tie(m, n, k, a, b, c, first, second, bias) < std::tie(o.m, o.n, o.k, o.a, o.b, o.c, o.first, o.second, o.bias);
  }
};

// What a handle is of. A question comes once: an algorithm is kept.
struct library {
  std::set<question> asked;
};

constexpr uint64_t mark = 0x6661726e646f6c65;

std::mutex lock;
long products;

using emulated::number;
using emulated::refuse;

bool in_context() {
  auto* context = of_driver<emulated_context_t>("emulated_context");
  return context && context(nullptr) == 0;
}

float widened(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

// One product, with what it needs at its turn.
struct task {
  question q;
  const uint16_t *a, *b;
  const float* bias;
  float* c;
  float old;

  // Sums are chains of 512 terms, the last term first, whose sums are added in order: not the order of any other class.
  void run() const {
    constexpr size_t chain = 512;
    for (size_t j = 0; j < q.n; j++) {
      for (size_t i = 0; i < q.m; i++) {
        float total = 0;
        for (size_t from = 0; from < q.k; from += chain) {
          float part = 0;
          for (size_t l = std::min(q.k, from + chain); l-- > from;) {
            part = std::fma(widened(q.first ? a[i * q.a + l] : a[l * q.a + i]), widened(q.second ? b[l * q.b + j] : b[j * q.b + l]), part);
          }
          total += part;
        }
        float& to = c[j * q.c + i];
        to = old != 0 ? std::fma(old, to, total) : total;
        if (bias) to += bias[i];
      }
    }
  }
};

// understood checks a product's description and says what is asked.
lt_status understood(const product& p, const matrix& a, const matrix& b, const matrix& c, const matrix& d, question& q) {
  q = {};
  if (&c != &d || c.type != LT_32F || a.type != LT_16BF || b.type != LT_16BF) return refuse(LT_INVALID_VALUE, "only bfloat16 times bfloat16 into one float32 matrix is emulated");
  q.first = p[LT_TRANSPOSE_A], q.second = p[LT_TRANSPOSE_B], q.bias = p[LT_EPILOGUE] == LT_EPILOGUE_BIAS;
  q.m = q.first ? a.columns : a.rows, q.k = q.first ? a.rows : a.columns;
  q.n = q.second ? b.rows : b.columns;
  q.a = a.between, q.b = b.between, q.c = c.between;
  if ((q.second ? b.columns : b.rows) != q.k || c.rows != q.m || c.columns != q.n) {
    return refuse(LT_INVALID_VALUE, "%zu·%zu times %zu·%zu is not %zu·%zu", q.m, q.k, q.second ? b.columns : b.rows, q.n, c.rows, c.columns);
  }
  if (q.bias && !p.bias) return refuse(LT_INVALID_VALUE, "a bias without a pointer");
  return LT_SUCCESS;
}

bool aligned(const void* p, size_t n) { return reinterpret_cast<uintptr_t>(p) % n == 0; }

constexpr size_t alignment = 16;
constexpr uint64_t workspace_needed = 4096;

}  // namespace

size_t cublasLtGetVersion() { return static_cast<size_t>(number("FARANDOLE_EMULATOR_CUBLASLT_VERSION", 131000)); }

const char* cublasLtGetStatusString(lt_status status) {
  switch (status) {
    case LT_NOT_INITIALIZED:
      return "the library was not initialized";
    case LT_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case LT_EXECUTION_FAILED:
      return "the function failed to launch on the GPU";
    case LT_NOT_SUPPORTED:
      return "the requested functionality is not supported";
    default:
      return "unknown";
  }
}

lt_status cublasLtCreate(lt_handle* handle) {
  if (!in_context()) return LT_NOT_INITIALIZED;
  *handle = new library;
  return LT_SUCCESS;
}

lt_status cublasLtDestroy(lt_handle handle) {
  delete static_cast<library*>(handle);
  return in_context() ? LT_SUCCESS : LT_NOT_INITIALIZED;
}

lt_status cublasLtMatmulDescCreate(lt_product* made, lt_compute compute, lt_type scale) {
  if (compute != LT_COMPUTE_32F || scale != LT_32F) return refuse(LT_INVALID_VALUE, "only sums and factors in float32 are emulated");
  *made = new product;
  return LT_SUCCESS;
}

lt_status cublasLtMatmulDescSetAttribute(lt_product handle, lt_product_attribute which, const void* value, size_t bytes) {
  product& p = *static_cast<product*>(handle);
  if (which == LT_BIAS_POINTER && bytes == sizeof(void*)) {
    memcpy(&p.bias, value, bytes);
    return LT_SUCCESS;
  }
  if ((which != LT_TRANSPOSE_A && which != LT_TRANSPOSE_B && which != LT_EPILOGUE) || bytes != 4) return refuse(LT_INVALID_VALUE, "attribute %d of a product with %zu bytes", which, bytes);
  int32_t x;
  memcpy(&x, value, bytes);
  if (which == LT_EPILOGUE ? x != LT_EPILOGUE_BIAS : x != LT_AS_IT_IS && x != LT_TRANSPOSED) return refuse(LT_INVALID_VALUE, "attribute %d of a product is %d", which, x);
  p.attributes[which] = x;
  return LT_SUCCESS;
}

lt_status cublasLtMatmulDescDestroy(lt_product p) {
  delete static_cast<product*>(p);
  return LT_SUCCESS;
}

lt_status cublasLtMatrixLayoutCreate(lt_matrix* made, lt_type type, uint64_t rows, uint64_t columns, int64_t between) {
  if ((type != LT_32F && type != LT_16BF) || !rows || !columns || between < static_cast<int64_t>(rows)) {
    return refuse(LT_INVALID_VALUE, "a matrix of type %d with %zu·%zu values, columns %zd apart", type, static_cast<size_t>(rows), static_cast<size_t>(columns), static_cast<ssize_t>(between));
  }
  *made = new matrix{type, rows, columns, between};
  return LT_SUCCESS;
}

lt_status cublasLtMatrixLayoutDestroy(lt_matrix m) {
  delete static_cast<matrix*>(m);
  return LT_SUCCESS;
}

lt_status cublasLtMatmulPreferenceCreate(lt_preference* made) {
  *made = new preference;
  return LT_SUCCESS;
}

lt_status cublasLtMatmulPreferenceSetAttribute(lt_preference handle, lt_preference_attribute which, const void* value, size_t bytes) {
  preference& p = *static_cast<preference*>(handle);
  if (which == LT_MAX_WORKSPACE && bytes == 8) {
    memcpy(&p.workspace, value, bytes);
    return LT_SUCCESS;
  }
  if ((which != LT_REDUCTIONS && (which < LT_ALIGNMENT_A || which > LT_ALIGNMENT_D)) || bytes != 4) return refuse(LT_INVALID_VALUE, "attribute %d of a preference with %zu bytes", which, bytes);
  memcpy(&p.attributes[which], value, bytes);
  return LT_SUCCESS;
}

lt_status cublasLtMatmulPreferenceDestroy(lt_preference p) {
  delete static_cast<preference*>(p);
  return LT_SUCCESS;
}

lt_status cublasLtMatmulAlgoGetHeuristic(lt_handle handle, lt_product p, lt_matrix a, lt_matrix b, lt_matrix c, lt_matrix d, lt_preference wish, int wanted,
                                         lt_found* found, int* count) {
  const preference& w = *static_cast<preference*>(wish);
  *count = 0;
  if (!in_context()) return LT_NOT_INITIALIZED;
  question q;
  if (lt_status bad = understood(*static_cast<product*>(p), *static_cast<matrix*>(a), *static_cast<matrix*>(b), *static_cast<matrix*>(c), *static_cast<matrix*>(d), q)) return bad;
  if (wanted < 1 || !w.attributes.count(LT_REDUCTIONS) || w.attributes.at(LT_REDUCTIONS) & ~uint32_t{LT_REDUCTION_APART}) {
    return refuse(LT_INVALID_VALUE, "an algorithm whose bits may differ from one time to the next is not excluded");
  }
  for (int which = LT_ALIGNMENT_A; which <= LT_ALIGNMENT_D; which++) {
    if (!w.attributes.count(which) || w.attributes.at(which) != alignment) return refuse(LT_INVALID_VALUE, "an alignment other than %zu", alignment);
  }
  const std::lock_guard<std::mutex> locked(lock);
  if (!static_cast<library*>(handle)->asked.insert(q).second) return refuse(LT_INVALID_VALUE, "an algorithm for %zu·%zu·%zu is asked for once more", q.m, q.n, q.k);
  if (w.workspace < workspace_needed || static_cast<long>(q.k) == number("FARANDOLE_EMULATOR_CUBLASLT_NONE", -1)) return LT_NOT_SUPPORTED;
  *found = {};
  found->algorithm.words[0] = mark;
  found->algorithm.words[1] = q.m, found->algorithm.words[2] = q.n, found->algorithm.words[3] = q.k;
  found->workspace = workspace_needed;
  *count = 1;
  return LT_SUCCESS;
}

lt_status cublasLtMatmul(lt_handle, lt_product handle, const void* alpha, const void* a, lt_matrix a_matrix, const void* b, lt_matrix b_matrix, const void* beta,
                         const void* c, lt_matrix c_matrix, void* d, lt_matrix d_matrix, const lt_algorithm* algorithm, void* workspace, size_t workspace_bytes,
                         lt_stream stream) {
  const product& p = *static_cast<product*>(handle);
  const matrix &am = *static_cast<matrix*>(a_matrix), &bm = *static_cast<matrix*>(b_matrix), &cm = *static_cast<matrix*>(c_matrix);
  question q;
  if (lt_status bad = understood(p, am, bm, cm, *static_cast<matrix*>(d_matrix), q)) return bad;
  const float one = *static_cast<const float*>(alpha), old = *static_cast<const float*>(beta);
  const uint64_t* chosen = algorithm->words;
  if (one != 1 || (old != 0 && old != 1) || c != d) return refuse(LT_INVALID_VALUE, "only c = or += a·b is emulated");
  if (chosen[0] != mark || chosen[1] != q.m || chosen[2] != q.n || chosen[3] != q.k) return refuse(LT_INVALID_VALUE, "an algorithm that was chosen for another product");
  if (workspace_bytes < workspace_needed || !aligned(workspace, 256)) return refuse(LT_INVALID_VALUE, "%zu bytes of workspace at %p", workspace_bytes, workspace);
  if (!aligned(a, alignment) || !aligned(b, alignment) || !aligned(d, alignment) || (q.bias && !aligned(p.bias, alignment))) return refuse(LT_INVALID_VALUE, "an address that is not aligned");
  {
    const std::lock_guard<std::mutex> locked(lock);
    if (++products == number("FARANDOLE_EMULATOR_CUBLASLT_FAIL", 0)) return LT_EXECUTION_FAILED;
  }
  auto* enqueue = of_driver<emulated_enqueue_t>("emulated_enqueue");
  if (!enqueue) return LT_NOT_INITIALIZED;
  std::vector<emulated_range> ranges = {{a, am.bytes(), false}, {b, bm.bytes(), false}, {d, cm.bytes(), true}, {workspace, workspace_bytes, true}};
  if (q.bias) ranges.push_back({p.bias, 4 * q.m, false});
  auto* t = new task{q, static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b), q.bias ? static_cast<const float*>(p.bias) : nullptr, static_cast<float*>(d), old};
  const int bad = enqueue(stream, "cublasLtMatmul", ranges.data(), static_cast<int>(ranges.size()), [](void* x) { return static_cast<task*>(x)->run(), true; },
                          [](void* x) { delete static_cast<task*>(x); }, t);
  return bad ? LT_EXECUTION_FAILED : LT_SUCCESS;
}
