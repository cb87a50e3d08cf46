#include "fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESSES_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ADDRESSES_SANITIZED
#endif

#if defined(ADDRESSES_SANITIZED)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
static void __asan_unpoison_memory_region(const void*, size_t) {}
#endif

namespace emulator {

static constexpr size_t stack_bytes = 256 << 10, guard_bytes = 4096;

fiber::~fiber() {
  if (!stack_) return;
  __asan_unpoison_memory_region(stack_, stack_bytes);
  munmap(stack_ - guard_bytes, guard_bytes + stack_bytes);
}

#if defined(__x86_64__)

// Saves what a function must leave as it is on the old stack, and takes it from the new one.
extern "C" void emulator_switch(void** save, void* to);
__asm__(
    ".text\n"
    ".type emulator_switch,@function\n"
    "emulator_switch:\n"
    "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n"
    "  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n"
    "  ret\n"
    ".size emulator_switch, .-emulator_switch\n");

#endif

void fiber::begin(void (*main)()) {
  if (!stack_) {
    void* p = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, guard_bytes, PROT_NONE) != 0) {
      std::perror("emulator: no memory for the stack of a thread");
      std::exit(1);
    }
    stack_ = static_cast<char*>(p) + guard_bytes;
  }
  __asan_unpoison_memory_region(stack_, stack_bytes);
  bottom_ = stack_;
  size_ = stack_bytes;
  frames_ = nullptr;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack_ + stack_bytes);
  *--top = nullptr;  // where main would return to; it begins with the stack pointer here
  *--top = reinterpret_cast<void*>(main);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  top_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, main, 0);
#endif
}

void fiber::switch_to(fiber& to) {
  to.from_ = this;
  __sanitizer_start_switch_fiber(&frames_, to.bottom_, to.size_);
#if defined(__x86_64__)
  emulator_switch(&top_, to.top_);
#else
  swapcontext(&context_, &to.context_);
#endif
  __sanitizer_finish_switch_fiber(frames_, &from_->bottom_, &from_->size_);
}

void fiber::started() { __sanitizer_finish_switch_fiber(nullptr, &from_->bottom_, &from_->size_); }

}  // namespace emulator
