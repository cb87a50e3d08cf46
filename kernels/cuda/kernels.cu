// All kernels, as one module.
#include "elements.cu"
#include "matmul.cu"
