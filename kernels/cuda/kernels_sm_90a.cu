// The kernels for compute capability 9.0 alone, as a module of their own.
#include "matmul_bf16_wgmma.cu"
