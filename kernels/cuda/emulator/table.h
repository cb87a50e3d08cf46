// The kernels as functions of the CPU: what a driver for tests needs of the emulator.
#ifndef FARANDOLE_EMULATOR_TABLE_H
#define FARANDOLE_EMULATOR_TABLE_H

#ifdef __cplusplus
extern "C" {
#endif

struct emulated_kernel {
  const char *name;
  int params;
  const unsigned short *sizes;  // of each parameter, in bytes
  unsigned threads;             // the most that a block may have
  // launch runs the whole grid and returns. It gives NULL, or one sentence that names the kernel, the block, the thread and the
  // mistake, valid until the calling thread's next launch. args has the address of each parameter. Any thread may call it.
  const char *(*launch)(void **args, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes);
};

// emulated_kernels gives all kernels, and how many there are.
const struct emulated_kernel *emulated_kernels(int *count);

#ifdef __cplusplus
}
#endif

#endif
