// A CUDA driver for tests: the part of libcuda.so.1 that package cuda calls, on top of the kernels compiled for the host. So the
// real path of a program with the tag cuda runs where there is no GPU. It is stricter than a driver: it
// checks what a driver leaves undefined, and says on standard error what it refuses. It proves nothing about speed or about what
// runs at the same time.
#include <thread>

#include "driver_state.h"

using driver::asked;
using driver::contexts;
using driver::current;
using driver::refuse;

const char* const emulated::name = "driver";

namespace driver {

std::recursive_mutex lock;
const settings& asked() {
  static const settings s;
  return s;
}
std::map<int, CUctx_st> contexts;
thread_local CUcontext current;

}  // namespace driver

namespace {

bool initialized;
std::set<int> lost;

int capability_of(int gpu) { return gpu == asked().other.gpu ? static_cast<int>(asked().other.number) : driver::capability; }

bool is_gpu(int gpu) { return gpu >= 0 && gpu < asked().gpus; }

// add puts work on a stream.
CUresult add(CUcontext c, CUstream s, const char* call, std::function<CUresult()> work) {
  if (!driver::own(c->streams, s)) return refuse(CUDA_ERROR_INVALID_HANDLE, "%s on what is no stream of this context", call);
  s->work.push_back(std::move(work));
  s->enqueued++;
  if (asked().lazy) return CUDA_SUCCESS;
  const CUresult result = c->finish(s, s->enqueued, false);
  return result == CUDA_ERROR_NOT_READY ? CUDA_SUCCESS : result;
}

CUresult copy(CUcontext c, CUstream s, const char* call, bool there, CUdeviceptr device, const void* host, size_t n, std::function<void()> move) {
  if (!there) return refuse(CUDA_ERROR_INVALID_VALUE, "%s: %zu bytes at %#llx are not memory of this GPU", call, n, device);
  if (!c->registered(host, n)) return refuse(CUDA_ERROR_INVALID_VALUE, "%s: the host's memory is not registered", call);
  return add(c, s, call, [c, host, n, call, move] {
    if (!c->registered(host, n)) return refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: the host's memory was released before the copy", call);
    move();
    return CUDA_SUCCESS;
  });
}

}  // namespace

CUresult driver::usable(CUcontext c, const char* call) {
  if (!initialized) return refuse(CUDA_ERROR_NOT_INITIALIZED, "%s before cuInit", call);
  if (!c) return refuse(CUDA_ERROR_INVALID_CONTEXT, "%s on a thread without a context", call);
  if (!contexts.count(c->gpu) || &contexts.at(c->gpu) != c) return refuse(CUDA_ERROR_CONTEXT_IS_DESTROYED, "%s in a released context", call);
  if (lost.count(c->gpu)) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  return c->broken;
}

// It looks at the guards of all memory.
CUresult CUctx_st::finish(CUstream_st* s, long works, bool waits) {
  while (s->done < works && broken == CUDA_SUCCESS) {
    const CUresult result = s->work.front()();
    if (result == CUDA_ERROR_NOT_READY) {
      if (!waits) return result;
      driver::lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      driver::lock.lock();
      continue;
    }
    s->work.pop_front();
    s->done++;
    broken = result;
  }
  if (broken != CUDA_SUCCESS) {
    s->done += static_cast<long>(s->work.size());
    s->work.clear();
  }
  for (const auto& m : memories) {
    if (broken == CUDA_SUCCESS && !m.second.intact()) {
      broken = refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "something wrote before or behind %zu bytes at %#llx", m.second.bytes, m.first);
    }
  }
  return lost.count(gpu) ? CUDA_ERROR_DEVICE_UNAVAILABLE : broken;
}

// ---- initialisation and GPUs

API(cuInit, unsigned flags) {
  LOCKED;
  if (flags) return refuse(CUDA_ERROR_INVALID_VALUE, "cuInit(%u)", flags);
  if (asked().gpus < 1) return CUDA_ERROR_NO_DEVICE;
  initialized = true;
  return CUDA_SUCCESS;
}

