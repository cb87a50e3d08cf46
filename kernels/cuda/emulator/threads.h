// What a part of the emulator outside of emulator.cc knows of the thread that runs.
#ifndef FARANDOLE_EMULATOR_THREADS_H
#define FARANDOLE_EMULATOR_THREADS_H

#include <cstddef>
#include <cstdint>

#include "barriers.h"

namespace emulator {

// thread_number is the running thread's in its block; threads_of_block is how many there are.
unsigned thread_number();
size_t threads_of_block();

// fail ends the launch, with a sentence on the running thread.
[[noreturn]] void fail(const char* format, ...);

// word_of gives the number of p's word of shared memory, and mark_word whether p's word is being written by a copy on its way.
size_t word_of(const void* p);

// meet notes a barrier or a wait and says whether a test leaves it out.
bool meet(site at);

// together ends when all lanes of a warp have come to it; then what all does with their operands is done. all gives a sentence on a mistake,
// or nullptr.
void together(void* operands, const char* (*all)(void* const (&operands)[32]), site at);

// begin_copies is called when a block begins, end_copies when a thread returns.
void begin_copies();
void end_copies();

// The same of products; wrote notes that a thread writes a word of shared memory, and being_multiplied says whether a product on its way reads one.
void begin_products();
void end_products();
void wrote(size_t word, unsigned thread);
bool being_multiplied(size_t word);

// epoch_now counts barriers.
uint32_t epoch_now();

// arriving says whether a copy that no thread has waited for writes this word of shared memory.
bool arriving(size_t word);

}  // namespace emulator

#endif
