// What the driver for tests does for libraries that a real driver runs kernels of: it has their work done in its order, on its memory.
#ifndef FARANDOLE_EMULATOR_DRIVER_LIBRARY_H
#define FARANDOLE_EMULATOR_DRIVER_LIBRARY_H

#include <dlfcn.h>

#include <cstddef>

// Memory of the GPU that work reads, or also writes.
struct emulated_range {
  const void* at;
  size_t bytes;
  bool written;
};

// emulated_enqueue puts work on a stream of the current context as one launch, if all its memory is that GPU's. Work that gives false is not done
// yet, and is called again. It is dropped after it was done, and also when it is refused. The result is the driver's.
using emulated_enqueue_t = int(void* stream, const char* what, const emulated_range* ranges, int n, bool (*work)(void*), void (*drop)(void*), void* state);

// emulated_context is 0 when the thread has a context that calls can be made in, and gives the number of its GPU where gpu is not NULL.
using emulated_context_t = int(int* gpu);

// of_driver finds a function of the driver for tests, which the program has loaded, or gives NULL.
template <class T>
T* of_driver(const char* name) {
  static void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  return driver ? reinterpret_cast<T*>(dlsym(driver, name)) : nullptr;
}

#endif
