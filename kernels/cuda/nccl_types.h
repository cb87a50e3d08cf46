// NCCL's ABI as far as this program uses it. abi/nccl.c compares it with NVIDIA's header.
#ifndef FARANDOLE_CUDA_NCCL_TYPES_H
#define FARANDOLE_CUDA_NCCL_TYPES_H

#include <stddef.h>
#include <stdint.h>

// What names a communicator to be. It is passed by value.
struct nccl_id_value {
	char bytes[128];
};

// Options of a communicator, as they were in the first version that had any: later ones have more, and take their own values for what an older
// version had not.
struct nccl_options_value {
	size_t size;
	unsigned magic, version;
	int blocking, reserved;
};

#ifndef FARANDOLE_NCCL_TYPES  // who compares has the library's own
typedef void *nccl_comm, *nccl_stream;
// Enumerators of the library, which are as large as an int.
typedef int nccl_status, nccl_type;
typedef struct nccl_id_value nccl_id;
typedef struct nccl_options_value nccl_options;
#endif

enum {
	NCCL_OK = 0,
	NCCL_SYSTEM_ERROR = 2,
	NCCL_INVALID_ARGUMENT = 4,
	NCCL_INVALID_USAGE = 5,
	NCCL_REMOTE_ERROR = 6,
	NCCL_IN_PROGRESS = 7,

	NCCL_FLOAT32 = 7,

	NCCL_OPTIONS_VERSION = 21400,
	NCCL_UNDEFINED = -2147483647 - 1,
};
#define NCCL_OPTIONS_MAGIC 0xcafebeef

#endif
