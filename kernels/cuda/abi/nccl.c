// Compares this program's words for NCCL with NVIDIA's header: `make check-nccl` compiles it, nothing runs.
#include <nccl.h>

typedef ncclComm_t nccl_comm;
typedef cudaStream_t nccl_stream;
typedef ncclResult_t nccl_status;
typedef ncclDataType_t nccl_type;
typedef ncclUniqueId nccl_id;
typedef ncclConfig_t nccl_options;
#define FARANDOLE_NCCL_TYPES
#include "../nccl_types.h"

// Entry points have these very parameters and results. The header says nothing of the parameters of those that have none.
#define NCCL_ENTRY(result, name, params) _Static_assert(__builtin_types_compatible_p(__typeof__(&name), result(*) params), #name);
#include "../nccl_entries.h"

#define IS(a, b) _Static_assert((long long)(a) == (long long)(b), #a " is " #b)

// Handles are pointers, and enumerators are as large as an int, in the program's own types.
IS(sizeof(nccl_comm), sizeof(void *));
IS(sizeof(nccl_stream), sizeof(void *));
IS(sizeof(nccl_status), sizeof(int));
IS(sizeof(nccl_type), sizeof(int));

IS(sizeof(nccl_id), sizeof(struct nccl_id_value));
IS(_Alignof(nccl_id), _Alignof(struct nccl_id_value));

// The options begin as they did.
IS(offsetof(nccl_options, size), offsetof(struct nccl_options_value, size));
IS(offsetof(nccl_options, magic), offsetof(struct nccl_options_value, magic));
IS(offsetof(nccl_options, version), offsetof(struct nccl_options_value, version));
IS(offsetof(nccl_options, blocking), offsetof(struct nccl_options_value, blocking));
_Static_assert(sizeof(nccl_options) >= sizeof(struct nccl_options_value), "options only grow");
#define SECOND(first, second, ...) second
#define MAGIC_OF(initializer) SECOND(initializer)
IS(MAGIC_OF(NCCL_CONFIG_INITIALIZER), NCCL_OPTIONS_MAGIC);
IS(NCCL_VERSION(2, 14, 0), NCCL_OPTIONS_VERSION);
IS(NCCL_CONFIG_UNDEF_INT, NCCL_UNDEFINED);

IS(ncclSuccess, NCCL_OK);
IS(ncclSystemError, NCCL_SYSTEM_ERROR);
IS(ncclInvalidArgument, NCCL_INVALID_ARGUMENT);
IS(ncclInvalidUsage, NCCL_INVALID_USAGE);
IS(ncclRemoteError, NCCL_REMOTE_ERROR);
IS(ncclInProgress, NCCL_IN_PROGRESS);
IS(ncclFloat32, NCCL_FLOAT32);
