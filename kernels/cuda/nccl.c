//go:build cuda

#include "nccl.h"

#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "nccl_types.h"

#define NCCL_ENTRY(result, name, params) static result(*name) params;
#include "nccl_entries.h"
#undef NCCL_ENTRY

_Static_assert(NCCL_IN_PROGRESS == FARANDOLE_NCCL_IN_PROGRESS, "a status");
_Static_assert(sizeof(nccl_id) == FARANDOLE_NCCL_ID_BYTES, "the size of an id");
_Static_assert(CUDA_SUCCESS == FARANDOLE_STREAM_DONE && CUDA_ERROR_NOT_READY == FARANDOLE_STREAM_BUSY, "results of the driver");

int farandole_nccl_load(const char *file, int *version, char *why, size_t len) {
	void *lib = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		snprintf(why, len, "%s", dlerror());
		return -1;
	}
#define NCCL_ENTRY(result, name, params) \
	*(void **)&name = dlsym(lib, #name); \
	if (name == NULL) { \
		snprintf(why, len, "%s has no %s", file, #name); \
		dlclose(lib); \
		return -1; \
	}
#include "nccl_entries.h"
#undef NCCL_ENTRY
	int status = ncclGetVersion(version);
	if (status != NCCL_OK) snprintf(why, len, "%s tells no version: %s", file, farandole_nccl_describe(status));
	return status;
}

const char *farandole_nccl_describe(int status) {
	const char *text = ncclGetErrorString(status);
	return text != NULL ? text : "an error without a description";
}

int farandole_nccl_id(void *id) {
	nccl_id made;
	int status = ncclGetUniqueId(&made);
	if (status == NCCL_OK) memcpy(id, &made, sizeof made);
	return status;
}

int farandole_nccl_join(void **comm, const void *id, int rank, int world) {
	nccl_options options = {sizeof options, NCCL_OPTIONS_MAGIC, NCCL_OPTIONS_VERSION, 0, NCCL_UNDEFINED};
	nccl_id named;
	nccl_comm made = NULL;
	memcpy(&named, id, sizeof named);
	int status = ncclCommInitRankConfig(&made, world, named, rank, &options);
	*comm = made;
	return status;
}

int farandole_nccl_state(void *comm) {
	nccl_status state = NCCL_IN_PROGRESS;
	int status = ncclCommGetAsyncError(comm, &state);
	return status == NCCL_OK ? state : status;
}

int farandole_nccl_abort(void *comm) { return ncclCommAbort(comm); }

// The group is ended also after a message that was refused: it must not be open when the next one begins.
int farandole_nccl_swap(void *comm, const struct farandole_nccl_message *messages, int n, void *stream) {
	int status = ncclGroupStart();
	if (status != NCCL_OK) return status;
	for (int i = 0; i < n && (status == NCCL_OK || status == NCCL_IN_PROGRESS); i++) {
		const struct farandole_nccl_message *m = &messages[i];
		void *at = (void *)(uintptr_t)m->at;
		status = m->receive ? ncclRecv(at, m->values, NCCL_FLOAT32, m->peer, comm, stream) : ncclSend(at, m->values, NCCL_FLOAT32, m->peer, comm, stream);
	}
	int end = ncclGroupEnd();
	return status == NCCL_OK || status == NCCL_IN_PROGRESS ? end : status;
}

int farandole_nccl_query(void *stream) { return cuStreamQuery(stream); }
