// Compares this program's words for cuBLASLt with NVIDIA's header: `make check-cublaslt` compiles it, nothing runs.
#include <cublasLt.h>

typedef cublasLtHandle_t lt_handle;
typedef cublasLtMatmulDesc_t lt_product;
typedef cublasLtMatrixLayout_t lt_matrix;
typedef cublasLtMatmulPreference_t lt_preference;
typedef cudaStream_t lt_stream;
typedef cublasStatus_t lt_status;
typedef cublasComputeType_t lt_compute;
typedef cudaDataType_t lt_type;
typedef cublasLtMatmulDescAttributes_t lt_product_attribute;
typedef cublasLtMatmulPreferenceAttributes_t lt_preference_attribute;
typedef cublasLtMatmulAlgo_t lt_algorithm;
typedef cublasLtMatmulHeuristicResult_t lt_found;
#define FARANDOLE_LT_TYPES
#include "../cublaslt_types.h"

// Entry points have these very parameters and results.
#define LT_ENTRY(result, name, params) _Static_assert(__builtin_types_compatible_p(__typeof__(&name), result(*) params), #name);
#include "../cublaslt_entries.h"

#define IS(a, b) _Static_assert((long long)(a) == (long long)(b), #a " is " #b)

// Handles are pointers, and enumerators are as large as an int, in the program's own types.
IS(sizeof(lt_handle), sizeof(void *));
IS(sizeof(lt_product), sizeof(void *));
IS(sizeof(lt_matrix), sizeof(void *));
IS(sizeof(lt_preference), sizeof(void *));
IS(sizeof(lt_stream), sizeof(void *));
IS(sizeof(lt_status), sizeof(int));
IS(sizeof(lt_compute), sizeof(int));
IS(sizeof(lt_type), sizeof(int));
IS(sizeof(lt_product_attribute), sizeof(int));
IS(sizeof(lt_preference_attribute), sizeof(int));
IS(sizeof(cublasOperation_t), sizeof(int));
IS(sizeof(cublasLtEpilogue_t), sizeof(int));

IS(sizeof(lt_algorithm), sizeof(struct lt_algorithm_value));
IS(_Alignof(lt_algorithm), _Alignof(struct lt_algorithm_value));
IS(sizeof(lt_found), sizeof(struct lt_found_value));
IS(offsetof(lt_found, algo), offsetof(struct lt_found_value, algorithm));
IS(offsetof(lt_found, workspaceSize), offsetof(struct lt_found_value, workspace));
IS(offsetof(lt_found, state), offsetof(struct lt_found_value, status));
IS(offsetof(lt_found, wavesCount), offsetof(struct lt_found_value, waves));
IS(offsetof(lt_found, reserved), offsetof(struct lt_found_value, reserved));

IS(CUBLAS_STATUS_SUCCESS, LT_SUCCESS);
IS(CUBLAS_STATUS_NOT_INITIALIZED, LT_NOT_INITIALIZED);
IS(CUBLAS_STATUS_INVALID_VALUE, LT_INVALID_VALUE);
IS(CUBLAS_STATUS_EXECUTION_FAILED, LT_EXECUTION_FAILED);
IS(CUBLAS_STATUS_NOT_SUPPORTED, LT_NOT_SUPPORTED);
IS(CUBLAS_COMPUTE_32F, LT_COMPUTE_32F);
IS(CUDA_R_32F, LT_32F);
IS(CUDA_R_16BF, LT_16BF);
IS(CUBLASLT_MATMUL_DESC_TRANSA, LT_TRANSPOSE_A);
IS(CUBLASLT_MATMUL_DESC_TRANSB, LT_TRANSPOSE_B);
IS(CUBLASLT_MATMUL_DESC_EPILOGUE, LT_EPILOGUE);
IS(CUBLASLT_MATMUL_DESC_BIAS_POINTER, LT_BIAS_POINTER);
IS(CUBLAS_OP_N, LT_AS_IT_IS);
IS(CUBLAS_OP_T, LT_TRANSPOSED);
IS(CUBLASLT_EPILOGUE_BIAS, LT_EPILOGUE_BIAS);
IS(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, LT_MAX_WORKSPACE);
IS(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, LT_REDUCTIONS);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, LT_ALIGNMENT_A);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, LT_ALIGNMENT_B);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, LT_ALIGNMENT_C);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, LT_ALIGNMENT_D);
IS(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, LT_REDUCTION_APART);
