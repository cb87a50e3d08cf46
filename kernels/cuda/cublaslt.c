//go:build cuda

#include "cublaslt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "cublaslt_types.h"

#define LT_ENTRY(result, name, params) static result(*name) params;
#include "cublaslt_entries.h"
#undef LT_ENTRY

int farandole_lt_load(const char *file, size_t *version, char *why, size_t len) {
	void *lib = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		snprintf(why, len, "%s", dlerror());
		return -1;
	}
#define LT_ENTRY(result, name, params) \
	*(void **)&name = dlsym(lib, #name); \
	if (name == NULL) { \
		snprintf(why, len, "%s has no %s", file, #name); \
		dlclose(lib); \
		return -1; \
	}
#include "cublaslt_entries.h"
#undef LT_ENTRY
	*version = cublasLtGetVersion();
	return 0;
}

const char *farandole_lt_describe(int status) {
	const char *text = cublasLtGetStatusString(status);
	return text != NULL ? text : "an error without a description";
}

int farandole_lt_create(void **handle) { return cublasLtCreate(handle); }
int farandole_lt_destroy(void *handle) { return cublasLtDestroy(handle); }

struct farandole_lt_plan {
	lt_product product;
	lt_matrix a, b, c;
	lt_algorithm algorithm;
	int bias;
};

// steps of which the first that fails gives the result.
#define TRY(step) \
	if (status == LT_SUCCESS) status = step

static int set(lt_product p, lt_product_attribute which, int32_t value) { return cublasLtMatmulDescSetAttribute(p, which, &value, sizeof value); }

static int prefer(lt_preference p, lt_preference_attribute which, uint32_t value) {
	return cublasLtMatmulPreferenceSetAttribute(p, which, &value, sizeof value);
}

static int point(lt_product p, const void *bias) { return cublasLtMatmulDescSetAttribute(p, LT_BIAS_POINTER, &bias, sizeof bias); }

// describe says the product in the library's terms, where a column's values lie side by side. Memory that we read as the rows of X, the library
// reads as the columns of Xᵀ, with as many values from one to the next. So it is asked for cᵀ = bᵀ·aᵀ, whose columns are our rows:
//
//   its first factor is b: what it reads is [n,k] where k goes down b's rows, and [k,n] otherwise, to be transposed;
//   its second is a: it reads [k,m] where k goes along a's rows, and [m,k] otherwise, to be transposed;
//   its result has n rows, and a bias for each of them: our columns.
static int describe(struct farandole_lt_plan *p, const struct farandole_lt_shape *s) {
	int status = cublasLtMatmulDescCreate(&p->product, LT_COMPUTE_32F, LT_32F);
	TRY(set(p->product, LT_TRANSPOSE_A, s->b_down ? LT_AS_IT_IS : LT_TRANSPOSED));
	TRY(set(p->product, LT_TRANSPOSE_B, s->a_down ? LT_TRANSPOSED : LT_AS_IT_IS));
	if (s->bias) {
		// Its alignment is part of the question, and no address but one that is aligned as little as any gives the same answer for all.
		TRY(set(p->product, LT_EPILOGUE, LT_EPILOGUE_BIAS));
		TRY(point(p->product, (const void *)(uintptr_t)FARANDOLE_LT_ALIGNMENT));
	}
	TRY(cublasLtMatrixLayoutCreate(&p->b, LT_16BF, s->b_down ? s->n : s->k, s->b_down ? s->k : s->n, s->b_stride));
	TRY(cublasLtMatrixLayoutCreate(&p->a, LT_16BF, s->a_down ? s->m : s->k, s->a_down ? s->k : s->m, s->a_stride));
	TRY(cublasLtMatrixLayoutCreate(&p->c, LT_32F, s->n, s->m, s->n));
	return status;
}

// choose asks for the one best algorithm among those whose sums have an order of their own. found is 0 when there is none.
static int choose(lt_handle handle, struct farandole_lt_plan *p, int *found) {
	lt_preference wish = NULL;
	lt_found best = {.status = LT_NOT_SUPPORTED};
	uint64_t workspace = FARANDOLE_LT_WORKSPACE;
	int n = 0, status = cublasLtMatmulPreferenceCreate(&wish);
	TRY(cublasLtMatmulPreferenceSetAttribute(wish, LT_MAX_WORKSPACE, &workspace, sizeof workspace));
	TRY(prefer(wish, LT_REDUCTIONS, LT_REDUCTION_APART));
	for (int which = LT_ALIGNMENT_A; which <= LT_ALIGNMENT_D; which++) TRY(prefer(wish, which, FARANDOLE_LT_ALIGNMENT));
	TRY(cublasLtMatmulAlgoGetHeuristic(handle, p->product, p->b, p->a, p->c, p->c, wish, 1, &best, &n));
	if (wish != NULL) cublasLtMatmulPreferenceDestroy(wish);
	*found = status == LT_SUCCESS && n == 1 && best.status == LT_SUCCESS && best.workspace <= workspace;
	if (*found) p->algorithm = best.algorithm;
	return status == LT_NOT_SUPPORTED ? LT_SUCCESS : status;
}

int farandole_lt_plan_new(void *handle, const struct farandole_lt_shape *s, struct farandole_lt_plan **made) {
	struct farandole_lt_plan *p = calloc(1, sizeof *p);
	int found = 0, status = p == NULL ? LT_NOT_INITIALIZED : describe(p, s);
	TRY(choose(handle, p, &found));
	if (status != LT_SUCCESS || !found) {
		farandole_lt_plan_free(p);
		p = NULL;
	} else {
		p->bias = s->bias;
	}
	*made = p;
	return status;
}

void farandole_lt_plan_free(struct farandole_lt_plan *p) {
	if (p == NULL) return;
	if (p->product != NULL) cublasLtMatmulDescDestroy(p->product);
	if (p->a != NULL) cublasLtMatrixLayoutDestroy(p->a);
	if (p->b != NULL) cublasLtMatrixLayoutDestroy(p->b);
	if (p->c != NULL) cublasLtMatrixLayoutDestroy(p->c);
	free(p);
}

static void *memory(uint64_t at) { return (void *)(uintptr_t)at; }

int farandole_lt_multiply(void *handle, struct farandole_lt_plan *p, const struct farandole_lt_call *call, void *stream) {
	const float one = 1, old = call->accumulate ? 1 : 0;
	int status = p->bias ? point(p->product, memory(call->bias)) : LT_SUCCESS;
	TRY(cublasLtMatmul(handle, p->product, &one, memory(call->b), p->b, memory(call->a), p->a, &old, memory(call->c), p->c, memory(call->c), p->c, &p->algorithm,
		memory(call->workspace), FARANDOLE_LT_WORKSPACE, stream));
	return status;
}
