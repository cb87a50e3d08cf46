// NVML for tests: as many GPUs as FARANDOLE_EMULATOR_GPUS says, all idle, and no more than package gpus asks of it. The ABI is NVML's own,
// without its header.
#include <cstdio>
#include <cstdlib>

namespace {

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3 };

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

// A handle is the GPU's number, from 1.
API(nvmlDeviceGetHandleByIndex_v2, unsigned i, void** device) {
  if (i >= gpus()) return INVALID_ARGUMENT;
  *device = reinterpret_cast<void*>(i + 1ul);
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

API(nvmlDeviceGetTemperature, void*, int, unsigned* temperature) {
  *temperature = 31;
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
