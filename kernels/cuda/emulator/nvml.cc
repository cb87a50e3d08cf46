// NVML for tests: as many GPUs as FARANDOLE_EMULATOR_GPUS says, all idle, and no more than package gpus asks of it. It has them in the
// opposite order of the driver, as a host may. The ABI is NVML's own, without its header.
//
//   FARANDOLE_EMULATOR_HEAT=GPU:n   the driver's GPU of that number has n °C, and not 31
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

long gpus() {
  const char* s = getenv("FARANDOLE_EMULATOR_GPUS");
  return s && *s ? atol(s) : 1;
}

struct memory {
  unsigned long long total, free, used;
};

struct utilization {
  unsigned gpu, memory;
};

}  // namespace

#define API(name, ...) extern "C" __attribute__((visibility("default"))) int name(__VA_ARGS__)

API(nvmlInit_v2) { return SUCCESS; }
API(nvmlShutdown) { return SUCCESS; }

API(nvmlSystemGetDriverVersion, char* version, unsigned len) {
  snprintf(version, len, "0.0 (emulated)");
  return SUCCESS;
}

API(nvmlDeviceGetCount_v2, unsigned* n) {
  *n = static_cast<unsigned>(gpus());
  return SUCCESS;
}

// A handle is the driver's number of the GPU, from 1.
API(nvmlDeviceGetHandleByIndex_v2, unsigned i, void** device) {
  if (i >= gpus()) return INVALID_ARGUMENT;
  *device = reinterpret_cast<void*>(gpus() - i);
  return SUCCESS;
}

// The last four bytes of a UUID of the emulator are that number, from 0, as cuDeviceGetUuid has it in memory.
API(nvmlDeviceGetHandleByUUID, const char* uuid, void** device) {
  unsigned b[4];
  if (strlen(uuid) != 40 || strncmp(uuid, "GPU-", 4) != 0 || sscanf(uuid + 32, "%2x%2x%2x%2x", b, b + 1, b + 2, b + 3) != 4) return INVALID_ARGUMENT;
  const unsigned number = b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24;
  if (number >= gpus()) return NOT_FOUND;
  *device = reinterpret_cast<void*>(number + 1ul);
  return SUCCESS;
}

API(nvmlDeviceGetName, void*, char* name, unsigned len) {
  snprintf(name, len, "Emulated GPU");
  return SUCCESS;
}

API(nvmlDeviceGetMemoryInfo, void*, memory* m) {
  *m = {1ull << 30, 1ull << 30, 0};
  return SUCCESS;
}

API(nvmlDeviceGetUtilizationRates, void*, utilization* u) {
  *u = {0, 0};
  return SUCCESS;
}

// In milliwatts.
API(nvmlDeviceGetPowerUsage, void*, unsigned* power) {
  *power = 12000;
  return SUCCESS;
}

API(nvmlDeviceGetEnforcedPowerLimit, void*, unsigned*) { return NOT_SUPPORTED; }

API(nvmlDeviceGetTemperature, void* device, int, unsigned* temperature) {
  unsigned long hot, celsius;
  const char* heat = getenv("FARANDOLE_EMULATOR_HEAT");
  const bool set = heat && sscanf(heat, "%lu:%lu", &hot, &celsius) == 2 && reinterpret_cast<unsigned long>(device) == hot + 1;
  *temperature = set ? static_cast<unsigned>(celsius) : 31;
  return SUCCESS;
}

API(nvmlDeviceGetTemperatureThreshold, void*, int, unsigned* temperature) {
  *temperature = 90;
  return SUCCESS;
}

// In megahertz.
API(nvmlDeviceGetClockInfo, void*, int, unsigned* clock) {
  *clock = 210;
  return SUCCESS;
}

API(nvmlDeviceGetMaxClockInfo, void*, int, unsigned* clock) {
  *clock = 1410;
  return SUCCESS;
}

API(nvmlDeviceGetTotalEccErrors, void*, int, int, unsigned long long* errors) {
  *errors = 0;
  return SUCCESS;
}

API(nvmlDeviceGetCurrentClocksThrottleReasons, void*, unsigned long long* reasons) {
  *reasons = 1;  // idle
  return SUCCESS;
}
