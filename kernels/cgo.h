// Calls through a table of operations, for Go, which cannot call a C function pointer.
// Arguments are values: Go memory that C sees must hold no Go pointers.
#include "ops.h"

static inline long farandole_attention_work(const farandole_ops* o, long t, long hs) {
  return o->attention_work(t, hs);
}
static inline void farandole_add(const farandole_ops* o, float* dst, const float* a, const float* b, long n) {
  o->add(dst, a, b, n);
}
static inline void farandole_scale(const farandole_ops* o, float* x, float s, long n) { o->scale(x, s, n); }
static inline void farandole_gelu(const farandole_ops* o, float* out, const float* x, long n) { o->gelu(out, x, n); }
static inline void farandole_gelu_backward(const farandole_ops* o, float* dx, float* out, const float* dout,
                                           const float* x, long n) {
  o->gelu_backward(dx, out, dout, x, n);
}
static inline void farandole_relu(const farandole_ops* o, float* out, const float* x, long n) { o->relu(out, x, n); }
static inline void farandole_relu_backward(const farandole_ops* o, float* dx, const float* dout, const float* x,
                                           long n) {
  o->relu_backward(dx, dout, x, n);
}
static inline void farandole_adamw(const farandole_ops* o, float* p, const float* g, float* m, float* v, long n,
                                   adamw_factors f) {
  o->adamw(p, g, m, v, n, &f);
}
static inline int farandole_matmul_in_place(const farandole_ops* o, matmul_args t) { return o->matmul_in_place(&t); }
static inline void farandole_matmul_pack(const farandole_ops* o, matmul_args t, float* dst, int rows, long k0, long k1,
                                         long u0, long u1) {
  (rows ? o->matmul_pack_rows : o->matmul_pack_columns)(&t, dst, k0, k1, u0, u1);
}
static inline void farandole_matmul(const farandole_ops* o, matmul_args t, const float* packed, float* work, int rows,
                                    long k0, long k1, long u0, long u1, long soon) {
  (rows ? o->matmul_rows : o->matmul_columns)(&t, packed, work, k0, k1, u0, u1, soon);
}
static inline void farandole_column_sums(const farandole_ops* o, float* dst, const float* x, long rows, long n, long j0,
                                         long j1) {
  o->column_sums(dst, x, rows, n, j0, j1);
}
static inline void farandole_embed(const farandole_ops* o, float* out, const float* wte, const float* wpe,
                                   const int32_t* tokens, long t, long c, long i0, long i1) {
  o->embed(out, wte, wpe, tokens, t, c, i0, i1);
}
static inline void farandole_embed_backward(const farandole_ops* o, float* dwte, float* dwpe, const float* dout,
                                            const int32_t* tokens, long rows, long t, long c, long j0, long j1) {
  o->embed_backward(dwte, dwpe, dout, tokens, rows, t, c, j0, j1);
}
static inline void farandole_layernorm(const farandole_ops* o, float* out, float* mean, float* rstd, float* sum, const float* x,
                                       const float* add, const float* gamma, const float* beta, long c, long i0, long i1) {
  o->layernorm(out, mean, rstd, sum, x, add, gamma, beta, c, i0, i1);
}
static inline void farandole_layernorm_rows(const farandole_ops* o, float* dx, const float* dout, const float* x,
                                            const float* gamma, const float* mean, const float* rstd, long c, long i0,
                                            long i1) {
  o->layernorm_rows(dx, dout, x, gamma, mean, rstd, c, i0, i1);
}
static inline void farandole_layernorm_columns(const farandole_ops* o, float* dgamma, float* dbeta, const float* dout,
                                               const float* x, const float* mean, const float* rstd, long rows, long c,
                                               long j0, long j1) {
  o->layernorm_columns(dgamma, dbeta, dout, x, mean, rstd, rows, c, j0, j1);
}
static inline void farandole_attention(const farandole_ops* o, float* work, attention_args t, long h0, long h1) {
  o->attention(&t, work, h0, h1);
}
static inline void farandole_attention_backward(const farandole_ops* o, float* work, attention_args t, long h0, long h1) {
  o->attention_backward(&t, work, h0, h1);
}
static inline void farandole_cross_entropy(const farandole_ops* o, float* losses, float* logits, const int32_t* targets,
                                           long v, float scale, long i0, long i1) {
  o->cross_entropy(losses, logits, targets, v, scale, i0, i1);
}
static inline void farandole_block_sums(const farandole_ops* o, float* dst, const float* x, long n, int square, long b0,
                                        long b1) {
  o->block_sums(dst, x, n, square, b0, b1);
}
// arrays has dst_count and then src_count addresses, as integers.
static inline void farandole_reduce(const farandole_ops* o, const uintptr_t* arrays, const int16_t* order,
                                    long dst_count, long src_count, long order_count, long bytes, long divisor,
                                    int type, int op, int round, int stream) {
  reduce_args t = {(void* const*)arrays, (const void* const*)arrays + dst_count, order, dst_count, src_count,
                   order_count, bytes, divisor, type, op, round, stream};
  o->reduce(&t);
}
static inline void farandole_reduce2(const farandole_ops* o, uint8_t* dst, const uint8_t* a, const uint8_t* b,
                                     long bytes, int type, int op, int stream) {
  void* dsts[1] = {dst};
  const void* srcs[2] = {a, b};
  reduce_args t = {dsts, srcs, 0, 1, 2, 0, bytes, 0, type, op, 0, stream};
  o->reduce(&t);
}
static inline void farandole_encode_bf16(const farandole_ops* o, uint8_t* dst, const float* src, long n) {
  o->encode_bf16((uint16_t*)dst, src, n);
}
static inline void farandole_decode_bf16(const farandole_ops* o, float* dst, const uint8_t* src, long n) {
  o->decode_bf16(dst, (const uint16_t*)src, n);
}
static inline void farandole_encode_int8(const farandole_ops* o, uint8_t* dst, const float* src, long n) {
  o->encode_int8(dst, src, n);
}
static inline void farandole_decode_int8(const farandole_ops* o, float* dst, const uint8_t* src, long n) {
  o->decode_int8(dst, src, n);
}
static inline void farandole_residual(const farandole_ops* o, float* x, const float* sent, long n) {
  o->residual(x, sent, n);
}
static inline long farandole_first_nonfinite(const farandole_ops* o, const float* x, long n) {
  return o->first_nonfinite(x, n);
}
static inline void farandole_copy_past(const farandole_ops* o, uint8_t* dst, const uint8_t* src, long bytes) {
  o->copy_past(dst, src, bytes);
}
static inline long farandole_tile_rows(const farandole_ops* o, int product) {
  return product == PRODUCT_AMX ? AMX_ROWS : o->tile_rows;
}
static inline long farandole_dot_flops(const farandole_ops* o, int product) {
  return product == PRODUCT_AMX ? AMX_FLOPS : o->dot_flops;
}
static inline float farandole_dot_loop(const farandole_ops* o, int product, long rounds, float x) {
  return o->dot_loop(product, rounds, x);
}
static inline float farandole_fma_loop(const farandole_ops* o, long rounds, float x) { return o->fma_loop(rounds, x); }
