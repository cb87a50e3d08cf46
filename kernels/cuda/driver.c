//go:build cuda

// Every entry point of libcuda that this program calls is defined here as a jump through a slot, and the slots are filled when
// the driver is wanted. So a program with the tag cuda starts on machines without a driver, and gorgonia.org/cu, which
// initialises the driver when its package is and ends the process when that fails, does neither.
#include "driver.h"

#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef int entry(void);

enum { success = 0, not_initialized = 3, not_found = 500 };

static int unloaded(void) { return not_initialized; }
static int missing(void) { return not_found; }
static int nothing_yet(unsigned flags) { return (void)flags, success; }

#define ENTRY(name) __attribute__((used, visibility("hidden"))) entry *farandole_slot_##name = unloaded;
#include "driver_entries.h"
#undef ENTRY

#if defined(__x86_64__)
#define JUMP(name) "\tjmp *farandole_slot_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name) "\tadrp x16, farandole_slot_" #name "\n\tldr x16, [x16, #:lo12:farandole_slot_" #name "]\n\tbr x16\n"
#else
#error "the tag cuda works on x86-64 and on arm64"
#endif

#define ENTRY(name) \
	__asm__(".text\n\t.p2align 4\n\t.globl " #name "\n\t.type " #name ", %function\n" #name ":\n" JUMP(name) "\t.size " #name ", .-" #name "\n");
#include "driver_entries.h"
#undef ENTRY

// Until the driver is loaded its initialisation succeeds, for gorgonia.org/cu; load_driver does it then.
__attribute__((constructor)) static void defer_init(void) { farandole_slot_cuInit = (entry *)(void *)nothing_yet; }

static int no_string(int code, const char **text) { return (void)code, (void)text, not_found; }
static int (*error_string)(int, const char **) = no_string;

const char *farandole_describe(int code) {
	const char *text = NULL;
	return error_string(code, &text) == success && text != NULL ? text : "an error without a description";
}

int farandole_load_driver(char *why, size_t len) {
	void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		snprintf(why, len, "%s", dlerror());
		return -1;
	}
	int (*init)(unsigned) = (int (*)(unsigned))(uintptr_t)dlsym(lib, "cuInit");
	if (init == NULL) {
		snprintf(why, len, "libcuda.so.1 has no cuInit");
		dlclose(lib);
		return -1;
	}
	int code = init(0);
	int (*sentence)(int, const char **) = (int (*)(int, const char **))(uintptr_t)dlsym(lib, "cuGetErrorString");
	if (sentence != NULL) error_string = sentence;
	if (code != success) {
		snprintf(why, len, "the driver says: %s (CUDA error %d)", farandole_describe(code), code);
		return code;
	}
#define ENTRY(name) \
	farandole_slot_##name = (entry *)(uintptr_t)dlsym(lib, #name); \
	if (farandole_slot_##name == NULL) farandole_slot_##name = missing;
#include "driver_entries.h"
#undef ENTRY
	return success;
}

int farandole_register(void *host, size_t bytes) { return cuMemHostRegister(host, bytes, CU_MEMHOSTREGISTER_PORTABLE); }
int farandole_unregister(void *host) { return cuMemHostUnregister(host); }
int farandole_share(void *function, int bytes) {
	return cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
}

_Static_assert(sizeof(CUuuid) == FARANDOLE_UUID_BYTES, "the size of a UUID");

int farandole_uuid(int gpu, unsigned char *id) {
	CUuuid u;
	int code = cuDeviceGetUuid_v2(&u, gpu);
	if (code == success) memcpy(id, u.bytes, sizeof u.bytes);
	return code;
}

_Static_assert(sizeof(CUipcMemHandle) == FARANDOLE_IPC_BYTES, "the size of a handle");

int farandole_ipc_get(uint64_t at, void *handle, uint64_t *offset) {
	CUdeviceptr base;
	size_t bytes;
	CUipcMemHandle h;
	int code = cuMemGetAddressRange(&base, &bytes, at);
	if (code == success) code = cuIpcGetMemHandle(&h, base);
	if (code != success) return code;
	memcpy(handle, &h, sizeof h);
	*offset = at - base;
	return success;
}

int farandole_ipc_open(const void *handle, uint64_t *base) {
	CUipcMemHandle h;
	CUdeviceptr at;
	memcpy(&h, handle, sizeof h);
	int code = cuIpcOpenMemHandle(&at, h, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	if (code == success) *base = at;
	return code;
}

int farandole_ipc_close(uint64_t base) { return cuIpcCloseMemHandle(base); }

int farandole_launch(void *function, struct farandole_dim grid, struct farandole_dim block, unsigned shared, void *stream, uint64_t *args, int n) {
	void *params[FARANDOLE_MAX_ARGS];
	for (int i = 0; i < n; i++) params[i] = &args[i];
	return cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, stream, params, NULL);
}
