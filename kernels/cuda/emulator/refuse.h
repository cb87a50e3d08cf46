// What the driver and the libraries for tests have in common: the environment asks them for something, and they tell of what they refuse.
#ifndef FARANDOLE_EMULATOR_REFUSE_H
#define FARANDOLE_EMULATOR_REFUSE_H

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace emulated {

// What is emulated. Each library has one of its own.
extern const char* const name;

inline long number(const char* variable, long otherwise) {
  const char* s = getenv(variable);
  return s && *s ? atol(s) : otherwise;
}

// refuse tells of a mistake in how the library is called, which a real one would tell by its code alone or not at all.
template <class code>
__attribute__((format(printf, 2, 3))) code refuse(code result, const char* format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "emulated %s: ", name);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  return result;
}

}  // namespace emulated

#endif
