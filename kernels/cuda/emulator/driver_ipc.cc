// The memory of the emulated GPUs, and how another process of this host reaches it. What is shared becomes a file without a name, which
// the other finds among this process's open files: nothing of it is left when both have ended, however they did. It is stricter than
// a driver: the other may only read.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "driver_state.h"

using driver::refuse;

namespace driver {

memory::memory(size_t n)
    : bytes(n), all(static_cast<unsigned char*>(mmap(nullptr, whole(n), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
  if (all == MAP_FAILED) {
    all = nullptr;
    return;
  }
  memset(all, guard_byte, whole(n));
  memset(all + guard, new_byte, n);
}

memory::~memory() {
  if (all) munmap(all, whole(bytes));
  if (file >= 0) close(file);
}

bool memory::intact() const {
  for (size_t i = 0; i < guard; i++) {
    if (all[i] != guard_byte || all[guard + bytes + i] != guard_byte) return false;
  }
  return true;
}

int memory::share() {
  if (file >= 0) return file;
  const int f = memfd_create("emulated GPU", MFD_CLOEXEC);
  const size_t n = whole(bytes);
  bool good = f >= 0;
  for (size_t done = 0; good && done < n;) {
    const ssize_t part = write(f, all + done, n - done);
    good = part > 0;
    done += good ? static_cast<size_t>(part) : 0;
  }
  if (!good || mmap(all, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, f, 0) == MAP_FAILED) {
    if (f >= 0) close(f);
    return -1;
  }
  return file = f;
}

}  // namespace driver

namespace {

// What is in a handle.
struct shared {
  char magic[16];
  int pid, file, gpu;
  unsigned long inode;
  size_t bytes;
};
static_assert(sizeof(shared) <= sizeof(CUipcMemHandle), "a handle has room for it");
constexpr char magic[16] = "emulated memory";

// file opens what h means, or gives -1 when it is no more.
int file(const shared& h) {
  const int f = open(("/proc/" + std::to_string(h.pid) + "/fd/" + std::to_string(h.file)).c_str(), O_RDONLY | O_CLOEXEC);
  struct stat is;
  if (f >= 0 && (fstat(f, &is) != 0 || is.st_ino != h.inode || static_cast<size_t>(is.st_size) != driver::memory::whole(h.bytes))) {
    close(f);
    return -1;
  }
  return f;
}

}  // namespace

API(cuMemGetAddressRange, CUdeviceptr* base, size_t* n, CUdeviceptr at) {
  IN_CONTEXT;
  auto m = c->memories.upper_bound(at);
  if (m == c->memories.begin() || !c->covers(at, 1)) return refuse(CUDA_ERROR_NOT_FOUND, "cuMemGetAddressRange of %#llx, which is no memory of this GPU", at);
  --m;
  if (base) *base = m->first;
  if (n) *n = m->second.bytes;
  return CUDA_SUCCESS;
}

// The host's boot and a number: every process sees the same of one GPU.
API(cuDeviceGetUuid, CUuuid* id, CUdevice gpu) {
  if (gpu < 0 || gpu >= driver::asked().gpus) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU %d", gpu);
  memset(id, 0, sizeof *id);
  if (FILE* f = fopen("/proc/sys/kernel/random/boot_id", "r")) {
    unsigned byte;
    for (int i = 0; i < 12 && fscanf(f, i == 4 || i == 6 || i == 8 || i == 10 ? "-%2x" : "%2x", &byte) == 1; i++) id->bytes[i] = static_cast<char>(byte);
    fclose(f);
  }
  memcpy(id->bytes + 12, &gpu, sizeof gpu);
  return CUDA_SUCCESS;
}

API(cuDeviceGetUuid_v2, CUuuid* id, CUdevice gpu) { return cuDeviceGetUuid(id, gpu); }

API(cuDeviceCanAccessPeer, int* can, CUdevice gpu, CUdevice other) {
  if (gpu < 0 || other < 0 || gpu >= driver::asked().gpus || other >= driver::asked().gpus) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU %d or %d", gpu, other);
  *can = gpu != other && gpu != driver::asked().alone && other != driver::asked().alone;
  return CUDA_SUCCESS;
}

API(cuIpcGetMemHandle, CUipcMemHandle* handle, CUdeviceptr at) {
  IN_CONTEXT;
  const auto m = c->memories.find(at);
  if (m == c->memories.end()) return refuse(CUDA_ERROR_INVALID_VALUE, "cuIpcGetMemHandle of %#llx, where no memory of cuMemAlloc begins", at);
  for (const auto& s : c->streams) {
    if (CUresult bad = c->finish(s.get())) return bad;
  }
  shared h = {};
  struct stat is;
  memcpy(h.magic, magic, sizeof magic);
  h.pid = getpid(), h.gpu = c->gpu, h.bytes = m->second.bytes, h.file = m->second.share();
  if (h.file < 0 || fstat(h.file, &is) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  h.inode = is.st_ino;
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &h, sizeof h);
  return CUDA_SUCCESS;
}

API(cuIpcOpenMemHandle, CUdeviceptr* at, CUipcMemHandle handle, unsigned flags) {
  IN_CONTEXT;
  shared h;
  memcpy(&h, &handle, sizeof h);
  if (memcmp(h.magic, magic, sizeof magic) != 0) return refuse(CUDA_ERROR_INVALID_VALUE, "cuIpcOpenMemHandle of what is no handle");
  if (flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return refuse(CUDA_ERROR_INVALID_VALUE, "cuIpcOpenMemHandle with flags %u", flags);
  if (h.pid == getpid()) return refuse(CUDA_ERROR_INVALID_CONTEXT, "cuIpcOpenMemHandle of the process's own memory");
  int reached = h.gpu == c->gpu;
  if (!reached && (cuDeviceCanAccessPeer(&reached, c->gpu, h.gpu) || !reached)) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  const int f = file(h);
  if (f < 0) return CUDA_ERROR_MAP_FAILED;
  for (auto& o : c->opened) {
    if (o.second.inode == h.inode) {
      close(f);
      o.second.times++;
      *at = o.first;
      return CUDA_SUCCESS;
    }
  }
  void* all = mmap(nullptr, driver::memory::whole(h.bytes), PROT_READ, MAP_SHARED, f, 0);
  close(f);
  if (all == MAP_FAILED) return CUDA_ERROR_MAP_FAILED;
  *at = reinterpret_cast<CUdeviceptr>(all) + driver::guard;
  c->opened[*at] = {h.bytes, h.inode, 1};
  return CUDA_SUCCESS;
}

API(cuIpcCloseMemHandle, CUdeviceptr at) {
  IN_CONTEXT;
  const auto o = c->opened.find(at);
  if (o == c->opened.end()) return refuse(CUDA_ERROR_INVALID_VALUE, "cuIpcCloseMemHandle of %#llx, which is not open", at);
  for (const auto& s : c->streams) {
    if (CUresult bad = c->finish(s.get())) return bad;
  }
  if (--o->second.times > 0) return CUDA_SUCCESS;
  munmap(reinterpret_cast<void*>(at - driver::guard), driver::memory::whole(o->second.bytes));
  c->opened.erase(o);
  return CUDA_SUCCESS;
}
