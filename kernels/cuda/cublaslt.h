#ifndef FARANDOLE_CUDA_CUBLASLT_H
#define FARANDOLE_CUDA_CUBLASLT_H

#include <stddef.h>
#include <stdint.h>

// farandole_lt_load finds the library of this file name, and gives its version. Other results than 0 leave the reason in why. It is called
// until it succeeds, before any other of these. Their results are the library's.
int farandole_lt_load(const char *file, size_t *version, char *why, size_t len);
const char *farandole_lt_describe(int status);

// A handle belongs to the context that is current, as do its plans.
int farandole_lt_create(void **handle);
int farandole_lt_destroy(void *handle);

// farandole_lt_shape is all that the choice of an algorithm depends on. Factors are bfloat16, in rows that are a_stride and b_stride values apart.
struct farandole_lt_shape {
	int64_t m, n, k, a_stride, b_stride;
	int a_down, b_down; // the factor has k down its rows: a[k,m], b[k,n]
	int bias;
};

// A plan is a product's description with the algorithm for it. farandole_lt_plan_new leaves NULL where the library has none.
struct farandole_lt_plan;
int farandole_lt_plan_new(void *handle, const struct farandole_lt_shape *s, struct farandole_lt_plan **made);
void farandole_lt_plan_free(struct farandole_lt_plan *p);

// Addresses of matrices and the bias are multiples of FARANDOLE_LT_ALIGNMENT; workspace is FARANDOLE_LT_WORKSPACE bytes.
#define FARANDOLE_LT_ALIGNMENT 16
#define FARANDOLE_LT_WORKSPACE (32 << 20)
struct farandole_lt_call {
	uint64_t c, a, b, bias, workspace, accumulate;
};
int farandole_lt_multiply(void *handle, struct farandole_lt_plan *p, const struct farandole_lt_call *call, void *stream);

#endif
