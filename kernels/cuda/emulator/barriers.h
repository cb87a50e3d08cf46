// The barriers of the kernels, for a test that leaves them out: with EMULATE_RACES only.
#ifndef FARANDOLE_EMULATOR_BARRIERS_H
#define FARANDOLE_EMULATOR_BARRIERS_H

#include <vector>

namespace emulator {

// Where a barrier or warp operation stands in the source.
struct site {
  const char* file;
  int line;
};
inline bool same(site a, site b) { return a.file == b.file && a.line == b.line; }

// seen_barriers gives the barriers of a block that threads have met since the last call.
std::vector<site> seen_barriers();
// leave_out makes threads pass a barrier without waiting; {nullptr, 0} ends that. No launch may run meanwhile.
void leave_out(site barrier);

}  // namespace emulator

#endif
