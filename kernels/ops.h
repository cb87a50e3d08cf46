// The operations of one instruction set. canonical.go defines what each computes, engine.go what the arguments mean.
#ifndef FARANDOLE_OPS_H
#define FARANDOLE_OPS_H

#include <stddef.h>
#include <stdint.h>

enum { LANE_COUNT = 16, BLOCK_K = 256, BLOCK_SUM = 4096 };

typedef struct {
  float lr, beta1, beta2, eps, decay, rest1, rest2, c1, c2, gscale;
} adamw_factors;

// The kinds of matrix product: of float32; of pairs of bfloat16, with two fused multiply-adds for a pair or with vdpbf16ps; of groups of
// 32 bfloat16, with fused multiply-adds or with tdpbf16ps.
enum { PRODUCT_F32, PRODUCT_PAIRS, PRODUCT_DOT, PRODUCT_GROUPS, PRODUCT_AMX };

typedef struct {
  const float *a, *b, *bias;
  float* c;
  long m, n, k, ai, ak, bk, bj;
  int accumulate, product;
} matmul_args;

typedef struct {
  float* out;
  const float* qkv;
  float* dqkv;
  const float* dout;
  long t, heads, hs;
  float scale;
} attention_args;

// Windows that slide over images: see conv.go. x or out are columns of the positions from p0 on where an operation has columns.
typedef struct {
  float* out;
  const float *x, *dout;
  long height, width, channels, rows, columns, stride, pad, out_height, out_width, p0;
} window_args;

// A reduction: see reduce.go, which has checked the arguments.
enum { MAX_DEPTH = 32 };
enum { F32, F64, BF16, F16, I32, I64, U8, TYPES };
enum { SUM, PROD, MIN, MAX, RED_OPS };

typedef struct {
  void* const* dsts;
  const void* const* srcs;
  const int16_t* order;  // NULL: from left to right
  long dst_count, src_count, order_count, bytes, divisor;
  int type, op, round;
  int stream;  // whether to store past the caches where no source is written
} reduce_args;

typedef struct {
  const char* name;
  // A matrix product is cut into tiles of at most tile_rows rows, or AMX_ROWS, and panels of panel_columns columns.
  long tile_rows, panel_columns;
  // How many floats of work memory the attentions need.
  long (*attention_work)(long t, long hs);

  void (*add)(float* dst, const float* a, const float* b, long n);
  void (*scale)(float* x, float s, long n);
  void (*gelu)(float* out, const float* x, long n);
  void (*gelu_backward)(float* dx, float* out, const float* dout, const float* x, long n);  // out may be NULL
  void (*relu)(float* out, const float* x, long n);
  void (*relu_backward)(float* dx, const float* dout, const float* x, long n);
  void (*adamw)(float* p, const float* g, float* m, float* v, long n, const adamw_factors* f);
  // matmul_in_place says whether the shorter side, a's rows for matmul_columns or b's columns for matmul_rows, had better be read where it lies.
  int (*matmul_in_place)(const matmul_args* t);
  // All of these treat the terms [k0,k1), which begin and end where canonical blocks do. Packed memory has block after
  // block: whole tiles of m rows times kc floats at most, whole panels of n columns times kc.
  // pack_rows packs tiles [r0,r1) of a, pack_columns panels [p0,p1) of b.
  void (*matmul_pack_rows)(const matmul_args* t, float* dst, long k0, long k1, long r0, long r1);
  void (*matmul_pack_columns)(const matmul_args* t, float* dst, long k0, long k1, long p0, long p1);
  // matmul_columns computes panels [p0,p1) of c from packed rows, matmul_rows tiles [r0,r1) from packed columns; in place when packed is NULL. work has
  // room for one block of the panels or tiles. soon is the first panel or tile that the caller will want next, or -1.
  void (*matmul_columns)(const matmul_args* t, const float* packed, float* work, long k0, long k1, long p0, long p1,
                         long soon);
  void (*matmul_rows)(const matmul_args* t, const float* packed, float* work, long k0, long k1, long r0, long r1,
                      long soon);
  void (*column_sums)(float* dst, const float* x, long rows, long n, long j0, long j1);
  void (*embed)(float* out, const float* wte, const float* wpe, const int32_t* tokens, long t, long c, long i0, long i1);
  void (*embed_backward)(float* dwte, float* dwpe, const float* dout, const int32_t* tokens, long rows, long t, long c,
                         long j0, long j1);
  // Rows of x, or with add those of sum = x + add.
  void (*layernorm)(float* out, float* mean, float* rstd, float* sum, const float* x, const float* add, const float* gamma,
                    const float* beta, long c, long i0, long i1);
  void (*layernorm_rows)(float* dx, const float* dout, const float* x, const float* gamma, const float* mean,
                         const float* rstd, long c, long i0, long i1);
  void (*layernorm_columns)(float* dgamma, float* dbeta, const float* dout, const float* x, const float* mean,
                            const float* rstd, long rows, long c, long j0, long j1);
  // All of these treat positions [from,to) of the window.
  void (*add_columns)(const window_args* t, long from, long to);
  void (*max_pool)(const window_args* t, long from, long to);
  void (*max_pool_backward)(const window_args* t, long from, long to);
  void (*attention)(const attention_args* t, float* work, long h0, long h1);
  void (*attention_backward)(const attention_args* t, float* work, long h0, long h1);
  void (*cross_entropy)(float* losses, float* logits, const int32_t* targets, long v, float scale, long i0, long i1);
  void (*block_sums)(float* dst, const float* x, long n, int square, long b0, long b1);
  void (*reduce)(const reduce_args* t);
  void (*encode_bf16)(uint16_t* dst, const float* src, long n);
  void (*decode_bf16)(float* dst, const uint16_t* src, long n);
  void (*encode_int8)(uint8_t* dst, const float* src, long n);
  void (*decode_int8)(float* dst, const uint8_t* src, long n);
  void (*residual)(float* x, const float* sent, long n);
  long (*first_nonfinite)(const float* x, long n);
  // copy_past stores past the caches, and before whatever the caller stores next.
  void (*copy_past)(uint8_t* dst, const uint8_t* src, long bytes);
  // fma_loop does rounds times fma_flops floating-point operations in registers and returns what depends on them.
  float (*fma_loop)(long rounds, float x);
  long fma_flops;
  // dot_loop is the same for the chains of the products of bfloat16, of dot_flops operations a round, but AMX_FLOPS by PRODUCT_AMX.
  float (*dot_loop)(int product, long rounds, float x);
  long dot_flops;
} farandole_ops;

// farandole_find gives the operations for "avx512", "avx2", "neon" or "portable", or NULL when this machine or build has not got them.
const farandole_ops* farandole_find(const char* isa);

// farandole_first_cache is the size of a processor's first data cache, in bytes; what is not known is taken for 32 KiB.
extern long farandole_first_cache;

// farandole_has_dot says whether these operations, on this machine, know PRODUCT_DOT.
int farandole_has_dot(const farandole_ops* ops);

// farandole_has_amx says whether "avx512" knows PRODUCT_AMX here. It asks the system to let this process use it.
int farandole_has_amx(void);

// Of PRODUCT_AMX: the rows of a tile, the terms of a group and the floats of a packed one, the terms for which factors are packed at a time, and
// what a round of its dot_loop does.
enum { AMX_ROWS = 32, AMX_TERMS = 32, AMX_GROUP = 512, AMX_BLOCK = 256, AMX_FLOPS = 4 * 2 * 16 * 16 * 32 };

#endif
