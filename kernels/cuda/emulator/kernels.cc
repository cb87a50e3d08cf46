// All kernels, compiled for the emulator.
#define EMULATE
#include "../kernels.cu"
