// The entry points of NCCL that this program calls, in its own words. Who includes this says what NCCL_ENTRY makes of one, and which types the
// names that begin with nccl_ are: nccl_types.h has those of a program without NVIDIA's headers.
NCCL_ENTRY(nccl_status, ncclGetVersion, (int *version))
NCCL_ENTRY(const char *, ncclGetErrorString, (nccl_status status))
NCCL_ENTRY(nccl_status, ncclGetUniqueId, (nccl_id *id))
NCCL_ENTRY(nccl_status, ncclCommInitRankConfig, (nccl_comm *made, int world, nccl_id id, int rank, nccl_options *options))
NCCL_ENTRY(nccl_status, ncclCommGetAsyncError, (nccl_comm comm, nccl_status *status))
NCCL_ENTRY(nccl_status, ncclCommAbort, (nccl_comm comm))
NCCL_ENTRY(nccl_status, ncclGroupStart, (void))
NCCL_ENTRY(nccl_status, ncclGroupEnd, (void))
NCCL_ENTRY(nccl_status, ncclSend, (const void *from, size_t count, nccl_type type, int peer, nccl_comm comm, nccl_stream stream))
NCCL_ENTRY(nccl_status, ncclRecv, (void *to, size_t count, nccl_type type, int peer, nccl_comm comm, nccl_stream stream))
