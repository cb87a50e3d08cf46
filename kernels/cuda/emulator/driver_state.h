// What the driver for tests knows: its GPUs with their memory, contexts, streams and modules, and what the environment asks of it.
#ifndef FARANDOLE_EMULATOR_DRIVER_STATE_H
#define FARANDOLE_EMULATOR_DRIVER_STATE_H

#include <cuda.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "refuse.h"
#include "table.h"

namespace driver {

using emulated::number;
using emulated::refuse;

// What the environment asks for. A place is "GPU:LAUNCH": the LAUNCH-th kernel, from 1, that the process launches on that GPU.
//
//   FARANDOLE_EMULATOR_GPUS=n       how many GPUs there are (1)
//   FARANDOLE_EMULATOR_MEMORY=n     bytes of memory of each (1 GiB)
//   FARANDOLE_EMULATOR_LAZY=1       a stream does its work only when something waits for it
//   FARANDOLE_EMULATOR_CAPABILITY=GPU:n   that GPU says that its compute capability is n, say 90, and not 80
//   FARANDOLE_EMULATOR_ALONE=n      GPU n and the others do not reach each other's memory
//   FARANDOLE_EMULATOR_GRAPHS=0     no graph is made executable
//   FARANDOLE_EMULATOR_FAIL=place   that launch ends with an error, like an invalid address; the context is of no use then
//   FARANDOLE_EMULATOR_WRONG=NAME   the kernels of that name add 1 to the first float of the array that is their first parameter
//   FARANDOLE_EMULATOR_LOSE=place   the GPU is lost at that launch: all calls for it fail from then on
struct place {
  long gpu = -1, number = 0;

  explicit place(const char* name) {
    const char* s = getenv(name);
    if (s && *s && sscanf(s, "%ld:%ld", &gpu, &number) != 2) {
      fprintf(stderr, "emulated driver: %s=%s is not GPU:NUMBER\n", name, s);
      abort();
    }
  }
  bool is(long g, long n) const { return g == gpu && n == number; }
};

struct settings {
  long gpus = number("FARANDOLE_EMULATOR_GPUS", 1);
  size_t memory = static_cast<size_t>(number("FARANDOLE_EMULATOR_MEMORY", 1L << 30));
  long alone = number("FARANDOLE_EMULATOR_ALONE", -1);
  bool lazy = number("FARANDOLE_EMULATOR_LAZY", 0) != 0, graphs = number("FARANDOLE_EMULATOR_GRAPHS", 1) != 0;
  std::string wrong = getenv("FARANDOLE_EMULATOR_WRONG") ? getenv("FARANDOLE_EMULATOR_WRONG") : "";
  place fail{"FARANDOLE_EMULATOR_FAIL"}, lose{"FARANDOLE_EMULATOR_LOSE"}, other{"FARANDOLE_EMULATOR_CAPABILITY"};
};

// Limits of a GPU of compute capability 8.0.
constexpr int capability = 80;
constexpr int processors = 8;  // few, so that small tests have more work than fits at once
constexpr unsigned max_threads = 1024, max_grid_yz = 65535, max_shared = 48 << 10;
// The most shared memory of a block, for those that ask.
constexpr unsigned max_shared_optin(int capability) { return (capability >= 90 ? 227 : 163) << 10; }

// Memory of a GPU: bytes with a guard before and behind, which no kernel may change. New memory is all NaN.
constexpr size_t guard = 256;
constexpr unsigned char guard_byte = 0x5a, new_byte = 0xff;

class memory {
 public:
  explicit memory(size_t n);
  memory(memory&& m) noexcept : bytes(m.bytes), all(m.all), file(m.file) { m.all = nullptr, m.file = -1; }
  ~memory();
  CUdeviceptr at() const { return all ? reinterpret_cast<CUdeviceptr>(all + guard) : 0; }  // 0: the host has no more
  bool intact() const;
  // share gives the file that has the memory from now on, where it was, and that another process may map; -1 where there can be none.
  int share();
  static size_t whole(size_t n) { return n + 2 * guard; }
  const size_t bytes;

 private:
  unsigned char* all;
  int file = -1;
};

// Memory of another process, mapped for reading. Opened again it is where it was.
struct opening {
  size_t bytes;
  unsigned long inode;
  int times;
};

}  // namespace driver

// The handles of the API.
struct CUstream_st {
  std::deque<std::function<CUresult()>> work;  // what answers CUDA_ERROR_NOT_READY is asked again, and all after it waits
  long enqueued = 0, done = 0;  // works so far
};

struct CUevent_st {
  CUstream_st* on = nullptr;  // where it was recorded last
  long behind = 0;            // after so many works of that stream
  bool done = false;          // whether that stream has come to it
  std::chrono::steady_clock::time_point at;
};

