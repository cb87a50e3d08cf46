// Fibers: stacks that one thread of the host switches between.
#ifndef FARANDOLE_EMULATOR_FIBER_H
#define FARANDOLE_EMULATOR_FIBER_H

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

// fiber is a stack and where its execution stands. The zero value is a thread of the host itself, once it has switched to another.
class fiber {
 public:
  fiber() = default;
  fiber(const fiber&) = delete;
  fiber& operator=(const fiber&) = delete;
  ~fiber();

  // begin makes the next switch_to this fiber call main, on a stack of its own. main never returns. What the stack held is dropped.
  void begin(void (*main)());

  // switch_to goes on with to until somebody switches back.
  void switch_to(fiber& to);

  // started is the first thing that a fiber's main calls.
  void started();

 private:
  char* stack_ = nullptr;  // above a page that nobody may touch
#if defined(__x86_64__)
  void* top_ = nullptr;
#else
  ucontext_t context_;
#endif
  // What the sanitizer of addresses wants to know: this fiber's frames elsewhere, and where its stack is.
  void* frames_ = nullptr;
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  fiber* from_ = nullptr;  // who switched to it last
};

}  // namespace emulator

#endif
