// All kernels, as one module.
#include "elements.cu"
#include "matmul.cu"
#include "matmul_bf16.cu"
#include "rows.cu"
#include "sums.cu"
#include "windows.cu"
#include "attention.cu"
#include "attention_bf16.cu"
