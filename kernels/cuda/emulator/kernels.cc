// All kernels, compiled for the emulator.
#define EMULATE
#include "../kernels.cu"
#include "../kernels_sm_90a.cu"