API(cuGetErrorString, CUresult code, const char** text) {
  static const std::map<int, const char*> texts = {
      {CUDA_ERROR_INVALID_VALUE, "invalid argument"},
      {CUDA_ERROR_OUT_OF_MEMORY, "out of memory"},
      {CUDA_ERROR_NOT_INITIALIZED, "initialization error"},
      {CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable"},
      {CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"},
      {CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"},
      {CUDA_ERROR_INVALID_CONTEXT, "invalid device context"},
      {CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"},
      {CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"},
      {CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed"},
      {CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices"},
      {CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"},
      {CUDA_ERROR_NOT_FOUND, "named symbol not found"},
      {CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
      {CUDA_ERROR_NOT_READY, "device not ready"},
      {CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"},
  };
  const auto t = texts.find(code);
  *text = t == texts.end() ? nullptr : t->second;
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

API(cuDeviceGetCount, int* n) {
  LOCKED;
  if (!initialized) return refuse(CUDA_ERROR_NOT_INITIALIZED, "cuDeviceGetCount before cuInit");
  *n = static_cast<int>(asked().gpus);
  return CUDA_SUCCESS;
}

API(cuDeviceGet, CUdevice* gpu, int ordinal) {
  if (!is_gpu(ordinal)) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU %d", ordinal);
  *gpu = ordinal;
  return CUDA_SUCCESS;
}

API(cuDeviceGetName, char* name, int len, CUdevice gpu) {
  if (!is_gpu(gpu)) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU %d", gpu);
  snprintf(name, static_cast<size_t>(len), "Emulated sm_%d", capability_of(gpu));
  return CUDA_SUCCESS;
}

API(cuDeviceGetAttribute, int* value, CUdevice_attribute a, CUdevice gpu) {
  if (!is_gpu(gpu)) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU %d", gpu);
  switch (a) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = driver::processors;
      return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      *value = capability_of(gpu) / 10;
      return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      *value = capability_of(gpu) % 10;
      return CUDA_SUCCESS;
    default:
      return refuse(CUDA_ERROR_INVALID_VALUE, "cuDeviceGetAttribute(%d) is not emulated", a);
  }
}

// ---- contexts

API(cuDevicePrimaryCtxRetain, CUcontext* c, CUdevice gpu) {
  LOCKED;
  if (!initialized || !is_gpu(gpu)) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU %d, or cuInit was not called", gpu);
  if (lost.count(gpu)) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  CUctx_st& primary = contexts[gpu];
  primary.gpu = gpu;
  primary.retained++;
  *c = &primary;
  return CUDA_SUCCESS;
}

API(cuDevicePrimaryCtxRelease, CUdevice gpu) {
  LOCKED;
  const auto c = contexts.find(gpu);
  if (c == contexts.end()) return refuse(CUDA_ERROR_INVALID_CONTEXT, "the context of GPU %d is released more often than retained", gpu);
  if (--c->second.retained > 0) return CUDA_SUCCESS;
  if (!c->second.hosts.empty()) refuse(CUDA_ERROR_INVALID_VALUE, "%zu pieces of memory are still registered", c->second.hosts.size());
  if (!c->second.memories.empty() && !c->second.broken && !lost.count(gpu)) {
    refuse(CUDA_ERROR_INVALID_VALUE, "%zu pieces of memory were not freed", c->second.memories.size());
  }
  if (!c->second.graphs.empty() || !c->second.executables.empty()) refuse(CUDA_ERROR_INVALID_VALUE, "graphs were not destroyed");
  if (!c->second.opened.empty()) refuse(CUDA_ERROR_INVALID_VALUE, "%zu pieces of other processes' memory were not closed", c->second.opened.size());
  contexts.erase(c);
  return CUDA_SUCCESS;
}

API(cuCtxSetCurrent, CUcontext c) {
  LOCKED;
  if (c && (!contexts.count(c->gpu) || &contexts.at(c->gpu) != c)) return refuse(CUDA_ERROR_INVALID_CONTEXT, "cuCtxSetCurrent of what is no context");
  current = c;
  return CUDA_SUCCESS;
}

// ---- memory

API(cuMemGetInfo, size_t* free, size_t* total) {
  IN_CONTEXT;
  *total = asked().memory;
  *free = *total - c->used;
  return CUDA_SUCCESS;
}

API(cuMemAlloc, CUdeviceptr* at, size_t n) {
  IN_CONTEXT;
  if (n == 0) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc of nothing");
  if (n > asked().memory - c->used) return CUDA_ERROR_OUT_OF_MEMORY;
  driver::memory m(n);
  if (!m.at()) return CUDA_ERROR_OUT_OF_MEMORY;
  *at = m.at();
  c->used += n;
  c->memories.emplace(*at, std::move(m));
  return CUDA_SUCCESS;
}

API(cuMemFree, CUdeviceptr at) {
  IN_CONTEXT;
  for (const auto& s : c->streams) {
    if (CUresult bad = c->finish(s.get())) return bad;
  }
  const auto m = c->memories.find(at);
  if (m == c->memories.end()) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemFree of %#llx, which cuMemAlloc did not give", at);
  c->used -= m->second.bytes;
  c->memories.erase(m);
  return CUDA_SUCCESS;
}

API(cuMemHostRegister, void* host, size_t n, unsigned) {
  IN_CONTEXT;
  if (!host || !n || c->registered(host, 1)) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemHostRegister of %zu bytes at %p, or twice", n, host);
  c->hosts[reinterpret_cast<uintptr_t>(host)] = n;
  return CUDA_SUCCESS;
}

API(cuMemHostUnregister, void* host) {
  LOCKED;
  CUcontext c = current;
  if (!c || !c->hosts.erase(reinterpret_cast<uintptr_t>(host))) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemHostUnregister of %p", host);
  return CUDA_SUCCESS;
}

API(cuMemcpyHtoDAsync, CUdeviceptr to, const void* from, size_t n, CUstream s) {
  IN_CONTEXT;
  return copy(c, s, "cuMemcpyHtoDAsync", c->covers(to, n), to, from, n, [=] { memcpy(reinterpret_cast<void*>(to), from, n); });
}

API(cuMemcpyDtoHAsync, void* to, CUdeviceptr from, size_t n, CUstream s) {
  IN_CONTEXT;
  return copy(c, s, "cuMemcpyDtoHAsync", c->reaches(from, n), from, to, n, [=] { memcpy(to, reinterpret_cast<void*>(from), n); });
}

API(cuMemcpyDtoDAsync, CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
  IN_CONTEXT;
  if (!c->covers(to, n) || !c->reaches(from, n)) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemcpyDtoDAsync: %zu bytes from %#llx to %#llx are not memory of this GPU", n, from, to);
  return add(c, s, "cuMemcpyDtoDAsync", [=] {
    memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), n);
    return CUDA_SUCCESS;
  });
}

API(cuMemsetD32Async, CUdeviceptr to, unsigned value, size_t n, CUstream s) {
  IN_CONTEXT;
  if (!c->covers(to, 4 * n) || to % 4) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemsetD32Async: %zu words at %#llx are not memory of this GPU", n, to);
  return add(c, s, "cuMemsetD32Async", [=] {
    for (size_t i = 0; i < n; i++) reinterpret_cast<unsigned*>(to)[i] = value;
    return CUDA_SUCCESS;
  });
}

// ---- streams

API(cuStreamCreate, CUstream* s, unsigned) {
  IN_CONTEXT;
  *s = c->streams.emplace(new CUstream_st).first->get();
  return CUDA_SUCCESS;
}

API(cuStreamDestroy, CUstream s) {
  IN_CONTEXT;
  if (!driver::own(c->streams, s)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamDestroy of what is no stream");
  const CUresult bad = c->finish(s);
  driver::drop(c->streams, s);
  return bad;
}

API(cuStreamSynchronize, CUstream s) {
  IN_CONTEXT;
  if (!driver::own(c->streams, s)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamSynchronize of what is no stream");
  return c->finish(s);
}

API(cuStreamQuery, CUstream s) {
  IN_CONTEXT;
  if (!driver::own(c->streams, s)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamQuery of what is no stream");
  return c->finish(s, s->enqueued, false);
}

// ---- modules and kernels

API(cuModuleLoadData, CUmodule* m, const void* image) {
  IN_CONTEXT;
  auto made = std::make_unique<CUmod_st>();
  if (CUresult bad = driver::entries(static_cast<const char*>(image), capability_of(c->gpu), made->functions)) return bad;
  *m = made.get();
  c->modules.insert(std::move(made));
  return CUDA_SUCCESS;
}

API(cuModuleUnload, CUmodule m) {
  IN_CONTEXT;
  return driver::drop(c->modules, m) ? CUDA_SUCCESS : refuse(CUDA_ERROR_INVALID_HANDLE, "cuModuleUnload of what is no module");
}

API(cuModuleGetFunction, CUfunction* f, CUmodule m, const char* name) {
  IN_CONTEXT;
  if (!driver::own(c->modules, m)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuModuleGetFunction in what is no module");
  const auto found = m->functions.find(name);
  if (found == m->functions.end()) return CUDA_ERROR_NOT_FOUND;
  *f = &found->second;
  return CUDA_SUCCESS;
}

API(cuFuncSetAttribute, CUfunction f, CUfunction_attribute a, int value) {
  IN_CONTEXT;
  if (a != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > static_cast<int>(driver::max_shared_optin(capability_of(c->gpu)))) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "cuFuncSetAttribute(%d, %d)", a, value);
  }
  f->shared_limit = static_cast<unsigned>(value);
  return CUDA_SUCCESS;
}

CUresult driver::prepare(launch& l, void** params, void** extra) {
  const emulated_kernel* k = l.f->kernel;
  const unsigned *g = l.grid, *b = l.block;
  const size_t threads = size_t(b[0]) * b[1] * b[2];
  if (!threads || threads > max_threads || threads > k->threads) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "%s: a block of %u·%u·%u threads, at most %u fit", k->name, b[0], b[1], b[2], k->threads);
  }
  if (!g[0] || !g[1] || !g[2] || g[0] > 0x7fffffff || g[1] > max_grid_yz || g[2] > max_grid_yz) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "%s: a grid of %u·%u·%u blocks", k->name, g[0], g[1], g[2]);
  }
  if (l.shared > l.f->shared_limit) return refuse(CUDA_ERROR_INVALID_VALUE, "%s: %u bytes of shared memory, at most %u were asked for", k->name, l.shared, l.f->shared_limit);
  if (extra || (k->params && !params)) return refuse(CUDA_ERROR_INVALID_VALUE, "%s: no parameters", k->name);
  l.values.clear();
  for (int i = 0; i < k->params; i++) {
    const char* p = static_cast<const char*>(params[i]);
    l.values.emplace_back(p, p + k->sizes[i]);
  }
  return CUDA_SUCCESS;
}

CUresult driver::start(CUcontext c, CUstream s, const char* call, std::function<CUresult()> work) {
  const long number = ++c->launches;
  if (asked().lose.is(c->gpu, number)) {
    lost.insert(c->gpu);
    return CUDA_ERROR_DEVICE_UNAVAILABLE;
  }
  const bool fails = asked().fail.is(c->gpu, number);
  return add(c, s, call, [fails, work = std::move(work)] { return fails ? CUDA_ERROR_LAUNCH_FAILED : work(); });
}

CUresult driver::start(CUcontext c, CUstream s, const launch& l) {
  return start(c, s, "cuLaunchKernel", [=]() mutable {
    std::vector<void*> args;
    for (auto& v : l.values) args.push_back(const_cast<char*>(v.data()));
    if (const char* mistake = l.f->kernel->launch(args.data(), l.grid, l.block, l.shared)) return refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "%s", mistake);
    if (asked().wrong == l.f->kernel->name) **static_cast<float**>(args[0]) += 1;
    return CUDA_SUCCESS;
  });
}

API(cuLaunchKernel, CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream s,
    void** params, void** extra) {
  IN_CONTEXT;
  driver::launch l = {f, {gx, gy, gz}, {bx, by, bz}, shared, {}};
  if (CUresult bad = driver::prepare(l, params, extra)) return bad;
  return driver::start(c, s, l);
}

// ---- events

API(cuEventCreate, CUevent* e, unsigned) {
  IN_CONTEXT;
  *e = c->events.emplace(new CUevent_st).first->get();
  return CUDA_SUCCESS;
}

API(cuEventDestroy, CUevent e) {
  IN_CONTEXT;
  for (const auto& s : c->streams) {  // work that is still to come may set it
    if (CUresult bad = c->finish(s.get())) return bad;
  }
  return driver::drop(c->events, e) ? CUDA_SUCCESS : refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventDestroy of what is no event");
}

API(cuEventRecord, CUevent e, CUstream s) {
  IN_CONTEXT;
  if (!driver::own(c->events, e)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventRecord of what is no event");
  if (!driver::own(c->streams, s)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventRecord on what is no stream of this context");
  e->on = s;
  e->behind = s->enqueued + 1;
  e->done = false;
  return add(c, s, "cuEventRecord", [e] {
    e->at = std::chrono::steady_clock::now();
    e->done = true;
    return CUDA_SUCCESS;
  });
}

API(cuEventSynchronize, CUevent e) {
  IN_CONTEXT;
  if (!driver::own(c->events, e) || !driver::own(c->streams, e->on)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventSynchronize of what is no recorded event");
  return c->finish(e->on, e->behind);
}

API(cuStreamWaitEvent, CUstream s, CUevent e, unsigned) {
  IN_CONTEXT;
  if (!driver::own(c->events, e) || !driver::own(c->streams, e->on)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamWaitEvent for what is no recorded event");
  return add(c, s, "cuStreamWaitEvent", [c, on = e->on, works = e->behind] {
    return driver::own(c->streams, on) ? c->finish(on, works, false) : CUDA_SUCCESS;  // a stream that was destroyed has done its work
  });
}

API(cuEventElapsedTime, float* ms, CUevent from, CUevent to) {
  IN_CONTEXT;
  if (!driver::own(c->events, from) || !driver::own(c->events, to) || !from->on || !to->on) {
    return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventElapsedTime between what are no recorded events");
  }
  if (!from->done || !to->done) return CUDA_ERROR_NOT_READY;
  *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return CUDA_SUCCESS;
}
