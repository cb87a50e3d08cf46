// The entry points of cuBLASLt that this program calls, in its own words. Who includes this says what LT_ENTRY makes of one, and which types the
// names that begin with lt_ are: cublaslt_types.h has those of a program without NVIDIA's headers.
LT_ENTRY(size_t, cublasLtGetVersion, (void))
LT_ENTRY(const char *, cublasLtGetStatusString, (lt_status status))
LT_ENTRY(lt_status, cublasLtCreate, (lt_handle *handle))
LT_ENTRY(lt_status, cublasLtDestroy, (lt_handle handle))
LT_ENTRY(lt_status, cublasLtMatmulDescCreate, (lt_product *made, lt_compute compute, lt_type scale))
LT_ENTRY(lt_status, cublasLtMatmulDescSetAttribute, (lt_product product, lt_product_attribute which, const void *value, size_t bytes))
LT_ENTRY(lt_status, cublasLtMatmulDescDestroy, (lt_product product))
LT_ENTRY(lt_status, cublasLtMatrixLayoutCreate, (lt_matrix *made, lt_type type, uint64_t rows, uint64_t columns, int64_t between_columns))
LT_ENTRY(lt_status, cublasLtMatrixLayoutDestroy, (lt_matrix matrix))
LT_ENTRY(lt_status, cublasLtMatmulPreferenceCreate, (lt_preference *made))
LT_ENTRY(lt_status, cublasLtMatmulPreferenceSetAttribute, (lt_preference preference, lt_preference_attribute which, const void *value, size_t bytes))
LT_ENTRY(lt_status, cublasLtMatmulPreferenceDestroy, (lt_preference preference))
LT_ENTRY(lt_status, cublasLtMatmulAlgoGetHeuristic, (lt_handle handle, lt_product product, lt_matrix a, lt_matrix b, lt_matrix c, lt_matrix d,
	lt_preference preference, int wanted, lt_found *found, int *count))
LT_ENTRY(lt_status, cublasLtMatmul, (lt_handle handle, lt_product product, const void *alpha, const void *a, lt_matrix a_matrix, const void *b, lt_matrix b_matrix,
	const void *beta, const void *c, lt_matrix c_matrix, void *d, lt_matrix d_matrix, const lt_algorithm *algorithm, void *workspace, size_t workspace_bytes,
	lt_stream stream))