struct CUfunc_st {
  const emulated_kernel* kernel;
  unsigned shared_limit = driver::max_shared;
};

struct CUmod_st {
  std::map<std::string, CUfunc_st> functions;
};

namespace driver {

// What cuLaunchKernel does, with its parameters by value.
struct launch {
  CUfunction f;
  unsigned grid[3], block[3], shared;
  std::vector<std::vector<char>> values;
};

}  // namespace driver

// One call of a graph, which is a chain: each comes after the one before. enqueue does to a stream what the call outside of a graph does.
struct CUgraphNode_st {
  char kind;  // 'k'ernel, 'm'emset, 'c'opy
  driver::launch kernel = {};
  CUDA_MEMSET_NODE_PARAMS memset = {};
  CUDA_MEMCPY3D copy = {};
  CUresult enqueue(CUcontext c, CUstream s) const;
};

struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  CUgraph of;
  std::map<CUgraphNode, CUgraphNode_st> nodes;  // as they are now
  std::vector<CUgraphNode> order;
};

struct CUctx_st {
  int gpu = 0;
  int retained = 0;
  CUresult broken = CUDA_SUCCESS;  // the error that makes the context useless
  std::map<CUdeviceptr, driver::memory> memories;
  std::map<uintptr_t, size_t> hosts;  // registered memory of the host
  std::set<std::unique_ptr<CUstream_st>> streams;
  std::set<std::unique_ptr<CUevent_st>> events;
  std::set<std::unique_ptr<CUmod_st>> modules;
  std::set<std::unique_ptr<CUgraph_st>> graphs;
  std::set<std::unique_ptr<CUgraphExec_st>> executables;
  std::map<CUdeviceptr, driver::opening> opened;
  size_t used = 0;
  long launches = 0;

  // covers says whether [at, at+n) lies in one piece of the GPU's memory; reaches, of that or of another process's; registered, of the
  // host's.
  bool covers(CUdeviceptr at, size_t n) const {
    auto m = memories.upper_bound(at);
    if (m == memories.begin()) return false;
    --m;
    return at + n <= m->first + m->second.bytes;
  }
  bool reaches(CUdeviceptr at, size_t n) const {
    if (covers(at, n)) return true;
    auto o = opened.upper_bound(at);
    if (o == opened.begin()) return false;
    --o;
    return at + n <= o->first + o->second.bytes;
  }
  bool registered(const void* host, size_t n) const {
    const uintptr_t at = reinterpret_cast<uintptr_t>(host);
    auto h = hosts.upper_bound(at);
    if (h == hosts.begin()) return false;
    --h;
    return at + n <= h->first + h->second;
  }
  // finish does a stream's work, the first so many ever, and what it waits for on other streams, and nothing else. Work that depends on another
  // process may not be ready: then it lets go of the lock and comes again, or, where it must not wait, says so.
  CUresult finish(CUstream_st* s) { return finish(s, s->enqueued); }
  CUresult finish(CUstream_st* s, long works, bool waits = true);
};

namespace driver {

template <class T>
T* own(const std::set<std::unique_ptr<T>>& all, T* handle) {
  for (auto& p : all) {
    if (p.get() == handle) return handle;
  }
  return nullptr;
}

template <class T>
bool drop(std::set<std::unique_ptr<T>>& all, T* handle) {
  for (auto p = all.begin(); p != all.end(); ++p) {
    if (p->get() == handle) {
      all.erase(p);
      return true;
    }
  }
  return false;
}

// entries reads the kernels of PTX text and the sizes of their parameters, and finds each among the emulated ones. A kernel
// that is not there, or is not the same, means that PTX and host build are of different sources.
CUresult entries(const char* text, int capability, std::map<std::string, CUfunc_st>& functions);

// The process's state, guarded by lock.
extern std::recursive_mutex lock;
extern std::map<int, CUctx_st> contexts;  // the primary ones, by GPU
extern thread_local CUcontext current;
const settings& asked();

// prepare checks a launch and takes its parameters; start puts it on a stream.
CUresult prepare(launch& l, void** params, void** extra);
CUresult start(CUcontext c, CUstream s, const launch& l);

// start puts other work on a stream as a launch: it counts as one, and fails where one is to.
CUresult start(CUcontext c, CUstream s, const char* call, std::function<CUresult()> work);

// usable says why a call has no context to work in.
CUresult usable(CUcontext c, const char* call);

}  // namespace driver

#define API(name, ...) extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI name(__VA_ARGS__)
#define LOCKED const std::lock_guard<std::recursive_mutex> locked(driver::lock)

// A call that needs a context begins with IN_CONTEXT, which names it c.
#define IN_CONTEXT               \
  LOCKED;                        \
  CUcontext c = driver::current; \
  if (CUresult bad = driver::usable(c, __func__)) return bad

#endif
