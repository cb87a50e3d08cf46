// cuBLASLt's ABI as far as this program uses it. abi/cublaslt.c compares it with NVIDIA's header.
#ifndef FARANDOLE_CUDA_CUBLASLT_TYPES_H
#define FARANDOLE_CUDA_CUBLASLT_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifndef FARANDOLE_LT_TYPES  // who compares has the library's own
typedef void *lt_handle, *lt_product, *lt_matrix, *lt_preference, *lt_stream;
// Enumerators of the library, which are as large as an int.
typedef int lt_status, lt_compute, lt_type, lt_product_attribute, lt_preference_attribute;
#endif

// An algorithm is a value, of the library's alone.
struct lt_algorithm_value {
	uint64_t words[8];
};
struct lt_found_value {
	struct lt_algorithm_value algorithm;
	size_t workspace;
	int status;
	float waves;
	int reserved[4];
};
#ifndef FARANDOLE_LT_TYPES
typedef struct lt_algorithm_value lt_algorithm;
typedef struct lt_found_value lt_found;
#endif

enum {
	LT_SUCCESS = 0,
	LT_NOT_INITIALIZED = 1,
	LT_INVALID_VALUE = 7,
	LT_EXECUTION_FAILED = 13,
	LT_NOT_SUPPORTED = 15,

	LT_COMPUTE_32F = 68,
	LT_32F = 0,
	LT_16BF = 14,

	// Attributes of a product, with four bytes each but for the pointer.
	LT_TRANSPOSE_A = 3,
	LT_TRANSPOSE_B = 4,
	LT_EPILOGUE = 7,
	LT_BIAS_POINTER = 8,
	LT_AS_IT_IS = 0,
	LT_TRANSPOSED = 1,
	LT_EPILOGUE_BIAS = 4,

	// Attributes of a preference, with four bytes each but for the first.
	LT_MAX_WORKSPACE = 1,
	LT_REDUCTIONS = 3,
	LT_ALIGNMENT_A = 5,
	LT_ALIGNMENT_B = 6,
	LT_ALIGNMENT_C = 7,
	LT_ALIGNMENT_D = 8,
	LT_REDUCTION_APART = 2, // parts of a sum are kept in float32 and added in a step of their own
};

#endif
